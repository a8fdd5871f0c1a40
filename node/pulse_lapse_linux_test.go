package node

import (
	"bufio"
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"hacluster/api"
	"hacluster/placement"
)

// prover is a desk whose group is of addresses only and owned by b, which has promised; c is the third voter.
type prover struct {
	*desk
	v *voter

	mu   sync.Mutex
	says map[string]bool // voters that attest
	said map[string]int  // questions that they were asked
}

func newProver(t *testing.T) *prover {
	t.Helper()
	d := newDesk(t)
	p := &prover{desk: d, says: map[string]bool{}, said: map[string]int{}}
	timing := theTiming(t)
	d.Node.now.Store(&timing)
	p.v = &voter{Node: d.Node, hands: handed(d.Node), t: t}
	p.v.start("v1", true)
	p.vote("a", "b", "c")
	d.links.dial = p.dial
	if _, err := (backend{d.Node}).apply(t.Context(), api.Write{Config: "name = \"lab\"\ntiming = \"fast\"\nkernel_lease = \"gate\"\n[[group]]\nname = \"web\"\npreferred_owners = [\"b\", \"c\"]\n" +
		"[[group.resource]]\nname = \"ip\"\ntype = \"address\"\naddress = \"198.18.0.100/24\"\n"}); err != nil {
		t.Fatal(err)
	}
	return p
}

// vote changes who votes.
func (p *prover) vote(names ...string) { p.voting = func() []string { return names } }

// dial leads to a voter that is played here.
func (p *prover) dial(_ context.Context, peer string) (net.Conn, error) {
	near, far := net.Pipe()
	go func() {
		r := bufio.NewReader(far)
		for {
			m, err := readFrame(r)
			if err != nil {
				return
			}
			p.mu.Lock()
			a := message{ID: m.ID, Lapsed: m.Attest != nil && p.says[peer]}
			p.said[peer]++
			p.mu.Unlock()
			writeFrame(far, a)
		}
	}()
	return near, nil
}

func (p *prover) attesting(voter string, says bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.says[voter] = says
}

// questions is how often a voter was asked.
func (p *prover) questions(voter string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said[voter]
}

// holds gives the group to b, and lets the time pass in which nobody is believed after a change.
func (p *prover) holds(settle time.Duration) {
	p.t.Helper()
	p.owned()
	p.v.pass(settle)
	p.renew("b")
	p.renew("c")
	if !p.v.hears("b", theBound) {
		p.t.Fatal("not heard")
	}
}

// goesSilent lets the promise of b end.
func (p *prover) goesSilent() {
	p.t.Helper()
	p.v.rings(0)
	p.renew("c")
}

// provenWithin waits until the voters have said so, or a while.
func (p *prover) provenWithin(limit time.Duration) bool {
	for begun := time.Now(); time.Since(begun) < limit; time.Sleep(time.Millisecond) {
		p.leader.mu.Lock()
		_, ok := p.leader.lapses["b"]
		p.leader.mu.Unlock()
		if ok {
			return true
		}
	}
	return false
}

// taken decides, and says whether the group was given away.
func (p *prover) taken() bool {
	p.leader.decide(p.t.Context())
	gs := p.raft.State().Groups["web"]
	return gs.Owner != "b"
}

// A leader gives away what a node owns by what the voters attested while that is fresh, was said by voters that it still counts, and by as many as
// prove it (S1).
func TestAProofThatAPulseHasStopped(t *testing.T) {
	t.Parallel()
	keep := func(*prover) {}
	for name, c := range map[string]struct {
		sooner time.Duration
		before func(p *prover) // the promise ends
		proven bool
		after  func(p *prover)
		taken  bool
	}{
		"it is one":                        {0, keep, true, keep, true},
		"it is as old as one may be":       {0, keep, true, func(p *prover) { p.v.pass(proofLasts - 1) }, true},
		"it is older":                      {0, keep, true, func(p *prover) { p.v.pass(proofLasts) }, false},
		"the voters have changed since":    {0, keep, true, func(p *prover) { p.vote("a", "c", "d") }, false},
		"and back":                         {0, keep, true, func(p *prover) { p.vote("a", "c", "d"); p.taken(); p.vote("a", "b", "c") }, false},
		"the leader is younger than waits": {over + time.Millisecond, keep, false, keep, false},
		"the voters changed a moment ago":  {0, func(p *prover) { p.vote("a", "b", "d"); p.renew("c"); p.vote("a", "b", "c") }, false, keep, false},
		"the other voter hears the node":   {0, func(p *prover) { p.attesting("c", false) }, false, keep, false},
		"the other voter is another process now, and the node's own word is offered": {0, func(p *prover) { p.attesting("c", false); p.attesting("b", true) }, false, keep, false},
		"the node is heard again": {0, keep, true, func(p *prover) { p.v.hears("b", theBound) }, true}, // it is barred already
	} {
		t.Run(name, func(t *testing.T) {
			p := newProver(t)
			p.attesting("c", true)
			wait := p.barFor(p.raft.State().Floor) - proofLasts
			p.holds(wait - c.sooner)
			c.before(p)
			p.goesSilent()
			limit := patience / 4
			if !c.proven {
				limit = 200 * time.Millisecond
			}
			if got := p.provenWithin(limit); got != c.proven {
				t.Fatalf("proven: %v", got)
			}
			c.after(p)
			p.renew("c") // else it is no target
			if got := p.taken(); got != c.taken {
				t.Errorf("taken: %v; %+v", got, p.raft.State().Groups["web"].Why)
			}
			if why := p.raft.State().Groups["web"].Why; c.taken && why.Rule != placement.RuleNodeLost {
				t.Errorf("taken by another rule: %+v", why)
			}
			if p.questions("b") > 0 {
				t.Error("the node itself was asked")
			}
		})
	}
}

// A leader that cannot prove it goes on answering the node, which the other voters hear (L1).
func TestALeaderIsTheLastToAttest(t *testing.T) {
	t.Parallel()
	p := newProver(t)
	p.holds(p.barFor(p.raft.State().Floor) - proofLasts)
	p.goesSilent()
	waitFor(t, "the other voter is asked twice", func() error {
		if p.questions("c") < 2 {
			return errNotLeader
		}
		return nil
	})
	if !p.v.hears("b", theBound) {
		t.Error("the leader does not answer a node that the others hear")
	}
}
