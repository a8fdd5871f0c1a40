package fence

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// send and receive move one word over the line at once or not at all. They are not announced to the scheduler of Go as calls that
// may block: each of those wakes the runtime's monitor thread from its rest.
func send(fd int, text []byte) error {
	_, err := move(unix.SYS_SENDTO, fd, text, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	return err
}

func receive(fd int, buf []byte) (int, error) {
	return move(unix.SYS_RECVFROM, fd, buf, unix.MSG_DONTWAIT)
}

// move makes the call with b, which is not empty.
func move(call uintptr, fd int, b []byte, flags uintptr) (int, error) {
	n, _, errno := unix.RawSyscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), flags, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
