package node

import (
	"testing"
	"time"

	"hacluster/internal/boottime"
	"hacluster/lease"
	"hacluster/placement"
)

// listener notes what a dead man is told.
type listener struct {
	noDeadMan
	told []time.Time
}

func (l *listener) Deadline(until time.Time) { l.told = append(l.told, until) }

// S2: an agent that was started again and has heard of no configuration knows nothing of what its predecessor ran. The deadline stands
// until it knows better: its word would disarm the dead man.
func TestWhoKnowsNoConfigurationDoesNotSayThatNothingIsHeld(t *testing.T) {
	granted := func(r *renewer) {
		now := boottime.Now()
		if !r.holder.Confirm(lease.Grant{Seq: r.holder.Send(now)}, now) {
			t.Fatal("not confirmed")
		}
	}
	for name, c := range map[string]struct {
		config uint64
		grant  bool
		want   int
	}{
		"nothing was heard":                           {0, false, 0},
		"there is no configuration: its leader knows": {0, true, 1},
		"a configuration is known":                    {1, false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			man := &listener{}
			n := &Node{clock: boottime.Now, deadMan: man, slots: &slots{}, renewer: &renewer{holder: lease.Holder{Duration: time.Hour}}}
			if c.grant {
				granted(n.renewer)
			}
			n.bequeath(placement.State{ConfigVersion: c.config}, placement.Local{}, placement.Plan{})
			if len(man.told) != c.want || len(man.told) > 0 && !man.told[0].IsZero() {
				t.Errorf("told %v, want %d words that nothing is held", man.told, c.want)
			}
		})
	}
}
