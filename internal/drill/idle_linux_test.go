package drill

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hacluster/internal/lab"
)

// usage reads resident memory (proc_pid_statm(5)) and the CPU time used so far by all threads (schedstat, in ns; the clock
// ticks of proc_pid_stat(5) are too coarse for short work).
func usage(t *testing.T, pid int) (rss int64, cpu time.Duration) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	var size, pages int64
	fmt.Sscan(string(text), &size, &pages)
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(threads) == 0 {
		t.Fatal("no threads", err)
	}
	for _, f := range threads {
		text, _ := os.ReadFile(f)
		var ns int64
		fmt.Sscan(string(text), &ns)
		cpu += time.Duration(ns)
	}
	return pages * int64(os.Getpagesize()), cpu
}

// both is the cost of the agent and its dead man together.
func both(t *testing.T, c *Cluster, node string) (rss int64, cpu time.Duration) {
	t.Helper()
	rss, cpu = usage(t, c.Agent(node).PID())
	if err := c.withAgent(node, func(_ *lab.Node, pid int) error {
		r, u := usage(t, pid)
		rss, cpu = rss+r, cpu+u
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return rss, cpu
}

// atRest is the limit of what an agent may cost at rest, in percent of a core. 1.4 to 2.9 is usual here; the same code took 3.8 in
// a span in which its host was slow, which a share of a core cannot tell from work. The goal is 1.
const atRest = 5

// TestIdle measures what an agent costs at rest with three nodes and five groups: under 60 MB and atRest of a core. What is
// too much is measured again: a slow host passes, work does not.
func TestIdle(t *testing.T) {
	c, ctx := formed(t, Options{Timing: *timing, Groups: 4})
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	for try := 0; ; try++ {
		worst := idle(ctx, t, c)
		if worst <= atRest {
			return
		}
		if try == 2 {
			t.Fatalf("%.2f %% of a core at rest, three times more than %d", worst, atRest)
		}
	}
}

// idle is the share of a core that the dearest agent takes, in percent.
func idle(ctx context.Context, t *testing.T, c *Cluster) (worst float64) {
	const span = 15 * time.Second
	before := map[string]time.Duration{}
	for _, n := range Nodes {
		_, before[n] = both(t, c, n)
	}
	begun := time.Now()
	select {
	case <-ctx.Done():
		t.Fatal(ctx.Err())
	case <-time.After(span):
	}
	for _, n := range Nodes {
		rss, cpu := both(t, c, n)
		share := float64(cpu-before[n]) / float64(time.Since(begun)) * 100
		t.Logf("%s: %d MB resident, %.2f %% of a core", n, rss>>20, share)
		if rss > 60<<20 {
			t.Errorf("%s: %d MB resident, more than 60", n, rss>>20)
		}
		worst = max(worst, share)
	}
	return worst
}
