//go:build pseudowatchdog

package fence

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"hacluster/internal/boottime"
)

// With this build tag, for tests of the whole program only, a regular file is a watchdog device: it is opened by one process at
// a time, it can be armed and disarmed, and it keeps the book in itself: one line for each call, with the boot time in ms.
func init() {
	var timeout int32 = 60
	book := func(fd int, what string) error {
		_, err := unix.Write(fd, fmt.Appendf(nil, "%d %s\n", boottime.Now().UnixMilli(), what))
		return err
	}
	kernel = watchdogCalls{
		open: func(path string) (int, error) {
			fd, err := unix.Open(path, unix.O_WRONLY|unix.O_APPEND|unix.O_CLOEXEC, 0)
			if err != nil {
				return -1, err
			}
			if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
				return -1, errors.Join(unix.EBUSY, unix.Close(fd))
			}
			return fd, book(fd, "open")
		},
		ioctl: func(fd int, request uint, arg unsafe.Pointer) error {
			switch request {
			case unix.WDIOC_GETSUPPORT:
				info := (*watchdogInfo)(arg)
				info.options = wdiofSetTimeout | wdiofMagicClose
				copy(info.identity[:], "pseudo")
			case unix.WDIOC_SETTIMEOUT:
				timeout = *(*int32)(arg)
			case unix.WDIOC_GETTIMEOUT:
				*(*int32)(arg) = timeout
			case unix.WDIOC_KEEPALIVE:
				return book(fd, "feed")
			}
			return nil
		},
		write:    func(fd int, p []byte) error { return book(fd, fmt.Sprintf("write %s", p)) },
		close:    func(fd int) error { return errors.Join(book(fd, "close"), unix.Close(fd)) },
		noWayOut: func(int) bool { return false },
	}
}
