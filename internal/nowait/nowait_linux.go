package nowait

import (
	"syscall"
	"unsafe"
)

// Send moves what fits of b, which is not empty, into a socket (MSG_DONTWAIT, no SIGPIPE). The error is a syscall.Errno: EAGAIN where
// nothing fits now, EINTR to try again.
func Send(fd uintptr, b []byte) (int, error) {
	happens()
	return move(syscall.SYS_SENDTO, fd, b, syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL)
}

// Receive takes what is there from a socket into b, which is not empty. 0 and no error: the other side has ended. The error is a
// syscall.Errno: EAGAIN where nothing is there now, EINTR to try again.
func Receive(fd uintptr, b []byte) (int, error) {
	n, err := move(syscall.SYS_RECVFROM, fd, b, syscall.MSG_DONTWAIT)
	if err == nil {
		happened()
	}
	return n, err
}

func move(call, fd uintptr, b []byte, flags uintptr) (int, error) {
	n, _, errno := syscall.RawSyscall6(call, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), flags, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
