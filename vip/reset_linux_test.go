package vip

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listen4 accepts connections over a socket that knows IPv4 only.
func (w *world) listen4(ns string, port uint16) {
	w.t.Helper()
	var l net.Listener
	w.in(ns, func() (err error) {
		l, err = net.Listen("tcp4", netip.AddrPortFrom(netip.IPv4Unspecified(), port).String())
		return err
	})
	w.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w.t.Cleanup(func() { c.Close() })
		}
	}()
}

// dial opens a connection from the client that is closed with the test.
func (w *world) dial(to netip.AddrPort) net.Conn {
	w.t.Helper()
	var c net.Conn
	w.in(w.c, func() (err error) {
		c, err = net.DialTimeout("tcp", to.String(), 5*time.Second)
		return err
	})
	w.t.Cleanup(func() { c.Close() })
	return c
}

// broken waits for an idle connection to end, and tells when it did and how.
func broken(c net.Conn) <-chan ending {
	out := make(chan ending, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		out <- ending{time.Now(), err}
	}()
	return out
}

type ending struct {
	at  time.Time
	err error
}

// S1 and the end of a hold: what waits on a connection of an address that leaves learns of it at once, nothing new gets in meanwhile,
// and connections of other addresses and listeners stay.
func TestReleaseResetsIdleConnectionsAtOnce(t *testing.T) {
	t.Parallel()
	w := newGated(t)
	const port4 = 8
	w.listen4(w.n1, port4)
	must(t, w.m1.OpenUntil(w.addrs(), soon(time.Minute)))
	v4, v6 := w.addrs()[0], w.addrs()[1]
	other := w.dial(netip.AddrPortFrom(netip.MustParseAddr("198.18.0.1"), gatePort))
	ends := map[string]<-chan ending{
		"IPv4":             broken(w.dial(netip.AddrPortFrom(v4, port4))),
		"IPv4 within IPv6": broken(w.dial(netip.AddrPortFrom(v4, gatePort))),
		"IPv6":             broken(w.dial(netip.AddrPortFrom(v6, gatePort))),
	}
	begun := time.Now()
	must(t, w.m1.Shut(w.addrs()...))
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	newcomers := make(chan netip.Addr, 1000)
	done := make(chan struct{})
	go func() { // who comes after the gate was shut
		defer close(done)
		for ctx.Err() == nil {
			for _, a := range w.addrs() {
				if w.reaches(w.c, a, 20*time.Millisecond) {
					newcomers <- a
				}
			}
		}
	}()
	total := 0
	for _, a := range w.addrs() {
		n, err := w.m1.Reset(a)
		must(t, err)
		total += n
	}
	for _, s := range w.both() {
		must(t, w.m1.Remove(s))
	}
	took := time.Since(begun)
	for name, end := range ends {
		select {
		case e := <-end:
			t.Logf("%s: %v after %v", name, e.err, e.at.Sub(begun))
			if !errors.Is(e.err, unix.ECONNRESET) {
				t.Errorf("%s: the connection ended with %v", name, e.err)
			}
			if e.at.Sub(begun) > 50*time.Millisecond {
				t.Errorf("%s: the client learned of it after %v", name, e.at.Sub(begun))
			}
		case <-time.After(2 * time.Second):
			t.Errorf("%s: the client still waits", name)
		}
	}
	<-time.After(blink) // in which newcomers go on trying
	stop()
	<-done
	close(newcomers)
	for a := range newcomers {
		t.Errorf("%s: a connection was accepted after the gate was shut", a)
	}
	if total != len(ends) {
		t.Errorf("%d connections were reset, not %d", total, len(ends))
	}
	t.Logf("the release took %v", took)
	if !echo(t, other, "other", 2*time.Second) || !w.reaches(w.c, netip.MustParseAddr("198.18.0.1"), 2*time.Second) {
		t.Error("a connection of another address, or a listener, was ended too")
	}
}

func TestThousandConnectionsAreResetInTime(t *testing.T) {
	w := newGated(t) // not parallel: it is about time
	const many = 1000
	must(t, w.m1.OpenUntil(w.addrs(), soon(time.Minute)))
	for _, a := range w.addrs() {
		var ends []<-chan ending
		w.in(w.c, func() error {
			for range many {
				c, err := net.DialTimeout("tcp", netip.AddrPortFrom(a, gatePort).String(), 5*time.Second)
				if err != nil {
					return err
				}
				t.Cleanup(func() { c.Close() })
				ends = append(ends, broken(c))
			}
			return nil
		})
		must(t, w.m1.Shut(a))
		for try := 1; ; try++ { // a busy machine may need more than one
			begun := time.Now()
			n, err := w.m1.Reset(a)
			t.Logf("%s: %d reset in %v, %v", a, n, time.Since(begun), err)
			if err == nil {
				break
			}
			if !errors.Is(err, ErrResetLate) || try == 20 {
				t.Fatal(err)
			}
		}
		for _, end := range ends {
			select {
			case e := <-end:
				if !errors.Is(e.err, unix.ECONNRESET) {
					t.Fatalf("%s: a connection ended with %v", a, e.err)
				}
			case <-time.After(2 * time.Second):
				t.Fatalf("%s: a client still waits", a)
			}
		}
	}
}

// Where time is over nothing is ended any more: the connections may be those of a later hold.
func TestResetDoesNothingWhenTimeIsOver(t *testing.T) {
	t.Parallel()
	w := newGated(t)
	must(t, w.m1.OpenUntil(w.addrs(), soon(time.Minute)))
	c := w.dial(netip.AddrPortFrom(w.addrs()[0], gatePort))
	s, err := w.m1.openDiag()
	must(t, err)
	defer s.close()
	s.end = time.Now()
	if n, err := s.reset(w.addrs()[0]); n != 0 || !errors.Is(err, ErrResetLate) {
		t.Errorf("reset when time is over = %d, %v", n, err)
	}
	if !echo(t, c, "still", 2*time.Second) {
		t.Error("the connection was ended")
	}
}

func TestResetSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	w := newGated(t)
	must(t, w.m1.ResetSupported())
	must(t, w.m1.OpenUntil(w.addrs(), soon(time.Minute)))
	w.dial(netip.AddrPortFrom(w.addrs()[0], gatePort))
	s, err := w.m1.openDiag()
	must(t, err)
	defer s.close()
	s.end = time.Now().Add(time.Minute)
	w.in(w.n1, func() error { // on a thread that ends afterwards
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			return err
		}
		if n, err := s.reset(w.addrs()[0]); n != 0 || !errors.Is(err, ErrNoReset) {
			t.Errorf("reset without rights = %d, %v, want ErrNoReset", n, err)
		}
		return nil
	})
}

func TestResetIsNotWaitedForLongerThanItsLimit(t *testing.T) {
	end := make(chan struct{})
	defer close(end)
	begun := time.Now()
	_, err := inTime(resetLimit, func() (int, error) { <-end; return 0, nil })
	if took := time.Since(begun); !errors.Is(err, ErrResetLate) || took > time.Second {
		t.Errorf("what does not end was waited for %v: %v", took, err)
	}
}
