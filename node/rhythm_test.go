package node

import (
	"testing"
	"time"
)

// Whenever nodes begin, their renewals soon come together, never less often than they are due, and stay together although answers take
// their time.
func TestRenewalsComeTogether(t *testing.T) {
	const renew = 100 * time.Millisecond
	base := time.Unix(1_000_000, 0)
	for start := time.Duration(0); start < renew; start += 700 * time.Microsecond {
		at := base.Add(start) // by the leader's clock
		var late time.Duration
		for i := range 40 {
			wait := rhythm(at, renew)
			if wait > renew || wait < renew-renew/8 {
				t.Fatalf("renews %v after %v", wait, at)
			}
			trip := time.Duration(i%5) * 100 * time.Microsecond
			at = at.Add(min(wait+trip, renew)) // its own timer is the latest
			late = time.Duration(at.UnixNano()) % renew
			if i >= 12 && late > time.Millisecond && late < renew-renew/16 {
				t.Fatalf("began at %v, and its renewal %d comes %v after the beat", start, i, late)
			}
		}
	}
	if got := rhythm(base, 0); got != 0 {
		t.Errorf("without an interval: %v", got)
	}
}
