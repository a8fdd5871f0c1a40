package vip

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	nfnl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// nft is the socket to the gate, which is opened when there is none.
func (m *Manager) nft() (*nftables.Conn, error) {
	if m.gate.conn == nil {
		err := m.ns.do(func() (err error) {
			m.gate.conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(s *nfnl.Conn) error {
				m.gate.sock = s
				return nil
			}))
			return err
		})
		if err != nil {
			m.gate.conn = nil
			return nil, fmt.Errorf("opening a netlink socket: %w", err)
		}
	}
	if err := m.gate.sock.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return nil, errors.Join(err, m.gate.close())
	}
	return m.gate.conn, nil
}

// flush sends what was collected as one transaction: all of it happens or nothing.
func (m *Manager) flush(c *nftables.Conn) error {
	err := c.Flush()
	if err != nil {
		// Answers may be left in the socket.
		err = errors.Join(err, m.gate.close())
	}
	return err
}

func (g *gate) close() error {
	var errs []error
	if g.conn != nil {
		errs = append(errs, g.conn.CloseLasting())
	}
	if g.raw != nil {
		errs = append(errs, g.raw.close())
	}
	g.conn, g.sock, g.raw = nil, nil, nil
	return errors.Join(errs...)
}

// elements is a transaction in the making: a batch, or one of the library's.
type elements interface {
	SetAddElements(*nftables.Set, []nftables.SetElement) error
	SetDeleteElements(*nftables.Set, []nftables.SetElement) error
}

// turn sends transactions about addresses, as many as it takes.
func (m *Manager) turn(doing string, addrs []netip.Addr, add func(elements, lane, []nftables.SetElement) error) error {
	m.gate.mu.Lock()
	defer m.gate.mu.Unlock()
	for some := range slices.Chunk(addrs, batchMost) {
		c := newBatch()
		err := byLane(some, func(l lane, e []nftables.SetElement) error { return add(c, l, e) })
		if err == nil {
			err = m.commit(c)
		}
		if errors.Is(err, unix.ENOENT) {
			err = errors.Join(ErrNoGate, err)
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", doing, few(some), err)
		}
	}
	return nil
}

// few names the first of many addresses.
func few(addrs []netip.Addr) string {
	const most = 4
	if len(addrs) <= most+1 {
		return fmt.Sprint(addrs)
	}
	return fmt.Sprintf("%v and %d more", addrs[:most], len(addrs)-most)
}

// byLane calls add for each lane that some of the addresses belong to: IPv4 has two, for IP and for ARP.
func byLane(addrs []netip.Addr, add func(lane, []nftables.SetElement) error) error {
	for _, l := range lanes {
		var e []nftables.SetElement
		for _, a := range addrs {
			if key := plain(a).AsSlice(); uint32(len(key)) == l.managed.KeyType.Bytes {
				e = append(e, nftables.SetElement{Key: key})
			}
		}
		if len(e) == 0 {
			continue
		}
		if err := add(l, e); err != nil {
			return err
		}
	}
	return nil
}

// lasting is the elements with a timeout.
func lasting(e []nftables.SetElement, d time.Duration) []nftables.SetElement {
	timed := make([]nftables.SetElement, len(e))
	for i := range e {
		timed[i] = nftables.SetElement{Key: e[i].Key, Timeout: d}
	}
	return timed
}

// plain is the address as the kernel's sets have it.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// whole is ErrNoGate when a table is missing or has lost rules: without them everything passes.
func (m *Manager) whole() error {
	for _, l := range []lane{inet4, arp4} {
		if _, err := m.list(l.managed); err != nil {
			return err
		}
	}
	for _, t := range []*nftables.Table{inetTable, arpTable} {
		count, err := m.rules(t)
		if err != nil {
			return err
		}
		for _, g := range gateRules {
			if g.chain.Table == t && count[g.chain.Name] != len(g.rules) {
				return fmt.Errorf("%w: chain %s has %d rules instead of %d", ErrNoGate, g.chain.Name, count[g.chain.Name], len(g.rules))
			}
		}
	}
	return nil
}

// proven is the addresses whose gate is open.
func (m *Manager) proven() (map[netip.Addr]bool, error) {
	if _, err := m.list(arp4.managed); err != nil {
		return nil, err
	}
	open := map[netip.Addr]bool{}
	for _, l := range []lane{inet4, inet6} {
		proof, err := m.list(l.proof)
		if err != nil {
			return nil, err
		}
		for a := range proof {
			open[a] = true
		}
	}
	return open, nil
}
