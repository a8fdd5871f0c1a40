package node

import (
	"bytes"
	"context"
	"maps"
	"math"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"hacluster/vip"
)

const (
	lookEvery   = time.Second      // between two looks at the connections of the addresses that are here, at least
	lookShare   = 20               // a look that takes long is taken less often: one part in so many of the time at most
	lookFailed  = 30 * time.Second // until the next look after one that failed
	tellTimeout = 2 * time.Second  // for a peer to take one list
	tellPause   = time.Second      // after a peer did not take it; doubled each time
	tellLongest = 4 * time.Second
	stillLooks  = 60 // looks without anything to tell after which the links are closed
)

// telling is what this node tells of one address. Only the loop uses it.
type telling struct {
	ages vip.Ages
	list connList // Seq 0: nothing was found yet
}

// tellee is a peer that is told.
type tellee struct {
	name string
	busy atomic.Bool // a goroutine tells it; it alone uses the rest then

	conn  net.Conn       // over which it was told what it has: the process at the other end has only that
	has   map[key]uint64 // Seq
	next  time.Time      // not before
	pause time.Duration
}

// current is the connection that the link has now; nil: none.
func (l *link) current() net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conn
}

// loop tells the others about connections while this node is online with an address, and sleeps else.
func (t *tickles) loop(ctx context.Context) {
	defer func() { t.links.close() }()
	for ctx.Err() == nil {
		t.mu.Lock()
		held := t.held
		t.mu.Unlock()
		wait := t.look(ctx, held)
		if len(held) == 0 {
			if t.hangUp() {
				wait = math.MaxInt64
			}
		}
		select {
		case <-ctx.Done():
			continue
		case <-time.After(wait):
			continue
		case <-t.wakes(held):
		}
		// An address has just come. Nobody has waited on it for long, and there is enough to do now.
		select {
		case <-ctx.Done():
		case <-time.After(lookEvery):
		}
	}
}

// wakes ends a wait without end. What changes while there are looks is seen at the next one.
func (t *tickles) wakes(held []heldAddress) <-chan struct{} {
	if len(held) > 0 {
		return nil
	}
	return t.wake
}

// look asks the kernel once and tells what has changed. It returns how long to wait until the next one.
func (t *tickles) look(ctx context.Context, held []heldAddress) time.Duration {
	maps.DeleteFunc(t.of, func(k key, one *telling) bool {
		return !slices.ContainsFunc(held, func(h heldAddress) bool {
			return h.key == k && h.epoch == one.list.Epoch && h.addr.String() == one.list.Address
		})
	})
	if len(held) == 0 {
		return lookEvery
	}
	addrs := make([]netip.Addr, len(held))
	for i, h := range held {
		addrs[i] = h.addr
	}
	begun := time.Now()
	found, err := t.n.vips.Waiting(addrs)
	if err != nil {
		t.n.logError("listing connections for the case that this node is lost", err)
		return lookFailed
	}
	for _, h := range held {
		t.note(h, found[h.addr])
	}
	took := time.Since(begun)
	t.tell(ctx)
	return max(lookEvery, lookShare*took)
}

// note makes a list of what was found, if it differs from what was before.
func (t *tickles) note(h heldAddress, found []vip.Waiting) {
	one := t.of[h.key]
	if one == nil {
		one = &telling{list: connList{Group: h.group, Resource: h.resource, Address: h.addr.String(), Epoch: h.epoch, Boot: t.boot}}
		t.of[h.key] = one
	}
	found = slices.DeleteFunc(found, func(w vip.Waiting) bool { return !tickleable(w.Conn) })
	if b := packConns(one.ages.Newest(found)); !bytes.Equal(b, one.list.Conns) {
		one.list.Conns = b
		one.list.Seq = uint64(t.n.clock().UnixNano()) // rises also over the lists of a slot that began anew
	}
}

// tell gives each peer what it does not have yet, all at the same time.
func (t *tickles) tell(ctx context.Context) {
	st, now, any := t.n.raft.State(), t.n.clock(), false
	lists := map[string][]connList{} // by peer
	for _, one := range t.of {
		any = any || len(one.list.Conns) > 0
		if one.list.Seq == 0 {
			continue
		}
		for _, peer := range possibleOwners(groupPolicy(st, one.list.Group), st) {
			if peer != t.n.name && !st.Nodes[peer].Lost {
				lists[peer] = append(lists[peer], one.list)
			}
		}
	}
	for peer, all := range lists {
		p := t.peers[peer]
		if p == nil {
			p = &tellee{name: peer}
			t.peers[peer] = p
		}
		if p.busy.Load() || now.Before(p.next) {
			continue
		}
		if p.conn == nil || t.links.to(peer).current() != p.conn {
			p.conn, p.has = nil, map[key]uint64{}
		}
		if all = slices.DeleteFunc(all, p.knows); len(all) > 0 {
			p.busy.Store(true)
			t.n.loops.Go(func() {
				defer p.busy.Store(false)
				t.tellOne(ctx, p, all)
			})
		}
	}
	if t.still++; any {
		t.still = 0
	}
	if t.still > stillLooks {
		t.hangUp()
	}
}

// knows says that a peer has the list, or has none and needs none.
func (p *tellee) knows(l connList) bool {
	has, told := p.has[key{l.Group, l.Resource}]
	return has == l.Seq || !told && len(l.Conns) == 0
}

// tellOne tells a peer. One that does not take it, because it is down or of an older version, is asked again, ever less often.
func (t *tickles) tellOne(ctx context.Context, p *tellee, lists []connList) {
	for _, l := range lists {
		ctx, cancel := context.WithTimeout(ctx, tellTimeout)
		_, err := t.links.to(p.name).call(ctx, message{Conns: &l})
		cancel()
		if err != nil {
			p.pause = min(max(tellPause, 2*p.pause), tellLongest)
			p.next = t.n.clock().Add(p.pause)
			t.n.log.Debug("telling of connections", "peer", p.name, "group", l.Group, "err", err)
			return
		}
		if p.conn == nil {
			p.conn = t.links.to(p.name).current()
		}
		p.has[key{l.Group, l.Resource}], p.pause = l.Seq, 0
	}
}

// hangUp closes the links while there is nothing to tell; false: one is being used.
func (t *tickles) hangUp() bool {
	for _, p := range t.peers {
		if p.busy.Load() {
			return false
		}
	}
	if len(t.peers) > 0 {
		t.links.close()
		t.links, t.peers = &links{dial: t.links.dial}, map[string]*tellee{}
	}
	return true
}
