package vip

import (
	"fmt"
	"net/netip"
	"slices"
)

// Unplugged lists the addresses of this node that are on interfaces without a carrier, or that are down, and on no other. It
// says what was so after it was asked.
func (m *Manager) Unplugged() ([]netip.Addr, error) {
	v, err := m.See()
	if err != nil {
		return nil, fmt.Errorf("asking for interfaces without a carrier: %w", err)
	}
	return unplugged(v.links, v.addrs.all), nil
}

func unplugged(links map[int]kernelLink, addrs []kernelAddr) (out []netip.Addr) {
	works := map[netip.Addr]bool{}
	for _, a := range addrs {
		l, known := links[a.index]
		works[a.prefix.Addr()] = works[a.prefix.Addr()] || !known || l.up() && l.carrier()
	}
	for a, w := range works {
		if !w {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}
