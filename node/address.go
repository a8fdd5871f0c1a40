package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"hacluster/internal/boottime"
	"hacluster/lease"
	"hacluster/placement"
	"hacluster/resources"
	"hacluster/vip"
)

const conflictWait = 200 * time.Millisecond // how long a conflicting holder gets to answer a probe

// announceAt are the pauses between announcements of an address; the last one repeats. A single packet can be lost, and
// of two nodes that announced together the wrong one may have been last.
var announceAt = []time.Duration{50 * time.Millisecond, 200 * time.Millisecond, time.Second, 3 * time.Second, 10 * time.Second, 30 * time.Second}

// leaseTries bounds how often a start waits for another lease because what was left of the one before was not enough.
const leaseTries = 20

// barredPause is between two looks whether voters answer the pulses of this node again.
const barredPause = 10 * time.Millisecond

// address drives one floating address. It is the only driver that must hold a lease at every moment: it is added with
// the lifetime that is left and goes by itself when nobody renews it.
type address struct {
	vips     *vip.Manager
	gate     *gatekeeper
	spec     vip.Spec
	clock    boottime.Clock
	log      *slog.Logger
	lease    leaseSource
	possible bool // this node may own its group
	turns    turns

	plans    drainSource            // nil: connections never go on
	tickles  tickleSource           // nil: nothing is known of a lost owner
	tickling bool                   // its clients are tickled, and this node tells of its own
	wake     func()                 // of the act loop
	peer     atomic.Pointer[string] // how others reach this node there; empty: it cannot forward connections

	unplugged atomic.Bool // what it failed of last: it was held here when the carrier went

	noCarrier atomic.Pointer[string] // at the last look: the interface where it would be has none; empty: it has

	lingers atomic.Bool // at the last look it was on this node behind a closed gate: it serves nobody, and must go

	mu       sync.Mutex
	quiet    context.CancelFunc // ends the announcements
	announce sync.WaitGroup
	online   bool // at the last look of the act loop
	removed  bool // by us, since the last start
	drain    *draining
	last     *placement.DrainReport // of the drain that ended last, until the next start

	tickled tickled // at the newest start of a new epoch

	epoch uint64 // of the newest start

	opened, announced time.Time // of the newest start: added and reachable, the first announcement sent; zero: it was not
}

// leaseSource tells an address until when it may live.
type leaseSource interface {
	until(group string) (time.Time, bool)                       // the lease in force
	fresh(ctx context.Context, group string) (time.Time, error) // one that was asked for just now
	proven(group string) bool                                   // the epoch was given up, or had run out: nobody else can hold it
}

// Start adds the address and announces it. It waits for a lease that is long enough for the kernel's whole seconds.
func (a *address) Start(ctx context.Context, epoch uint64) error {
	a.startsIn(epoch)
	link, err := a.vips.Resolve(a.spec)
	if err != nil {
		return err
	}
	if text := carriesNot(link); text != "" {
		return errors.New(text)
	}
	a.unplugged.Store(false)
	if !a.lease.proven(a.spec.Group) {
		holder, found, err := a.vips.Conflict(ctx, a.spec, conflictWait)
		if err != nil {
			return fmt.Errorf("probing for another holder of %s: %w", a.spec.Address, err)
		}
		if found {
			return fmt.Errorf("address %s is in use by %v: find that machine (arping -D) and take the address from it", a.spec.Address.Addr(), holder)
		}
	}
	for try := 1; ; try++ {
		a.takeOver(epoch)
		err := a.acquire(ctx)
		if err == nil {
			break
		}
		// Late: this process was held up and the lease is over, or nearly. With another one it may be quick enough.
		if err = errors.Join(err, a.remove()); try == leaseTries || ctx.Err() != nil || !errors.Is(err, vip.ErrLate) && !errors.Is(err, vip.ErrLifetime) {
			return err
		}
		if _, err := a.lease.fresh(ctx, a.spec.Group); err != nil {
			return fmt.Errorf("waiting for a lease: %w", err)
		}
	}
	opened := a.clock()
	if err := a.vips.Announce(a.spec); err != nil {
		a.log.Warn("announcing address", "vip", a.spec.Address, "err", err)
	}
	announced := a.clock()
	a.tickle(a.keepAnnouncing(), epoch)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.opened, a.announced = opened, announced
	return nil
}

// startsIn notes the epoch of a start. What failed in an earlier one says nothing about this one.
func (a *address) startsIn(epoch uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.epoch != epoch {
		a.epoch = epoch
		a.unplugged.Store(false)
	}
}

// cause is what the newest failure was of. A start without a carrier says no more than what failed before it: the address was not
// probed for.
func (a *address) cause() placement.Cause {
	if a.unplugged.Load() {
		return placement.CauseCarrier
	}
	return placement.CauseOther
}

// carriesNot says that an interface leads nowhere; empty: it does.
func carriesNot(link vip.Link) string {
	if link.Up && link.Carrier {
		return ""
	}
	return "interface " + link.Name + " has no carrier"
}

// unfit is why the address could not start here now, as of the last look; empty: nothing is known. The kernel tells of each change.
func (a *address) unfit() string {
	if p := a.noCarrier.Load(); p != nil {
		return *p
	}
	return ""
}

// moments are when the newest start had the address reachable, and announced; by this node's clock.
func (a *address) moments() (opened, announced time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.opened, a.announced
}

// right is what an address is added by.
type right struct {
	gated bool
	lease time.Time // end of the lease
	life  time.Time // what its lifetime in the kernel is counted from
}

// right guards the address and waits for a lease that is long enough to add it by. Without an error it is this address's turn.
func (a *address) right(ctx context.Context) (r right, err error) {
	var ok bool
	for {
		if err := a.turns.take(ctx); err != nil {
			return r, fmt.Errorf("waiting for other addresses: %w", err)
		}
		if until, now := a.lease.until(a.spec.Group); now || !ok { // it may have been renewed meanwhile
			r.lease, ok = until, now
		}
		if r.gated, err = a.gate.guard(a.spec.Address.Addr()); err != nil {
			a.turns.give()
			return r, err
		}
		r.life, _ = a.gate.deadline(r.lease, a.spec.Address.Addr())
		now := a.clock()
		barred := ok && now.Before(r.lease) && !now.Before(a.gate.allows(r.lease))
		if ok && now.Before(r.lease) && !barred && lease.KernelLifetime(now, r.life) > 0 {
			return r, nil
		}
		a.turns.give()
		if barred {
			select { // voters do not answer this node's pulses; nobody here is woken when they do
			case <-ctx.Done():
			case <-time.After(barredPause):
			}
		}
		if r.lease, err = a.lease.fresh(ctx, a.spec.Group); err != nil {
			return r, fmt.Errorf("waiting for a lease: %w", err)
		}
		ok = true
	}
}

// acquire adds the address behind its gate and opens that. On an error the address is to be removed.
func (a *address) acquire(ctx context.Context) error {
	r, err := a.right(ctx)
	if err != nil {
		return err
	}
	defer a.turns.give()
	if err := a.vips.AddBy(a.spec, r.life); err != nil {
		return err
	}
	if r.gated {
		if err := a.gate.open(a.spec.Address.Addr(), r.lease); err != nil {
			return err
		}
	}
	// The clock was read before the address was added; whatever came between must not count as a lease.
	if _, ok := a.lease.until(a.spec.Group); !ok || !a.clock().Before(r.lease) || ctx.Err() != nil {
		return fmt.Errorf("the lease ended while %s was added", a.spec.Address)
	}
	return nil
}

// Stop removes the address; nil means that the OS no longer has it, or that it is here for connections that are open and
// for nothing else.
func (a *address) Stop(_ context.Context, epoch uint64) error {
	if a.silent() {
		return nil
	}
	plan := a.giving(epoch)
	if plan == nil {
		return a.removeInTurn()
	}
	a.end() // of the move that brought it here
	err := a.giveAway(plan)
	if err == nil {
		return nil
	}
	a.log.Error("connections cannot finish here", "vip", a.spec.Address, "err", err)
	a.drainFault(epoch, err)
	return a.remove()
}

// Kill is Stop: there is nothing gentler or harder.
func (a *address) Kill(context.Context) error { return a.removeInTurn() }

// removeInTurn is remove for the address's own goroutines. The act loop, whose renewals others wait for, does not wait.
func (a *address) removeInTurn() error {
	a.turns.take(context.Background())
	defer a.turns.give()
	return a.remove()
}

// silence ends the announcements.
func (a *address) silence() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.quiet != nil {
		a.quiet()
		a.quiet = nil
	}
	a.removed = true
}

func (a *address) remove() error {
	a.silence()
	if a.drained() != nil {
		a.end()
		if err := a.vips.EndDrain(a.spec.Address.Addr()); err != nil {
			a.log.Warn("ending the forwarding of connections", "vip", a.spec.Address, "err", err)
		}
	}
	a.gate.shut(a.spec.Address.Addr())
	a.reset()
	err := a.vips.Remove(a.spec)
	if err == nil {
		a.gate.strict(a.spec.Address.Addr())
	}
	return err
}

// reset ends the connections of an address that is about to go, so that clients connect again at once instead of waiting for answers.
// The gate is shut, which lets nothing new in, and lets the resets out while the address is still here. No fault of it stops a release.
// It is logged; that it took too long is returned. Of an address that its lifetime has ended no reset leaves, but what was open goes: a
// client that comes again from the same port would be taken for it.
func (a *address) reset() (late bool) {
	if _, err := a.vips.Present(a.spec); errors.Is(err, vip.ErrForeign) {
		return false // nothing of ours
	}
	n, err := a.vips.Reset(a.spec.Address.Addr())
	switch {
	case errors.Is(err, vip.ErrNoReset): // as the status has said
	case err != nil:
		a.log.Warn("resetting connections of an address that leaves", "vip", a.spec.Address, "err", err)
	case n > 0:
		a.log.Info("reset the connections of an address that leaves", "vip", a.spec.Address, "connections", n)
	}
	return errors.Is(err, vip.ErrResetLate)
}

// Status asks the kernel; an address on a link without carrier serves nobody, and one behind a closed gate is not held.
func (a *address) Status(context.Context) (resources.Status, error) {
	v, err := a.vips.See()
	if err != nil {
		none := ""
		a.peer.Store(&none)
		a.noCarrier.Store(&none)
		return resources.Status{Detail: "not known"}, err
	}
	a.link(v)
	link, linkErr := v.Resolve(a.spec)
	text := ""
	if linkErr == nil {
		text = carriesNot(link)
	}
	a.noCarrier.Store(&text)
	present, err := v.Present(a.spec)
	if err != nil || !present {
		a.lingers.Store(err != nil && a.lingers.Load())
		return resources.Status{Detail: "not on this node"}, err
	}
	passes, err := a.gate.passes(a.spec.Address.Addr())
	if err != nil {
		return resources.Status{}, err
	}
	if !passes && a.silent() {
		a.lingers.Store(false)
		return resources.Status{Detail: "here for open connections only: nobody else is answered"}, nil
	}
	if a.lingers.Store(!passes); !passes {
		return resources.Status{Detail: "behind a closed gate: nobody is answered"}, nil
	}
	if linkErr != nil {
		return resources.Status{}, linkErr
	}
	if text != "" {
		a.unplugged.Store(true)
		return resources.Status{Running: true, Failed: true, Detail: text}, nil
	}
	detail := "on " + link.Name
	if a.gate.noReset != nil {
		detail += "; " + a.gate.noReset.Error()
	}
	return resources.Status{Running: true, Detail: detail}, nil
}

// keepAnnouncing repeats the announcement at growing intervals while the address is held under a lease. The context ends when the
// address is given up, or announced anew.
func (a *address) keepAnnouncing() context.Context {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.quiet != nil {
		a.quiet()
	}
	a.removed = false
	ctx, cancel := context.WithCancel(context.Background())
	a.quiet = cancel
	a.announce.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-time.After(announceAt[min(i, len(announceAt)-1)]):
			}
			until, ok := a.lease.until(a.spec.Group)
			if present, err := a.vips.Present(a.spec); err != nil || !present || !ok || !a.clock().Before(a.gate.allows(until)) {
				continue
			}
			if err := a.vips.Announce(a.spec); err != nil {
				a.log.Warn("announcing address", "vip", a.spec.Address, "err", err)
			}
		}
	})
	return ctx
}

// reopened has the address announced anew after its gate had closed.
func (a *address) reopened() {
	a.log.Warn("the kernel gate had closed: the lease was renewed too late; it is open again", "vip", a.spec.Address)
	ctx := a.keepAnnouncing()
	a.mu.Lock()
	defer a.mu.Unlock()
	if epoch := a.tickled.epoch; epoch > 0 {
		a.announce.Go(func() { a.tickle(ctx, epoch) })
	}
}

// adopt takes up the announcements of an address that was here before this process.
func (a *address) adopt() {
	a.mu.Lock()
	idle := a.quiet == nil
	a.mu.Unlock()
	if idle {
		a.keepAnnouncing()
	}
}

func (a *address) close() {
	a.mu.Lock()
	if a.quiet != nil {
		a.quiet()
	}
	if a.drain != nil {
		a.drain.stop()
	}
	a.mu.Unlock()
	a.announce.Wait()
}

// vanished says, once, that the address was online and is not, while this node may hold it. Only the act loop calls it.
func (a *address) vanished(state placement.ResourceState, held bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	gone := a.online && held && state == placement.StateOffline && !a.removed
	a.online = held && state == placement.StateOnline
	return gone
}
