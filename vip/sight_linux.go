package vip

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// addressTable is all addresses of this node at one moment. Several callers share it: to be read only.
type addressTable struct {
	all  []kernelAddr // by address
	rest []kernelAddr // those that are not ours, by which the interface of an address is found
}

func newAddressTable(all []kernelAddr) addressTable {
	slices.SortStableFunc(all, func(a, b kernelAddr) int { return a.prefix.Addr().Compare(b.prefix.Addr()) })
	t := addressTable{all: all}
	for _, a := range all {
		if !a.ours() {
			t.rest = append(t.rest, a)
		}
	}
	return t
}

// at is where on this node an address is, ours or not. However many there are, it takes no longer.
func (t addressTable) at(ip netip.Addr) []kernelAddr {
	first, _ := slices.BinarySearchFunc(t.all, ip, func(a kernelAddr, ip netip.Addr) int { return a.prefix.Addr().Compare(ip) })
	last := first
	for last < len(t.all) && t.all[last].prefix.Addr() == ip {
		last++
	}
	return t.all[first:last:last]
}

// present finds the address as we hold it: ErrForeign when it is not ours, ErrGone when it is absent or unusable.
func (t addressTable) present(ip netip.Addr, name func(index int) string) (found kernelAddr, err error) {
	there := t.at(ip)
	if err := foreign(there, name); err != nil {
		return kernelAddr{}, err
	}
	err = ErrGone
	for _, a := range there {
		if a.flags&ifaFDADFailed == 0 {
			found, err = a, nil
		}
	}
	return found, err
}

// foreign is ErrForeign with the place, when one of the addresses is not ours.
func foreign(there []kernelAddr, name func(index int) string) error {
	for _, a := range there {
		if !a.ours() {
			return fmt.Errorf("%w: %s is configured on %s; remove it there or choose another address", ErrForeign, a.prefix, name(a.index))
		}
	}
	return nil
}

// linkName asks for the name of an interface.
func (m *Manager) linkName(index int) string {
	links, _ := m.route.links() // then it has a number only
	return Sight{links: links}.linkName(index)
}

// Sight is what the kernel said of this node's interfaces and addresses at one moment, for who has several questions.
type Sight struct {
	links map[int]kernelLink
	addrs addressTable
}

// See asks the kernel. What it says was so after the call, never before; who asks at the same time shares the answer.
func (m *Manager) See() (v Sight, err error) {
	if v.links, err = m.route.links(); err == nil {
		v.addrs, err = m.route.addresses()
	}
	if err != nil {
		return Sight{}, fmt.Errorf("looking at this node's addresses: %w", err)
	}
	return v, nil
}

func (v Sight) linkName(index int) string {
	if l := v.links[index]; l.name != "" {
		return l.name
	}
	return fmt.Sprintf("interface %d", index)
}

// Resolve is Manager.Resolve at that moment.
func (v Sight) Resolve(s Spec) (Link, error) {
	l, err := v.resolve(s)
	if err != nil {
		return Link{}, fmt.Errorf("finding the interface of VIP %s: %w", s, err)
	}
	return l, nil
}

func (v Sight) resolve(s Spec) (Link, error) {
	if err := s.validate(); err != nil {
		return Link{}, err
	}
	return choose(s, v.links, v.addrs.rest)
}

// Present is Manager.Present at that moment.
func (v Sight) Present(s Spec) (bool, error) {
	_, err := v.addrs.present(s.Address.Addr(), v.linkName)
	if errors.Is(err, ErrGone) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for VIP %s: %w", s, err)
	}
	return true, nil
}

// Peer is Manager.Peer at that moment.
func (v Sight) Peer(s Spec) (Peer, error) {
	link, err := v.resolve(s)
	if err != nil {
		return Peer{}, err
	}
	best := Peer{MAC: link.MAC}
	rank := 0
	for _, a := range v.addrs.rest {
		if r := fit(s, a); a.index == link.Index && r > rank {
			best.Address, rank = a.prefix.Addr(), r
		}
	}
	if rank == 0 {
		return Peer{}, fmt.Errorf("interface %s has no address in the subnet of %s", link.Name, s.Address)
	}
	return best, best.check(s.Address.Addr())
}
