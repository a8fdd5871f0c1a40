package vip

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// DrainSupported is nil where the kernel can let connections go on to a node that has given its address away.
func DrainSupported() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("asking for forwarding of connections: %w", err)
	}
	for _, l := range drainLanes {
		t := c.AddTable(&nftables.Table{Family: l.table.Family, Name: fmt.Sprintf("had-check-%d", os.Getpid())})
		ch := c.AddChain(chain(t, "c", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, priorityDrain))
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: append(l.destination(), &expr.Dup{RegAddr: 1})})
		c.DelTable(t)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("this kernel cannot forward connections (CONFIG_NFT_DUP_IPV4, CONFIG_NFT_DUP_IPV6): %w", err)
	}
	return nil
}

// Peer is how others reach this node on the link of an address.
func (m *Manager) Peer(s Spec) (Peer, error) {
	v, err := m.See()
	if err != nil {
		return Peer{}, err
	}
	return v.Peer(s)
}

// ReadyDrains sets up the tables that forward, without anything to forward yet. Elements that are there stay.
func (m *Manager) ReadyDrains() error {
	m.gate.mu.Lock()
	defer m.gate.mu.Unlock()
	if err := m.readyDrains(); err != nil {
		return fmt.Errorf("setting up the forwarding of connections: %w", err)
	}
	return nil
}

func (m *Manager) readyDrains() error {
	c, err := m.nft()
	if err != nil {
		return err
	}
	whole := true
	for _, l := range drainLanes {
		there, err := drainTable(c, l)
		if err != nil {
			return err
		}
		g := l.chain()
		if there {
			rules, err := c.GetRules(l.table, g.chain)
			there = err == nil && len(rules) == len(g.rules)
		}
		whole = whole && there
		c.AddTable(l.table)
		for _, s := range l.sets() {
			if err := c.AddSet(s, nil); err != nil {
				return err
			}
		}
		c.AddChain(g.chain)
	}
	if whole {
		return m.gate.close() // and with it what was collected
	}
	if err := m.flush(c); err != nil {
		return err
	}
	for _, l := range drainLanes {
		if c, err = m.nft(); err != nil {
			return err
		}
		g := l.chain()
		c.FlushChain(g.chain)
		for _, r := range g.rules {
			c.AddRule(&nftables.Rule{Table: l.table, Chain: g.chain, Exprs: r})
		}
		if err := m.flush(c); err != nil {
			return fmt.Errorf("rules of chain %s: %w", g.chain.Name, err)
		}
	}
	return nil
}

// drainTable reports whether the table is there; it is an error when it is not ours.
func drainTable(c *nftables.Conn, l drainLane) (bool, error) {
	tables, err := c.ListTablesOfFamily(l.table.Family)
	if err != nil {
		return false, err
	}
	if !slices.ContainsFunc(tables, func(x *nftables.Table) bool { return x.Name == l.table.Name }) {
		return false, nil
	}
	if _, err := c.GetSetByName(l.table, l.theirs.Name); err != nil {
		return false, fmt.Errorf("there is a table %q that is not had's: rename it: %w", l.table.Name, err)
	}
	return true, nil
}

// dropDrains adds the removal of our tables to the transaction.
func dropDrains(c *nftables.Conn) error {
	for _, l := range drainLanes {
		there, err := drainTable(c, l)
		if err != nil {
			return err
		}
		if there {
			c.DelTable(l.table)
		}
	}
	return nil
}

func drainLaneOf(a netip.Addr) drainLane {
	if a.Is4() {
		return drainLanes[0]
	}
	return drainLanes[1]
}

// raw lists the elements of a set that are not over.
func (m *Manager) raw(s *nftables.Set) ([]nftables.SetElement, error) {
	var err error
	for range gateTries {
		var c *nftables.Conn
		if c, err = m.nft(); err != nil {
			return nil, err
		}
		if _, err = c.GetSetByName(s.Table, s.Name); err == nil {
			var elems []nftables.SetElement
			if elems, err = c.GetSetElements(s); err == nil {
				return elems, nil
			}
		}
		err = errors.Join(err, m.gate.close())
		if errors.Is(err, unix.ENOENT) {
			return nil, errors.Join(ErrNoGate, err)
		}
	}
	return nil, fmt.Errorf("listing set %s: %w", s.Name, err)
}

// forget adds to the transaction the removal of every element about the address from the sets.
func (m *Manager) forget(remove map[*nftables.Set][]nftables.SetElement, a netip.Addr, sets ...*nftables.Set) error {
	l := drainLaneOf(a)
	for _, s := range sets {
		elems, err := m.raw(s)
		if err != nil {
			return err
		}
		at := uint32(0)
		if s == l.mine || s == l.theirs {
			at = l.size // after the source
		}
		for _, e := range elems {
			if bytes.Equal(e.Key[at:at+l.size], a.AsSlice()) {
				remove[s] = append(remove[s], nftables.SetElement{Key: e.Key, Val: e.Val})
			}
		}
	}
	return nil
}

// drainTries bounds how often a transaction is tried whose elements ran out while it was made.
const drainTries = 3

// exchange removes what is known about an address from some sets and adds what add collects, in one transaction. What is
// in mine is not removed, but handed to add.
func (m *Manager) exchange(a netip.Addr, sets []*nftables.Set, add func(*nftables.Conn, map[*nftables.Set][]nftables.SetElement) error) error {
	for try := 1; ; try++ {
		remove := map[*nftables.Set][]nftables.SetElement{}
		if err := m.forget(remove, a, sets...); err != nil {
			return err
		}
		c, err := m.nft()
		if err != nil {
			return err
		}
		for _, s := range sets {
			if e := remove[s]; s != drainLaneOf(a).mine {
				err = errors.Join(err, inParts(e, func(e []nftables.SetElement) error { return c.SetDeleteElements(s, e) }))
			}
		}
		if err = errors.Join(err, add(c, remove)); err != nil {
			return errors.Join(err, m.gate.close())
		}
		if err = m.flush(c); err == nil || try == drainTries || !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
}

// DrainTo gives an address away while its connections go on: in one transaction the gate closes for everything but TCP
// connections that are open, and what opens a new one is forwarded to the new owner. All of it ends by itself after d. The
// address stays, and must get a lifetime that ends with the drain. self is this node on the link. Read back, as Shut is.
func (m *Manager) DrainTo(a netip.Addr, self, to Peer, d time.Duration) error {
	m.gate.mu.Lock()
	defer m.gate.mu.Unlock()
	a = plain(a)
	err := errors.Join(self.check(a), to.check(a))
	if err == nil && (d < gateLeast || d > DrainLongest) {
		err = fmt.Errorf("a drain of %v: want %v to %v", d, gateLeast, DrainLongest)
	}
	if err == nil {
		err = m.drainTo(a, self, to, d)
	}
	if errors.Is(err, unix.ENOENT) {
		err = errors.Join(ErrNoGate, err)
	}
	if err != nil {
		return fmt.Errorf("giving %s away with its connections: %w", a, err)
	}
	return nil
}

func (m *Manager) drainTo(a netip.Addr, self, to Peer, d time.Duration) error {
	if err := m.readyDrains(); err != nil {
		return err
	}
	l := drainLaneOf(a)
	sets := []*nftables.Set{l.there, l.theirs}
	if a.Is4() {
		sets = append(sets, asks)
	}
	err := m.exchange(a, sets, func(c *nftables.Conn, _ map[*nftables.Set][]nftables.SetElement) error {
		errs := []error{c.SetAddElements(l.there, pairs(a.AsSlice(), to.Address.AsSlice(), d)), l.hear(c, a, to, d)}
		if a.Is4() {
			errs = append(errs, c.SetAddElements(asks, pairs(a.AsSlice(), self.Address.AsSlice(), d)))
		}
		errs = append(errs, byLane([]netip.Addr{a}, func(l lane, e []nftables.SetElement) error {
			err := shut(c, l, e)
			if l.pass != nil {
				err = errors.Join(err, c.SetAddElements(l.pass, lasting(e, d)))
			}
			return err
		}))
		return errors.Join(errs...)
	})
	if err != nil {
		return err
	}
	return m.isShut([]netip.Addr{a})
}

// hear adds to the transaction that what comes from a node is not sent there.
func (l drainLane) hear(c *nftables.Conn, a netip.Addr, p Peer, d time.Duration) error {
	e := []nftables.SetElement{{Key: append(append(slices.Clone(a.AsSlice()), p.MAC...), 0, 0), Timeout: d}}
	return errors.Join(c.SetAddElements(l.from, e), c.SetDeleteElements(l.from, e), c.SetAddElements(l.from, e))
}

// TakeFrom prepares this node for an address that another one gives away with its connections: from now on TCP packets for
// it that belong to no connection begun or open here are forwarded to the old owner, until d is over. It comes before the
// gate is opened and the address is announced.
func (m *Manager) TakeFrom(a netip.Addr, old Peer, d time.Duration) error {
	m.gate.mu.Lock()
	defer m.gate.mu.Unlock()
	a = plain(a)
	err := old.check(a)
	if err == nil && (d < gateLeast || d > DrainLongest) {
		err = fmt.Errorf("a drain of %v: want %v to %v", d, gateLeast, DrainLongest)
	}
	if err == nil {
		err = m.takeFrom(a, old, d)
	}
	if err != nil {
		return fmt.Errorf("taking %s from %s with its connections: %w", a, old, err)
	}
	return nil
}

func (m *Manager) takeFrom(a netip.Addr, old Peer, d time.Duration) error {
	if err := m.readyDrains(); err != nil {
		return err
	}
	l := drainLaneOf(a)
	return m.exchange(a, []*nftables.Set{l.there, l.back, l.mine}, func(c *nftables.Conn, had map[*nftables.Set][]nftables.SetElement) error {
		// Asked after the set was listed: what is in the set and has no connection now will have none.
		conns, err := m.connections(a)
		if err != nil {
			return err
		}
		have := map[string]bool{}
		var fresh []nftables.SetElement
		for _, k := range conns {
			key := k.key()
			have[string(key)] = true
			fresh = append(fresh, nftables.SetElement{Key: key, Timeout: 2 * DrainLongest})
		}
		var over []nftables.SetElement
		for _, e := range had[l.mine] {
			if !have[string(e.Key)] {
				over = append(over, nftables.SetElement{Key: e.Key})
			}
		}
		return errors.Join(
			inParts(over, func(e []nftables.SetElement) error { return c.SetDeleteElements(l.mine, e) }),
			inParts(fresh, func(e []nftables.SetElement) error { return c.SetAddElements(l.mine, e) }),
			l.hear(c, a, old, d),
			c.SetAddElements(l.back, pairs(a.AsSlice(), old.Address.AsSlice(), d)))
	})
}

// inParts calls f for some elements at a time: what one message can name is bounded.
func inParts(e []nftables.SetElement, f func([]nftables.SetElement) error) error {
	for part := range slices.Chunk(e, 500) {
		if err := f(part); err != nil {
			return err
		}
	}
	return nil
}

// EndDrain ends what DrainTo and TakeFrom began for the addresses, whichever; the gate stays as it is, but what is closed is
// closed for connections that were open too. It is no error when there was nothing. The tables go with the last address.
func (m *Manager) EndDrain(addrs ...netip.Addr) error {
	m.gate.mu.Lock()
	defer m.gate.mu.Unlock()
	err := m.endDrain(addrs)
	if errors.Is(err, ErrNoGate) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("ending the drain of %v: %w", addrs, err)
	}
	return nil
}

func (m *Manager) endDrain(addrs []netip.Addr) error {
	for _, a := range addrs {
		a = plain(a)
		l := drainLaneOf(a)
		sets := l.sets()
		if a.Is4() {
			sets = append(sets, asks)
		}
		// mine is dealt with here, since exchange leaves it to its caller.
		err := m.exchange(a, sets, func(c *nftables.Conn, had map[*nftables.Set][]nftables.SetElement) error {
			return errors.Join(inParts(had[l.mine], func(e []nftables.SetElement) error { return c.SetDeleteElements(l.mine, e) }),
				byLane([]netip.Addr{a}, func(l lane, e []nftables.SetElement) error {
					if l.pass == nil {
						return nil
					}
					return errors.Join(c.SetAddElements(l.pass, lasting(e, gateLeast)), c.SetDeleteElements(l.pass, e))
				}))
		})
		if err != nil && !errors.Is(err, ErrNoGate) {
			return err
		}
	}
	left, err := m.drains()
	if err != nil || len(left) > 0 {
		return err
	}
	c, err := m.nft()
	if err == nil {
		err = dropDrains(c)
	}
	if err == nil {
		err = m.flush(c)
	}
	return err
}

// endDrains ends everything that DrainTo and TakeFrom began.
func (m *Manager) endDrains() error {
	m.gate.mu.Lock()
	defer m.gate.mu.Unlock()
	c, err := m.nft()
	if err != nil {
		return nil // nor could anything have been begun
	}
	if err = dropDrains(c); err == nil {
		err = m.flush(c)
	}
	if err != nil {
		return fmt.Errorf("ending the forwarding of connections: %w", err)
	}
	return nil
}

// Drains lists the addresses whose connections are on two nodes, as the kernel has them; none where there is no table.
func (m *Manager) Drains() ([]Drain, error) {
	m.gate.mu.Lock()
	defer m.gate.mu.Unlock()
	all, err := m.drains()
	if errors.Is(err, ErrNoGate) {
		return nil, nil
	}
	return all, err
}

func (m *Manager) drains() ([]Drain, error) {
	var all []Drain
	for _, l := range drainLanes {
		by := map[netip.Addr]*Drain{}
		for _, s := range []*nftables.Set{l.there, l.back} {
			elems, err := m.raw(s)
			if err != nil {
				return nil, fmt.Errorf("asking which connections are forwarded: %w", err)
			}
			for _, e := range elems {
				a, ok := netip.AddrFromSlice(e.Key)
				node, valid := netip.AddrFromSlice(e.Val)
				if !ok || !valid {
					continue
				}
				if by[a] == nil {
					by[a] = &Drain{Address: a}
				}
				if by[a].Left = max(by[a].Left, e.Expires); s == l.there {
					by[a].There = node
				} else {
					by[a].Back = node
				}
			}
		}
		for _, d := range by {
			all = append(all, *d)
		}
	}
	slices.SortFunc(all, func(a, b Drain) int { return a.Address.Compare(b.Address) })
	return all, nil
}
