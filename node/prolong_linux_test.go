package node

import (
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"hacluster/internal/boottime"
)

// A node at rest renews its lease and the gate of its address ten times a second, and runs a whole round for few of these.
func TestALeaseIsProlongedWithoutAWholeRound(t *testing.T) {
	g := newGated(t, "")
	g.quiet("a")
	n := g.nodes["a"].n
	grants, wholes := map[time.Time]bool{}, map[time.Time]bool{}
	var behind []time.Duration // the gate, what the kernel was told, behind the lease
	for end := boottime.Now().Add(4 * time.Second); boottime.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		last := n.last.Load()
		for _, until := range last.leased {
			grants[until] = true
		}
		wholes[last.at] = true
		n.renewer.mu.Lock()
		until := n.renewer.holder.Until()
		n.renewer.mu.Unlock()
		entries, err := n.vips.Gate()
		if err != nil || len(entries) != 1 {
			t.Fatalf("the gate has %v (%v)", entries, err)
		}
		behind = append(behind, until.Sub(boottime.Now().Add(entries[0].Left)))
	}
	slices.Sort(behind)
	median := behind[len(behind)/2]
	t.Logf("%d renewals, %d whole rounds; the gate shuts %v before the end of the lease (median of %d)", len(grants), len(wholes), median, len(behind))
	if len(grants) < 10 || 2*len(wholes) > len(grants) {
		t.Errorf("%d renewals, %d whole rounds", len(grants), len(wholes))
	}
	if median > n.timing().Renew {
		t.Errorf("the gate shuts %v before the end of the lease: it does not follow the renewals", median)
	}
}

// What is not only a later end of what a whole round left takes another one.
func TestWhatALongerLeaseDoesNotCover(t *testing.T) {
	g := newGated(t, "")
	g.quiet("a")
	n := g.nodes["a"].n
	now := boottime.Now()
	mine := theVIP.Addr()
	other := netip.MustParseAddr("198.18.0.101")
	n.gate.mu.Lock()
	armed := maps.Clone(n.gate.armed)
	n.gate.mu.Unlock()
	if armed[mine].IsZero() {
		t.Fatal("the address is not open")
	}
	later := now.Add(n.timing().Duration)
	for name, c := range map[string]struct {
		ends map[netip.Addr]time.Time
		want bool
	}{
		"a later end":              {map[netip.Addr]time.Time{mine: later}, true},
		"an address that was shut": {map[netip.Addr]time.Time{mine: later, other: later}, false},
		"a lease that is over":     {map[netip.Addr]time.Time{mine: {}}, false},
		"a lease that was cut":     {map[netip.Addr]time.Time{mine: now.Add(n.timing().Duration / 3)}, false},
	} {
		if got := n.gate.prolong(c.ends); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestUntilWhenWhatIsHeldMayLive(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	for name, c := range map[string]struct {
		holding map[string]bool
		leased  map[string]time.Time
		until   time.Time
		held    bool
	}{
		"nothing":                      {nil, map[string]time.Time{"a": at(1)}, time.Time{}, false},
		"what was held":                {map[string]bool{"a": false}, map[string]time.Time{"a": at(1)}, time.Time{}, false},
		"the lease that ends first":    {map[string]bool{"a": true, "b": true}, map[string]time.Time{"a": at(2), "b": at(1)}, at(1), true},
		"one of them has no lease":     {map[string]bool{"a": true, "b": true}, map[string]time.Time{"a": at(2)}, at(2), true},
		"what is held without a lease": {map[string]bool{"a": true}, nil, time.Time{}, true},
	} {
		if until, held := heldUntil(c.holding, c.leased); !until.Equal(c.until) || held != c.held {
			t.Errorf("%s: %v, %t", name, until, held)
		}
	}
}
