package node

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"hacluster/vip"
)

// tend is the gate's part of a round of the act loop. It guards what is not guarded, renews what is open under a lease, and
// returns what had closed and was opened again.
//
// An address that serves already is opened before it is guarded, so that no packet is lost; one that is not here, or that neither lease nor
// pulses let serve now, is guarded closed. Nothing is opened but what is online under a lease now, and nothing else that is open is ever closed here.
func (g *gatekeeper) tend(fronts []front) (reopened []netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	concerns := func(f front) bool { return f.possible || !f.until.IsZero() }
	if g.none != nil || len(g.guarded) == 0 && !slices.ContainsFunc(fronts, concerns) { // a witness has nothing to guard
		return nil
	}
	if g.clock().Sub(g.looked) >= gateEvery {
		g.look()
	}
	for range 2 { // the second time when the first finds that somebody took the tables away
		if !g.wanted && len(g.coarse) == 0 || g.stand() != nil {
			break
		}
		g.enclose(fronts)
		if reopened = g.renew(fronts); g.up {
			break
		}
	}
	g.dismiss(fronts)
	return reopened
}

// enclose guards what is not guarded yet. The caller holds mu.
func (g *gatekeeper) enclose(fronts []front) {
	var closed, serving []netip.Addr
	var until time.Time
	for _, f := range fronts {
		switch {
		case g.guarded[f.addr] || !g.wanted && !g.coarse[f.addr]:
		case f.absent && f.possible:
			closed = append(closed, f.addr)
		case !f.until.IsZero():
			serving, until = append(serving, f.addr), earliest(until, f.until)
		}
	}
	err := error(nil)
	if len(serving) > 0 {
		if err = g.openAll(serving, until); err == nil || errors.Is(err, vip.ErrLate) { // late: nothing allows it to be reached now
			err = g.fence(serving...)
		}
	}
	if len(closed) > 0 {
		err = errors.Join(err, g.fence(closed...))
	}
	switch {
	case errors.Is(err, vip.ErrNoGate):
		g.gone(err)
	case err != nil:
		g.log.Error("guarding addresses", "err", err)
	}
}

// renew keeps open what is online, all in one transaction, once for each grant. What had closed, because a renewal came too
// late, is opened again: its lease is held now. The caller holds mu.
func (g *gatekeeper) renew(fronts []front) (reopened []netip.Addr) {
	var addrs []netip.Addr
	var until time.Time
	news := false
	mine := map[netip.Addr]bool{}
	for _, f := range fronts {
		if f.until.IsZero() || !g.guarded[f.addr] {
			continue
		}
		addrs, until, mine[f.addr] = append(addrs, f.addr), earliest(until, f.until), f.mine
		news = news || !g.armed[f.addr].Equal(f.until)
	}
	if !news || !g.clock().Before(until) {
		return nil
	}
	end := g.within(until)
	if !g.clock().Before(end) {
		return nil // what the pulses allow is over: the next answer
	}
	err := g.vips.RenewUntil(addrs, end)
	switch {
	case err == nil:
		g.opened(addrs, until, end)
	case errors.Is(err, vip.ErrNoGate):
		g.gone(err)
	case errors.Is(err, vip.ErrClosed):
		return g.reopen(addrs, mine, until)
	case !errors.Is(err, vip.ErrLate): // late: the next grant
		g.log.Error("renewing the kernel gate", "err", err)
	}
	return nil
}

func (g *gatekeeper) reopen(addrs []netip.Addr, mine map[netip.Addr]bool, until time.Time) []netip.Addr {
	g.look()
	var closed []netip.Addr
	for _, a := range addrs {
		if g.seen[a] {
			g.armed[a] = until // what is armed is renewed with the next grant
		} else if g.guarded[a] && mine[a] {
			closed = append(closed, a)
		}
	}
	if len(closed) == 0 {
		return nil
	}
	if err := g.openAll(closed, until); err != nil {
		g.log.Warn("opening the kernel gate again", "err", err)
		return nil
	}
	return closed
}

// dismiss takes from under the gate what needs it no more: an address that has left the configuration, or this node, and
// where the configuration does without a gate one that the kernel would remove in time. The caller holds mu.
func (g *gatekeeper) dismiss(fronts []front) {
	known := make(map[netip.Addr]*front, len(fronts))
	for i, f := range fronts {
		if f.possible || !f.absent {
			known[f.addr] = &fronts[i]
		}
	}
	var leave []netip.Addr
	for a := range g.guarded {
		f, ok := known[a]
		switch {
		case !ok && g.isHere(a): // the sweep removes it
		case ok && g.promised != nil && g.promised(): // it is in front of something that serves, or may
		case !ok, !g.wanted && f.absent, !g.wanted && !g.coarse[a] && !f.until.IsZero():
			leave = append(leave, a)
		}
	}
	if len(leave) == 0 {
		return
	}
	if err := g.vips.Unguard(leave...); err != nil && !errors.Is(err, vip.ErrNoGate) {
		g.log.Warn("taking addresses from under the kernel gate", "err", err)
		return
	}
	for _, a := range leave {
		delete(g.guarded, a)
		delete(g.armed, a)
		delete(g.shuts, a)
		delete(g.coarse, a)
	}
	if !g.wanted && len(g.guarded) == 0 {
		g.up = false
		if err := g.vips.RemoveGate(); err != nil {
			g.log.Warn("removing the kernel gate", "err", err)
		}
	}
}

// isHere says that we hold the address, or that nobody can tell.
func (g *gatekeeper) isHere(a netip.Addr) bool {
	held, err := g.vips.Held()
	for _, h := range held {
		if h.Address.Addr() == a {
			return true
		}
	}
	return err != nil
}

// lost are the addresses that must go although their lease lives: the gate is what would end it, it does not work, and what
// it was last armed for is over.
func (g *gatekeeper) lost(fronts []front) (out []netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.required {
		return nil
	}
	now := g.clock()
	for _, f := range fronts {
		works := g.none == nil && g.up && g.guarded[f.addr]
		if !f.until.IsZero() && !works && !now.Before(g.shuts[f.addr]) {
			out = append(out, f.addr)
		}
	}
	return out
}

// deadline is what the lifetime of addresses is counted from: the end of the lease, or where the gate is the kernel lease
// and stands in front of all of them, backup later. What gets the longer one must stay guarded until it is armed strictly.
func (g *gatekeeper) deadline(until time.Time, addrs ...netip.Addr) (end time.Time, coarse bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, a := range addrs {
		if !g.required || !g.up || !g.guarded[a] {
			return until, false
		}
	}
	for _, a := range addrs {
		g.coarse[a] = true
	}
	return until.Add(backup), true
}

// strict notes that addresses have a lifetime that ends with the lease, or none because they are gone.
func (g *gatekeeper) strict(addrs ...netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, a := range addrs {
		delete(g.coarse, a)
	}
}
