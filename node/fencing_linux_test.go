package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hacluster/api"
	"hacluster/fence"
	"hacluster/placement"
)

// stripAgent is a fence agent that keeps its plugs as files. It waits while DIR/hold exists, and fails while DIR/broken does.
const stripAgent = `#!/bin/sh
while IFS= read -r line; do
	case $line in
	action=*) action=${line#*=} ;;
	plug=*) plug=${line#*=} ;;
	esac
done
dir=%q
case $action in
metadata) cat <<'XML'
<?xml version="1.0" ?>
<resource-agent name="fence_strip" shortdesc="for tests">
<parameters><parameter name="plug" unique="0" required="1"><content type="string" /></parameter></parameters>
<actions><action name="on" automatic="0"/><action name="off" /><action name="reboot" /><action name="status" /><action name="metadata" /></actions>
</resource-agent>
XML
	exit 0 ;;
esac
echo "$action $plug" >>"$dir/calls"
while [ -e "$dir/hold" ]; do sleep 0.01; done
[ -e "$dir/broken" ] && { echo "no route to the strip" >&2; exit 1; }
case $action in
status) [ "$(cat "$dir/$plug" 2>/dev/null)" = off ] && { echo "Status: OFF"; exit 2; }; echo "Status: ON" ;;
*) echo "$action" >"$dir/$plug" ;;
esac
`

// strip is a desk with a fence device for b.
type strip struct {
	*desk
	dir string
}

func newStrip(t *testing.T, policy string) *strip {
	t.Helper()
	s := &strip{newDesk(t), t.TempDir()}
	agent := s.path("fence_strip")
	s.write("fence_strip", fmt.Sprintf(stripAgent, s.dir))
	text := strings.Replace(s.raft.State().ConfigText, "timing =", "fence_policy = \""+policy+"\"\nfence_action = \"off\"\ntiming =", 1)
	text += fmt.Sprintf("\n[[fence]]\nname = \"strip\"\nagent = %q\nretries = 0\nnodes = { a = { plug = \"a\" }, b = { plug = \"b\" }, c = { plug = \"c\" } }\n", agent)
	if _, err := (backend{s.Node}).apply(t.Context(), api.Write{Config: text}); err != nil {
		var refused *api.Error
		errors.As(err, &refused)
		t.Fatal(err, refused.Faults)
	}
	s.fences.configure(s.ctx, []fence.Device{{Name: "strip", Agent: agent, Nodes: map[string]fence.Params{"b": {"plug": "b"}, "c": {"plug": "c"}}, Timeout: patience}})
	return s
}

func (s *strip) path(name string) string { return filepath.Join(s.dir, name) }

func (s *strip) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), []byte(text), 0o755); err != nil {
		s.t.Fatal(err)
	}
}

func (s *strip) remove(name string) {
	s.t.Helper()
	if err := os.Remove(s.path(name)); err != nil {
		s.t.Fatal(err)
	}
}

// ordered lets b fall silent until the leader has it fenced, and returns b's epoch.
func (s *strip) ordered() uint64 {
	s.t.Helper()
	epoch, _ := s.owned()
	s.pass(s.timing().Suspect / 2) // in steps, or the leader takes itself for deaf
	s.renew("c")
	s.pass(s.timing().Suspect/2 + 1)
	s.renew("c")
	s.leader.decide(s.t.Context())
	if f := s.view("b"); !f.Running {
		s.t.Fatalf("b is not fenced: %+v, %v", f, s.leader.notes)
	}
	return epoch
}

func (s *strip) view(node string) placement.FenceView {
	s.leader.mu.Lock()
	defer s.leader.mu.Unlock()
	return s.leader.fencing.views[node]
}

// over waits until no attempt is under way.
func (s *strip) over() placement.FenceView {
	s.t.Helper()
	s.leader.fences.Wait()
	return s.view("b")
}

func (s *strip) called() {
	s.t.Helper()
	waitFor(s.t, "the agent is at work", func() error { _, err := os.Stat(s.path("calls")); return err })
}

// rules are those of the notes in the history.
func (s *strip) rules() (out []placement.Rule) {
	for _, e := range s.raft.State().Events {
		if e.Kind == string(placement.CmdNote) && e.Node == "b" {
			out = append(out, e.Reason.Rule)
		}
	}
	return out
}

func (s *strip) owner() string {
	s.leader.decide(s.t.Context())
	return s.raft.State().Groups["web"].Owner
}

// A confirmed fencing is a proof at once, and from the decision on no grant covers the epoch (S1, S2, E1).
func TestAConfirmedFencingIsAProof(t *testing.T) {
	s := newStrip(t, "always")
	epoch := s.ordered()
	if f := s.over(); f.Off.IsZero() || f.Failed != 0 {
		t.Fatalf("not confirmed: %+v", f)
	}
	s.leader.term += 999 // the proposal is refused
	s.leader.decide(t.Context())
	s.leader.term -= 999
	if held := s.renew("b"); held["web"] == epoch {
		t.Error("b was granted the epoch that is being taken from it")
	}
	waitFor(t, "somebody owns the group under a new epoch", func() error {
		s.leader.decide(t.Context())
		if gs := s.raft.State().Groups["web"]; gs.Epoch <= epoch {
			return fmt.Errorf("%+v", gs)
		}
		return nil
	})
	if got := s.rules(); !slices.Equal(got, []placement.Rule{placement.RuleFence, placement.RuleFenced}) {
		t.Errorf("the history says %v", got)
	}
}

// And what it allows is explained by it.
func TestATakeoverAfterFencingSaysWhy(t *testing.T) {
	s := newStrip(t, "always")
	s.ordered()
	s.over()
	if got := s.owner(); got != "c" {
		t.Fatalf("owner is %s", got)
	}
	why := s.raft.State().Groups["web"].Why
	if why.Rule != placement.RuleFenced || !strings.Contains(strings.Join(why.Evidence, "\n"), "confirmed by strip (level 1)") {
		t.Errorf("taken because %+v", why)
	}
}

// A renewal that is confirmed after the fencing voids it, whoever sent it (S1, S2).
func TestARenewalAfterTheFencingVoidsIt(t *testing.T) {
	s := newStrip(t, "always")
	epoch := s.ordered()
	s.over()
	s.pass(1)
	if held := s.renew("b"); held["web"] != epoch {
		t.Fatalf("b was granted %v", held)
	}
	if got := s.owner(); got != "b" {
		t.Errorf("%s took the group from b, which holds a lease", got)
	}
}

// A process that begins to speak while the node is fenced may have been started after it: nothing is proven (S1, S2).
func TestAFencingProvesNothingAboutAnotherProcess(t *testing.T) {
	s := newStrip(t, "always")
	s.write("hold", "")
	s.ordered()
	s.called()
	m := s.renewal()
	m.Boot = "another"
	if err := s.leader.take("b", m); err != nil {
		t.Fatal(err)
	}
	s.remove("hold")
	if f := s.over(); !f.Off.IsZero() || f.Failed != 1 || !strings.Contains(f.Why, "another process") {
		t.Errorf("it is taken for a proof: %+v", f)
	}
	if got := s.owner(); got != "b" {
		t.Errorf("%s took the group", got)
	}
}

// A node that renews before it is touched is left alone.
func TestANodeThatComesBackInTimeIsNotFenced(t *testing.T) {
	s := newStrip(t, "always")
	current := s.fences.current
	<-current.done
	late := &loaded{cancel: current.cancel, done: make(chan struct{}), fencer: current.fencer}
	s.fences.mu.Lock()
	s.fences.current = late
	s.fences.mu.Unlock()
	s.ordered()
	s.renew("b")
	close(late.done)
	if f := s.over(); !f.Off.IsZero() || f.Failed != 0 {
		t.Errorf("%+v", f)
	}
	if _, err := os.Stat(s.path("calls")); err == nil {
		t.Error("the agent was run")
	}
	if got := s.rules(); !slices.Equal(got, []placement.Rule{placement.RuleFence, placement.RuleFenceFailed}) {
		t.Errorf("the history says %v", got)
	}
}

// What fails changes nothing and is recorded with what the device said (E1).
func TestAFencingThatFailsChangesNothing(t *testing.T) {
	s := newStrip(t, "always")
	s.write("broken", "")
	epoch := s.ordered()
	if f := s.over(); !f.Off.IsZero() || f.Failed != 1 {
		t.Fatalf("%+v", f)
	}
	if got := s.owner(); got != "b" {
		t.Fatalf("%s took the group", got)
	}
	if held := s.renew("b"); held["web"] != epoch {
		t.Errorf("b was granted %v", held)
	}
	events := s.raft.State().Events
	last := events[len(events)-1]
	if last.Reason.Rule != placement.RuleFenceFailed || !strings.Contains(strings.Join(last.Reason.Evidence, "\n"), "no route to the strip") {
		t.Errorf("recorded as %+v", last)
	}
}

// A leader that loses its ledger ends what is under way, and what came of it proves nothing to the next (S1, S2).
func TestTheNextLeaderFencesAnew(t *testing.T) {
	s := newStrip(t, "always")
	s.write("hold", "")
	s.ordered()
	s.called()
	begun := time.Now()
	s.leader.mu.Lock()
	s.leader.ledger = nil // as after a proposal whose fate is unknown
	s.leader.mu.Unlock()
	waitFor(t, "the node leads again", func() error {
		if !s.leader.leading(t.Context()) {
			return errors.New("not yet")
		}
		return nil
	})
	if f := s.over(); f != (placement.FenceView{}) {
		t.Errorf("the new ledger knows of the fencing: %+v", f)
	}
	if took := time.Since(begun); took > patience/2 {
		t.Errorf("the agent was not ended: %v", took)
	}
	s.remove("hold")
	if got := s.owner(); got != "b" {
		t.Errorf("%s took the group", got)
	}
}

// Nothing is touched by a leader that no majority follows: the first step is an entry in the log.
func TestNobodyIsFencedWithoutTheLog(t *testing.T) {
	s := newStrip(t, "always")
	s.owned()
	s.leader.mu.Lock()
	s.leader.fence(placement.FenceOrder{Node: "b", Action: placement.FenceOff, Why: placement.Reason{Rule: placement.RuleFence}}, s.leader.term+1, nil)
	s.leader.mu.Unlock()
	s.over()
	if _, err := os.Stat(s.path("calls")); err == nil {
		t.Error("the agent was run for an entry of another term")
	}
}

func TestAConfigurationWithoutItsAgentsIsRefused(t *testing.T) {
	s := newStrip(t, "when-unsure")
	text := strings.ReplaceAll(s.raft.State().ConfigText, s.path("fence_strip"), "fence_nowhere")
	_, err := (backend{s.Node}).apply(t.Context(), api.Write{Config: text})
	var refused *api.Error
	if !errors.As(err, &refused) || refused.Code != api.CodeRefused || len(refused.Faults) != 1 || !strings.Contains(refused.Faults[0], "install the package fence-agents") {
		t.Errorf("%v: %+v", err, refused)
	}
	s.fences.configure(s.ctx, []fence.Device{{Name: "strip", Agent: "fence_nowhere", Nodes: map[string]fence.Params{"b": nil}}})
	waitFor(t, "the node warns", func() error {
		if w := s.fences.warnings(); len(w) != 1 || !strings.Contains(w[0], "this node could not fence: fence strip: agent fence_nowhere is not installed") {
			return fmt.Errorf("%q", w)
		}
		return nil
	})
}
