package drill

import (
	"context"
	"sync"
	"testing"
	"time"

	"hacluster/internal/lab"
)

// excuses is how long the machine must have stood still in a drill for the drill to be judged again. scripts/test has the same
// rule for whole tests.
const excuses = 100 * time.Millisecond

// stalls is started once. Its process ends with this one.
var stalls = sync.OnceValues(lab.MeterStalls)

// wrong says what is wrong with a drill besides S1. Where unseen is set, no client may notice it (L2, L3).
func (o Outcome) wrong(d Drill, unseen bool) bool {
	return (o.From != o.To) != d.Moves || unseen && o.Failed > 0
}

// judged runs a drill, and runs it again, at most twice, when it went wrong while the machine itself stood still. When two
// nodes answered it is never run again, nor where nobody may watch for stalls.
func (c *Cluster) judged(ctx context.Context, t *testing.T, d Drill, unseen bool) Outcome {
	t.Helper()
	meter, none := stalls()
	for try := 1; ; try++ {
		begun := time.Now()
		out, err := c.Run(ctx, d)
		if err != nil {
			t.Fatalf("%s: %v", d.Name, err)
		}
		if try == 3 || none != nil || out.Breach() != "" || !out.wrong(d, unseen) {
			return out
		}
		worst := meter.Longest(begun, time.Now())
		if worst.Length() < excuses {
			return out
		}
		t.Logf("%s: outage %s, %d failed, %s -> %s, while the machine stood still for %d ms at %s; once more", d.Name, out.Outage.Round(time.Millisecond),
			out.Failed, out.From, out.To, worst.Length().Milliseconds(), worst.Start.Format("15:04:05"))
	}
}
