package wire

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"hacluster/internal/nowait"
)

// quiet is a TCP connection whose system calls never block (nowait); for what is not there yet the runtime's poller waits, as ever.
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
	err  error
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
	t.b, t.n, t.err = b, 0, nil
	err := wait(t.step)
	t.b = nil
	if err == nil {
		err = t.err
	}
	return t.n, err
}

func (t *transfer) receive(fd uintptr) bool {
	n, err := again(nowait.Receive, fd, t.b)
	if err == syscall.EAGAIN {
		return false
	}
	t.n, t.err = n, err
	return true
}

func (t *transfer) send(fd uintptr) bool {
	for len(t.b) > 0 {
		n, err := again(nowait.Send, fd, t.b)
		if err == syscall.EAGAIN {
			return false
		}
		if err != nil {
			t.err = err
			return true
		}
		t.n += n
		t.b = t.b[n:]
	}
	return true
}

// again repeats a call that a signal interrupted.
func again(move func(uintptr, []byte) (int, error), fd uintptr, b []byte) (int, error) {
	for {
		if n, err := move(fd, b); err != syscall.EINTR {
			return n, err
		}
	}
}
