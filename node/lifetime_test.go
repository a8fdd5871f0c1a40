package node

import (
	"testing"
	"time"
)

// The lifetimes of all addresses are armed together, until one instant.
func TestAddressesAreArmedAgain(t *testing.T) {
	armed := time.Unix(100, 0)
	for name, tc := range map[string]struct {
		until time.Duration // after armed
		want  bool
	}{
		"nothing to gain":                 {20 * time.Millisecond, false},
		"enough to gain":                  {50 * time.Millisecond, true},
		"rounding to whole seconds":       {-900 * time.Millisecond, false},
		"leases have become shorter":      {-time.Second, true}, // an address that came since would go in the middle of a lease
		"much shorter":                    {-6 * time.Second, true},
		"the same lease, looked at again": {0, false},
	} {
		if got := rearms(armed, armed.Add(tc.until), rearmGain); got != tc.want {
			t.Errorf("%s: armed again: %v, want %v", name, got, tc.want)
		}
	}
	if !rearms(time.Time{}, armed, backupGain) {
		t.Error("what was never armed is not armed")
	}
}
