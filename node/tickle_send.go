package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"hacluster/vip"
)

// tickleAt are the times at which each client is sent a tickle, from the announcement on. It may not have reached the client when the
// first come, and where the way there is not known yet the kernel keeps few packets for it: it asks again after a second (RETRANS_TIMER
// of RFC 4861 10). One that comes too often is nothing to a client that has noticed, nor to one that has connected again.
var tickleAt = []time.Duration{0, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 1500 * time.Millisecond, 2 * time.Second, 3 * time.Second}

const (
	tickleSpread = 200 * time.Millisecond // over which the packets of one time are spread
	tickleAtOnce = 64                     // packets without a pause, and without asking the lease anew
)

// tickleSource tells an address whom an owner that was lost had connections with.
type tickleSource interface {
	// lost are the connections of the address that the owner of an epoch before the given one has left behind.
	lost(k key, a netip.Addr, epoch uint64) []vip.Conn
}

// errTickleEnded: the right to the address ended on the way.
var errTickleEnded = errors.New("ended before all were sent")

// tickler is a vip.Tickler, or a test.
type tickler interface {
	Send(conns []vip.Conn) (sent int, first error)
}

// tickled is what was done about the clients of a lost owner.
type tickled struct {
	epoch   uint64 // of this node
	clients int
	done    bool // else it is begun anew when the address is announced anew
}

// tickle has clients of an owner that was lost notice it now, not by their own timeouts: once for each epoch, until ctx ends. It returns
// before it is done.
func (a *address) tickle(ctx context.Context, epoch uint64) {
	a.mu.Lock()
	if a.tickled.epoch != epoch {
		a.tickled = tickled{epoch: epoch}
	}
	done := a.tickled.done
	a.mu.Unlock()
	if done || a.tickles == nil || !a.tickling {
		return
	}
	lost := a.tickles.lost(key{a.spec.Group, a.spec.Resource}, a.spec.Address.Addr(), epoch)
	if len(lost) == 0 {
		a.tickledAll(epoch)
		return
	}
	lost, err := a.vips.Unknown(a.spec.Address.Addr(), lost) // not those who have connected again from the same port
	var from *vip.Tickler
	if err == nil {
		from, err = a.vips.Tickler(a.spec.Address.Addr())
	}
	if err != nil {
		a.log.Warn("clients of the lost owner wait for their own timeouts", "vip", a.spec.Address, "err", err)
		return
	}
	a.mu.Lock()
	a.tickled.clients = len(lost)
	a.mu.Unlock()
	a.announce.Go(func() {
		defer from.Close()
		begun := time.Now()
		sent, err := a.tickleAll(ctx, from, lost)
		if !errors.Is(err, errTickleEnded) {
			a.tickledAll(epoch)
		}
		a.log.Info(fmt.Sprintf("tickled %d clients of the lost owner", len(lost)), "vip", a.spec.Address, "packets", sent, "took", time.Since(begun))
		if err != nil {
			a.log.Warn("tickling clients of the lost owner", "vip", a.spec.Address, "err", err)
		}
	})
}

// tickledAll notes that there is nothing left to do for an epoch.
func (a *address) tickledAll(epoch uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.tickled.epoch == epoch {
		a.tickled.done = true
	}
}

// tickleAll sends to all of them, several times. A time that the lease or the gate does not allow is left out. The error is the first of a
// packet that did not leave, or why the last time was left out.
func (a *address) tickleAll(ctx context.Context, from tickler, lost []vip.Conn) (sent int, err error) {
	begun := time.Now()
	var first, ended error
	for _, after := range tickleAt {
		one, err := a.tickleOnce(ctx, from, lost, begun.Add(after))
		if sent += one; ctx.Err() != nil {
			return sent, err
		}
		if ended = nil; errors.Is(err, errTickleEnded) {
			ended = err
		} else if first == nil {
			first = err
		}
	}
	if ended != nil {
		return sent, ended
	}
	return sent, first
}

// tickleOnce sends to all of them that have not come again.
func (a *address) tickleOnce(ctx context.Context, from tickler, lost []vip.Conn, at time.Time) (sent int, first error) {
	if err := a.pause(ctx, at); err != nil {
		return 0, err
	}
	left, err := a.vips.Unknown(a.spec.Address.Addr(), lost)
	if err == nil {
		err = a.isHeld()
	}
	if err != nil {
		return 0, err
	}
	done := 0
	for some := range slices.Chunk(left, tickleAtOnce) {
		if err := a.pause(ctx, at.Add(tickleSpread*time.Duration(done)/time.Duration(len(left)))); err != nil {
			return sent, err
		}
		one, err := from.Send(some)
		if sent, done = sent+one, done+len(some); first == nil {
			first = err
		}
	}
	return sent, first
}

// pause waits until it is time for the next packets and asks whether they may be sent (S1). It is what an announcement asks of the
// lease; that the address is here and its gate is open the kernel sees to at each packet.
func (a *address) pause(ctx context.Context, until time.Time) error {
	wait := time.NewTimer(time.Until(until))
	defer wait.Stop()
	select {
	case <-ctx.Done():
	case <-wait.C:
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w: it is given up, or announced anew", errTickleEnded)
	}
	if end, ok := a.lease.until(a.spec.Group); !ok || !a.clock().Before(a.gate.allows(end)) {
		return fmt.Errorf("%w: the lease is over", errTickleEnded)
	}
	return nil
}

// isHeld says that the address is here and answered for.
func (a *address) isHeld() error {
	present, err := a.vips.Present(a.spec)
	if err != nil {
		return err
	}
	passes, err := a.gate.passes(a.spec.Address.Addr())
	if err == nil && (!present || !passes) {
		err = fmt.Errorf("%w: the address is here: %v, its gate is open: %v", errTickleEnded, present, passes)
	}
	return err
}

// clients is how many were tickled when this node took the address over for an epoch.
func (a *address) clients(epoch uint64) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.tickled.epoch != epoch {
		return 0
	}
	return a.tickled.clients
}
