package placement

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var rewrite = flag.Bool("rewrite", false, "write what the scenarios print into their files")

// TestScenarios plays testdata/*.txt: each line is a command to the fake world, lines that begin with "|" are what it
// printed. `go test ./placement -run Scenarios -rewrite` writes them anew; read the difference.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d scenarios, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(text))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(text) {
				t.Errorf("%s differs:\n%s", file, firstDifference(string(text), got))
			}
		})
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(w), len(g)) {
		a, b := "", ""
		if i < len(w) {
			a = w[i]
		}
		if i < len(g) {
			b = g[i]
		}
		if a != b {
			return fmt.Sprintf("line %d\nwant %s\ngot  %s\n\n%s", i+1, a, b, got)
		}
	}
	return ""
}

// play runs a scenario and returns it with what it printed.
func play(t *testing.T, text string) string {
	w := newFakeWorld(t)
	var out strings.Builder
	for _, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		if strings.HasPrefix(line, "|") {
			continue
		}
		out.WriteString(line + "\n")
		if fields := strings.Fields(line); len(fields) > 0 && !strings.HasPrefix(line, "#") {
			w.out = nil
			if err := w.command(fields[0], fields[1:]); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			for _, l := range w.out {
				out.WriteString("| " + l + "\n")
			}
		}
	}
	return out.String()
}

// command runs one line of a scenario.
func (w *fakeWorld) command(verb string, args []string) error {
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	admin := Reason{Rule: RuleNode, Text: "an administrator"}
	switch verb {
	case "nodes":
		for _, a := range args {
			name, role, _ := strings.Cut(a, ":")
			if role == "" {
				role = string(RoleMember)
			}
			w.addNode(name, Role(role))
		}
	case "group":
		return w.addGroup(args)
	case "resource":
		return w.addResource(args)
	case "wait_delay":
		d, err := time.ParseDuration(arg(0))
		w.policy.GroupWaitDelay = d
		return err
	case "config":
		p := w.policy
		p.Groups = slices.Clone(p.Groups)
		w.say("%s", sayResult(w.apply(Command{Kind: CmdConfig, Policy: &p, Version: w.state.ConfigVersion, Reason: Reason{Rule: RuleConfig}})))
	case "needs_gate":
		w.policy.NeedsGate = arg(0) == "on"
	case "gate": // gate NODE on, or why not
		n := w.nodes[arg(0)]
		n.gate, n.noGate = arg(1) == "on", ""
		if !n.gate {
			n.noGate = strings.Join(args[1:], " ")
		}
	case "run":
		d, err := time.ParseDuration(arg(0))
		for end := w.now + d; w.now < end; {
			w.round()
		}
		return err
	case "sleep": // time passes and nothing happens
		d, err := time.ParseDuration(arg(0))
		w.now += d
		for name, v := range w.seen {
			v.Confirmed = v.Confirmed.Add(d)
			w.seen[name] = v
		}
		return err
	case "cut", "mend":
		w.nodes[arg(0)].cut = verb == "cut"
	case "power":
		n := w.nodes[arg(0)]
		n.off = arg(1) == "off"
		n.until, n.released, n.local = time.Time{}, map[string]uint64{}, map[string]map[string]LocalResource{}
	case "restart": // of the agent: what runs goes on, promises and leases are forgotten
		n := w.nodes[arg(0)]
		n.until, n.released, n.leaving = time.Time{}, map[string]uint64{}, false
	case "leave":
		w.nodes[arg(0)].leaving = true
	case "fail":
		w.failResource(arg(0), arg(1), arg(2))
	case "broken":
		w.nodes[arg(0)].broken[arg(1)+"/"+arg(2)] = true
	case "repaired":
		w.nodes[arg(0)].broken[arg(1)+"/"+arg(2)] = false
	case "slow":
		w.nodes[arg(0)].slow[arg(1)+"/"+arg(2)] = true
	case "fencing": // when, action, nodes
		w.policy.Fencing = FencingPolicy{When: FenceWhen(arg(0)), Action: FenceAction(arg(1)), Nodes: args[2:]}
	case "unsure":
		w.nodes[arg(0)].unsure = strings.Join(args[1:], " ")
	case "stuck": // its stop cannot be proven
		n := w.nodes[arg(0)]
		lr := n.local[arg(1)][arg(2)]
		lr.Blocked, lr.State, lr.Doing, lr.Running = "process 12 is in state D", StateOfflinePending, "", true
		n.local[arg(1)][arg(2)] = lr
	case "unstuck":
		w.nodes[arg(0)].local[arg(1)][arg(2)] = LocalResource{State: StateOffline}
	case "fenced": // what came of the attempt: confirmed or failed
		f := w.fenced[arg(0)]
		f.Running, f.Ended = false, w.clock()
		if arg(1) == "confirmed" {
			f.Off, f.Failed, f.Why = w.clock(), 0, "confirmed by pdu (level 1)"
		} else {
			f.Failed, f.Why = f.Failed+1, "pdu: exit code 1"
		}
		w.fenced[arg(0)] = f
	case "order":
		o, refusal := PlanFence(w.policy, w.state, w.view(), w.clock(), arg(0), FenceAction(arg(1)))
		if refusal != nil {
			w.say("refused: %s (%s)", refusal.Why, refusal.Hint)
		} else {
			w.say("%s node %s, epoch %d: %s", o.Action, o.Node, o.Epoch, sayReason(o.Why))
		}
	case "leader":
		w.leader = arg(0)
	case "lapsed": // its pulse has stopped, as two voters say; or no longer
		if delete(w.lapsed, arg(0)); arg(1) != "no" {
			w.lapsed[arg(0)] = Lapse{Silent: 126 * time.Millisecond, Bound: 125 * time.Millisecond, By: []string{"leader", "n3"}}
		}
	case "move":
		c, refusal := PlanMove(w.policy, w.state, w.view(), w.clock(), arg(0), arg(1))
		switch {
		case refusal != nil:
			w.say("refused: %s (%s)", refusal.Why, refusal.Hint)
		case c.Kind == "":
			w.say("nothing to do")
		default:
			w.say("%s %s", sayCommand(c), sayResult(w.apply(c)))
		}
	case "pause", "drain", "resume":
		state := map[string]Admin{"pause": AdminPaused, "drain": AdminDrain, "resume": AdminUp}[verb]
		w.say("%s", sayResult(w.apply(Command{Kind: CmdAdmin, Node: arg(0), Admin: state, Reason: admin})))
	case "offline", "online":
		w.say("%s", sayResult(w.apply(Command{Kind: CmdGroupAdmin, Group: arg(0), Resource: arg(1), Offline: verb == "offline", Reason: admin})))
	case "status":
		w.status()
	default:
		return fmt.Errorf("no such command")
	}
	return nil
}

func sayResult(r Result) string {
	switch {
	case r.Applied:
		return "applied"
	case r.Stale:
		return "stale: " + r.Why
	}
	return "refused: " + r.Why
}

func (w *fakeWorld) addGroup(args []string) error {
	g := testGroup(args[0])
	for _, a := range args[1:] {
		name, value, _ := strings.Cut(a, "=")
		var err error
		switch name {
		case "preferred":
			g.PreferredOwners = strings.Split(value, ",")
		case "possible":
			g.PossibleOwners = strings.Split(value, ",")
		case "threshold":
			g.FailoverThreshold, err = strconv.Atoi(value)
		case "priority":
			g.Priority, err = strconv.Atoi(value)
		case "retry":
			g.RetryPeriod, err = time.ParseDuration(value)
		case "failback":
			g.AutoFailback = true
			if value != "" {
				_, err = fmt.Sscanf(value, "%d-%d", &g.FailbackFrom, &g.FailbackTo)
			}
		case "apart":
			g.AntiAffinity = []string{value}
		case "enforced":
			g.EnforceAntiAffinity = true
		case "hot":
			g.Standby = StandbyHot
		case "pulse":
			g.OnPulse = true
		default:
			err = fmt.Errorf("unknown setting %s", name)
		}
		if err != nil {
			return err
		}
	}
	w.policy.Groups = slices.DeleteFunc(w.policy.Groups, func(o GroupPolicy) bool {
		if o.Name == g.Name {
			g.Resources = o.Resources
		}
		return o.Name == g.Name
	})
	w.policy.Groups = append(w.policy.Groups, g)
	slices.SortFunc(w.policy.Groups, func(a, b GroupPolicy) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

func (w *fakeWorld) addResource(args []string) error {
	r := testResource(args[1])
	for _, a := range args[2:] {
		name, value, _ := strings.Cut(a, "=")
		switch name {
		case "address":
			r.Address = true
		case "exclusive":
			r.Exclusive = true
		case "every-node":
			r.RunOn = RunOnEveryNode
		case "on-failure":
			r.RestartAction = RestartAction(value)
		case "after":
			r.DependsOn = &Expr{}
			for _, dep := range strings.Split(value, ",") {
				r.DependsOn.All = append(r.DependsOn.All, Expr{Name: dep})
			}
		default:
			return fmt.Errorf("unknown setting %s", name)
		}
	}
	for i, g := range w.policy.Groups {
		if g.Name == args[0] {
			w.policy.Groups[i].Resources = append(slices.Clone(g.Resources), r)
			return nil
		}
	}
	return fmt.Errorf("no such group")
}
