package node

import (
	"errors"
	"time"

	"hacluster/lease"
	"hacluster/placement"
)

var errUncovered = errors.New("the configuration was applied by a version of had whose leases were much shorter: run hactl apply with the same file")

// covered is the longest lease that the takeover waits in force allow. They were derived when the configuration was applied; a leader of
// another version of had may derive a longer lease from the same file, which nobody would wait for.
type covered struct {
	version  uint64
	floor    time.Duration
	timing   lease.Timing
	duration time.Duration
}

// by is the lease that may be granted; not above 0: none.
func (c *covered) by(st placement.State, t lease.Timing) time.Duration {
	if c.duration == 0 || c.version != st.ConfigVersion || c.floor != st.Floor || c.timing != t {
		*c = covered{st.ConfigVersion, st.Floor, t, t.Duration - shortBy(st, t)}
	}
	return c.duration
}

// shortBy is how much longer one would have to wait for leases of this timing than is waited.
func shortBy(st placement.State, t lease.Timing) (short time.Duration) {
	for _, g := range st.Policy.Groups {
		budget := time.Duration(0)
		for _, r := range g.Resources {
			if r.Exclusive {
				budget = max(budget, r.StopBudget)
			}
		}
		short = max(short, t.TakeoverWait(budget)-max(g.TakeoverWait, st.Floor))
	}
	return short
}
