package node

import (
	"testing"
	"time"

	"hacluster/lease"
	"hacluster/placement"
)

// No lease is granted that the takeover waits in force would not wait for, whatever this version of had derives from the file (S1, S2).
func TestNoLeaseIsLongerThanItsWait(t *testing.T) {
	now, err := lease.Derive(lease.Fast, lease.Gate, lease.Overrides{})
	if err != nil {
		t.Fatal(err)
	}
	hot := func(wait time.Duration) placement.GroupPolicy { return placement.GroupPolicy{TakeoverWait: wait} }
	cold := func(wait time.Duration) placement.GroupPolicy {
		return placement.GroupPolicy{TakeoverWait: wait, Resources: []placement.ResourcePolicy{{Exclusive: true, StopBudget: time.Second}}}
	}
	before := 281275 * time.Microsecond // of fast with the gate, once
	for name, c := range map[string]struct {
		floor  time.Duration
		groups []placement.GroupPolicy
		want   time.Duration
	}{
		"derived by this version":                  {0, []placement.GroupPolicy{hot(now.TakeoverWait(0)), cold(now.TakeoverWait(time.Second))}, now.Duration},
		"no groups":                                {0, nil, now.Duration},
		"a longer wait":                            {0, []placement.GroupPolicy{hot(time.Minute)}, now.Duration},
		"of an older version":                      {0, []placement.GroupPolicy{hot(before)}, now.Duration - (now.TakeoverWait(0) - before)},
		"of an older version, exclusive":           {0, []placement.GroupPolicy{cold(before + 990*time.Millisecond)}, now.Duration - (now.TakeoverWait(time.Second) - before - 990*time.Millisecond)},
		"the floor of a timing before is waited":   {now.TakeoverWait(0), []placement.GroupPolicy{hot(before)}, now.Duration},
		"one group of several decides":             {0, []placement.GroupPolicy{hot(now.TakeoverWait(0)), hot(before)}, now.Duration - (now.TakeoverWait(0) - before)},
		"a wait that no lease of this timing fits": {0, []placement.GroupPolicy{hot(10 * time.Millisecond)}, now.Duration - now.TakeoverWait(0) + 10*time.Millisecond},
	} {
		st := placement.State{ConfigVersion: 1, Floor: c.floor, Policy: placement.Policy{Groups: c.groups}}
		var v covered
		got := v.by(st, now)
		if got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		if again := v.by(st, now); again != got {
			t.Errorf("%s: asked again: %v", name, again)
		}
		st.ConfigVersion, st.Policy.Groups = 2, []placement.GroupPolicy{hot(now.TakeoverWait(0))}
		if after := v.by(st, now); after != now.Duration {
			t.Errorf("%s: applied again: %v, want %v", name, after, now.Duration)
		}
	}
}
