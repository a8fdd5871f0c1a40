package wire

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"
)

// quiet is a TCP connection whose system calls are not announced to the scheduler of Go. An announced one, because it may
// block, wakes the runtime's monitor thread from its rest, which then looks around several times before it rests again: with
// messages as small and rare as ours that was a fifth of what a leader at rest used of the CPU. These never block
// (MSG_DONTWAIT); for what is not there yet the runtime's poller waits, as ever.
type quiet struct {
	*net.TCPConn
	raw     syscall.RawConn
	in, out transfer
}

// transfer is one direction of a connection. mu: callers take turns, as with any net.Conn.
type transfer struct {
	mu   sync.Mutex
	b    []byte // what is left to move
	n    int    // bytes moved
	err  syscall.Errno
	step func(fd uintptr) (done bool) // made once: it would be allocated at every call
}

// hush makes a connection quiet; one that is not TCP stays as it is.
func hush(c net.Conn) (net.Conn, error) {
	tc, ok := c.(*net.TCPConn)
	if !ok {
		return c, nil
	}
	raw, err := tc.SyscallConn()
	if err != nil {
		return nil, err
	}
	q := &quiet{TCPConn: tc, raw: raw}
	q.in.step, q.out.step = q.in.receive, q.out.send
	return q, nil
}

// Read implements net.Conn.
func (q *quiet) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	n, err := q.in.run(q.raw.Read, b)
	switch {
	case err != nil:
		return 0, q.fault("read", err)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// Write implements net.Conn.
func (q *quiet) Write(b []byte) (int, error) {
	n, err := q.out.run(q.raw.Write, b)
	if err != nil {
		return n, q.fault("write", err)
	}
	return n, nil
}

// fault is the error as package net would have it.
func (q *quiet) fault(op string, err error) error {
	if e := (*net.OpError)(nil); errors.As(err, &e) { // of RawConn, which names its own operation
		e.Op = op
		return e
	}
	return &net.OpError{Op: op, Net: "tcp", Source: q.LocalAddr(), Addr: q.RemoteAddr(), Err: os.NewSyscallError(op, err)}
}

func (t *transfer) run(wait func(func(uintptr) bool) error, b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b, t.n, t.err = b, 0, 0
	err := wait(t.step)
	t.b = nil
	if err == nil && t.err != 0 {
		err = t.err
	}
	return t.n, err
}

func (t *transfer) receive(fd uintptr) bool {
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&t.b[0])), uintptr(len(t.b)), syscall.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			happened()
			t.n = int(n)
			return true
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			t.err = errno
			return true
		}
	}
}

func (t *transfer) send(fd uintptr) bool {
	happens()
	for len(t.b) > 0 {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&t.b[0])), uintptr(len(t.b)), syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			t.n += int(n)
			t.b = t.b[n:]
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			t.err = errno
			return true
		}
	}
	return true
}
