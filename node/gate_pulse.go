package node

import (
	"errors"
	"net/netip"
	"time"

	"hacluster/vip"
)

// extendGain is the least that another arming by pulses must add to be worth a system call.
const extendGain = time.Millisecond

// behind is what a pulse may say of the gates of this node.
type behind struct {
	works bool      // what is held stands behind a gate that is the kernel lease, and the kernel has said what the process before this one left
	held  int       // addresses that this process has opened and that its lease covers
	armed time.Time // until when one of them may be open by what the kernel was told last, by any process
}

func (g *gatekeeper) behind() behind {
	g.mu.Lock()
	defer g.mu.Unlock()
	b := behind{works: g.none == nil && g.required && g.up && !g.looked.IsZero(), armed: g.legacy}
	for _, end := range g.shuts {
		if end.After(b.armed) {
			b.armed = end
		}
	}
	now := g.clock()
	for a, until := range g.armed {
		if now.Before(until) {
			b.held++
			b.works = b.works && g.guarded[a]
		}
	}
	return b
}

// extend arms what is open until when the newest answers to pulses allow, no later and no sooner. It opens nothing, and nothing lasts beyond the lease that
// the act loop knows of; true: that has something to do.
func (g *gatekeeper) extend() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.none != nil || len(g.armed) == 0 {
		return false
	}
	if !g.up {
		return true
	}
	now := g.clock()
	var addrs []netip.Addr
	var until time.Time
	for a, end := range g.armed {
		if g.guarded[a] && now.Before(end) {
			addrs, until = append(addrs, a), earliest(until, end)
		}
	}
	if len(addrs) == 0 {
		return false
	}
	end, gain := g.within(until), false
	for _, a := range addrs {
		more := end.Sub(g.shuts[a])
		gain = gain || more >= extendGain || more <= -extendGain // a promise is about to be made, which must be true: sooner than it was armed for
	}
	if !gain || !now.Before(end) {
		return false
	}
	err := g.vips.RenewUntil(addrs, end)
	switch {
	case err == nil:
		for _, a := range addrs {
			g.shuts[a] = end
		}
		return false
	case errors.Is(err, vip.ErrNoGate):
		g.gone(err)
	case errors.Is(err, vip.ErrClosed):
		for _, a := range addrs {
			g.armed[a] = now // the act loop finds out which, and opens them again if they are still to be held
		}
	case errors.Is(err, vip.ErrLate):
		return false
	default:
		g.log.Error("renewing the kernel gate", "err", err)
	}
	return true
}

// allows is the end of a lease, or sooner what the pulses allow, of an address of this node.
func (g *gatekeeper) allows(until time.Time) time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.none != nil {
		return until
	}
	return g.within(until)
}

// follows has the gates armed no longer than the pulses allow.
func (g *gatekeeper) follows(p *pulser) {
	if g.none == nil {
		g.cap, g.first, g.promised = p.cap, p.kick, p.stands
	}
}
