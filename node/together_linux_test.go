package node

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"hacluster/api"
	"hacluster/placement"
)

// All groups of a dead node are proposed before the first is applied: Raft then writes them together. The desk's clock
// stands still, so nothing here depends on how fast it goes.
func TestTheGroupsOfADeadNodeMoveTogether(t *testing.T) {
	t.Parallel()
	const groups = 40
	d := newDesk(t)
	text := new(strings.Builder)
	text.WriteString("name = \"lab\"\ntiming = \"lan\"\n")
	for i := range groups {
		fmt.Fprintf(text, "[[group]]\nname = \"g%02d\"\npreferred_owners = [\"b\"]\n[[group.resource]]\nname = \"s\"\ntype = \"process\"\ncommand = [\"/bin/true\"]\n", i)
	}
	d.renew("b")
	d.renew("c")
	if _, err := (backend{d.Node}).apply(t.Context(), api.Write{Config: text.String()}); err != nil {
		t.Fatal(err)
	}
	d.leader.decide(t.Context())
	d.leader.decide(t.Context())
	st := d.raft.State()
	for name, gs := range st.Groups {
		if gs.Owner != "b" {
			t.Fatalf("group %s is owned by %q", name, gs.Owner)
		}
	}
	d.leader.moves.forget()
	d.pass(st.Policy.Groups[0].TakeoverWait)
	d.renew("c")

	d.changeMu.Lock() // the first entry that is applied waits here, and with it every proposal
	decided := make(chan struct{})
	go func() {
		defer close(decided)
		d.leader.decide(t.Context())
	}()
	begun := func() int {
		d.leader.moves.mu.Lock()
		defer d.leader.moves.mu.Unlock()
		return len(d.leader.moves.of)
	}
	for end := time.Now().Add(patience); begun() < groups && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if n := begun(); n != groups {
		t.Errorf("%d of %d takeovers were proposed before the first was applied", n, groups)
	}
	d.changeMu.Unlock()
	<-decided
	for name, gs := range d.raft.State().Groups {
		if gs.Owner != "c" || gs.Why.Rule != placement.RuleNodeLost {
			t.Errorf("group %s: %q, %s", name, gs.Owner, gs.Why.Rule)
		}
	}
}
