package wire

import (
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/windows"
)

// tcpMaxRT is TCP_MAXRT of ws2ipdef.h: seconds of retransmission after which a connection is dead.
const tcpMaxRT = 5

// setUserTimeout bounds how long sent data may stay without acknowledgement, in whole seconds rounded up.
func setUserTimeout(c syscall.RawConn, d time.Duration) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		secs := int((d + time.Second - 1) / time.Second)
		err = windows.SetsockoptInt(windows.Handle(fd), windows.IPPROTO_TCP, tcpMaxRT, secs)
	}); cerr != nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("setting TCP_MAXRT: %w", err)
	}
	return nil
}

// listenControl does nothing: Windows cannot bind an address that is not there.
func listenControl(string, string, syscall.RawConn) error { return nil }
