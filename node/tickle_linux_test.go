package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/api"
	"hacluster/internal/boottime"
	"hacluster/vip"
)

// left is what a lost owner left behind.
type left struct{ conns []vip.Conn }

func (l *left) lost(key, netip.Addr, uint64) []vip.Conn { return l.conns }

// until is a lease that a test can end.
type leaseOf struct {
	word
	mu  sync.Mutex
	end time.Time
}

func (l *leaseOf) until(string) (time.Time, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end, true
}

func (l *leaseOf) set(end time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end = end
}

// sends notes what it is to send, and when.
type sends struct {
	mu    sync.Mutex
	at    []time.Time
	conns []vip.Conn
	then  func(times int)
}

func (s *sends) Send(conns []vip.Conn) (int, error) {
	s.mu.Lock()
	s.at, s.conns = append(s.at, time.Now()), append(s.conns, conns...)
	n := len(s.at)
	s.mu.Unlock()
	if s.then != nil {
		s.then(n)
	}
	return len(conns), nil
}

// hoard accepts connections in the namespace of the address. What it gives can make the kernel forget one without a word, as a machine
// does that loses its power.
func (b *drainBench) hoard(port int) (forget func(client net.Conn)) {
	b.t.Helper()
	var ln net.Listener
	if err := within(b.here, func() (err error) {
		ln, err = net.Listen("tcp4", fmt.Sprintf(":%d", port))
		return err
	}); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { ln.Close() })
	var mu sync.Mutex
	open := map[string]net.Conn{}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c.RemoteAddr().String()] = c
			mu.Unlock()
		}
	}()
	return func(client net.Conn) {
		b.t.Helper()
		waitFor(b.t, "it is accepted", func() error {
			mu.Lock()
			defer mu.Unlock()
			c := open[client.LocalAddr().String()]
			if c == nil {
				return errors.New("not yet")
			}
			raw, err := c.(*net.TCPConn).SyscallConn()
			if err != nil {
				return err
			}
			var set error
			err = raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_REPAIR, 1) })
			return errors.Join(err, set, c.Close())
		})
	}
}

// to opens a connection to a port of the address.
func (b *drainBench) to(port uint16) net.Conn {
	b.t.Helper()
	var c net.Conn
	if err := within(b.other, func() (err error) {
		c, err = net.DialTimeout("tcp4", netip.AddrPortFrom(theVIP.Addr(), port).String(), 5*time.Second)
		return err
	}); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Close() })
	return c
}

func ofClient(c net.Conn) vip.Conn {
	return vip.Conn{Local: netip.MustParseAddrPort(c.RemoteAddr().String()), Remote: netip.MustParseAddrPort(c.LocalAddr().String())}
}

// tickledIs waits until nothing is left to do for an epoch.
func (b *drainBench) tickledIs(epoch uint64) {
	b.t.Helper()
	waitFor(b.t, "all tickles are sent", func() error {
		b.address.mu.Lock()
		defer b.address.mu.Unlock()
		if b.tickled.epoch != epoch || !b.tickled.done {
			return fmt.Errorf("%+v", b.tickled)
		}
		return nil
	})
}

// The new owner ends what waits for the lost one, once, and leaves its own connections alone.
func TestTheNewOwnerTicklesWhatTheLostOneLeft(t *testing.T) {
	t.Parallel()
	b := newDrainBench(t)
	lost := &left{}
	b.tickles, b.tickling = lost, true
	b.start(3, nil)
	forget := b.hoard(9)
	waits, second, own := b.to(9), b.to(9), b.dial()
	forget(waits)
	forget(second)
	if err := waits.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := waits.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("without a tickle the client got %v: this test shows nothing", err)
	}
	lost.conns = []vip.Conn{ofClient(waits), ofClient(own)}
	b.start(4, nil)
	b.isReset(waits, time.Second)
	b.tickledIs(4)
	if n := b.clients(4); n != 1 || b.clients(3) != 0 {
		t.Errorf("%d clients were counted in epoch 4, %d in 3", n, b.clients(3))
	}
	lost.conns = []vip.Conn{ofClient(second)}
	b.start(4, nil) // put back in the same epoch: nobody was lost
	if err := second.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a second start in one epoch tickled again: %v", err)
	}
	b.tickling = false
	b.start(5, nil)
	if n := b.clients(5); n != 0 {
		t.Errorf("switched off, %d clients were counted", n)
	}
	b.tickling = true
	b.start(6, nil)
	b.isReset(second, time.Second)
	b.goesOn(own)
	lost.conns = nil
	b.start(7, nil)
	if n := b.clients(7); n != 0 {
		t.Errorf("nobody was left, and %d clients were counted", n)
	}
}

// Each is sent several times, for longer than a neighbour is asked for once, and those of one time not at once.
func TestTicklesAreSpread(t *testing.T) {
	t.Parallel()
	b := newDrainBench(t)
	b.start(3, nil)
	many, s := someConns("198.18.0.100", "198.18.0.3", vip.MaxTickles), &sends{}
	begun := time.Now()
	sent, err := b.tickleAll(t.Context(), s, many)
	took := time.Since(begun)
	if sent != len(tickleAt)*len(many) || err != nil {
		t.Fatalf("%d were sent, %v", sent, err)
	}
	count := map[vip.Conn]int{}
	for _, c := range s.conns {
		count[c]++
	}
	for _, c := range many {
		if count[c] != len(tickleAt) {
			t.Fatalf("%v was sent %d times", c, count[c])
		}
	}
	per := len(s.at) / len(tickleAt)
	t.Logf("%d packets in %d parts took %v", sent, len(s.at), took)
	for i, after := range tickleAt {
		if d := s.at[(i+1)*per-1].Sub(s.at[i*per]); d < tickleSpread*3/4 && s.at[i*per].Sub(begun) < after+tickleSpread/4 {
			t.Errorf("time %d: all were sent within %v", i, d)
		}
		if d := s.at[i*per].Sub(begun); d < after {
			t.Errorf("time %d began after %v", i, d)
		}
	}
	if len(s.at) < len(tickleAt)*vip.MaxTickles/tickleAtOnce || took < 2*time.Second {
		t.Errorf("%d parts in %v", len(s.at), took)
	}
}

// A time that the lease did not allow is left out, and the next is not.
func TestATimeWithoutALeaseIsLeftOut(t *testing.T) {
	t.Parallel()
	b := newDrainBench(t)
	l := &leaseOf{word: word{true}, end: boottime.Now().Add(time.Minute)}
	b.lease = l
	b.start(3, nil)
	s := &sends{then: func(times int) {
		if times == 1 {
			l.set(boottime.Now())
			time.AfterFunc((tickleAt[1]+tickleAt[2])/2, func() { l.set(boottime.Now().Add(time.Minute)) })
		}
	}}
	sent, err := b.tickleAll(t.Context(), s, someConns("198.18.0.100", "198.18.0.3", 2))
	if n := 2 * len(tickleAt); sent >= n || sent < n-4 || err != nil {
		t.Errorf("%d of %d were sent, %v", sent, n, err)
	}
}

// S1: no packet is sent from an address that this node may not use any more.
func TestTicklesEndWithTheRightToTheAddress(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		end   func(b *drainBench, l *leaseOf, cancel func())
		parts int // that are sent all the same
	}{
		"the lease is over":       {func(_ *drainBench, l *leaseOf, _ func()) { l.set(boottime.Now()) }, 2},
		"the address is given up": {func(_ *drainBench, _ *leaseOf, cancel func()) { cancel() }, 2},
		"the address is gone": {func(b *drainBench, _ *leaseOf, _ func()) { // until this is asked again the kernel sends nothing: see package vip
			if err := b.vips.Remove(b.spec); err != nil {
				b.t.Error(err)
			}
		}, 10},
		"the gate is shut": {func(b *drainBench, _ *leaseOf, _ func()) {
			if err := b.vips.Shut(theVIP.Addr()); err != nil {
				b.t.Error(err)
			}
		}, 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newDrainBench(t)
			l := &leaseOf{word: word{true}, end: boottime.Now().Add(time.Minute)}
			b.lease = l
			b.start(3, nil)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s := &sends{then: func(times int) {
				if times == 2 {
					c.end(b, l, cancel)
				}
			}}
			sent, err := b.tickleAll(ctx, s, someConns("198.18.0.100", "198.18.0.3", 10*tickleAtOnce))
			if sent != c.parts*tickleAtOnce || err == nil || len(s.at) != c.parts {
				t.Errorf("%d were sent in %d parts, %v", sent, len(s.at), err)
			}
		})
	}
}

// What the loss of the lease has interrupted goes on once the gate is open again.
func TestTicklesThatWereInterruptedAreBegunAnew(t *testing.T) {
	t.Parallel()
	b := newDrainBench(t)
	lost, l := &left{}, &leaseOf{word: word{true}, end: boottime.Now().Add(time.Minute)}
	b.tickles, b.tickling, b.lease = lost, true, l
	b.start(3, nil)
	forget := b.hoard(9)
	waits, other := b.to(9), b.to(9)
	forget(waits)
	forget(other)
	lost.conns = []vip.Conn{ofClient(waits)}
	l.set(boottime.Now())
	b.tickle(t.Context(), 4) // as at a start whose lease has just run out
	waitFor(t, "it has ended", func() error {
		if b.clients(4) != 1 {
			return errors.New("not yet")
		}
		return nil
	})
	if err := waits.SetReadDeadline(time.Now().Add(tickleAt[len(tickleAt)-1] + 500*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := waits.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("without a lease: %v (S1)", err)
	}
	l.set(boottime.Now().Add(time.Minute))
	b.reopened()
	b.isReset(waits, time.Second)
	b.tickledIs(4)
	lost.conns = []vip.Conn{ofClient(other)}
	b.reopened() // and once is enough
	if err := other.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("it was begun again: %v", err)
	}
}

// The context that tickles run under ends when the address is given up.
func TestGivingUpEndsTickles(t *testing.T) {
	t.Parallel()
	b := newDrainBench(t)
	b.start(3, nil)
	ctx := b.keepAnnouncing()
	if err := b.Stop(t.Context(), 3); err != nil || ctx.Err() == nil {
		t.Errorf("%v, %v", err, ctx.Err())
	}
}

// whoWaits opens connections that nobody says anything on.
func (g *gated) whoWaits(n int) (out []net.Conn) {
	g.t.Helper()
	for range n {
		if err := within(g.client, func() error {
			c, err := net.DialTimeout("tcp4", netip.AddrPortFrom(theVIP.Addr(), 9).String(), 5*time.Second)
			if err == nil {
				out = append(out, c)
				g.t.Cleanup(func() { c.Close() })
			}
			return err
		}); err != nil {
			g.t.Fatal(err)
		}
	}
	return out
}

// silentService accepts connections on both members.
func (g *gated) silentService() {
	g.t.Helper()
	for _, name := range []string{"a", "b"} {
		var ln net.Listener
		if err := within(nsOf(g.t, name), func() (err error) {
			ln, err = net.Listen("tcp4", ":9")
			return err
		}); err != nil {
			g.t.Fatal(err)
		}
		ctx, end := context.WithCancel(context.Background())
		var served sync.WaitGroup
		g.t.Cleanup(func() { ln.Close(); end(); served.Wait() })
		served.Go(func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				served.Go(func() {
					defer context.AfterFunc(ctx, func() { c.Close() })()
					io.Copy(io.Discard, c)
					c.Close()
				})
			}
		})
	}
}

// knows waits until a node was told of so many connections.
func (g *gated) knows(node string, conns []net.Conn) {
	g.t.Helper()
	var want []vip.Conn
	for _, c := range conns {
		want = append(want, ofClient(c))
	}
	g.until(fmt.Sprintf("%s knows of %d connections", node, len(conns)), func() error {
		tk := g.nodes[node].n.tickles
		tk.mu.Lock()
		defer tk.mu.Unlock()
		l := tk.known[key{"web", "ip"}]
		if l == nil {
			if len(want) == 0 {
				return nil
			}
			return errors.New("nothing was told")
		}
		got, err := l.conns()
		if len(got) != len(want) || err != nil || slices.ContainsFunc(want, func(c vip.Conn) bool { return !slices.Contains(got, c) }) {
			return fmt.Errorf("%v, %v", got, err)
		}
		return nil
	})
}

// told is how many lists a node has.
func (g *gated) told(node string) int {
	tk := g.nodes[node].n.tickles
	tk.mu.Lock()
	defer tk.mu.Unlock()
	return len(tk.known)
}

// From end to end through agents: what the owner has open the others know, also one that was started again; when the owner is lost
// clients notice within a second of the takeover, and the record says how many were told.
func TestClientsOfALostOwnerNotice(t *testing.T) {
	g := newGated(t, `timing = "lan"`)
	g.silentService()
	g.quiet("a")
	waits := g.whoWaits(3)
	g.knows("b", waits)
	if n := g.told("w"); n != 0 {
		t.Errorf("a witness was told %d lists", n)
	}
	waits[2].Close()
	g.knows("b", waits[:2])
	g.nodes["b"].stop()
	g.nodes["b"].start()
	g.knows("b", waits[:2])
	if n := g.told("a"); n != 0 {
		t.Errorf("the owner was told %d lists", n)
	}
	p := g.ping(time.Millisecond)
	defer p.close()
	ends := make(chan time.Time, 2)
	for _, c := range waits[:2] {
		go func() {
			_, err := c.Read(make([]byte, 1))
			if !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("a client got %v", err)
			}
			ends <- time.Now()
		}()
	}
	g.nodes["a"].stop()
	g.answers(p, "b", 1)
	taken := time.Now()
	for range 2 {
		select {
		case at := <-ends:
			t.Logf("a client noticed %v after the first answer of the new owner", at.Sub(taken))
			if at.Sub(taken) > time.Second {
				t.Errorf("a client noticed after %v", at.Sub(taken))
			}
		case <-time.After(3 * time.Second):
			t.Fatal("a client waits on")
		}
	}
	g.until("the record of the move says it", func() error {
		st, err := g.nodes["b"].client.Status(t.Context())
		if err != nil {
			return err
		}
		if m := st.Groups[0].Move; m == nil || m.To != "b" || m.Tickled != 2 {
			return fmt.Errorf("move %+v", m)
		}
		return nil
	})
	// A move that was planned is none: the old owner says it itself.
	g.nodes["a"].start()
	more := g.whoWaits(1)
	g.knows("a", more)
	g.until("a can take it", func() error {
		_, err := g.write(api.Write{Verb: api.VerbMove, Group: "web", Node: "a"})
		return err
	})
	g.online("a")
	g.until("the move is done", func() error {
		st, err := g.nodes["b"].client.Status(t.Context())
		if err != nil {
			return err
		}
		if m := st.Groups[0].Move; m == nil || m.To != "a" || !m.Done || m.Tickled != 0 {
			return fmt.Errorf("move %+v", m)
		}
		return nil
	})
	tk := g.nodes["a"].n.tickles
	if got := tk.lost(key{"web", "ip"}, theVIP.Addr(), 1<<40); len(got) != 0 {
		t.Errorf("after a planned move %v are taken for clients of a lost owner", got)
	}
}
