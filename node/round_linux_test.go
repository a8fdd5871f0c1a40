package node

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"hacluster/internal/boottime"
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

// After a suspend of the machine its lease is over at once, for the act loop and for an address that is being added: what
// enforces the end in the kernel stood still meanwhile.
func TestNoLeaseOutlivesASuspend(t *testing.T) {
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
