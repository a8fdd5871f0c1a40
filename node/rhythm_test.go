package node

import (
	"cmp"
	"context"
	"testing"
	"time"

	"hacluster/internal/boottime"
	"hacluster/placement"
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

// The leader's word for the next renewal counts where it is neither too soon nor later than the renewal is due; a word of a grant before is
// forgotten, and so is a heartbeat that comes too soon.
func TestTheRenewalsOfANodeComeInTime(t *testing.T) {
	const far = time.Hour // as good as never here
	for name, c := range map[string]struct {
		next []time.Duration // what grants say
		beat time.Duration   // when a heartbeat comes
		late time.Duration   // when it is due anyway; far if not set
		want time.Duration   // no sooner
		ever bool            // it is due before the end of the test
	}{
		"in time":            {next: []time.Duration{30 * time.Millisecond}, want: 30 * time.Millisecond, ever: true},
		"the newest word":    {next: []time.Duration{10 * time.Millisecond, 40 * time.Millisecond}, want: 40 * time.Millisecond, ever: true},
		"too soon":           {next: []time.Duration{time.Millisecond}},
		"later than due":     {next: []time.Duration{far}, late: 20 * time.Millisecond, want: 20 * time.Millisecond, ever: true},
		"heartbeat":          {beat: 20 * time.Millisecond, want: 10 * time.Millisecond, ever: true},
		"heartbeat too soon": {beat: time.Nanosecond},
		"nothing":            {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			r := &renewer{next: make(chan time.Time, 1)}
			for _, d := range c.next {
				r.keepTime(began.Add(d))
			}
			soon := began.Add(10 * time.Millisecond)
			if !c.ever { // whatever this machine does meanwhile, it stays too soon
				soon = began.Add(far / 2)
				time.AfterFunc(100*time.Millisecond, cancel)
			}
			beat := make(chan struct{}, 1)
			if c.beat > 0 {
				time.AfterFunc(c.beat, func() { beat <- struct{}{} })
			}
			late := cmp.Or(c.late, far)
			timer := boottime.NewTimer()
			timer.Reset(late)
			defer timer.Close()
			due := r.due(ctx, nil, beat, timer, soon, began.Add(late))
			if took := time.Since(began); due != c.ever || took < c.want {
				t.Errorf("due: %v after %v", due, took)
			}
		})
	}
}

// A node that has missed a hint is told again what is committed; one that may just be hearing of it is not.
func TestWhoIsBehind(t *testing.T) {
	old := reported{boot: "p", index: 7}
	for name, x := range map[string]struct {
		boot    string
		applied uint64
		want    bool
	}{
		"it has what was committed when it renewed last": {"p", 7, false},
		"it has more":                  {"p", 8, false},
		"it lacks an entry since then": {"p", 6, true},
		"another process":              {"q", 7, true},
	} {
		if got := old.behind(renewal{Boot: x.boot, Report: placement.Report{Applied: x.applied}}); got != x.want {
			t.Errorf("%s: behind %v", name, got)
		}
	}
	if !(reported{}).behind(renewal{Boot: "p"}) {
		t.Error("one that nothing was heard of is not behind")
	}
}
