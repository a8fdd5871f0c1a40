package vip

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func mustPrefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func TestInterfaceIsChosenBySubnet(t *testing.T) {
	t.Parallel()
	links := map[int]kernelLink{
		1: {name: "lo", index: 1, flags: iffUp | iffLoopback | iffLowerUp},
		2: {name: "eth0", index: 2, flags: iffUp | iffLowerUp},
		3: {name: "eth1", index: 3, flags: iffUp},
		4: {name: "eth2", index: 4},
	}
	addr := func(index int, p string, proto uint8) kernelAddr {
		return kernelAddr{prefix: mustPrefix(p), index: index, proto: proto, valid: lifetimeForever}
	}
	base := []kernelAddr{addr(1, "127.0.0.1/8", 0), addr(2, "198.18.0.1/24", 0), addr(2, "fe80::1/64", 0),
		addr(3, "198.19.0.1/16", 0), addr(3, "fd00:1::1/64", 0), addr(3, "fe80::2/64", 0)}
	for _, c := range []struct {
		name, vip, iface string
		more             []kernelAddr
		want             string   // interface
		texts            []string // of the error
	}{
		{name: "the subnet of eth0", vip: "198.18.0.100/24", want: "eth0"},
		{name: "the IPv6 subnet of eth1", vip: "fd00:1::100/64", want: "eth1"},
		{name: "a VIP with a longer prefix inside the subnet", vip: "198.19.3.4/24", want: "eth1"},
		{name: "a VIP given as a host address", vip: "198.18.0.100/32", want: "eth0"},
		{name: "the exact subnet wins over a wider one", vip: "198.19.3.4/24", more: []kernelAddr{addr(4, "198.19.3.9/24", 0)}, want: "eth2"},
		{name: "another VIP of ours marks nothing", vip: "198.18.0.100/24", more: []kernelAddr{addr(3, "198.18.0.101/24", protoHad)}, want: "eth0"},
		{name: "the VIP itself marks nothing", vip: "198.18.0.100/24", more: []kernelAddr{addr(3, "198.18.0.100/24", 0)}, want: "eth0"},
		{name: "a host address of somebody else marks nothing", vip: "198.18.0.100/24", more: []kernelAddr{addr(3, "198.18.0.50/32", 0)}, want: "eth0"},
		{name: "by name, whatever its addresses", vip: "198.18.0.100/24", iface: "eth2", want: "eth2"},
		{name: "the loopback interface only by name", vip: "127.0.0.9/8", iface: "lo", want: "lo"},
		{name: "no loopback by subnet", vip: "127.0.0.9/8", texts: []string{"no interface has an address in 127.0.0.0/8"}},
		{name: "nothing fits", vip: "198.18.7.100/24", texts: []string{"no interface has an address in 198.18.7.0/24",
			"eth0 (198.18.0.1/24), eth1 (198.19.0.1/16, fd00:1::1/64), eth2 (no address, down)", "set interface"}},
		{name: "a wrong name", vip: "198.18.0.100/24", iface: "eht0", texts: []string{`no interface "eht0"`, "eth0 (198.18.0.1/24)"}},
		{name: "two fit", vip: "198.18.0.100/24", more: []kernelAddr{addr(4, "198.18.0.2/24", 0)}, texts: []string{"eth0, eth2 all have an address in 198.18.0.0/24"}},
		{name: "link-local fits everywhere", vip: "fe80::100/64", texts: []string{"eth0, eth1 all have"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := choose(Spec{Address: mustPrefix(c.vip), Interface: c.iface}, links, append(base[:len(base):len(base)], c.more...))
			if c.want != "" && (err != nil || l.Name != c.want) {
				t.Errorf("got %q, %v, want %s", l.Name, err, c.want)
			}
			for _, text := range c.texts {
				if err == nil || !errors.Is(err, ErrNoInterface) || !strings.Contains(err.Error(), text) {
					t.Errorf("got %v, want ErrNoInterface with %q", err, text)
				}
			}
		})
	}
}

func TestResolveAsksTheKernel(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, s := range w.both() {
		l, err := w.m1.Resolve(s)
		if err != nil || l.Name != "eth0" || !l.Up || !l.Carrier || !l.InSubnet || l.MAC.String() != w.mac(w.n1) {
			t.Errorf("Resolve(%s) = %+v, %v", s, l, err)
		}
	}
	_, err := w.m1.Resolve(Spec{Group: "web", Resource: "ip", Address: mustPrefix("198.19.0.9/24")})
	want := "finding the interface of VIP 198.19.0.9/24 (web/ip): no interface fits: no interface has an address in 198.19.0.0/24; " +
		"there are: eth0 (198.18.0.1/24, fd00:18::1/64); set interface = \"...\" or correct the address"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}
