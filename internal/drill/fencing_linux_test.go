package drill

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/placement"
)

// powerStrip is what a fence agent switches in the lab: it really cuts the power of a node. Its agent is a script that speaks
// the protocol of the fence-agents package; the two meet in files.
type powerStrip struct {
	r    *rescue
	dir  string
	stop chan struct{}
	done sync.WaitGroup

	mu   sync.Mutex
	cuts []string // nodes, in order
	boot []string // have power again and no agent yet
}

const stripAgent = `#!/bin/sh
while IFS= read -r line; do
	case $line in
	action=*) action=${line#*=} ;;
	plug=*) plug=${line#*=} ;;
	dir=*) dir=${line#*=} ;;
	esac
done
case $action in
metadata) cat <<'XML'
<?xml version="1.0" ?>
<resource-agent name="fence_strip" shortdesc="The power strip of the lab">
<parameters>
	<parameter name="action" unique="0" required="1"><content type="string" default="reboot" /></parameter>
	<parameter name="dir" unique="0" required="1"><content type="string" /></parameter>
	<parameter name="plug" unique="0" required="1"><content type="string" /></parameter>
</parameters>
<actions><action name="on" automatic="0"/><action name="off" /><action name="reboot" /><action name="status" /><action name="monitor" /><action name="metadata" /></actions>
</resource-agent>
XML
	exit 0 ;;
monitor) exit 0 ;;
esac
[ -e "$dir/broken" ] && { echo "ERROR: unable to connect to the strip" >&2; exit 1; }
case $action in
on|off) echo $action >"$dir/$plug.tmp" && mv "$dir/$plug.tmp" "$dir/$plug.want"
	while [ "$(cat "$dir/$plug.is" 2>/dev/null)" != $action ]; do sleep 0.01; done
	echo "Success: switched $action" ;;
status) [ "$(cat "$dir/$plug.is" 2>/dev/null)" = off ] && { echo "Status: OFF"; exit 2; }
	echo "Status: ON" ;;
*) exit 1 ;;
esac
`

// job is a resource that can refuse to stop: while refuse-NODE exists, neither stop nor kill helps.
const job = `#!/bin/sh
cd %q
case $1 in
start) touch run-$HAD_NODE ;;
stop) [ ! -e refuse-$HAD_NODE ] && rm -f run-$HAD_NODE ;;
status) [ -e run-$HAD_NODE ] || exit 3 ;;
esac
`

func (r *rescue) strip() *powerStrip {
	r.t.Helper()
	s := &powerStrip{r: r, dir: filepath.Join(r.Lab.Dir(), "strip"), stop: make(chan struct{})}
	r.must(os.MkdirAll(s.dir, 0o755))
	r.must(os.WriteFile(s.path("fence_strip"), []byte(stripAgent), 0o755))
	r.must(os.WriteFile(s.path("job"), fmt.Appendf(nil, job, s.dir), 0o755))
	s.done.Go(s.loop)
	r.t.Cleanup(func() {
		close(s.stop)
		s.done.Wait()
	})
	return s
}

func (s *powerStrip) path(name string) string { return filepath.Join(s.dir, name) }

// loop switches.
func (s *powerStrip) loop() {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		for _, node := range Nodes {
			want, _ := os.ReadFile(s.path(node + ".want"))
			is, _ := os.ReadFile(s.path(node + ".is"))
			if len(want) > 0 && string(want) != string(is) {
				s.turn(node, strings.TrimSpace(string(want)))
			}
		}
	}
}

func (s *powerStrip) turn(node, to string) {
	var err error
	s.mu.Lock()
	defer s.mu.Unlock()
	if to == "off" {
		s.cuts = append(s.cuts, node)
		err = s.r.Lab.Node(node).PowerCut()
		os.Remove(s.path("run-" + node))
		os.Remove(s.path("refuse-" + node))
	} else {
		s.boot = append(s.boot, node)
		err = s.r.Lab.Node(node).PowerOn()
	}
	if err != nil {
		s.r.t.Errorf("turning %s %s: %v", node, to, err)
	}
	tmp := s.path(node + ".now")
	if os.WriteFile(tmp, []byte(to+"\n"), 0o644) == nil {
		os.Rename(tmp, s.path(node+".is"))
	}
}

func (s *powerStrip) cutOff() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.cuts)
}

// boots starts the agents of nodes that have power again, and waits until everything is well.
func (s *powerStrip) boots(node string) {
	s.r.t.Helper()
	s.r.until(node+" has power again", func() (bool, string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return slices.Contains(s.boot, node), fmt.Sprint(s.boot)
	})
	s.mu.Lock()
	s.boot = nil
	s.mu.Unlock()
	s.r.must(s.r.StartAgent(node))
	s.r.ready()
}

func (r *rescue) ready() { r.t.Helper(); r.must(r.WaitReady(r.ctx)) }

// policy applies the drill's configuration with the strip, and a group with the job.
func (s *powerStrip) policy(when string) {
	s.r.t.Helper()
	text, err := s.r.Config()
	s.r.must(err)
	text = strings.Replace(text, "timing =", fmt.Sprintf("fence_policy = %q\nfence_action = \"reboot\"\ntiming =", when), 1)
	text += fmt.Sprintf(`
[[fence]]
name = "strip"
agent = %[1]q
params = { dir = %[2]q }
timeout = "5s"
retries = 0
nodes = { tomcat1 = { plug = "tomcat1" }, tomcat2 = { plug = "tomcat2" }, witness = { plug = "witness" } }

[[group]]
name = "job"

[[group.resource]]
name = "job"
type = "script"
exclusive = true
start = [%[3]q, "start"]
stop = [%[3]q, "stop"]
status = [%[3]q, "status"]
pending_timeout = "1s"
stop_budget = "300ms"
looks_alive_interval = "50ms"
restart_threshold = 100000
`, s.path("fence_strip"), s.dir, s.path("job"))
	file := filepath.Join(s.r.Lab.Dir(), "fencing.toml")
	s.r.must(os.WriteFile(file, []byte(text), 0o644))
	_, err = s.r.Hactl(s.r.ctx, "witness", "apply", file)
	s.r.must(err)
	s.r.ready()
}

// where is the node that owns the job.
func (r *rescue) where() (owner string, online bool) {
	st, err := r.Status(r.ctx)
	if err != nil {
		return "", false
	}
	for _, g := range st.Groups {
		if g.Name == "job" {
			return g.Owner, g.State == "online"
		}
	}
	return "", false
}

// moves waits until the job is online elsewhere, and returns the events since.
func (r *rescue) moves(from string, since uint64) []placement.Event {
	r.t.Helper()
	r.until("the job moves", func() (bool, string) {
		to, online := r.where()
		return online && to == Other(from), to
	})
	return slices.DeleteFunc(r.events("witness"), func(e placement.Event) bool { return e.Seq <= since })
}

func find(events []placement.Event, kind string, rule placement.Rule) *placement.Event {
	for i, e := range events {
		if e.Kind == kind && e.Reason.Rule == rule {
			return &events[i]
		}
	}
	return nil
}

func (r *rescue) last() uint64 {
	events := r.events("witness")
	return events[len(events)-1].Seq
}

// TestFencing runs real agents, a fence agent that speaks the protocol of the package, and real power cuts.
func TestFencing(t *testing.T) { // S1, S2, E1
	beside(t)
	r := rescued(t, Options{})
	s := r.strip()
	start := time.Now()
	s.policy("always")
	for range 3 {
		s.spares(t, r)
	}
	s.refuses(t, r)
	for range 2 {
		s.shortens(t, r)
	}
	s.policy("when-unsure")
	s.frees(t, r)
	s.obeys(t, r)
	r.double(start)
}

// spares: an owner whose agent ends in order is not fenced, although it is silent for longer than one that died may be.
func (s *powerStrip) spares(t *testing.T, r *rescue) {
	owner, _ := r.where()
	before := r.last()
	st, err := r.Status(r.ctx)
	r.must(err)
	agent := r.Agent(owner)
	r.must(agent.Signal(unix.SIGUSR1))
	<-agent.Done()
	ended := time.Now()
	time.Sleep(2 * st.Timing.Suspect) // the fault itself
	if cuts := s.cutOff(); len(cuts) > 0 {
		t.Fatalf("its agent is away in order for %s and its power was cut: %v", time.Since(ended), cuts)
	}
	r.must(r.StartAgent(owner))
	away := time.Since(ended)
	r.ready()
	events := slices.DeleteFunc(r.events("witness"), func(e placement.Event) bool { return e.Seq <= before })
	if cuts := s.cutOff(); len(cuts) > 0 || find(events, "note", placement.RuleFence) != nil {
		t.Errorf("its agent was away in order for %s and it is fenced: %v, %+v", away, cuts, events)
	}
	now, _ := r.where()
	t.Logf("away in order for %s, suspect is %s: not fenced, the job is on %s and was on %s", away.Round(time.Millisecond), st.Timing.Suspect, now, owner)
}

// refuses: a fencing that fails changes nothing, is recorded, and the takeover comes by the lease.
func (s *powerStrip) refuses(t *testing.T, r *rescue) {
	r.must(os.WriteFile(s.path("broken"), nil, 0o644))
	owner, _ := r.where()
	before := r.last()
	r.must(r.Lab.IsolateFromPeers(owner))
	events := r.moves(owner, before)
	r.until("the failure is recorded", func() (bool, string) {
		events = slices.DeleteFunc(r.events("witness"), func(e placement.Event) bool { return e.Seq <= before })
		return find(events, "note", placement.RuleFenceFailed) != nil, ""
	})
	if find(events, "note", placement.RuleFence) == nil || find(events, "takeover", placement.RuleNodeLost) == nil || find(events, "takeover", placement.RuleFenced) != nil {
		t.Errorf("the history is %+v", events)
	}
	failed := find(events, "note", placement.RuleFenceFailed)
	if text := strings.Join(failed.Reason.Evidence, "\n"); failed.Node != owner || !strings.Contains(text, "strip (fence_strip, level 1) off, try 1") ||
		!strings.Contains(text, "unable to connect to the strip") {
		t.Errorf("it is recorded as %+v", failed)
	}
	if cuts := s.cutOff(); len(cuts) > 0 {
		t.Errorf("power was cut: %v", cuts)
	}
	r.must(os.Remove(s.path("broken")))
	r.must(r.Lab.Reconnect(owner))
	r.ready()
}

// shortens: the group of an owner that is cut off moves as soon as its power is.
func (s *powerStrip) shortens(t *testing.T, r *rescue) {
	r.until("no pause is left", func() (bool, string) { // between two attempts on a node
		st, err := r.Status(r.ctx)
		return err == nil && time.Since(r.lastFencing()) > 6*time.Second, fmt.Sprint(st.Health, err)
	})
	owner, _ := r.where()
	before := r.last()
	st, err := r.Status(r.ctx)
	r.must(err)
	wait := st.Timing.TakeoverWait(300 * time.Millisecond)
	since := time.Now()
	r.must(r.Lab.IsolateFromPeers(owner))
	events := r.moves(owner, before)
	takeover := find(events, "takeover", placement.RuleFenced)
	if takeover == nil || find(events, "note", placement.RuleFenced) == nil || find(events, "takeover", placement.RuleNodeLost) != nil {
		t.Fatalf("the history is %+v", events)
	}
	took := takeover.Time.Sub(since)
	t.Logf("fenced: taken over %s after the cut, takeover wait %s: %v", took.Round(time.Millisecond), wait, takeover.Reason.Evidence)
	if took >= wait {
		t.Errorf("the takeover came after %s, the lease alone needs %s", took, wait)
	}
	if cuts := s.cutOff(); cuts[len(cuts)-1] != owner {
		t.Errorf("power was cut: %v", cuts)
	}
	r.must(r.Lab.Reconnect(owner))
	s.boots(owner)
}

// lastFencing is when something about fencing was recorded last.
func (r *rescue) lastFencing() (at time.Time) {
	for _, e := range r.events("witness") {
		if slices.Contains([]placement.Rule{placement.RuleFence, placement.RuleFenced, placement.RuleFenceFailed}, e.Reason.Rule) {
			at = e.Time
		}
	}
	return at
}

// frees: an owner that is alive and cannot prove that it stopped is fenced, and the group moves.
func (s *powerStrip) frees(t *testing.T, r *rescue) {
	owner, _ := r.where()
	before := r.last()
	r.must(os.WriteFile(s.path("refuse-"+owner), nil, 0o644))
	since := time.Now()
	_, err := r.Hactl(r.ctx, "witness", "group", "move", "job")
	r.must(err)
	events := r.moves(owner, before)
	fence, takeover := find(events, "note", placement.RuleFence), find(events, "takeover", placement.RuleFenced)
	if fence == nil || takeover == nil || !strings.Contains(strings.Join(fence.Reason.Evidence, "\n"), "could not prove that it stopped") {
		t.Fatalf("the history is %+v", events)
	}
	t.Logf("blocked: fenced %s and taken over %s after the move was ordered: %v", fence.Time.Sub(since).Round(time.Millisecond),
		takeover.Time.Sub(since).Round(time.Millisecond), fence.Reason.Evidence)
	s.boots(owner)
}

// obeys: an administrator's order, and the answer of the devices.
func (s *powerStrip) obeys(t *testing.T, r *rescue) {
	for _, node := range Nodes {
		out, err := r.Hactl(r.ctx, node, "node", "fence", "--check")
		if err != nil || strings.Count(out, " ok\n") != 3 || !strings.Contains(out, "asked from node "+node) {
			t.Errorf("%v: %s", err, out)
		}
	}
	owner, _ := r.where()
	idle := Other(owner)
	out, err := r.Hactl(r.ctx, "witness", "node", "fence", idle, "--action", "off", "--yes")
	if err != nil || !strings.Contains(out, "node "+idle+" is fenced (off): confirmed by strip (level 1)") {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := r.Hactl(r.ctx, "witness", "node", "fence", owner, "--yes"); err == nil || !strings.Contains(err.Error(), "voters would be up") {
		t.Errorf("the last but one voter is fenced: %v", err)
	}
	if out, err := r.Hactl(r.ctx, "witness", "node", "fence", idle, "--action", "on", "--yes"); err != nil || !strings.Contains(out, "switched on") {
		t.Fatalf("%v: %s", err, out)
	}
	s.boots(idle)
	if now, _ := r.where(); now != owner {
		t.Errorf("the job went from %s to %s", owner, now)
	}
}
