package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"

	"hacluster/api"
	"hacluster/api/apitest"
	"hacluster/lease"
	"hacluster/placement"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files instead of comparing")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// buffer is written by hactl and read by the test at the same time.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// desk is a person at a terminal in front of a world.
type desk struct {
	sock     string
	Out, Err *buffer
	color    bool
}

// sit starts the real API server over the world on a unix socket.
func sit(t *testing.T, w api.Backend) *desk {
	t.Helper()
	d := &desk{sock: filepath.Join(t.TempDir(), "had.sock")}
	l, err := net.Listen("unix", d.sock)
	if err != nil {
		t.Fatal(err)
	}
	srv := api.NewServer(w, api.Options{Node: "n1", Version: "0.2.0"}).HTTP()
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Errorf("shutting down: %v", err)
		}
		<-done
	})
	return d
}

// env is what hactl runs in here: a fixed clock, no files of this machine.
func (d *desk) env() *env {
	d.Out, d.Err = &buffer{}, &buffer{}
	e := newEnv(d.Out, d.Err)
	e.Now, e.Zone, e.Poll, e.Config, e.Socket, e.Color = func() time.Time { return noon }, time.UTC, time.Millisecond, "/nonexistent/had.toml", d.sock, d.color
	return e
}

// hactl runs one command line.
func (d *desk) hactl(ctx context.Context, args ...string) int { return d.env().run(ctx, args) }

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func tomcats() *apitest.World {
	w := &apitest.World{}
	w.Update(func(s *api.Status) { *s = apitest.Tomcats(noon) })
	w.OnWrite = func(*apitest.World, api.Write) (api.Reply, error) { return api.Reply{Message: "done"}, nil }
	return w
}

// golden compares got with testdata/NAME.golden.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *rewrite {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got:\n%s\nwant:\n%s\n(go test ./cmd/hactl -rewrite, then read the difference)", got, want)
	}
}

// screen is what a person sees.
func (d *desk) screen(args []string, code int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "$ hactl %s\n%s", strings.Join(args, " "), d.Out)
	if s := d.Err.String(); s != "" {
		fmt.Fprintf(&b, "--- stderr\n%s", s)
	}
	fmt.Fprintf(&b, "--- exit %d\n", code)
	return strings.ReplaceAll(b.String(), d.sock, "/run/had/had.sock")
}

func history(w *apitest.World) {
	at := func(ago time.Duration, kind string, e placement.Event) placement.Event {
		e.Time, e.Kind, e.By = noon.Add(-ago), kind, "w1"
		return e
	}
	w.Happen(
		at(49*time.Hour, "config", placement.Event{Reason: placement.Reason{Rule: placement.RuleConfig, Text: "configuration 7 applied"}}),
		at(2*time.Hour, "assign", placement.Event{Group: "web", To: "n2", Epoch: 3, Reason: placement.Reason{Rule: placement.RuleStart, Text: "n2 is the first preferred owner that is up"}}),
		at(12*time.Second, "takeover", placement.Event{Group: "web", From: "n2", To: "n1", Epoch: 4, Reason: apitest.Tomcats(noon).Groups[0].Why}),
	)
}

// crowd is a cluster that fits on no screen: long names, many addresses, hostile details.
func crowd(s *api.Status) {
	s.Health, s.Stale, s.Leader = api.HealthDown, true, ""
	s.Quorum = api.Quorum{Voters: 7, Alive: 2, Needed: 4, Margin: "no quorum: two more of n1, n2, n3, n4, n5 must come back before anything can be decided"}
	long := strings.Repeat("verylongname", 5)
	n := s.Nodes[0]
	n.Name, n.Flags, n.State, n.LastSeen, n.Version = long, []string{"draining", "isolated", "leaving"}, "joining", -1, "0.2.0-rc1+"+long
	n.Addresses = []string{"[fd00:1111:2222:3333:4444:5555:6666:7777]:7400", "198.18.255.255:7400"}
	n.Groups = []string{long, long, "web"}
	s.Nodes = append(s.Nodes, n)
	g := s.Groups[0]
	g.Name, g.Owner, g.Phase, g.State = long, long, placement.PhaseReleasing, "partial-online"
	g.Addresses = []string{"fd00:1111:2222:3333:4444:5555:6666:7777/128", "198.18.255.255/32"}
	g.Standbys = []api.StandbyStatus{{Node: long, Why: strings.Repeat("because ", 30)}, {Node: "n2"}}
	g.Notes = []string{strings.Repeat("a long note ", 20), strings.Repeat("x", 300)}
	g.Resources = []api.ResourceStatus{{Name: long, Type: "systemd", Node: long, State: placement.StateOfflinePending, Verdict: "degraded",
		Detail: "line one\nline two\x1b[2J\ttab \xff" + strings.Repeat("é", 200), Since: noon.Add(-400 * 24 * time.Hour)}}
	s.Groups = append(s.Groups, g)
	s.Warnings = []string{strings.Repeat("the certificate of this node ends soon ", 5)}
}

// gated is a cluster whose kernel lease is the gate.
func gated(s *api.Status) {
	timing, err := lease.Derive(lease.LAN, lease.Gate, lease.Overrides{})
	if err != nil {
		panic(err)
	}
	s.Timing = timing
	for i := range s.Nodes {
		s.Nodes[i].Gate, s.Nodes[i].NoGate = true, ""
	}
}

// ill is a cluster in which much is not as it should be.
func ill(s *api.Status) {
	gated(s)
	s.Health, s.Quorum.Alive, s.Quorum.Margin = api.HealthDown, 2, "no further voter may fail"
	s.Nodes[0].Flags, s.Nodes[0].Config = []string{"retiming"}, 7
	s.Nodes[1].Gate, s.Nodes[1].NoGate, s.Nodes[1].State, s.Nodes[1].Version, s.Nodes[1].Config = false, "no nf_tables in this kernel", "paused", "0.1.0", 6
	s.Nodes[2].State = "down"
	s.Groups[0].State, s.Groups[0].Standbys = "failed", []api.StandbyStatus{{Node: "n2", Why: "paused"}}
	s.Warnings = []string{"n1: tomcat10.service is enabled at boot: run `systemctl disable tomcat10`", "group web has no node to fail over to",
		"n2: its kernel does not carry the gate, so it owns nothing: no nf_tables in this kernel"}
}

// screens are command lines whose whole output is kept.
var screens = []struct {
	name  string
	args  string
	world func(*api.Status)
	write func(*apitest.World, api.Write) (api.Reply, error)
	code  int
}{
	{name: "status-healthy", args: "status"},
	{name: "status-degraded", args: "status", code: 1, world: func(s *api.Status) {
		s.Health, s.Quorum.Alive, s.Quorum.Margin = api.HealthDegraded, 2, "no further loss can be taken"
		s.Nodes[1].State, s.Nodes[1].LastSeen, s.Nodes[1].Lease = "down", 75*time.Second, 0
		s.Groups[0].Standbys[0] = api.StandbyStatus{Node: "n2", Why: "n2 is down"}
		s.Groups[0].Notes = []string{"no ready standby: the loss of n1 would be an outage"}
		s.Warnings = []string{"tomcat9.service is enabled at boot on n1: run `systemctl disable tomcat9`"}
	}},
	{name: "status-no-quorum", args: "status", code: 2, world: func(s *api.Status) {
		s.Health, s.Stale, s.Leader, s.Groups[0].State, s.Groups[0].Owner = api.HealthDown, true, "", "failed", ""
		s.Quorum = api.Quorum{Voters: 3, Alive: 1, Needed: 2, Margin: "no quorum: n2 or w1 must come back"}
	}},
	{name: "status-fresh", args: "status", world: func(s *api.Status) {
		s.Groups, s.LastEvent, s.Nodes = nil, nil, s.Nodes[:1]
		s.Nodes[0].Groups = nil
		s.Quorum = api.Quorum{Voters: 1, Alive: 1, Needed: 1, Margin: "no loss can be taken: join two more nodes"}
	}},
	{name: "status-crowded", args: "status", world: crowd, code: 2},
	{name: "status-json", args: "status -o json"},
	{name: "group-list", args: "group list"},
	{name: "group-show", args: "group show web"},
	{name: "group-show-crowded", args: "group show " + strings.Repeat("verylongname", 5), world: crowd},
	{name: "group-show-missing", args: "group show shop", code: 1},
	{name: "group-move", args: "group move web --to n2", write: func(*apitest.World, api.Write) (api.Reply, error) {
		return api.Reply{Message: "web moves from n1 to n2", Epoch: 5, Target: "n2"}, nil
	}},
	{name: "group-move-refused", args: "group move web --to w1", code: 1, write: func(*apitest.World, api.Write) (api.Reply, error) {
		return api.Reply{}, api.Errorf(api.CodeRefused, "choose n1 or n2", "w1 is a witness: it owns nothing")
	}},
	{name: "group-move-refused-json", args: "group move web --to w1 -o json", code: 1, write: func(*apitest.World, api.Write) (api.Reply, error) {
		return api.Reply{}, api.Errorf(api.CodeRefused, "choose n1 or n2", "w1 is a witness: it owns nothing")
	}},
	{name: "group-move-no-quorum", args: "group move web", code: 2, write: func(*apitest.World, api.Write) (api.Reply, error) {
		return api.Reply{}, api.Errorf(api.CodeNoQuorum, "start n2 or w1", "nothing can be decided: 1 of 3 voters answers")
	}},
	{name: "why", args: "why web", world: timed},
	{name: "why-json", args: "why web -o json", world: timed},
	{name: "why-part", args: "why web", world: partly},
	{name: "why-unmeasured", args: "why web", world: func(s *api.Status) {
		timed(s)
		s.Groups[0].Move.Phases = nil
	}},
	{name: "why-none", args: "why web"},
	{name: "node-list", args: "node list"},
	{name: "node-list-json", args: "-o json node list"},
	{name: "resource-list", args: "resource list"},
	{name: "resource-list-json", args: "resource list -o=json"},
	{name: "events", args: "events"},
	{name: "events-long", args: "events --long --group web --since 1h"},
	{name: "events-since", args: "events --since 2 -o json"},
	{name: "timing", args: "timing"},
	{name: "timing-cold", args: "timing --profile fast --start 4s --stop 500ms --stop-budget 1s"},
	{name: "timing-gate", args: "timing --profile fast --kernel-lease gate"},
	{name: "timing-json", args: "timing --profile wan -o json"},
	{name: "validate", args: "validate"},
	{name: "validate-gate", args: "validate", world: gated},
	{name: "validate-faults", args: "validate", code: 2, world: ill},
	{name: "validate-json", args: "validate -o json", world: gated},
	{name: "status-gate", args: "status", world: gated},
	{name: "apply-gate", args: "apply testdata/cluster.toml", write: func(_ *apitest.World, w api.Write) (api.Reply, error) {
		return api.Reply{Message: "configuration 8 is in force; kernel lease: gate", Version: 8,
			Warnings: []string{"node n2 does not speak: it cannot own anything until it says that its kernel carries the gate"}}, nil
	}},
	{name: "node-fence", args: "node fence n2 --yes", write: fencing(true)},
	{name: "node-fence-failed", args: "node fence n2 --yes --action off", code: 1, write: fencing(false)},
	{name: "node-fence-nobody", args: "node fence n2", code: 64},
	{name: "node-fence-check", args: "node fence --check", code: 1, write: fencing(false)},
	{name: "node-fence-json", args: "node fence n2 --yes -o json", write: fencing(true)},
	{name: "token", args: "token --role witness", write: func(*apitest.World, api.Write) (api.Reply, error) {
		return api.Reply{Message: "token made", Token: "had1.0123456789ab.00112233445566778899aabbccddeeff.FINGERPRINT"}, nil
	}},
	{name: "check-cluster", args: "check testdata/cluster.toml"},
	{name: "check-node", args: "check testdata/had.toml"},
	{name: "check-faults", args: "check testdata/faulty.toml", code: 1},
	{name: "apply-faults", args: "apply testdata/faulty.toml", code: 1},
	{name: "apply-faults-json", args: "apply testdata/faulty.toml -o json", code: 1},
	{name: "apply-dry-run", args: "apply testdata/cluster.toml --dry-run", write: applying},
	{name: "apply", args: "apply testdata/cluster.toml", write: applying},
	{name: "apply-refused", args: "apply testdata/cluster.toml", code: 1, write: func(*apitest.World, api.Write) (api.Reply, error) {
		e := api.Errorf(api.CodeInvalid, "", "the configuration has 2 faults")
		e.Faults = []string{"cluster.toml:7: group.preferred_owners: there is no node n9", "cluster.toml:12: group.resource.unit: is missing"}
		return api.Reply{}, e
	}},
	{name: "help", args: "help"},
	{name: "help-group-move", args: "group move --help"},
	{name: "help-events", args: "help events"},
	{name: "help-init", args: "init --help"},
	{name: "no-command", args: "stauts", code: 64},
	{name: "no-subcommand", args: "node", code: 64},
}

func applying(_ *apitest.World, w api.Write) (api.Reply, error) {
	r := api.Reply{Message: "configuration 8 would be applied", Version: 8, Changes: []string{"group web: priority 2000 -> 3000", "group shop: new"}}
	if !w.DryRun {
		r.Message = "configuration 8 is applied"
	}
	return r, nil
}

// fencing is what devices say: the board of n2 answers or not.
func fencing(confirmed bool) func(*apitest.World, api.Write) (api.Reply, error) {
	return func(_ *apitest.World, w api.Write) (api.Reply, error) {
		if w.Verb == api.VerbFenceCheck {
			return api.Reply{Message: "asked from node n1", Fenced: &api.Fenced{Confirmed: false, Health: []api.FenceHealth{
				{Node: "n1", Device: "bmc", Level: 1, State: "on"}, {Node: "n1", Device: "pdu", Level: 2, State: "on"},
				{Node: "n2", Device: "bmc", Level: 1, State: "unknown", Fault: "the agent was killed at its timeout: context deadline exceeded"},
				{Node: "n2", Device: "pdu", Level: 2}}}}, nil
		}
		f := &api.Fenced{Confirmed: confirmed, Reason: "confirmed by bmc (level 1)",
			Devices: []string{"bmc (fence_ipmilan, level 1) off, try 1, 1.204s: exit code 0: Success: Powered OFF",
				"bmc (fence_ipmilan, level 1) status, try 1, 311ms: off", "bmc (fence_ipmilan, level 1) on, try 1, 1.18s: exit code 0: Success: Powered ON"}}
		if !confirmed {
			f.Devices = []string{"bmc (fence_ipmilan, level 1) off, try 1, 20.001s: the agent was killed at its timeout: context deadline exceeded"}
			f.Reason = "level 1: bmc: the agent was killed at its timeout: context deadline exceeded"
			return api.Reply{Message: "off of node n2 is not confirmed: " + f.Reason, Target: "n2", Fenced: f}, nil
		}
		return api.Reply{Message: "node n2 is fenced (reboot): " + f.Reason, Target: "n2", Fenced: f}, nil
	}
}

func TestScreens(t *testing.T) {
	for _, c := range screens {
		t.Run(c.name, func(t *testing.T) {
			w := tomcats()
			if c.world != nil {
				w.Update(c.world)
			}
			if c.write != nil {
				w.OnWrite = c.write
			}
			history(w)
			d := sit(t, w)
			args := strings.Fields(c.args)
			code := d.hactl(bounded(t), args...)
			if code != c.code {
				t.Errorf("exit %d, want %d", code, c.code)
			}
			s := d.screen(args, code)
			golden(t, c.name, s)
			if strings.Contains(c.args, "json") {
				return
			}
			for line := range strings.Lines(s) {
				if line = strings.TrimSuffix(line, "\n"); utf8.RuneCountInString(line) > width && !strings.HasPrefix(line, "$") && !strings.Contains(s, "hactl: ") {
					t.Errorf("%d columns: %s", utf8.RuneCountInString(line), line)
				}
				if strings.ContainsFunc(line, func(r rune) bool { return r < ' ' }) {
					t.Errorf("a control character in %q", line)
				}
			}
		})
	}
}
