package wire

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// hushed is both ends of a connection.
func hushed(t *testing.T) (a, b *quiet) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	far, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close(); near.Close() })
	ends := [2]*quiet{}
	for i, c := range []net.Conn{near, far} {
		q, err := hush(c)
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = q.(*quiet)
	}
	return ends[0], ends[1]
}

// A quiet connection does what one of package net does.
func TestQuietConnections(t *testing.T) {
	for name, run := range map[string]func(t *testing.T, a, b *quiet){
		"more than the buffers hold waits for the reader": func(t *testing.T, a, b *quiet) {
			sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<20) // 16 MiB
			written := make(chan error, 1)
			go func() {
				n, err := a.Write(sent)
				if err == nil && n != len(sent) {
					err = io.ErrShortWrite
				}
				written <- errors.Join(err, a.Close())
			}()
			got, err := io.ReadAll(b) // to the end that Close brings
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("read %d of %d bytes, err %v", len(got), len(sent), err)
			}
			if err := <-written; err != nil {
				t.Error(err)
			}
		},
		"a reader waits until its deadline, and reads on after it": func(t *testing.T, a, b *quiet) {
			start := time.Now()
			b.SetReadDeadline(start.Add(50 * time.Millisecond))
			_, err := b.Read(make([]byte, 1))
			if ne := net.Error(nil); !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() || time.Since(start) < 50*time.Millisecond {
				t.Errorf("%v after %v", err, time.Since(start))
			}
			b.SetReadDeadline(time.Time{})
			if _, err := a.Write([]byte("x")); err != nil {
				t.Error(err)
			}
			if n, err := b.Read(make([]byte, 2)); n != 1 || err != nil {
				t.Errorf("%d bytes, err %v", n, err)
			}
		},
		"a writer waits until its deadline": func(t *testing.T, a, _ *quiet) {
			much := make([]byte, 64<<20)                               // more than any buffer holds; it takes its time under the race detector
			a.SetWriteDeadline(time.Now().Add(500 * time.Millisecond)) // one that has passed before the first byte sends none
			n, err := a.Write(much)
			if !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 {
				t.Errorf("%d bytes, err %v", n, err)
			}
		},
		"closing ends a read under way": func(t *testing.T, a, _ *quiet) {
			end := make(chan error, 1)
			go func() {
				_, err := a.Read(make([]byte, 1))
				end <- err
			}()
			a.Close()
			if err := <-end; !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
		},
		"the peer's reset is told, by reads and by writes": func(t *testing.T, a, b *quiet) {
			b.SetLinger(0)
			b.Close()
			var op *net.OpError
			if _, err := a.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) || !errors.As(err, &op) || op.Op != "read" {
				t.Errorf("reading: %v", err)
			}
			if _, err := a.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) || !errors.As(err, &op) || op.Op != "write" {
				t.Errorf("writing: %v", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := hushed(t)
			run(t, a, b)
		})
	}
}

// What nodes say to each other goes over quiet connections at both ends: that is what rest depends on.
func TestConnectionsAreQuiet(t *testing.T) {
	w := newWorld(t)
	m, addr := w.listen(Config{Credentials: w.creds("n1")})
	ln := m.Listener(ALPNLease)
	c, err := w.dialer("n2", addr).Dial(t.Context(), "n1", ALPNLease)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for end, c := range map[string]net.Conn{"dialed": c, "accepted": s} {
		if _, ok := c.(*Conn).NetConn().(*quiet); !ok {
			t.Errorf("the %s end is a %T", end, c.(*Conn).NetConn())
		}
	}
}

// What was done before a byte was sent happened before what is done by who received it, for the race detector too: only under it
// can this fail.
func TestWhatGoesThroughAQuietConnectionIsInOrder(t *testing.T) {
	a, b := hushed(t)
	shared := 0
	done := make(chan error, 1)
	go func() {
		shared = 1
		_, err := a.Write([]byte{1})
		done <- err
	}()
	if _, err := io.ReadFull(b, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	shared++ // before the channel says the same
	if err := <-done; err != nil || shared != 2 {
		t.Errorf("%d, %v", shared, err)
	}
}
