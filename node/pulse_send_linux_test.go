package node

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"hacluster/internal/boottime"
	"hacluster/lease"
)

// pulsing is node a with something behind its gate, whose other voters are played here. Its clock is moved by the test, a pulse at a time.
type pulsing struct {
	*pulser
	*hands
	t *testing.T

	mu      sync.Mutex
	voters  map[string]*lease.PulseLedger
	old     map[string]bool // knows no pulses
	silent  bool            // nobody answers
	reached int             // pulses
}

func newPulsing(t *testing.T) *pulsing {
	t.Helper()
	n, questions := lonely(t)
	p := &pulsing{hands: handed(n), t: t, voters: map[string]*lease.PulseLedger{"b": {Boot: "b1"}, "w": {Boot: "w1"}}, old: map[string]bool{}}
	timing := n.timing()
	timing.Pulse, timing.PulseBound = time.Second, 6250*time.Millisecond // patient with this machine: the calls run by its clock
	n.now.Store(&timing)
	n.voting = func() []string { return []string{"a", "b", "w"} }
	n.gate = &gatekeeper{clock: n.clock, log: n.log, required: true, up: true, looked: n.clock(), guarded: map[netip.Addr]bool{theVIP.Addr(): true}, armed: map[netip.Addr]time.Time{}, shuts: map[netip.Addr]time.Time{}}
	var err error
	if p.pulser, err = newPulser(n, "p1"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.pulser.close)
	n.pulser, n.gate.cap = p.pulser, nil // there is no kernel here that could be told
	over, answering := make(chan struct{}), sync.WaitGroup{}
	answering.Go(func() {
		for {
			select {
			case q := <-questions:
				p.answer(q)
			case <-over:
				return
			}
		}
	})
	t.Cleanup(func() {
		p.flight.Wait()
		close(over)
		answering.Wait()
	})
	return p
}

func (p *pulsing) answer(q asked) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reached++
	switch l := p.voters[q.peer]; {
	case p.silent:
	case p.old[q.peer]:
		q.answer(message{Refused: errUnknown.Error()})
	default:
		q.answer(message{Heard: l.Hear("a", *q.m.Pulse, p.read()), By: l.Boot})
	}
}

// set changes what the voters do.
func (p *pulsing) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

// step is one pulse later; what is behind the gate stays armed for half a promise.
func (p *pulsing) step() {
	p.pass(time.Second)
	g, end := p.n.gate, p.read().Add(3*time.Second)
	g.mu.Lock()
	g.armed[theVIP.Addr()], g.shuts[theVIP.Addr()] = end, end
	g.mu.Unlock()
	p.tick(p.t.Context())
	p.flight.Wait()
}

func (p *pulsing) mode() lease.PulseMode {
	p.pulser.mu.Lock()
	defer p.pulser.mu.Unlock()
	return p.pace.Mode()
}

// promises steps until the node has promised; false: it does not.
func (p *pulsing) promises() bool {
	for range 60 {
		if p.step(); p.mode() == lease.PulseBound && p.toldAll() {
			return true
		}
	}
	return false
}

// toldAll says that every voter has heard a promise that was not taken back.
func (p *pulsing) toldAll() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.voters { // order-free
		if _, ok := l.Ends("a"); !ok {
			return false
		}
	}
	return true
}

// A node promises only to voters that can all hear it: one whose agent knows no pulses counts as one that was promised nothing, and the gates
// follow the lease.
func TestAnOldVoterIsPromisedNothing(t *testing.T) {
	t.Parallel()
	p := newPulsing(t)
	if !p.promises() {
		t.Fatal("no promise to voters that all answer: this test shows nothing")
	}
	p = newPulsing(t)
	p.set(func() { p.old["b"] = true })
	if end := p.cap(); !end.IsZero() {
		t.Errorf("a process that nobody has answered may arm its gates until %v", end)
	}
	for range 60 {
		if p.step(); p.mode() == lease.PulseBinding || p.mode() == lease.PulseBound {
			t.Fatal(p.mode())
		}
	}
	if until, free := p.holder.Until(p.n.voters(), "a"); !free || !p.holder.Open("b") {
		t.Errorf("until %v, free %v, free of b %v", until, free, p.holder.Open("b"))
	}
	if end := p.cap(); end.Before(p.read().Add(time.Hour)) {
		t.Errorf("the gates may be open until %v", end)
	}
}

// A process that ends in order takes its promises back first: from then on no quorum can say that one has ended (L3).
func TestAProcessThatEndsTakesItsPromisesBack(t *testing.T) {
	t.Parallel()
	p := newPulsing(t)
	if !p.promises() {
		t.Fatal("no promise")
	}
	p.set(func() { p.silent = true }) // the answers are late
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ended := make(chan struct{})
	go func() { p.end(ctx); close(ended) }()
	<-p.wake
	go p.tick(t.Context())
	select {
	case <-ended:
		t.Fatal("it has ended before anybody answered")
	case <-time.After(400 * time.Millisecond): // it looks every quarter of a second
	}
	p.set(func() { p.silent = false })
	waitFor(t, "it has ended", func() error {
		p.step()
		select {
		case <-ended:
			return nil
		default:
			return errNotLeader
		}
	})
	if p.mode() != lease.PulseFree || p.toldAll() || ctx.Err() != nil {
		t.Errorf("%s; a promise stands with every voter: %v", p.mode(), p.toldAll())
	}
	for range 20 {
		if p.step(); p.mode() != lease.PulseFree {
			t.Fatalf("a process that ends is %s again", p.mode())
		}
	}
}

// A lease that was granted by a leader that counts other voters arms nothing; the newest grant says which they are (S1).
func TestGatesAreArmedByGrantsOfTheSameVoters(t *testing.T) {
	t.Parallel()
	n, questions := lonely(t)
	willed(t, n, "b")
	n.gate = &gatekeeper{clock: n.clock, log: n.log}
	voters := []string{"a", "b", "w"}
	n.voting = func() []string { return voters }
	p, err := newPulser(n, "p1")
	if err != nil {
		t.Fatal(err)
	}
	n.pulser = p
	defer p.close()
	r := newRenewer(n, boottime.NewSuspend(nil))
	defer r.will.Close()
	p.holder.Send("b", p.holder.Beat(0, n.clock()), n.clock())
	p.holder.Answered("b", 1)
	ask := func() asked {
		t.Helper()
		if !r.send(t.Context()) {
			t.Fatal("nobody is asked")
		}
		return <-questions
	}
	grant := func(q asked, voters ...string) {
		t.Helper()
		_, granted := r.caughtUp(0)
		q.answer(message{Grant: &lease.Grant{Seq: q.m.Renew.Seq, Leader: "b", Duration: n.timing().Duration, Voters: voters}})
		select {
		case <-granted:
		case <-time.After(patience):
			t.Fatal("the grant does not count")
		}
		r.remaining() // waits for the rest of what a grant changes
	}
	for _, c := range []struct {
		granted, voters []string
		armed           bool
	}{
		{[]string{"a", "b", "w"}, voters, true},
		{[]string{"a", "b", "c"}, voters, false},
		{[]string{"a", "b"}, voters, false},
		{[]string{"a", "b", "c", "d", "w"}, voters, false},
		{nil, voters, true}, // of a leader that knows no pulses
		{[]string{"a", "b", "w"}, []string{"a", "b", "c"}, false},
		{[]string{"a", "b", "c"}, []string{"a", "b", "c"}, true},
	} {
		voters = c.voters
		grant(ask(), c.granted...)
		if end := p.cap(); end.After(n.clock()) != c.armed {
			t.Errorf("granted with %v, counting %v: open until %v", c.granted, c.voters, end)
		}
	}
	voters = []string{"a", "b", "w"}
	older, newer := ask(), ask() // and a grant that is overtaken says nothing
	grant(newer, "a", "b", "w")
	older.answer(message{Grant: &lease.Grant{Seq: older.m.Renew.Seq, Leader: "b", Duration: n.timing().Duration, Voters: []string{"a", "b", "c"}}})
	r.flight.Wait()
	if !slices.Equal(p.granted, voters) || !p.cap().After(n.clock()) {
		t.Errorf("an older grant counts: %v", p.granted)
	}
}
