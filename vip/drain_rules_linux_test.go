package vip

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A router may keep the old owner's hardware address for as long as it likes: what it sends there finds the new owner.
func TestAClientThatDidNotHearOfTheMoveIsForwarded(t *testing.T) {
	t.Parallel()
	d := newDrainWorld(t)
	d.settled()
	for _, s := range d.both() {
		d.ip(d.c, "neigh", "replace", s.Address.Addr().String(), "lladdr", d.mac(d.n1), "dev", "eth0", "nud", "permanent")
	}
	for _, client := range []string{"198.18.0.3", "fd00:18::3"} { // which would answer the new owner's question to the old one
		d.ip(d.n2, "neigh", "replace", client, "lladdr", d.mac(d.c), "dev", "eth0", "nud", "permanent")
	}
	d.move()
	for _, a := range d.addrs() {
		c, err := d.dialFor(a, 3*time.Second)
		if err != nil {
			t.Errorf("%s: %v", a, err)
			continue
		}
		defer c.Close()
		if got, err := askNode(c, "name"); err != nil || got != "node1" {
			t.Errorf("%s: a new connection is answered by %q, %v", a, got, err)
		}
	}
}

// The kernel names the sender when it looks for a neighbour. With the floating address there the client would learn that it is
// still on the old owner; that is not said, and its connection goes on all the same.
func TestTheOldOwnerAsksForNeighboursUnderItsOwnName(t *testing.T) {
	t.Parallel()
	d := newDrainWorld(t)
	a := d.v4.Address.Addr() // IPv6 has no counterpart
	c, err := d.dial(a)
	must(t, err)
	defer c.Close()
	d.move()
	d.ip(d.n1, "neigh", "flush", "dev", "eth0")
	if got, err := askNode(c, "name"); err != nil || got != "node0" {
		t.Errorf("an open connection is answered by %q, %v", got, err)
	}
	if got, want := d.neighbour(a), d.mac(d.n2); got != want {
		t.Errorf("the client believes %s at %s, want %s", a, got, want)
	}
}

// Whoever is alive: what a move began on the new owner ends in the kernel too.
func TestForwardingBackEndsByItself(t *testing.T) {
	t.Parallel()
	d := newDrainWorld(t)
	for _, s := range d.both() {
		a := s.Address.Addr()
		must(t, d.m[1].TakeFrom(a, d.peers[0][a], time.Second))
	}
	left, err := d.m[1].Drains()
	must(t, err)
	if len(left) != 2 || !left[0].Back.IsValid() || left[0].There.IsValid() || left[0].Left > time.Second {
		t.Errorf("drains %+v, want both addresses taken, for a second", left)
	}
	until(t, 2*time.Second, "the end of forwarding", func() bool {
		left, err := d.m[1].Drains()
		must(t, err)
		return len(left) == 0
	})
}

// The end of a drain closes the gate for connections that were open, before the kernel would.
func TestTheEndOfADrainClosesTheGateForAll(t *testing.T) {
	t.Parallel()
	d := newDrainWorld(t)
	for _, a := range d.addrs() {
		c, err := d.dial(a)
		must(t, err)
		defer c.Close()
		must(t, d.m[0].DrainTo(a, d.peers[0][a], d.peers[1][a], drainFor))
		if got, err := askNode(c, "name"); err != nil || got != "node0" {
			t.Errorf("%s: while it drains: %q, %v", a, got, err)
		}
		must(t, d.m[0].EndDrain(a))
		must(t, c.SetDeadline(time.Now().Add(300*time.Millisecond)))
		fmt.Fprintln(c, "name")
		if n, err := c.Read(make([]byte, 16)); n > 0 || err == nil || !os.IsTimeout(err) {
			t.Errorf("%s: after it an open connection read %d bytes, %v", a, n, err)
		}
	}
}

// The gate stands without the tables that forward: what opens a connection does not pass it.
func TestTheGateOfADrainLetsNothingNewIn(t *testing.T) {
	t.Parallel()
	d := newDrainWorld(t)
	for _, a := range d.addrs() {
		c, err := d.dial(a)
		must(t, err)
		defer c.Close()
		must(t, d.m[0].DrainTo(a, d.peers[0][a], d.peers[1][a], drainFor))
		family := "ip6"
		if a.Is4() {
			family = "ip"
		}
		d.nft(d.n1, "delete", "table", family, DrainTable)
		if got, err := askNode(c, "name"); err != nil || got != "node0" {
			t.Errorf("%s: an open connection is answered by %q, %v", a, got, err)
		}
		if c, err := d.dialFor(a, blink); err == nil {
			c.Close()
			t.Errorf("%s: a new connection was answered", a)
		}
	}
}

// What no node knows is forwarded once and answered by a reset: the kernel does not look at the hops of what it duplicates,
// so nothing else would keep such a packet from going round.
func TestAPacketThatNobodyKnowsDoesNotGoRound(t *testing.T) {
	t.Parallel()
	d := newDrainWorld(t)
	d.settled()
	for _, a := range d.addrs() { // the client knows the neighbour
		c, err := d.dial(a)
		must(t, err)
		defer c.Close()
	}
	d.move()
	d.move() // each node forwards to the other now
	const strays = 50
	for _, a := range d.addrs() {
		before := d.received(d.n1) + d.received(d.n2)
		d.stray(a, strays)
		last := before
		until(t, 3*time.Second, "quiet", func() bool {
			<-time.After(100 * time.Millisecond)
			n := d.received(d.n1) + d.received(d.n2)
			quiet := n-last < 5
			last = n
			return quiet
		})
		n := last - before
		t.Logf("%s: the nodes received %d packets for %d", a, n, strays)
		if n < strays || n > 4*strays {
			t.Errorf("%s: the nodes received %d packets for %d", a, n, strays)
		}
	}
}

// settled waits until the nodes have link-local addresses that they may use: without one the kernel asks for no neighbour of
// family IPv6 on behalf of what it forwards.
func (d *drainWorld) settled() {
	d.t.Helper()
	for _, ns := range d.ns {
		until(d.t, 10*time.Second, "the link-local address is usable", func() bool {
			text := d.ip(ns, "-6", "addr", "show", "dev", "eth0", "scope", "link")
			return strings.Contains(text, "fe80") && !strings.Contains(text, "tentative")
		})
	}
}

// received counts the packets that have come in over eth0.
func (d *drainWorld) received(ns string) int {
	d.t.Helper()
	n := -1
	for _, line := range strings.Split(d.devices(ns), "\n") {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "eth0:"); ok {
			var size int
			if _, err := fmt.Sscan(rest, &size, &n); err != nil {
				d.t.Fatal(err)
			}
		}
	}
	return n
}

func (d *drainWorld) devices(ns string) (text string) {
	d.t.Helper()
	d.in(ns, func() error {
		b, err := os.ReadFile("/proc/thread-self/net/dev")
		text = string(b)
		return err
	})
	return text
}

// stray sends acknowledgements of connections that were never opened.
func (d *drainWorld) stray(a netip.Addr, n int) {
	d.t.Helper()
	family, to := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: a.As16()})
	if a.Is4() {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Addr: a.As4()}
	}
	d.in(d.c, func() error {
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for i := range n {
			b := make([]byte, 20)
			binary.BigEndian.PutUint16(b[0:], uint16(2000+i))
			binary.BigEndian.PutUint16(b[2:], servicePort)
			b[12], b[13] = 5<<4, 0x10 // the checksum is wrong: nobody who is to forward looks at it
			if err := unix.Sendto(fd, b, 0, to); err != nil {
				return err
			}
		}
		return nil
	})
}
