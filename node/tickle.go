package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"hacluster/placement"
	"hacluster/vip"
)

// keepPassed is how long what a former owner told is kept after its epoch has passed: the new one may need more than one try.
const keepPassed = 30 * time.Second

// connList is what the owner of an address tells the other members that could own it: which clients may wait on connections to it.
// A newer list replaces an older one whole.
type connList struct {
	Group    string `json:"group"`
	Resource string `json:"resource"`
	Address  string `json:"address"`
	Epoch    uint64 `json:"epoch"`
	Boot     string `json:"boot"` // as of a renewal: orders by Seq what one process tells
	Seq      uint64 `json:"seq"`
	Conns    []byte `json:"conns,omitempty"` // of each its local port, and its client's address and port, big endian
}

// packConns writes connections as connList has them.
func packConns(conns []vip.Conn) (b []byte) {
	for _, c := range conns {
		b = binary.BigEndian.AppendUint16(b, c.Local.Port())
		b = append(b, c.Remote.Addr().AsSlice()...)
		b = binary.BigEndian.AppendUint16(b, c.Remote.Port())
	}
	return b
}

// conns reads a list. It comes from another machine: what could not be a client's connection to the address is an error.
func (l connList) conns() ([]vip.Conn, error) {
	at, err := netip.ParseAddr(l.Address)
	if err != nil || at.Is4In6() || at.Zone() != "" {
		return nil, fmt.Errorf("connections of the address %q: %w", l.Address, errors.Join(err, errors.ErrUnsupported))
	}
	width := at.BitLen() / 8
	size := 2 + width + 2
	if len(l.Conns)%size != 0 || len(l.Conns)/size > vip.MaxTickles {
		return nil, fmt.Errorf("connections of %s in %d bytes", l.Address, len(l.Conns))
	}
	out := make([]vip.Conn, 0, len(l.Conns)/size)
	for one := range slices.Chunk(l.Conns, size) {
		client, _ := netip.AddrFromSlice(one[2 : 2+width])
		c := vip.Conn{Local: netip.AddrPortFrom(at, binary.BigEndian.Uint16(one)),
			Remote: netip.AddrPortFrom(client, binary.BigEndian.Uint16(one[2+width:]))}
		if !tickleable(c) {
			return nil, fmt.Errorf("%s is no client of %s", c.Remote, c.Local)
		}
		out = append(out, c)
	}
	return out, nil
}

// tickleable says that the other side of a connection may be another machine that can be reached without more than its address.
func tickleable(c vip.Conn) bool {
	a := c.Remote.Addr()
	return a.Is4() == c.Local.Addr().Is4() && a != c.Local.Addr() && !a.Is4In6() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() &&
		!a.IsLinkLocalUnicast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255}) && c.Local.Port() != 0 && c.Remote.Port() != 0
}

func newTickles(n *Node, boot string) *tickles {
	return &tickles{n: n, boot: boot, links: &links{dial: n.links.dial}, wake: make(chan struct{}, 1), peers: map[string]*tellee{}, of: map[key]*telling{}, known: map[key]*knownList{}}
}

// tickles is what this node tells of its own connections and knows of those of others; in memory only. "Clients of an owner that is
// lost" in docs/design.md.
type tickles struct {
	n     *Node
	boot  string
	links *links        // not those of the leases: a list is long, and a peer that does not take it must not hold up a renewal
	wake  chan struct{} // held has changed
	peers map[string]*tellee
	of    map[key]*telling
	still int // looks in a row that found nothing to tell

	mu    sync.Mutex
	held  []heldAddress
	known map[key]*knownList
}

// heldAddress is an address that this node is online with.
type heldAddress struct {
	key
	addr  netip.Addr
	epoch uint64
}

// knownList is the newest list of an address.
type knownList struct {
	connList
	from   string
	passed time.Time // when its epoch was seen to have passed; zero: it has not
}

// hear takes a list from a peer.
func (t *tickles) hear(peer string, l connList) error {
	st := t.n.raft.State()
	gs, ok := st.Groups[l.Group]
	r, known := groupPolicy(st, l.Group).Resource(l.Resource)
	switch _, err := l.conns(); {
	case err != nil:
		return err
	case !ok || !known || !r.Address:
		return fmt.Errorf("group %q has no address %q here", l.Group, l.Resource)
	case l.Epoch < gs.Epoch || l.Epoch == gs.Epoch && gs.Owner != peer || peer == t.n.name:
		return errNotOwner
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.keep(key{l.Group, l.Resource}, peer, l)
	return nil
}

// keep replaces an older list. The caller holds mu.
func (t *tickles) keep(k key, peer string, l connList) {
	old := t.known[k]
	if old != nil && (l.Epoch < old.Epoch || l.Epoch == old.Epoch && l.Boot == old.Boot && l.Seq <= old.Seq) {
		return
	}
	t.known[k] = &knownList{connList: l, from: peer}
}

// lost implements tickleSource.
func (t *tickles) lost(k key, a netip.Addr, epoch uint64) []vip.Conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.known[k]
	if l == nil || l.Address != a.String() || l.Epoch >= epoch || !takenFrom(t.n.raftState(), k.group, l.from, l.Epoch) {
		return nil
	}
	conns, _ := l.conns() // checked when it came
	return conns
}

// takenFrom says that a group was taken from the owner of an epoch without its word. One that gave it up has reset its connections
// itself, or lets them finish.
func takenFrom(st placement.State, group, owner string, epoch uint64) bool {
	for _, e := range slices.Backward(st.Events) {
		if e.Group != group || !e.Moves() || e.From != owner {
			continue
		}
		if e.Epoch == epoch && e.To == "" || e.Epoch == epoch+1 && e.To != "" {
			return e.Kind == string(placement.CmdTakeover)
		}
	}
	return false
}

// follow takes up which addresses this node is online with, and forgets what is known of epochs long passed. Only the act loop calls
// it.
func (t *tickles) follow(st placement.State, local placement.Local, all map[key]*address) {
	var held []heldAddress
	for k, a := range all {
		gs := st.Groups[k.group]
		if _, leased := local.Leased[k.group]; leased && a.tickling && gs.Owner == local.Node && gs.Phase == placement.PhaseOwned &&
			local.Resources[k.group][k.resource].State == placement.StateOnline {
			held = append(held, heldAddress{k, a.spec.Address.Addr(), gs.Epoch})
		}
	}
	slices.SortFunc(held, func(x, y heldAddress) int { return x.compare(y.key) })
	t.mu.Lock()
	defer t.mu.Unlock()
	if !slices.Equal(held, t.held) {
		t.held = held
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
	now := t.n.clock()
	for k, l := range t.known {
		gs, ok := st.Groups[k.group]
		switch {
		case !ok:
			delete(t.known, k)
		case gs.Epoch <= l.Epoch:
			l.passed = time.Time{}
		case l.passed.IsZero():
			l.passed = now
		case now.Sub(l.passed) > keepPassed:
			delete(t.known, k)
		}
	}
}
