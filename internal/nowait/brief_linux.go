package nowait

import (
	"os"
	"syscall"
	"time"
	"unsafe"
)

// Send moves what fits of p, which is not empty, into a socket (send(2), MSG_DONTWAIT). The error is a syscall.Errno: EINTR to try again.
func (b *Brief) Send(fd uintptr, p []byte) (int, error) {
	return b.call(syscall.SYS_SENDTO, fd, p, syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL)
}

// Receive takes what is there from a socket into p, which is not empty (recv(2), MSG_DONTWAIT). 0 and no error: the other side has ended.
// The error is a syscall.Errno: EAGAIN where nothing is there now, EINTR to try again.
func (b *Brief) Receive(fd uintptr, p []byte) (int, error) {
	return b.call(syscall.SYS_RECVFROM, fd, p, syscall.MSG_DONTWAIT)
}

// WriteAt writes p, which is not empty, at the beginning of a file (pwrite(2)): all of it, or the error says what is wrong.
func (b *Brief) WriteAt(f *os.File, p []byte) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	e := c.Control(func(fd uintptr) {
		for n, err = b.call(syscall.SYS_PWRITE64, fd, p, 0); err == syscall.EINTR; {
			n, err = b.call(syscall.SYS_PWRITE64, fd, p, 0)
		}
	})
	switch {
	case e != nil:
		return e
	case err != nil:
		return &os.PathError{Op: "pwrite", Path: f.Name(), Err: err}
	case n < len(p): // no space is left, most likely: the rest says why
		_, err = f.WriteAt(p[n:], int64(n))
		return err
	}
	return nil
}

// call makes one whose fourth argument is flags, or an offset.
func (b *Brief) call(call, fd uintptr, p []byte, fourth uintptr) (int, error) {
	begun := time.Now()
	if !b.announced(begun) {
		n, err := move(call, fd, p, fourth)
		b.took(begun, time.Now())
		return n, err
	}
	n, _, errno := syscall.Syscall6(call, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), fourth, 0, 0)
	b.took(begun, time.Now())
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
