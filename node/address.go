package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
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

// address drives one floating address. It is the only driver that must hold a lease at every moment: it is added with
// the lifetime that is left and goes by itself when nobody renews it.
type address struct {
	vips  *vip.Manager
	spec  vip.Spec
	clock boottime.Clock
	log   *slog.Logger
	lease leaseSource

	mu       sync.Mutex
	quiet    context.CancelFunc // ends the announcements
	announce sync.WaitGroup
	online   bool // at the last look of the act loop
	removed  bool // by us, since the last start
}

// leaseSource tells an address until when it may live.
type leaseSource interface {
	until(group string) (time.Time, bool)                       // the lease in force
	fresh(ctx context.Context, group string) (time.Time, error) // one that was asked for just now
	proven(group string) bool                                   // the epoch was given up, or had run out: nobody else can hold it
}

// Start adds the address and announces it. It waits for a lease that is long enough for the kernel's whole seconds.
func (a *address) Start(ctx context.Context, epoch uint64) error {
	link, err := a.vips.Resolve(a.spec)
	if err != nil {
		return err
	}
	if !link.Up || !link.Carrier {
		return fmt.Errorf("interface %s has no carrier", link.Name)
	}
	if !a.lease.proven(a.spec.Group) {
		holder, found, err := a.vips.Conflict(ctx, a.spec, conflictWait)
		if err != nil {
			return fmt.Errorf("probing for another holder of %s: %w", a.spec.Address, err)
		}
		if found {
			return fmt.Errorf("address %s is in use by %v: find that machine (arping -D) and take the address from it", a.spec.Address.Addr(), holder)
		}
	}
	until, ok := a.lease.until(a.spec.Group)
	for !ok || lease.KernelLifetime(a.clock(), until) == 0 {
		if until, err = a.lease.fresh(ctx, a.spec.Group); err != nil {
			return fmt.Errorf("waiting for a lease: %w", err)
		}
		ok = true
	}
	if err := a.vips.AddBy(a.spec, until); err != nil {
		return err
	}
	// The clock was read before the address was added; whatever came between must not count as a lease.
	if !a.clock().Before(until) || ctx.Err() != nil {
		return errors.Join(fmt.Errorf("the lease ended while %s was added", a.spec.Address), a.vips.Remove(a.spec))
	}
	if err := a.vips.Announce(a.spec); err != nil {
		a.log.Warn("announcing address", "vip", a.spec.Address, "err", err)
	}
	a.keepAnnouncing()
	return nil
}

// Stop removes the address; nil means that the OS no longer has it.
func (a *address) Stop(context.Context, uint64) error { return a.remove() }

// Kill is Stop: there is nothing gentler or harder.
func (a *address) Kill(context.Context) error { return a.remove() }

func (a *address) remove() error {
	a.mu.Lock()
	if a.quiet != nil {
		a.quiet()
		a.quiet = nil
	}
	a.removed = true
	a.mu.Unlock()
	return a.vips.Remove(a.spec)
}

// Status asks the kernel; an address on a link without carrier serves nobody.
func (a *address) Status(context.Context) (resources.Status, error) {
	present, err := a.vips.Present(a.spec)
	if err != nil || !present {
		return resources.Status{Detail: "not on this node"}, err
	}
	link, err := a.vips.Resolve(a.spec)
	if err != nil {
		return resources.Status{}, err
	}
	if !link.Up || !link.Carrier {
		return resources.Status{Running: true, Failed: true, Detail: "interface " + link.Name + " has no carrier"}, nil
	}
	return resources.Status{Running: true, Detail: "on " + link.Name}, nil
}

// keepAnnouncing repeats the announcement at growing intervals while the address is held under a lease.
func (a *address) keepAnnouncing() {
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
			if present, err := a.vips.Present(a.spec); err != nil || !present || !ok || !a.clock().Before(until) {
				continue
			}
			if err := a.vips.Announce(a.spec); err != nil {
				a.log.Warn("announcing address", "vip", a.spec.Address, "err", err)
			}
		}
	})
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
