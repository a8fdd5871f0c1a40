package drill

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hacluster/internal/lab"
	"hacluster/lease"
)

// TestRetime: another timing is applied to a living cluster. Where Raft cannot take all of it up while it runs, the agents are started
// again one after the other, by themselves, and no client notices (L3).
func TestRetime(t *testing.T) {
	c, ctx := formed(t, Options{})
	for _, step := range []struct {
		profile  lease.Profile
		override string
		restarts int
	}{
		{lease.Fast, "", 0}, // the Raft timers of lan
		{lease.Fast, `timing_override = { heartbeat = "60ms" }`, len(Nodes)},
		{lease.LAN, "", len(Nodes)},
	} {
		profile := step.profile
		before := agentPIDs(t, c)
		owner, err := c.Owner(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.steady(ctx, time.Now()); err != nil {
			t.Fatal(err)
		}
		c.o.Timing = string(profile)
		text, err := c.Config()
		if err != nil {
			t.Fatal(err)
		}
		named := fmt.Sprintf("timing = %q\n", profile)
		if with := strings.Replace(text, named, named+step.override+"\n", 1); with == text {
			t.Fatalf("no %s in %s", named, text)
		} else {
			text = with
		}
		file := filepath.Join(c.Lab.Dir(), "cluster.toml")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		since, begun := c.Client.Mark(), time.Now()
		if err := c.poll(ctx, "the configuration is taken", func() (bool, string) {
			said, err := c.Hactl(ctx, Nodes[0], "apply", file)
			return err == nil, said
		}); err != nil {
			t.Fatal(err)
		}
		if err := c.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
		took := time.Since(begun)
		if err := c.steady(ctx, time.Now()); err != nil {
			t.Fatal(err)
		}
		out, err := c.outcome(ctx, Outcome{Fault: "timing " + string(profile), From: owner}, since)
		if err != nil {
			t.Fatal(err)
		}
		restarted := 0
		for name, pid := range agentPIDs(t, c) {
			if pid != before[name] {
				restarted++
			}
		}
		st, err := c.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s %s: %d agents started again within %s, outage %s, %d failed", profile, step.override, restarted, took.Round(time.Millisecond), out.Outage, out.Failed)
		if out.To != owner || out.Failed != 0 || out.Breach() != "" {
			t.Errorf("owner %s -> %s, %d failed, %s", owner, out.To, out.Failed, out.Breach())
		}
		if restarted != step.restarts || took > 45*time.Second {
			t.Errorf("%d agents were started again in %s", restarted, took)
		}
		for _, name := range Nodes {
			var kept lease.Timing
			text, err := os.ReadFile(c.Lab.Node(name).Path("var", "lib", "had", "timing.json"))
			if err == nil {
				err = json.Unmarshal(text, &kept)
			}
			if err != nil || kept != st.Timing || kept.Profile != profile {
				t.Errorf("%s starts with %+v (%v), want %+v", name, kept, err, st.Timing)
			}
			log, err := os.ReadFile(c.Agent(name).Log)
			if err != nil || strings.Contains(string(log), "the agent ended by itself") || step.restarts > 0 && !strings.Contains(string(log), "asked to be started again") {
				t.Errorf("%s: its dead man did not start it because it asked (%v)", name, err)
			}
		}
	}
}

// agentPIDs are the processes of the agents themselves.
func agentPIDs(t *testing.T, c *Cluster) map[string]int {
	t.Helper()
	pids := map[string]int{}
	for _, name := range Nodes {
		if err := c.withAgent(name, func(_ *lab.Node, pid int) error {
			pids[name] = pid
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	return pids
}
