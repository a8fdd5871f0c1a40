package node

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"hacluster/internal/boottime"
	"hacluster/raft"
)

// A round of questions confirms a leader only by voters that answer with its own term (S1, S2).
func TestARoundBelievesOnlyVotersOfItsOwnTerm(t *testing.T) {
	c := form(t, "a", "b", "w")
	leader := c.leader()
	term := leader.n.raft.Term()
	confirmed := func(times int) (n int) {
		for range times {
			if leader.n.leader.verify(t.Context()) == nil {
				n++
			}
		}
		return n
	}
	for name, mode := range map[string]func(context.Context) (net.Conn, error){
		"no voter answers":           cut,
		"they are in a later term":   answering(message{Term: term + 1}),
		"they are in an earlier one": answering(message{Term: term - 1}),
		"they refuse the question":   answering(message{Refused: "no", Term: term}),
		"they say something else":    answering(message{}),
	} {
		leader.cable.set(mode)
		if n := confirmed(10); n > 0 {
			t.Errorf("%s: the leader was confirmed %d times of 10", name, n)
		}
	}
	// That they could have confirmed it, as far as this test is concerned.
	leader.cable.set(answering(message{Term: term}))
	if confirmed(50) == 0 && leader.n.raft.Term() == term && leader.n.raft.IsLeader() {
		t.Error("voters of its own term do not confirm the leader either")
	}
	leader.cable.set(nil)
}

// A renewal of a voter is the word that a round would ask it for: no other is needed where two are a quorum, and none but one of
// the leader's own term is good.
func TestARenewalVouchesForItsLeader(t *testing.T) {
	c := form(t, "a", "b", "w")
	leader := c.leader()
	term, l := leader.n.raft.Term(), leader.n.leader
	sender := "b"
	if leader.n.name == "b" {
		sender = "a"
	}
	for name, x := range map[string]struct {
		node string
		term uint64
		want bool
	}{
		"a voter of its term":      {sender, term, true},
		"one of a later term":      {sender, term + 1, false},
		"one of an earlier term":   {sender, term - 1, false},
		"one that does not say it": {sender, 0, false},
		"the leader itself":        {leader.n.name, term, false},
		"somebody without a vote":  {"x", term, false},
	} {
		if got := l.vouched(x.node, renewal{Term: x.term}); got != x.want && leader.n.raft.Term() == term && leader.n.raft.IsLeader() {
			t.Errorf("%s: vouched %v, want %v", name, got, x.want)
		}
	}
	voters := func(n int) (out []raft.Server) {
		for i := range n {
			out = append(out, raft.Server{Name: string(rune('a' + i)), Voter: true})
		}
		return out
	}
	for n, want := range map[int]bool{2: true, 3: true, 4: false, 5: false} {
		if got := majority(voters(n), "a", "b"); got != want {
			t.Errorf("two of %d voters: a quorum %v, want %v", n, got, want)
		}
	}
	if majority(append(voters(1), raft.Server{Name: "b"}), "a", "b") {
		t.Error("one without a vote counts")
	}
}

// After a suspend of the machine its lease is over at once, for the act loop and for an address that is being added: what
// enforces the end in the kernel stood still meanwhile.
func TestNoLeaseOutlivesASuspend(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	var slept atomic.Int64
	d.renewer.asleep = boottime.NewSuspend(func() time.Duration { return time.Duration(slept.Load()) })
	d.pass(d.raft.State().Policy.GroupWaitDelay) // for the preferred owner, which does not come
	d.renew("a")
	d.leader.decide(t.Context())
	held := map[string]func() bool{
		"the act loop": func() bool { _, ok := d.renewer.leased(d.raft.State())["web"]; return ok },
		"an address":   func() bool { _, ok := d.renewer.until("web"); return ok },
	}
	for name, holds := range held {
		granted := d.renewer.granted
		if !d.renewer.send(t.Context()) {
			t.Fatal("nobody to renew with")
		}
		d.asked() <- nil
		<-granted
		d.renewer.flight.Wait()
		if !holds() {
			t.Fatalf("%s has no lease before the suspend", name)
		}
		slept.Add(int64(time.Second))
		if holds() {
			t.Errorf("%s has a lease after the suspend", name)
		}
	}
}
