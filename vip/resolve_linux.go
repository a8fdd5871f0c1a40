package vip

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Resolve finds the interface of an address: the named one, else the one that has another address of the same subnet.
// The error wraps ErrNoInterface and lists the candidates.
func (m *Manager) Resolve(s Spec) (Link, error) {
	v, err := m.See()
	if err != nil {
		return Link{}, fmt.Errorf("finding the interface of VIP %s: %w", s, err)
	}
	return v.Resolve(s)
}

func (m *Manager) resolve(s Spec) (Link, error) {
	v, err := m.See()
	if err != nil {
		return Link{}, err
	}
	return v.resolve(s)
}

// choose picks the interface of an address.
func choose(s Spec, links map[int]kernelLink, addrs []kernelAddr) (Link, error) {
	rank := map[int]int{} // by interface: how well its best address fits
	for _, a := range addrs {
		rank[a.index] = max(rank[a.index], fit(s, a))
	}
	if s.Interface != "" {
		for _, l := range links {
			if l.name == s.Interface {
				return l.link(rank[l.index] > 0), nil
			}
		}
		return Link{}, fmt.Errorf("%w: there is no interface %q; there are: %s", ErrNoInterface, s.Interface, describe(links, addrs))
	}
	best, found := 0, []kernelLink(nil)
	for _, l := range links {
		r := rank[l.index]
		if r == 0 || l.flags&iffLoopback != 0 || r < best {
			continue
		}
		if r > best {
			best, found = r, nil
		}
		found = append(found, l)
	}
	switch len(found) {
	case 1:
		return found[0].link(true), nil
	case 0:
		return Link{}, fmt.Errorf("%w: no interface has an address in %s; there are: %s; set interface = \"...\" or correct the address",
			ErrNoInterface, s.Address.Masked(), describe(links, addrs))
	}
	names := make([]string, 0, len(found))
	for _, l := range found {
		names = append(names, l.name)
	}
	slices.Sort(names)
	return Link{}, fmt.Errorf("%w: %s all have an address in %s; set interface = \"...\" to one of them",
		ErrNoInterface, strings.Join(names, ", "), s.Address.Masked())
}

// fit says how well an address marks its interface as the place of the VIP: 0 not at all, 3 exactly the same subnet. The
// VIP itself and other VIPs of ours mark nothing, or the first VIP would pull the others to a wrong interface.
func fit(s Spec, a kernelAddr) int {
	switch {
	case a.ours() || a.prefix.Addr() == s.Address.Addr():
		return 0
	case a.prefix.Masked() == s.Address.Masked():
		return 3
	case a.prefix.Contains(s.Address.Addr()):
		return 2
	case s.Address.Contains(a.prefix.Addr()) && !a.prefix.IsSingleIP():
		return 1
	}
	return 0
}

func (l kernelLink) link(inSubnet bool) Link {
	return Link{Name: l.name, Index: l.index, Up: l.up(), Carrier: l.carrier(), MAC: l.mac, InSubnet: inSubnet}
}

// describe lists all interfaces with their addresses, for error messages.
func describe(links map[int]kernelLink, addrs []kernelAddr) string {
	own := map[int][]string{}
	for _, a := range addrs {
		if !a.ours() && !linkLocal(a.prefix) {
			own[a.index] = append(own[a.index], a.prefix.String())
		}
	}
	var all []string
	for _, l := range links {
		if l.flags&iffLoopback != 0 {
			continue
		}
		text := "no address"
		if len(own[l.index]) > 0 {
			text = strings.Join(own[l.index], ", ")
		}
		if !l.up() {
			text += ", down"
		}
		all = append(all, l.name+" ("+text+")")
	}
	if len(all) == 0 {
		return "none"
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func linkLocal(p netip.Prefix) bool { return p.Addr().IsLinkLocalUnicast() }
