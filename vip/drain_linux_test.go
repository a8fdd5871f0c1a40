package vip

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// drainWorld is two nodes that both run the service, and both VIPs on the first.
type drainWorld struct {
	*world
	m     [2]*Manager
	ns    [2]string
	peers [2]map[netip.Addr]Peer
	owner int
}

const (
	servicePort = 8
	bigAnswer   = 4 << 20
	drainFor    = 20 * time.Second
)

func newDrainWorld(t *testing.T) *drainWorld {
	t.Helper()
	w := newWorld(t)
	if err := DrainSupported(); err != nil {
		t.Skip("needs a kernel that can duplicate packets:", err)
	}
	d := &drainWorld{world: w, m: [2]*Manager{w.m1, w.m2}, ns: [2]string{w.n1, w.n2}}
	for i, m := range d.m {
		must(t, m.OpenGate())
		must(t, m.Guard(w.addrs()...))
		d.peers[i] = map[netip.Addr]Peer{}
		for _, s := range w.both() {
			p, err := m.Peer(s)
			must(t, err)
			if want := w.mac(d.ns[i]); p.MAC.String() != want {
				t.Fatalf("peer %s of %s, want hardware address %s", p, s, want)
			}
			back, err := ParsePeer(p.String())
			must(t, err)
			if back.String() != p.String() {
				t.Fatalf("%s was read back as %s", p, back)
			}
			d.peers[i][s.Address.Addr()] = p
		}
		d.service(i)
	}
	for _, s := range w.both() {
		must(t, d.m[0].Add(s, time.Hour))
		must(t, d.m[0].OpenUntil([]netip.Addr{s.Address.Addr()}, soon(time.Hour)))
		must(t, d.m[0].Announce(s))
	}
	return d
}

// service answers lines: "name" at once, "slow" after a second and a half, "big" with much at a measured pace.
func (d *drainWorld) service(node int) {
	d.t.Helper()
	var ln net.Listener
	d.in(d.ns[node], func() (err error) {
		ln, err = net.Listen("tcp", fmt.Sprintf(":%d", servicePort))
		return err
	})
	d.t.Cleanup(func() { ln.Close() })
	serve := func(c net.Conn) {
		defer c.Close()
		in := bufio.NewScanner(c)
		for in.Scan() {
			switch in.Text() {
			case "slow":
				<-time.After(1500 * time.Millisecond)
			case "big":
				for sent := 0; sent < bigAnswer; sent += 64 << 10 {
					if _, err := c.Write(make([]byte, 64<<10)); err != nil {
						return
					}
					<-time.After(20 * time.Millisecond)
				}
			}
			fmt.Fprintf(c, "node%d\n", node)
		}
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
}

// dial opens a connection from the client.
func (d *drainWorld) dial(a netip.Addr) (net.Conn, error) { return d.dialFor(a, 5*time.Second) }

func (d *drainWorld) dialFor(a netip.Addr, bound time.Duration) (net.Conn, error) {
	var c net.Conn
	var err error
	d.in(d.c, func() error {
		c, err = net.DialTimeout("tcp", netip.AddrPortFrom(a, servicePort).String(), bound)
		return nil
	})
	return c, err
}

// ask sends one line and returns which node answered.
func askNode(c net.Conn, what string) (string, error) {
	if err := c.SetDeadline(time.Now().Add(15 * time.Second)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(c, what); err != nil {
		return "", err
	}
	if what == "big" {
		if _, err := io.CopyN(io.Discard, c, bigAnswer); err != nil {
			return "", err
		}
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line), err
}

// requests are some of one kind.
type requests struct {
	kind    string
	done    atomic.Int64
	slow    atomic.Int64 // took over half a second although answered at once: a packet was lost
	mu      sync.Mutex
	failed  []string
	workers sync.WaitGroup
}

func (d *drainWorld) one(l *requests, a netip.Addr) {
	began := time.Now()
	c, err := d.dial(a)
	if err == nil {
		_, err = askNode(c, l.kind)
		c.Close()
	}
	if l.done.Add(1); l.kind == "name" && time.Since(began) > 500*time.Millisecond {
		l.slow.Add(1)
	}
	if err != nil {
		l.mu.Lock()
		l.failed = append(l.failed, fmt.Sprintf("%s %s: %v", a, l.kind, err))
		l.mu.Unlock()
	}
}

// start has requests begun at a pace until stop is closed.
func (d *drainWorld) start(kind string, every time.Duration, stop chan struct{}) *requests {
	l := &requests{kind: kind}
	l.workers.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			l.workers.Go(func() { d.one(l, d.addrs()[i%2]) })
		}
	})
	return l
}

// keep holds connections open and asks again and again, until stop is closed.
func (d *drainWorld) keep(n int, stop chan struct{}) *requests {
	l := &requests{kind: "keep"}
	for i := range n {
		l.workers.Go(func() {
			c, err := d.dial(d.addrs()[i%2])
			for err == nil {
				select {
				case <-stop:
					c.Close()
					return
				case <-time.After(10 * time.Millisecond):
				}
				_, err = askNode(c, "name")
				l.done.Add(1)
			}
			l.mu.Lock()
			l.failed = append(l.failed, err.Error())
			l.mu.Unlock()
		})
	}
	return l
}

func (l *requests) verdict(t *testing.T) {
	l.workers.Wait()
	t.Logf("%-5s %5d requests, %d failed, %d slow", l.kind, l.done.Load(), len(l.failed), l.slow.Load())
	if len(l.failed) > 0 {
		t.Errorf("%s: %d of %d failed, the first: %s", l.kind, len(l.failed), l.done.Load(), l.failed[0])
	}
	if l.done.Load() == 0 {
		t.Errorf("%s: nothing was asked", l.kind)
	}
}

// move is what the agents do for a planned move, without what they say to each other in between.
func (d *drainWorld) move() {
	d.t.Helper()
	from, to := d.owner, 1-d.owner
	d.owner = to
	for _, s := range d.both() {
		a := s.Address.Addr()
		began := time.Now()
		must(d.t, d.m[from].DrainTo(a, d.peers[from][a], d.peers[to][a], drainFor))
		given := time.Now()
		must(d.t, d.m[to].TakeFrom(a, d.peers[from][a], drainFor))
		taken := time.Now()
		must(d.t, d.m[to].Add(s, time.Hour))
		must(d.t, d.m[to].OpenUntil([]netip.Addr{a}, soon(time.Hour)))
		must(d.t, d.m[to].Announce(s))
		d.t.Logf("%s from node%d: given away in %v, taken in %v, open in %v", a, from, given.Sub(began), taken.Sub(given), time.Since(taken))
	}
}

// finish waits until the node that gave the addresses away has no connections left, and cleans up on both.
func (d *drainWorld) finish() {
	d.t.Helper()
	old := d.m[1-d.owner]
	for _, s := range d.both() {
		a := s.Address.Addr()
		until(d.t, drainFor, "the connections of "+a.String()+" end", func() bool {
			conns, err := old.Connections(a)
			must(d.t, err)
			return len(conns) == 0
		})
		must(d.t, old.EndDrain(a))
		must(d.t, old.Remove(s))
		must(d.t, d.m[d.owner].EndDrain(a))
	}
}

func TestConnectionsFinishWhereTheyBeganAndNewOnesGoToTheNewOwner(t *testing.T) {
	t.Parallel()
	d := newDrainWorld(t)
	a := d.addrs()
	var old []net.Conn
	for _, a := range a {
		c, err := d.dial(a)
		must(t, err)
		old = append(old, c)
	}
	for range 2 { // the second time back, with connections of both nodes
		owner := d.owner
		d.move()
		for i, a := range a {
			if got, err := askNode(old[i], "name"); err != nil || got != "node0" {
				t.Errorf("%s: an open connection is answered by %q, %v", a, got, err)
			}
			c, err := d.dial(a)
			must(t, err)
			defer c.Close()
			if got, err := askNode(c, "name"); err != nil || got != fmt.Sprintf("node%d", 1-owner) {
				t.Errorf("%s: a new connection after the move from node%d is answered by %q, %v", a, owner, got, err)
			}
			old = append(old, c)
		}
	}
	// What was begun on the second node goes on as well.
	for i := 2; i < 4; i++ {
		if got, err := askNode(old[i], "name"); err != nil || got != "node1" {
			t.Errorf("a connection of the second node is answered by %q, %v", got, err)
		}
	}
	for _, c := range old {
		c.Close()
	}
	d.finish()
	for i, m := range d.m {
		if left, err := m.Drains(); err != nil || len(left) != 0 {
			t.Errorf("node%d still forwards %v, %v", i, left, err)
		}
		for _, family := range []string{"ip", "ip6"} {
			if tables := d.nft(d.ns[i], "list", "tables", family); strings.Contains(tables, DrainTable) {
				t.Errorf("node%d still has the table %q", i, tables)
			}
		}
	}
}

func TestMovesUnderLoadLoseNothing(t *testing.T) {
	t.Parallel()
	d := newDrainWorld(t)
	stop := make(chan struct{})
	loads := []*requests{d.start("name", 5*time.Millisecond, stop), d.start("slow", 50*time.Millisecond, stop), d.start("big", 250*time.Millisecond, stop), d.keep(4, stop)}
	for range 4 {
		select {
		case <-time.After(2 * time.Second): // less than some requests last: connections of several moves are open at once
		case <-t.Context().Done():
		}
		d.move()
	}
	<-time.After(time.Second)
	close(stop)
	for _, l := range loads {
		l.verdict(t)
	}
	d.finish()
}

func TestADrainedAddressIsSilentAndTakesNothingNew(t *testing.T) {
	t.Parallel()
	d := newDrainWorld(t)
	var open []net.Conn
	for _, a := range d.addrs() {
		c, err := d.dial(a)
		must(t, err)
		defer c.Close()
		open = append(open, c)
	}
	// Given away to a node that does not take it.
	for _, s := range d.both() {
		a := s.Address.Addr()
		must(t, d.m[0].DrainTo(a, d.peers[0][a], d.peers[1][a], 3*time.Second))
	}
	for i, a := range d.addrs() {
		if got, err := askNode(open[i], "name"); err != nil || got != "node0" {
			t.Errorf("%s: an open connection is answered by %q, %v", a, got, err)
		}
	}
	for _, a := range d.addrs() {
		if c, err := d.dialFor(a, blink); err == nil {
			c.Close()
			t.Errorf("%s: a new connection was answered", a)
		}
		for _, e := range gateOf(t, d.m[0]) {
			if e.Alive {
				t.Errorf("the gate is open for %s", e.Address)
			}
		}
		for _, s := range d.both() {
			if h, found, err := d.m[1].Conflict(t.Context(), s, 100*time.Millisecond); err != nil || found {
				t.Errorf("%s is answered for by %v, %v", s, h, err)
			}
		}
	}
	left, err := d.m[0].Drains()
	must(t, err)
	if len(left) != 2 || !left[0].There.IsValid() || left[0].Back.IsValid() {
		t.Errorf("drains %+v, want both addresses given away", left)
	}
	if n, err := d.m[0].Connections(d.addrs()[0]); err != nil || len(n) != 1 || n[0].Remote.String() != open[0].LocalAddr().String() {
		t.Errorf("connections %v, %v, want the one from %s", n, err, open[0].LocalAddr())
	}
	// The kernel ends it, whoever is alive.
	until(t, 5*time.Second, "the end of the drain", func() bool {
		left, err := d.m[0].Drains()
		must(t, err)
		return len(left) == 0
	})
	for i, a := range d.addrs() {
		must(t, open[i].SetDeadline(time.Now().Add(300*time.Millisecond)))
		fmt.Fprintln(open[i], "name")
		if n, err := open[i].Read(make([]byte, 16)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: after the drain an open connection read %d bytes, %v", a, n, err)
		}
	}
}

func TestWhatIsLeftOfADrainIsReset(t *testing.T) {
	t.Parallel()
	d := newDrainWorld(t)
	if err := d.m[0].ResetSupported(); err != nil {
		t.Skip("needs CONFIG_INET_DIAG_DESTROY:", err)
	}
	var old []net.Conn
	for _, a := range d.addrs() {
		c, err := d.dial(a)
		must(t, err)
		defer c.Close()
		old = append(old, c)
	}
	d.move()
	for i, a := range d.addrs() {
		if got, err := askNode(old[i], "name"); err != nil || got != "node0" {
			t.Fatalf("%s: %q, %v", a, got, err)
		}
		if n, err := d.m[0].Reset(a); err != nil || n != 1 {
			t.Errorf("%s: reset %d: %v", a, n, err)
		}
		must(t, old[i].SetDeadline(time.Now().Add(2*time.Second)))
		if _, err := old[i].Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("%s: after the reset the client reads %v", a, err)
		}
	}
}

func TestAConnectionOpenedBetweenTheGatesIsNotLost(t *testing.T) {
	t.Parallel()
	d := newDrainWorld(t)
	for _, s := range d.both() {
		a := s.Address.Addr()
		c, err := d.dial(a) // the client knows the neighbour
		must(t, err)
		defer c.Close()
		run, err := d.m[0].HoldOpenings(s, d.peers[1][a])
		must(t, err)
		last, err := d.dial(a) // heard, and answered here: must not be sent on
		must(t, err)
		defer last.Close()
		must(t, d.m[0].DrainTo(a, d.peers[0][a], d.peers[1][a], drainFor))
		own, err := d.m[0].Connections(a)
		must(t, err)
		ctx, end := context.WithCancel(t.Context())
		over := make(chan error, 1)
		go func() { over <- run(ctx, own) }()
		must(t, d.m[1].TakeFrom(a, d.peers[0][a], drainFor))
		must(t, d.m[1].Add(s, time.Hour))
		opened := make(chan error, 1)
		began := time.Now()
		time.AfterFunc(60*time.Millisecond, func() { opened <- d.m[1].OpenUntil([]netip.Addr{a}, soon(time.Hour)) })
		between, err := d.dial(a) // nobody announces: it goes to the old owner
		took := time.Since(began)
		must(t, <-opened)
		must(t, err)
		defer between.Close()
		if got, err := askNode(between, "name"); err != nil || got != "node1" {
			t.Errorf("%s: %q, %v", a, got, err)
		}
		if took < 50*time.Millisecond || took > 500*time.Millisecond {
			t.Errorf("%s: the connection took %v", a, took)
		}
		t.Logf("%s: opened 60ms after the first packet, connected after %v", a, took)
		must(t, d.m[1].Announce(s))
		for name, c := range map[string]net.Conn{"before": c, "last before": last} {
			if got, err := askNode(c, "name"); err != nil || got != "node0" {
				t.Errorf("%s: the connection %s it: %q, %v", a, name, got, err)
			}
		}
		end()
		must(t, <-over)
	}
}
