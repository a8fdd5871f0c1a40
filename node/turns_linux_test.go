package node

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"hacluster/internal/boottime"
	"hacluster/vip"
)

// crowd is many addresses of one node, all about to come.
func crowd(t *testing.T, n int, turns turns) (all []*address, g *gatekeeper) {
	t.Helper()
	first, _ := newAddress(t)
	for i := range n {
		a := &address{vips: first.vips, gate: first.gate, clock: boottime.Now, log: discard(), possible: true, lease: word{isProven: true}, turns: turns,
			spec: vip.Spec{Group: fmt.Sprint("g", i), Resource: "ip", Address: netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 19, byte(i / 200), byte(1 + i%200)}), 32), Interface: "eth0"}}
		t.Cleanup(a.close)
		all = append(all, a)
	}
	return all, first.gate
}

// longestRenewal renews the gate of the first address again and again while act is at work, and says how long it waited at most, and
// how long that took.
func longestRenewal(t *testing.T, g *gatekeeper, all []*address, act func()) (longest, whole time.Duration) {
	t.Helper()
	var fronts []front
	for _, a := range all {
		fronts = append(fronts, front{addr: a.spec.Address.Addr(), possible: true})
	}
	done := make(chan struct{})
	begun := time.Now()
	last := begun
	go func() {
		defer close(done)
		act()
		whole = time.Since(begun)
	}()
	for {
		select {
		case <-done:
			return max(longest, time.Since(last)), whole
		case <-time.After(20 * time.Millisecond):
		}
		fronts[0].until, fronts[0].mine = boottime.Now().Add(time.Minute), true
		g.tend(fronts)
		longest, last = max(longest, time.Since(last)), time.Now()
	}
}

// A renewal of what is open waits for a few of the addresses that come and go, not for all of them.
func TestARenewalDoesNotWaitForACrowdOfAddresses(t *testing.T) {
	all, g := crowd(t, 200, newTurns())
	if err := all[0].Start(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	for _, do := range []struct {
		what string
		it   func(a *address) error
	}{
		{"come", func(a *address) error { return a.Start(t.Context(), 1) }},
		{"go", func(a *address) error { return a.Stop(t.Context(), 1) }},
	} {
		longest, whole := longestRenewal(t, g, all, func() {
			var wg sync.WaitGroup
			for _, a := range all[1:] {
				wg.Go(func() {
					if err := do.it(a); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
		})
		t.Logf("%v between two renewals while the addresses %s in %v", longest, do.what, whole)
		if longest > whole/3 {
			t.Errorf("no renewal for %v of %v", longest, whole)
		}
	}
}
