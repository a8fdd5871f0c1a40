package wire

import (
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// setUserTimeout bounds how long sent data may stay without acknowledgement before the connection is dead (tcp(7),
// TCP_USER_TIMEOUT); the default of the kernel is a quarter of an hour.
func setUserTimeout(c syscall.RawConn, d time.Duration) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	}); cerr != nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("setting TCP_USER_TIMEOUT: %w", err)
	}
	return nil
}

// listenControl lets the port be opened on an address that is not there yet (ip(7), IP_FREEBIND), so that a network that
// comes up late or flaps neither stops the start nor needs a restart.
func listenControl(network, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		// Best effort: where it is refused, the bind itself reports the missing address.
		if network == "tcp6" {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
			return
		}
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
	})
}
