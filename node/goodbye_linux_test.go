package node

import (
	"cmp"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"hacluster/placement"
)

// says has a process of b renew, and say whether it ends in order.
func (s *strip) says(boot string, ending bool) {
	s.t.Helper()
	s.confirm("b", s.word(boot, ending))
}

// word is what it sends.
func (s *strip) word(boot string, ending bool) renewal {
	m := s.renewal()
	m.Boot, m.Ending = boot, ending
	return m
}

// silent lets b be silent for that long; everybody else speaks.
func (s *strip) silent(long time.Duration) {
	s.t.Helper()
	step := s.timing().Suspect / 2 // or the leader takes itself for deaf
	for ; long > 0; long -= step {
		s.pass(min(step, long))
		s.renew("c")
		s.leader.decide(s.t.Context())
	}
}

// left says that nobody was fenced, nor thought of.
func (s *strip) left() {
	s.t.Helper()
	s.leader.fences.Wait()
	if _, err := os.Stat(s.path("calls")); err == nil || len(s.rules()) > 0 {
		s.t.Errorf("fenced: %v, %v", err, s.rules())
	}
}

// fenced says that b was.
func (s *strip) fenced() {
	s.t.Helper()
	if f := s.over(); f.Off.IsZero() {
		s.t.Errorf("b is not fenced: %+v, %v", f, s.leader.notes)
	}
}

// An agent that ends in order is no dead one: it has the time of its lease to come back, and no more.
func TestAGoodbyeShieldsWhileTheLeaseLasts(t *testing.T) {
	s := newStrip(t, "always")
	epoch, wait := s.owned()
	s.says("boot", true)
	s.silent(wait - 1)
	s.left()
	if gs := s.raft.State().Groups["web"]; gs.Owner != "b" || gs.Epoch != epoch || !strings.Contains(strings.Join(s.leader.notes, "\n"), "ended in order") {
		t.Errorf("%+v, %v", gs, s.leader.notes)
	}
	s.silent(1)
	s.left()
	if gs := s.raft.State().Groups["web"]; gs.Owner != "c" || gs.Why.Rule != placement.RuleNodeLost {
		t.Errorf("not taken at the takeover wait: %+v", gs)
	}
}

// Past the takeover wait nothing is known of it: where nobody can take the group, the policy says what is done.
func TestAGoodbyeIsOverWithTheLease(t *testing.T) {
	s := newStrip(t, "always")
	_, wait := s.owned()
	s.commit(placement.Command{Kind: placement.CmdAdmin, Node: "c", Admin: placement.AdminPaused})
	s.commit(placement.Command{Kind: placement.CmdAdmin, Node: "a", Admin: placement.AdminPaused})
	s.says("boot", true)
	s.silent(wait - 1)
	s.left()
	s.silent(1)
	s.fenced()
}

// Without a goodbye that a leader confirmed, silence is what it was.
func TestALostGoodbyeFences(t *testing.T) {
	for name, lose := range map[string]func(*strip){
		"never sent": func(*strip) {},
		"by a leader that no quorum confirms": func(s *strip) {
			lost := make(chan error, 1)
			m := s.word("boot", true)
			go func() {
				_, err := s.leader.renew(context.WithoutCancel(s.t.Context()), "b", m)
				lost <- err
			}()
			s.asked() <- errDeposed
			if err := <-lost; !errors.Is(err, errDeposed) {
				s.t.Fatal(err)
			}
		},
		"by a ledger that is gone": func(s *strip) {
			s.says("boot", true)
			s.leader.mu.Lock()
			s.leader.ledger = nil
			s.leader.mu.Unlock()
			if !s.leader.leading(s.t.Context()) {
				s.t.Fatal("the node does not lead again")
			}
			s.silent(s.timing().Suspect) // b has to find the new leader first
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStrip(t, "always")
			s.owned()
			lose(s)
			s.silent(s.timing().Suspect + 1)
			s.fenced()
		})
	}
}

// The goodbye of a process is its own: whoever comes after it is fenced as usual. Until that one has a lease the node is as
// silent as it was, and that it began to speak is no reason to fence it.
func TestTheNextProcessEndsTheShield(t *testing.T) {
	s := newStrip(t, "always")
	s.owned()
	s.says("boot", true)
	s.silent(2 * s.timing().Suspect)
	late := s.word("boot", true)
	if err := s.leader.take("b", s.word("next", false)); err != nil {
		t.Fatal(err)
	}
	s.leader.decide(t.Context())
	s.left()
	s.says("next", false)
	s.leader.decide(t.Context())
	if _, err := s.leader.renew(t.Context(), "b", late); !errors.Is(err, errReplaced) {
		t.Errorf("a goodbye of the process before it is taken: %v", err)
	}
	s.silent(s.timing().Suspect + 1)
	s.fenced()
}

// What the former process said may be confirmed when the next has spoken already: it says nothing about that one.
func TestAGoodbyeThatIsConfirmedLateShieldsNobody(t *testing.T) {
	s := newStrip(t, "always")
	s.owned()
	late, confirmed := s.word("boot", true), make(chan error, 1)
	go func() {
		_, err := s.leader.renew(context.WithoutCancel(t.Context()), "b", late)
		confirmed <- err
	}()
	ask := s.asked() // it is taken, and not confirmed yet
	s.says("next", false)
	ask <- nil
	if err := <-confirmed; err != nil {
		t.Fatal(err)
	}
	s.silent(s.timing().Suspect + 1)
	s.fenced()
}

// A goodbye helps where the lease is a proof, nowhere else.
func TestAGoodbyeShieldsNoDoubt(t *testing.T) {
	for _, policy := range []string{"always", "when-unsure"} {
		t.Run(policy, func(t *testing.T) {
			s := newStrip(t, policy)
			s.owned()
			m := s.word("boot", true)
			m.Report.Groups = map[string]placement.GroupReport{"web": {Holding: true, Blocked: "svc: process 12 is in state D"}}
			s.confirm("b", m)
			s.silent(s.timing().Suspect + 1)
			s.fenced()
		})
	}
}

// Each renewal after it was said says it, whether or not the leader has the report; and it is known when a leader has heard it.
func TestAGoodbyeIsInEachRenewal(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	r := d.renewer
	var got []bool
	send := func() {
		if !r.send(t.Context()) {
			t.Fatal("nobody to renew with")
		}
		d.asked() <- nil
		r.flight.Wait()
		d.leader.mu.Lock()
		got = append(got, d.leader.fencing.ending["a"])
		d.leader.mu.Unlock()
		select {
		case <-r.parted:
			got = append(got, true)
		default:
			got = append(got, false)
		}
	}
	send()
	r.sayEnding()
	send()
	send()
	if want := []bool{false, false, true, true, true, true}; !slices.Equal(got, want) {
		t.Errorf("known to the leader, known to be known: %v", got)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.version, r.told = 3, told{"b", d.raft.Term(), 3}
	if m := r.compose(9, "b"); !m.Same || !m.Ending {
		t.Errorf("%+v", m)
	}
}

// goodbyes restarts the owner while it leads: whoever leads next knows that it ended in order. A machine that stands still may
// cost one goodbye, not three.
func (c *cluster) goodbyes(t *testing.T) {
	for range 3 {
		owner := c.nodes[c.serving("", 0).node]
		c.until("the owner leads", func() error {
			switch {
			case owner.n.leader.hasHeard(): // the voters answer it, so that it can hand over
				return nil
			case owner.n.raft.IsLeader():
				return errors.New("just elected")
			}
			return cmp.Or(c.leader().n.raft.TransferLeadership(t.Context(), owner.name), errors.New("handed over"))
		})
		owner.stop()
		knows := c.leader().n.leader
		knows.mu.Lock()
		known := knows.fencing != nil && knows.fencing.ending[owner.name]
		knows.mu.Unlock()
		owner.start()
		c.wantNode(owner.name, "up", "")
		if known {
			return
		}
	}
	t.Error("no leader knows that the agent ended in order")
}
