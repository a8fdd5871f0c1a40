package node

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"hacluster/internal/boottime"
	"hacluster/vip"
)

// allowing has the pulses allow a gate to be open for so long from now on; below 0: as long as its lease.
func (b *gateBench) allowing(d time.Duration) time.Time {
	end := b.clock().Add(d)
	if d < 0 {
		end = b.clock().Add(forever)
	}
	b.cap = func() time.Time { return end }
	return end
}

// lasts checks for how long the kernel still holds the gate open: no longer than d, and longer than half of it.
func (b *gateBench) lasts(d time.Duration) {
	b.t.Helper()
	asked := b.clock()
	entries, err := b.vips.Gate()
	if err != nil || len(entries) != 1 || !entries[0].Alive {
		b.t.Fatalf("%+v, %v", entries, err)
	}
	took := b.clock().Sub(asked)
	if left := entries[0].Left; left > d || left < d/2-took {
		b.t.Errorf("open for %v, want up to %v", left, d)
	}
}

// A gate is open for no longer than the pulses allow, nor than the lease; and what has closed is opened by the act loop alone.
func TestTheGateFollowsThePulses(t *testing.T) {
	const lease = time.Minute
	for name, run := range map[string]func(b *gateBench){
		"it is opened for as long as they allow": func(b *gateBench) {
			b.allowing(10 * time.Second)
			b.tend([]front{b.leased(lease)})
			b.lasts(10 * time.Second)
		},
		"and for no longer than the lease": func(b *gateBench) {
			b.allowing(-1)
			b.tend([]front{b.leased(10 * time.Second)})
			b.lasts(10 * time.Second)
		},
		"it is renewed so": func(b *gateBench) {
			b.allowing(5 * time.Second)
			b.tend([]front{b.leased(lease)})
			b.allowing(20 * time.Second)
			b.tend([]front{b.leased(lease + time.Second)})
			b.lasts(20 * time.Second)
		},
		"and opened again": func(b *gateBench) {
			b.tend([]front{b.leased(lease)})
			b.shut(b.a)
			b.allowing(10 * time.Second)
			if again := b.tend([]front{b.leased(lease)}); len(again) != 1 {
				b.t.Errorf("opened again: %v", again)
			}
			b.lasts(10 * time.Second)
		},
		"where they allow nothing it stays closed": func(b *gateBench) {
			b.tend([]front{{addr: b.a, possible: true, absent: true}})
			b.cap = func() time.Time { return time.Time{} }
			b.tend([]front{b.leased(lease)})
			if err := b.open(b.a, b.clock().Add(lease)); !errors.Is(err, vip.ErrLate) {
				b.t.Errorf("opened: %v", err)
			}
			b.is("closed")
		},
		"what serves without a gate is closed too, until they allow it again": func(b *gateBench) {
			b.tend([]front{b.leased(lease)})
			b.nft("flush ruleset")
			b.cap = func() time.Time { return time.Time{} }
			b.looked = time.Time{}
			b.tend([]front{b.leased(lease)})
			b.is("closed")
			b.allowing(10 * time.Second)
			if again := b.tend([]front{b.leased(lease)}); len(again) != 1 {
				b.t.Errorf("opened again: %v", again)
			}
			b.lasts(10 * time.Second)
		},
		"an answer makes it last longer, and not longer than the lease": func(b *gateBench) {
			b.allowing(5 * time.Second)
			b.tend([]front{b.leased(20 * time.Second)})
			b.allowing(10 * time.Second)
			if b.extend() {
				b.t.Error("the act loop is woken for nothing")
			}
			b.lasts(10 * time.Second)
			b.allowing(lease)
			b.extend()
			b.lasts(20 * time.Second)
		},
		"before the first promise it is made to last shorter": func(b *gateBench) {
			b.allowing(-1)
			b.tend([]front{b.leased(lease)})
			end := b.allowing(10 * time.Second)
			b.extend()
			b.lasts(10 * time.Second)
			if armed := b.behind().armed; !armed.Equal(end) {
				b.t.Errorf("what is promised by: %v, the kernel was told %v", armed, end)
			}
		},
		"an answer never opens what has closed": func(b *gateBench) {
			b.allowing(300 * time.Millisecond)
			b.tend([]front{b.leased(lease)})
			waitFor(b.t, "it has closed", func() error {
				if entries, err := b.vips.Gate(); err != nil || entries[0].Alive {
					return fmt.Errorf("%+v, %v", entries, err)
				}
				return nil
			})
			b.allowing(10 * time.Second)
			if !b.extend() {
				b.t.Error("the act loop is not woken")
			}
			b.is("closed")
			if again := b.tend([]front{b.leased(lease)}); len(again) != 1 { // it is: the lease is held
				b.t.Errorf("opened again: %v", again)
			}
			b.is("open")
		},
		"nor what was shut": func(b *gateBench) {
			b.tend([]front{b.leased(lease)})
			b.shut(b.a)
			b.allowing(10 * time.Second)
			b.extend()
			b.is("closed")
		},
		"what the process before armed counts": func(b *gateBench) {
			b.tend([]front{b.leased(10 * time.Second)})
			next := newGatekeeper(b.vips, boottime.Now, discard())
			if left := next.behind().armed.Sub(b.clock()); left > 10*time.Second || left < 5*time.Second {
				b.t.Errorf("it may be open for %v", left)
			}
		},
		"nothing is held that it does not stand in front of": func(b *gateBench) {
			b.follow(true, true)
			b.tend([]front{b.leased(lease)})
			if got := b.behind(); !got.works || got.held != 1 {
				b.t.Errorf("%+v", got)
			}
			b.nft("flush ruleset")
			b.mu.Lock()
			b.look()
			b.mu.Unlock()
			if got := b.behind(); got.works {
				b.t.Errorf("the gate is gone, and it is promised by: %+v", got)
			}
		},
		"without it an address goes when what the kernel was told is over": func(b *gateBench) {
			b.follow(true, true)
			end := b.allowing(200 * time.Millisecond)
			f := b.leased(lease)
			b.tend([]front{f})
			b.nft("delete table inet had; add table inet had; add chain inet had mine")
			f.until = f.until.Add(lease)
			b.tend([]front{f})
			waitFor(b.t, "it is lost", func() error {
				lost := b.lost([]front{f})
				if len(lost) > 0 && b.clock().Before(end) {
					b.t.Error("lost before")
				}
				if len(lost) == 0 {
					return errors.New("not yet")
				}
				return nil
			})
		},
	} {
		t.Run(name, func(t *testing.T) { run(newGateBench(t)) })
	}
}
