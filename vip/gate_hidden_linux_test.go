package vip

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// What an address that is prepared but not owned must be: not there, for everybody.
func TestGuardedAddressOnTheInterfaceIsInvisible(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.in(w.n1, func() error {
		return errors.Join(writeFile("/proc/sys/net/ipv4/conf/eth0/arp_notify", "1"), writeFile("/proc/sys/net/ipv6/conf/eth0/ndisc_notify", "1"))
	})
	must(t, w.m1.OpenGate())
	must(t, w.m1.Guard(w.addrs()...))
	seen := w.capture(w.mac(w.n1))
	for _, s := range w.both() {
		must(t, w.m1.Add(s, time.Minute))
	}
	announce := func() { // the kernel announces its addresses when the link-layer address is set
		w.ip(w.n1, "link", "set", "eth0", "address", w.mac(w.n1))
	}
	announce()
	for _, s := range w.both() {
		a := s.Address.Addr()
		w.ask(a)
		if holder, found, err := w.m2.Conflict(context.Background(), s, blink); found || err != nil {
			t.Errorf("%s: a probe was answered by %v, %v", a, holder, err)
		}
		if mac := w.neighbour(a); mac != "" {
			t.Errorf("%s was resolved to %s", a, mac)
		}
		client := w.clientIn(s)
		if line := w.ip(w.n1, "neigh", "show", "to", client.String()); strings.Contains(line, "lladdr") {
			t.Errorf("%s: the node has taken note of who asked: %s", a, line)
		}
		// Local programs that insist on the VIP as their source, or advertise it; without the need to resolve the client.
		w.ip(w.n1, "neigh", "replace", client.String(), "lladdr", w.mac(w.c), "dev", "eth0", "nud", "permanent")
		w.in(w.n1, func() error { return speakAs(t, a, client) })
	}
	// Whatever left before this marker, which has one VIP in its payload, was seen before it.
	w.in(w.n1, func() error {
		c, err := net.Dial("udp", netip.AddrPortFrom(w.clientIn(w.v4), 9).String())
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write(w.v4.Address.Addr().AsSlice())
		return err
	})
	until(t, 2*time.Second, "the marker", func() bool { return seen.Load() > 0 })
	marked := time.Now() // frames of different processors may overtake each other a little
	until(t, time.Second, "the rest", func() bool { return time.Since(marked) > blink })
	if n := seen.Load() - 1; n != 0 {
		t.Errorf("the node sent %d frames with a closed VIP in them", n)
	}
	must(t, w.m1.OpenUntil(w.addrs(), soon(time.Minute)))
	announce()
	until(t, 2*time.Second, "the kernel announces both VIPs once they are open", func() bool { return seen.Load() >= 3 })
	for _, a := range w.addrs() {
		w.ask(a)
		until(t, 5*time.Second, a.String()+" is resolved once it is open", func() bool { return w.neighbour(a) == w.mac(w.n1) })
	}
}

// clientIn is the client's own address in the family of a VIP.
func (w *world) clientIn(s Spec) netip.Addr {
	if s.Address.Addr().Is4() {
		return netip.MustParseAddr("198.18.0.3")
	}
	return netip.MustParseAddr("fd00:18::3")
}

// speakAs sends a datagram from the VIP and, for IPv6, an advertisement for it from another address. The kernel may
// refuse both.
func speakAs(t *testing.T, vip, to netip.Addr) error {
	c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(vip, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9)))
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte("?"))
	t.Logf("sending from %s: %v", vip, err)
	if vip.Is4() {
		return nil
	}
	raw, err := net.ListenPacket("ip6:ipv6-icmp", "fd00:18::1")
	if err != nil {
		return err
	}
	defer raw.Close()
	advertisement := append([]byte{icmpv6NeighborAdv, 0, 0, 0, naOverride, 0, 0, 0}, vip.AsSlice()...)
	_, err = raw.WriteTo(advertisement, &net.IPAddr{IP: to.AsSlice()})
	t.Logf("advertising %s: %v", vip, err)
	return nil
}

func TestStandbyForwardsToTheOwnerAndHearsItsAnnouncement(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	must(t, w.m1.OpenGate())
	must(t, w.m1.Guard(w.addrs()...))
	w.in(w.n1, func() error {
		return errors.Join(writeFile("/proc/sys/net/ipv4/ip_forward", "1"), writeFile("/proc/sys/net/ipv6/conf/all/forwarding", "1"))
	})
	for _, s := range w.both() {
		must(t, w.m2.Add(s, time.Minute))
	}
	w.serve(w.n2)
	w.ip(w.c, "route", "add", "198.18.0.100/32", "via", "198.18.0.1")
	w.ip(w.c, "-6", "route", "add", "fd00:18::100/128", "via", "fd00:18::1")
	for _, s := range w.both() {
		a := s.Address.Addr()
		if !w.reaches(w.c, a, 3*time.Second) {
			t.Errorf("%s: a standby stops what it forwards to the owner", a)
		}
		w.ip(w.n1, "neigh", "replace", a.String(), "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "stale")
		if a.Is4() { // the request alone: the reply of Announce would hide that it is dropped
			link, err := w.m2.Resolve(s)
			must(t, err)
			on, err := w.m2.ethernet(link.Index)
			must(t, err)
			must(t, w.m2.send(on, gratuitousARP(a, on.mac)[:1]))
		} else {
			must(t, w.m2.Announce(s))
		}
		until(t, time.Second, "the standby learns the new owner of "+a.String(), func() bool {
			return strings.Contains(w.ip(w.n1, "neigh", "show", "to", a.String()), w.mac(w.n2))
		})
	}
}
