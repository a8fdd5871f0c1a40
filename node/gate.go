package node

import (
	"errors"
	"log/slog"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"hacluster/internal/boottime"
	"hacluster/vip"
)

const (
	// gateEvery is how often the kernel is asked whether the gate is whole. A renewal notices by itself that the tables are
	// gone, but not that rules are; and a node that holds nothing renews nothing.
	gateEvery = 2 * time.Second
	// gateRetry is the pause between two attempts to set up a gate that cannot be set up.
	gateRetry = 500 * time.Millisecond
	// backup is how far behind the end of the lease the lifetime of an address ends where the gate ends the lease. Leases are
	// shorter than the whole seconds the kernel counts there, so it covers nothing that the takeover wait counts on: it takes
	// away what stands behind a closed gate.
	backup = 2 * time.Second
)

var errNoGate = errors.New("the kernel lease in force is the gate, and it does not work on this node")

// gatekeeper keeps the kernel gate in front of this node's floating addresses ("The gate" in vip/DESIGN.md). Every address
// that this node could hold is guarded, from before it is added until it has left the configuration. The kernel is what
// knows; what is remembered here saves system calls, and is compared with the kernel every gateEvery.
type gatekeeper struct {
	vips  *vip.Manager
	clock boottime.Clock
	log   *slog.Logger
	none  error // why this kernel carries no gate; nil: it does

	forwards error // why this kernel cannot forward connections; nil: it can
	noReset  error // why connections of an address that leaves cannot be reset; nil: they can

	mu       sync.Mutex
	wanted   bool  // the configuration does not do without
	required bool  // it is the kernel lease in force: no address without it
	up       bool  // set up by this process, and not known to be gone
	trouble  error // why the last attempt to set it up failed
	retry    time.Time
	told     bool // who usually takes tables away
	guarded  map[netip.Addr]bool
	armed    map[netip.Addr]time.Time // the end of the lease by which this process opened it last
	shuts    map[netip.Addr]time.Time // when the kernel shuts it, as it was told last: with that lease, or sooner where pulses say so
	legacy   time.Time                // until when one may be open by what the process before this one told it
	cap      func() time.Time         // until when a gate may be armed now, whatever the lease says; nil: as long as that
	promised func() bool              // a promise of the pulses stands: nothing leaves the gate meanwhile; optional
	first    func()                   // called when something stands behind an open gate and nothing did before; optional
	coarse   map[netip.Addr]bool      // its lifetime in the kernel may go on behind the end of the lease
	seen     map[netip.Addr]bool      // whether it was open when the kernel was asked last
	looked   time.Time                // when that question was begun
}

// front is an address of this node as the act loop sees it.
type front struct {
	addr     netip.Addr
	group    string    // of it
	possible bool      // this node may own its group, or still has it from a time when it might
	absent   bool      // the kernel says that it is not on this node, not for open connections either, and nobody is adding it
	until    time.Time // it is online under a lease that ends then; zero: it is not
	mine     bool      // the state gives its group to this node, and the node has not promised it away
}

func newGatekeeper(vips *vip.Manager, clock boottime.Clock, log *slog.Logger) *gatekeeper {
	g := &gatekeeper{vips: vips, clock: clock, log: log, none: vip.GateSupported(), forwards: vip.DrainSupported(), wanted: true,
		guarded: map[netip.Addr]bool{}, armed: map[netip.Addr]time.Time{}, shuts: map[netip.Addr]time.Time{}, coarse: map[netip.Addr]bool{}}
	if g.noReset = vips.ResetSupported(); g.noReset != nil {
		log.Warn("connections of an address that leaves cannot be reset", "err", g.noReset)
	}
	if g.none != nil {
		log.Info("this node has no kernel gate: the lifetime of addresses is the kernel lease", "err", g.none)
		return g
	}
	g.look()
	for a := range g.guarded {
		g.coarse[a] = true // as the process before may have left it
	}
	return g
}

// carries says whether this node can hold addresses behind the gate, and why not.
func (g *gatekeeper) carries() (bool, string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.none != nil:
		return false, g.none.Error()
	case g.trouble != nil:
		return false, g.trouble.Error()
	}
	return true, ""
}

// follow takes up what the configuration says.
func (g *gatekeeper) follow(wanted, required bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wanted, g.required = wanted || required, required
}

// look asks the kernel. The caller holds mu.
func (g *gatekeeper) look() {
	begun := g.clock()
	entries, err := g.vips.Gate()
	if err != nil && !errors.Is(err, vip.ErrNoGate) {
		g.log.Warn("the kernel gate does not answer", "err", err)
		return // no answer is no evidence
	}
	g.looked, g.seen = begun, map[netip.Addr]bool{}
	if err != nil {
		g.gone(err)
		return
	}
	g.guarded = map[netip.Addr]bool{}
	for _, e := range entries {
		g.guarded[e.Address], g.seen[e.Address] = true, e.Alive
		if _, ours := g.shuts[e.Address]; !ours && e.Alive {
			if end := g.clock().Add(e.Left); end.After(g.legacy) {
				g.legacy = end
			}
		}
	}
}

// gone notes that somebody took the tables, or their rules: everything passes. The caller holds mu.
func (g *gatekeeper) gone(err error) {
	if g.up {
		hint := ""
		if !g.told {
			hint = "nft flush ruleset does it, and with it each restart of nftables.service: load rules without it, or let it flush your own tables only"
		}
		g.log.Warn("the tables of the kernel gate are gone; setting them up again", "err", err, "usually", hint)
		g.told = true
	}
	g.up, g.guarded = false, map[netip.Addr]bool{}
}

// stand sets the gate up unless it is. The caller holds mu.
func (g *gatekeeper) stand() error {
	if g.up {
		return nil
	}
	if now := g.clock(); g.trouble != nil && now.Before(g.retry) {
		return g.trouble
	}
	err := g.vips.OpenGate()
	if err != nil {
		if g.trouble == nil || g.trouble.Error() != err.Error() {
			g.log.Error("the kernel gate cannot be set up", "err", err)
		}
		g.retry = g.clock().Add(gateRetry)
	} else if g.trouble != nil {
		g.log.Info("the kernel gate works again")
	}
	g.up, g.trouble = err == nil, err
	return err
}

// guard puts an address behind the gate, closed, before it is added. It reports whether the address is gated; where the
// gate is required the error says why it is not. Where the configuration does without a gate an address may still be
// guarded, from a moment ago when it did not: it must be opened like any other, or it would be taken for one that is not held,
// and started again and again. tend takes it from under the gate once it serves.
func (g *gatekeeper) guard(a netip.Addr) (bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	err := g.none
	switch {
	case !g.wanted:
		return g.guarded[a], nil
	case err == nil:
		err = g.fence(a)
		if errors.Is(err, vip.ErrNoGate) {
			g.gone(err)
			err = g.fence(a)
		}
	}
	if err != nil && g.required {
		return false, errors.Join(errNoGate, err)
	}
	return err == nil, nil
}

func (g *gatekeeper) fence(addrs ...netip.Addr) error {
	if err := g.stand(); err != nil || len(addrs) == 0 {
		return err
	}
	err := g.vips.Guard(addrs...)
	for _, a := range addrs {
		g.guarded[a] = err == nil || g.guarded[a]
	}
	return err
}

// open lets an address be reached until the end of a lease that this node holds now. vip.ErrLate: too little of it is left.
func (g *gatekeeper) open(a netip.Addr, until time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.openAll([]netip.Addr{a}, until)
}

func (g *gatekeeper) openAll(addrs []netip.Addr, until time.Time) error {
	end := g.within(until)
	if !g.clock().Before(end) {
		return vip.ErrLate
	}
	err := g.vips.OpenUntil(addrs, end)
	if errors.Is(err, vip.ErrNoGate) {
		g.gone(err)
	}
	if err == nil {
		g.opened(addrs, until, end)
	}
	return err
}

// within is the end of a lease, or sooner what the pulses allow. The caller holds mu.
func (g *gatekeeper) within(until time.Time) time.Time {
	if g.cap != nil {
		if end := g.cap(); end.Before(until) {
			return end
		}
	}
	return until
}

// opened notes what the kernel was told. The caller holds mu.
func (g *gatekeeper) opened(addrs []netip.Addr, until, end time.Time) {
	if len(g.armed) == 0 && g.first != nil {
		g.first()
	}
	for _, a := range addrs {
		g.armed[a], g.shuts[a] = until, end
	}
}

// shut closes the gate for an address that is about to be removed.
func (g *gatekeeper) shut(a netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.armed, a)
	if g.none != nil || !g.guarded[a] {
		delete(g.shuts, a)
		return
	}
	err := g.vips.Shut(a)
	if err == nil {
		delete(g.shuts, a) // else it may be open for as long as the kernel was told, and no promise is made meanwhile
	} else if !errors.Is(err, vip.ErrNoGate) {
		g.log.Error("shutting the kernel gate", "vip", a, "err", err)
	}
}

// passes says whether an address on this node can be reached through the gate.
func (g *gatekeeper) passes(a netip.Addr) (bool, error) {
	asked := g.clock()
	runtime.Gosched() // who is about to ask asks now, and shares the answer
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.none != nil {
		return true, nil
	}
	if g.looked.Before(asked) { // else somebody asked the kernel after this question was begun: one answer serves all who wait
		g.look()
	}
	if g.looked.Before(asked) {
		return false, errors.New("the kernel gate does not answer")
	}
	open, guarded := g.seen[a]
	return open || !guarded, nil
}
