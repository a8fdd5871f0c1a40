package drill

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"hacluster/placement"
)

// TestCableOfTheServiceNetwork pulls the cable on which clients are, at the owner and then at the leader, while the nodes hear each other
// on a second network. The owner gives the group up by its own word, told over that one: nobody waits for a lease, and the others
// know which of its addresses not to use. (S1, L1, L2)
func TestCableOfTheServiceNetwork(t *testing.T) {
	r := rescued(t, Options{Net: 2})
	for round := range 2 { // there, and back to the node whose cable is in again
		r.ready()
		owner, err := r.Owner(r.ctx)
		r.must(err)
		r.must(r.steady(r.ctx, time.Now()))
		seq, since, n := r.last(), r.Client.Mark(), r.Lab.Node(owner)
		r.must(n.CableOut(0))
		r.until("the other node answers", func() (bool, string) {
			return r.Client.AnsweredBy(Other(owner), since), r.describe(r.ctx)
		})
		r.must(r.steady(r.ctx, time.Now()))
		out, err := r.outcome(r.ctx, Outcome{From: owner}, since)
		r.must(err)
		t.Logf("round %d: %s -> %s, outage %s, %d failed", round, owner, out.To, out.Outage, out.Failed)
		if out.To != Other(owner) || out.Breach() != "" {
			t.Errorf("owner %s -> %s, %s", owner, out.To, out.Breach())
		}
		moves := r.changes(seq)
		if len(moves) != 1 || moves[0].Kind != string(placement.CmdReleased) || moves[0].Reason.Rule != placement.RuleFailover || moves[0].Reason.Cause != placement.CauseCarrier {
			t.Errorf("round %d: %+v, want one move that the owner itself asked for, because of the carrier", round, moves)
		}
		word := fmt.Sprintf("msg=\"cables of another node\" node=%s out=[%s]", owner, n.Addr(0))
		r.until("the others know", func() (bool, string) { return strings.Contains(r.log("witness"), word), word })
		r.must(n.CableIn(0))
		_, err = r.Hactl(r.ctx, "witness", "group", "online", Group) // forgives: of two possible owners one failover is the limit
		r.must(err)
	}
	r.ready()
	r.standbyWithoutCable()
	owner, leader := r.apart()
	r.must(r.steady(r.ctx, time.Now()))
	seq, since := r.last(), r.Client.Mark()
	r.must(r.Lab.Node(leader).CableOut(0))
	r.must(r.lastsBeyondLease(r.ctx))
	out, err := r.outcome(r.ctx, Outcome{From: owner}, since)
	r.must(err)
	t.Logf("the leader %s: outage %s, %d failed", leader, out.Outage, out.Failed)
	if moves := r.changes(seq); out.To != owner || out.Failed != 0 || out.Breach() != "" || len(moves) != 0 {
		t.Errorf("owner %s -> %s, %d failed, %s, moves %+v", owner, out.To, out.Failed, out.Breach(), moves)
	}
	r.must(r.Lab.Node(leader).CableIn(0))
}

// standbyWithoutCable pulls the cable of the service network at the standby: nothing moves there, whoever wants it, until it is in again.
func (r *rescue) standbyWithoutCable() {
	owner, err := r.Owner(r.ctx)
	r.must(err)
	standby, why := Other(owner), "interface eth0 has no carrier"
	n, seq := r.Lab.Node(standby), r.last()
	r.must(n.CableOut(0))
	r.until("the status says so", func() (bool, string) {
		st, err := r.Status(r.ctx)
		return err == nil && slices.ContainsFunc(st.Warnings, func(w string) bool { return strings.Contains(w, why) }), fmt.Sprint(st.Warnings)
	})
	r.refused(why, owner, "group", "move", Group, "--to", standby)
	r.refused(why, owner, "group", "move", Group)
	if moves := r.changes(seq); len(moves) != 0 {
		r.t.Errorf("moves %+v to a node without a cable", moves)
	}
	r.must(n.CableIn(0))
	r.ready()
	_, err = r.Hactl(r.ctx, "witness", "group", "move", Group, "--to", standby)
	r.must(err)
}

// changes of owner since an event.
func (r *rescue) changes(since uint64) []placement.Event {
	return slices.DeleteFunc(r.events("witness"), func(e placement.Event) bool { return e.Seq <= since || !e.Moves() || e.Group != Group })
}
