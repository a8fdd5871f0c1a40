package node

import (
	"net/netip"
	"time"

	"hacluster/placement"
)

// wholeEvery is how often a whole round of the act loop runs at least while leases are only renewed: what one of them looks after and no
// event tells, the lifetime of the addresses behind the gate first of all (backupGain), waits for no longer.
const wholeEvery = backupGain

// lastRound is what the newest whole round of the act loop went by. A lease is renewed ten times a second, and nothing else has changed in
// almost all of these rounds, so a grant only moves the ends of what it left (prolong): whole rounds were a fifth of what a node at rest
// used of the processor. The act loop alone sets it.
type lastRound struct {
	at       time.Time
	index    uint64                // of the state
	caughtUp bool                  // that state could tell what this node owns
	leased   map[string]time.Time  // groups that this node may act for, and until when
	addrs    map[netip.Addr]string // addresses whose gate it kept open, and their groups
	holding  map[string]bool       // groups that run here and must not outlive the lease
}

// prolong takes up a lease that was renewed; false: something else has changed, or may have, and a whole round is due. What it does is what
// that would do of it. It opens nothing and starts nothing.
func (n *Node) prolong() bool {
	now, last := n.clock(), n.last.Load()
	if n.resumed() || last == nil || now.Sub(last.at) >= wholeEvery || n.abandoned.Load() {
		return false
	}
	st := n.raft.State()
	up, _ := n.renewer.caughtUp(st.Index)
	if st.Index != last.index || up != last.caughtUp {
		return false
	}
	leased := n.renewer.leased(st)
	if len(leased) != len(last.leased) {
		return false
	}
	for group, until := range leased {
		if before, ok := last.leased[group]; !ok || until.Before(before) || !now.Before(until) {
			return false
		}
	}
	ends := make(map[netip.Addr]time.Time, len(last.addrs))
	for a, group := range last.addrs {
		ends[a] = leased[group]
	}
	if len(ends) > 0 && !n.gate.prolong(ends) {
		return false
	}
	n.deadMan.Alive()
	if until, _ := heldUntil(last.holding, leased); !until.IsZero() {
		n.tellDeadline(until)
	}
	next := *last
	next.leased = leased
	n.last.Store(&next)
	n.progress.Store(now.UnixNano())
	return true
}

// heldUntil is until when what is held may live: as long as the lease of every group that has one. held says that something is.
func heldUntil(holding map[string]bool, leased map[string]time.Time) (until time.Time, held bool) {
	for group, here := range holding {
		if !here {
			continue
		}
		held = true
		if end, ok := leased[group]; ok {
			until = earliest(until, end)
		}
	}
	return until, held
}

// whole notes what a whole round went by.
func (n *Node) whole(began time.Time, up bool, st placement.State, local placement.Local, fronts []front, holding map[string]bool) {
	addrs := map[netip.Addr]string{}
	for _, f := range fronts {
		if !f.until.IsZero() {
			addrs[f.addr] = f.group
		}
	}
	n.last.Store(&lastRound{at: began, index: st.Index, caughtUp: up, leased: local.Leased, addrs: addrs, holding: holding})
}

// prolong keeps the gate of what is open here open until leases end that were renewed; false: that takes a whole round, because an
// address has come or gone, or the gate does not say yes.
func (g *gatekeeper) prolong(ends map[netip.Addr]time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.none != nil || !g.required || !g.up {
		return false
	}
	var until time.Time
	addrs := make([]netip.Addr, 0, len(g.armed))
	for a, end := range ends {
		if before, open := g.armed[a]; !open || !g.guarded[a] || end.Before(before) {
			return false
		}
		addrs, until = append(addrs, a), earliest(until, end)
	}
	end := g.within(until)
	if !g.clock().Before(end) || g.vips.RenewUntil(addrs, end) != nil { // the whole round finds out what it is
		return false
	}
	g.opened(addrs, until, end)
	return true
}

// wakeProlong has a renewed lease taken up.
func (n *Node) wakeProlong() {
	select {
	case n.grantWake <- struct{}{}:
	default:
	}
}
