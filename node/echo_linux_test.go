package node

import (
	"context"
	"errors"
	"testing"
	"time"

	"hacluster/internal/boottime"
	"hacluster/lease"
)

// What voters say of their grants renews the leader's own lease from before those were sent, as a round would; and nothing else does (S1, S2).
func TestVotersRenewTheLeaseOfTheirLeader(t *testing.T) {
	t.Parallel()
	const interval = 100 * time.Millisecond
	type word struct {
		boot       string
		echo, term uint64
	}
	for name, x := range map[string]struct {
		voters []string
		first  bool // this process has no grant yet
		before func(d *desk)
		say    func(seq, term uint64) word
		want   bool
	}{
		"it has the grant":                   {say: func(seq, term uint64) word { return word{"p", seq, term} }, want: true},
		"it says nothing":                    {say: func(seq, term uint64) word { return word{"p", 0, term} }},
		"it has another grant":               {say: func(seq, term uint64) word { return word{"p", seq - 1, term} }},
		"it is in a later term":              {say: func(seq, term uint64) word { return word{"p", seq, term + 1} }},
		"it does not say its term":           {say: func(seq, term uint64) word { return word{"p", seq, 0} }},
		"another process":                    {say: func(seq, term uint64) word { return word{"q", seq, term} }},
		"one of four others":                 {voters: []string{"a", "b", "c", "d", "e"}, say: func(seq, term uint64) word { return word{"p", seq, term} }},
		"it has no vote":                     {voters: []string{"a", "c", "d"}, say: func(seq, term uint64) word { return word{"p", seq, term} }},
		"the first grant of this process":    {first: true, say: func(seq, term uint64) word { return word{"p", seq, term} }},
		"this node has led again in between": {before: func(d *desk) { d.leads(); d.own() }, say: func(seq, term uint64) word { return word{"p", seq, term} }},
		"this machine was suspended meanwhile": {before: func(d *desk) { d.renewer.mu.Lock(); d.renewer.holder.Drop(); d.renewer.mu.Unlock() },
			say: func(seq, term uint64) word { return word{"p", seq, term} }},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			if d.voting = func() []string { return x.voters }; x.voters == nil {
				d.voting = func() []string { return []string{"a", "b", "c"} }
			}
			gate, err := lease.Derive(lease.LAN, lease.Gate, lease.Overrides{})
			if err != nil || !gate.Echoes() {
				t.Fatalf("this timing has no room for echoes: %+v, %v", gate, err)
			}
			d.Node.now.Store(&gate)
			d.renew("c") // the leader counts the voters
			if !x.first {
				d.own()
			} else if err := d.leader.take("a", renewal{Seq: 1, Boot: d.renewer.boot}); err != nil { // it waits for proposals under way
				t.Fatal(err)
			}
			first := d.renewer.holder.Until()
			d.pass(interval)
			m := d.renewal()
			m.Boot = "p"
			d.confirm("b", m)
			tied := d.clock()
			if got := d.renewer.holder.Until(); !got.Equal(first) {
				t.Fatal("a grant to a voter renews the lease of its leader before the voter has said anything")
			}
			d.pass(interval)
			if x.before != nil {
				x.before(d)
			}
			first = d.renewer.holder.Until()
			w, next := x.say(m.Seq, d.leader.term), d.renewal()
			next.Boot, next.Echo, next.Term = w.boot, w.echo, w.term
			d.confirm("b", next)
			want := first
			if x.want {
				want = tied.Add(d.timing().Duration)
			}
			if got := d.renewer.holder.Until(); !got.Equal(want) {
				t.Errorf("the leader's own lease ends %v after the grant to the voter, want %v", got.Sub(tied), want.Sub(tied))
			}
			select {
			case <-d.renewer.echoed:
				if !x.want {
					t.Error("its own renewals wait for others of this kind")
				}
			default:
				if x.want {
					t.Error("its own renewals do not wait")
				}
			}
		})
	}
}

// leads has this node lead anew, in the same term of Raft: what it knew before is gone.
func (d *desk) leads() {
	l := d.leader
	l.mu.Lock()
	l.ledger = nil
	l.mu.Unlock()
	if !l.leading(d.t.Context()) {
		d.t.Fatal("this node does not lead any more")
	}
}

// own has this node renew its own lease, with a verification round.
func (d *desk) own() {
	d.t.Helper()
	granted := d.renewer.granted
	if !d.renewer.send(d.t.Context()) {
		d.t.Fatal("nobody to renew with")
	}
	d.asked() <- nil
	<-granted
	d.renewer.flight.Wait()
}

// A leader at rest keeps its lease although no voter answers a question of its: what they say by themselves is enough.
func TestALeaderAtRestAsksNobody(t *testing.T) {
	c := newGated(t, `timing = "lan"`)
	leader := c.leader()
	l, r := leader.n.leader, leader.n.renewer
	term := leader.n.raft.Term()
	waitFor(t, "voters renew the lease of their leader", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.carried.IsZero() {
			return errors.New("they have not yet")
		}
		return nil
	})
	leader.cable.set(answering(message{Refused: "no"}))
	defer leader.cable.set(nil)
	if l.verify(t.Context()) == nil {
		t.Fatal("the voters answer it all the same: this test shows nothing")
	}
	for end := time.Now().Add(3 * leader.n.timing().Duration); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if r.remaining() == 0 && leader.n.raft.IsLeader() && leader.n.raft.Term() == term {
			t.Fatal("its lease has ended")
		}
	}
}

// What voters say lets the next renewal of their leader's own wait, but not one that has something to say: news that came while as many
// renewals were under way as may be are in none of them.
func TestEchoesPutOffNoNews(t *testing.T) {
	d := newDesk(t)
	slow := d.timing()
	slow.Renew = time.Hour
	d.Node.now.Store(&slow)
	r := d.renewer
	due := func(wait time.Duration) bool {
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		defer cancel()
		timer := boottime.NewTimer()
		defer timer.Close()
		for len(r.wake) > 0 {
			<-r.wake
		}
		timer.Reset(50 * time.Millisecond)
		r.echoed <- struct{}{}
		return r.due(ctx, nil, nil, timer, time.Now().Add(time.Hour), time.Now().Add(time.Hour))
	}
	if due(500 * time.Millisecond) {
		t.Fatal("an echo puts off nothing: this test shows nothing")
	}
	for range maxRenewals {
		r.slots <- struct{}{}
	}
	if !r.send(t.Context()) {
		t.Fatal("it knows no leader")
	}
	if !due(10 * time.Second) {
		t.Error("an echo has put off a renewal with news")
	}
	for range maxRenewals {
		<-r.slots
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // nobody answers here
	r.send(ctx)
	r.flight.Wait()
	if due(500 * time.Millisecond) {
		t.Error("nothing is put off although everything is said")
	}
}
