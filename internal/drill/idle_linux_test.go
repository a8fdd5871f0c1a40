package drill

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"hacluster/internal/lab"
)

// memory reads a field of smaps_rollup (proc_pid_smaps(5)), in bytes.
func memory(t *testing.T, pid int, field string) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == field+":" {
			kb, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Fatalf("no field %s in %q", field, text)
	return 0
}

// used is the CPU time used so far by all threads (schedstat, in ns; the clock ticks of proc_pid_stat(5) are too coarse for short
// work).
func used(t *testing.T, pid int) (cpu time.Duration) {
	t.Helper()
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
	return cpu
}

// both is the cost of the agent and its dead man together. The pages of their one program count once, as in a control group
// (systemctl status): all that is resident of the agent, and what the other has of its own.
func both(t *testing.T, c *Cluster, node string) (held int64, cpu time.Duration) {
	t.Helper()
	if err := c.withAgent(node, func(_ *lab.Node, agent int) error {
		first := c.Agent(node).PID() // the dead man, whose child the agent is
		held = memory(t, agent, "Rss") + memory(t, first, "Anonymous")
		cpu = used(t, agent) + used(t, first)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return held, cpu
}

// atRest is the limit of what an agent may cost at rest in a second, in round trips as the drill's own process makes them in the
// same seconds, with all that it does besides. A share of a core would not do: the same code took from 2.4 to 8.6 % here as its
// host was fast or slow, and 75 to 86 round trips. Of lan, 32 to 40: with fast this fails.
const atRest = 80

// restMemory is the limit of what it may hold.
const restMemory = 40 << 20

// TestIdle measures what an agent costs at rest with three nodes and five groups: under 40 MB and the limit above. What is too
// much is measured again: what disturbs the host passes, work does not.
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
			t.Fatalf("at rest an agent costs %.0f round trips in a second, three times more than %d", worst, atRest)
		}
	}
}

// idle is what the dearest agent costs in a second, in round trips.
func idle(ctx context.Context, t *testing.T, c *Cluster) (worst float64) {
	before := map[string]time.Duration{}
	for _, n := range Nodes {
		_, before[n] = both(t, c, n)
	}
	begun := time.Now()
	trip := roundTrip(ctx, t, 15*time.Second)
	took := time.Since(begun)
	for _, n := range Nodes {
		held, cpu := both(t, c, n)
		if held > restMemory {
			t.Errorf("%s: %d MB, more than %d", n, held>>20, restMemory>>20)
		}
		share := float64(cpu-before[n]) / float64(took)
		cost := share * float64(time.Second) / float64(trip)
		t.Logf("%s: %d MB, %.2f %% of a core, which are %.0f round trips of %v in a second", n, held>>20, share*100, cost, trip)
		worst = max(worst, cost)
	}
	return worst
}

// roundTrip is this process's CPU time for a byte's way over the loopback and back, a single one every 5 ms for as long as
// span: work of the kind that an agent has at rest, of which waking up is the most.
func roundTrip(ctx context.Context, t *testing.T, span time.Duration) time.Duration {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_, err = io.Copy(conn, conn)
			conn.Close()
		}
		done <- err
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	b, n, end := make([]byte, 1), 0, time.Now().Add(span)
	before := used(t, os.Getpid())
	for ; time.Now().Before(end); n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		}
		if _, err = conn.Write(b); err == nil {
			_, err = io.ReadFull(conn, b)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	after := used(t, os.Getpid())
	conn.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return (after - before) / time.Duration(n)
}
