package node

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"hacluster/fence"
	"hacluster/lease"
)

// hands moves a node's clock.
type hands struct {
	mu  sync.Mutex
	now time.Time
}

// handed gives a node a clock that the test moves.
func handed(n *Node) *hands {
	h := &hands{now: n.clock()}
	n.clock = h.read
	return h
}

func (h *hands) read() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

func (h *hands) pass(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = h.now.Add(d)
}

// theBound is the promise in these tests, and over it is more than a voter waits for it.
const theBound, over = 125 * time.Millisecond, 126 * time.Millisecond

// theTiming is fast with the gate.
func theTiming(t *testing.T) lease.Timing {
	t.Helper()
	timing, err := lease.Derive(lease.Fast, lease.Gate, lease.Overrides{})
	if err != nil || timing.PulseBound != theBound {
		t.Fatal(timing, err)
	}
	return timing
}

// voter is a node that only votes: it hears pulses.
type voter struct {
	*Node
	*hands
	t     *testing.T
	pulse uint64
}

func newVoter(t *testing.T) *voter {
	t.Helper()
	n, _ := lonely(t)
	v := &voter{Node: n, hands: handed(n), t: t}
	timing := theTiming(t)
	n.now.Store(&timing)
	n.leader = newLeader(n)
	v.start("v1", true)
	return v
}

// start is a process of it.
func (v *voter) start(boot string, fresh bool) {
	v.Node.leader.proofs.Wait() // of the process before
	v.listener = newListener(v.Node, boot)
	v.listener.settle(fresh)
}

// hears says whether a pulse of a node counts.
func (v *voter) hears(node string, bound time.Duration) bool {
	v.pulse++
	return v.listener.hear(node, lease.Pulse{Seq: v.pulse, Boot: "p", To: v.listener.ledger.Boot, Bound: bound})
}

// rings is the timer of the listener, so late.
func (v *voter) rings(late time.Duration) {
	v.t.Helper()
	due := v.listener.due()
	if due.IsZero() {
		v.t.Fatal("no promise ends")
	}
	v.pass(due.Sub(v.clock()) + late)
	v.listener.ring(due)
}

// lapses lets the promise of a node end.
func (v *voter) lapses(node string) {
	v.t.Helper()
	if !v.hears(node, theBound) {
		v.t.Fatal("not heard")
	}
	v.rings(0)
}

// bar is what a leader asks for.
func (v *voter) asked(node string) attest {
	return attest{Node: node, Term: v.raft.Term(), Bar: v.barFor(0)}
}

func (v *voter) attests(q attest) bool { return v.listener.attest(v.t.Context(), q) }

// A voter that has lost its bars does not know how long one may last before it knows by which timing the cluster lives: a process begins
// with the one that it followed when it ran last, or with the one that is built in (S1).
func TestAVoterThatLostItsBarsWaitsUntilItKnowsHowLongTheyLast(t *testing.T) {
	t.Parallel()
	needBootID(t)
	v := newVoter(t)
	if err := os.Remove(fence.BarsPath(v.cfg.Socket)); err != nil {
		t.Fatal(err)
	}
	v.start("v2", false)
	begun, short := v.clock(), v.barFor(0)
	v.pass(short + time.Millisecond)
	if v.hears("b", theBound) {
		t.Errorf("answers %v after its start, by a timing that may not be the cluster's", v.clock().Sub(begun))
	}
	timing, err := lease.Derive(lease.Fast, lease.Gate, lease.Overrides{Duration: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	v.Node.now.Store(&timing)
	long := v.barFor(0)
	for range 2 { // it is told again and again
		v.listener.caughtUp()
	}
	v.pass(long - v.clock().Sub(begun) - time.Millisecond)
	if v.hears("b", theBound) {
		t.Errorf("answers %v after its start; a bar lasts %v", v.clock().Sub(begun), long)
	}
	v.pass(time.Millisecond)
	if !v.hears("b", theBound) {
		t.Error("not answered although no bar can last any more")
	}
	for _, known := range []bool{false, true} {
		if err := os.Remove(fence.BarsPath(v.cfg.Socket)); err != nil {
			t.Fatal(err)
		}
		v.start("v3", false)
		if known {
			v.listener.caughtUp()
		}
		v.pass(long)
		v.start("v4", false) // finds what the one before has left
		if got := v.hears("b", theBound); got != known {
			t.Errorf("the one before had learned how long a bar lasts: %t; answers: %t", known, got)
		}
		v.pass(maxBar)
	}
}

// A voter that has said that a promise has ended does not answer the node until the bar is over, whoever restarts meanwhile (S1).
func TestAVoterThatRestartsKeepsItsBars(t *testing.T) {
	t.Parallel()
	needBootID(t)
	for name, c := range map[string]struct {
		between func(file string) error // two processes
		fresh   bool
		b, c    bool // are answered at once
	}{
		"its file is kept":                            {func(string) error { return nil }, false, false, true},
		"its file is lost":                            {os.Remove, false, false, false},
		"its file is damaged":                         {func(f string) error { return os.Truncate(f, 3) }, false, false, false},
		"its file is lost, and it was never a member": {os.Remove, true, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVoter(t)
			v.lapses("b")
			if v.hears("c", theBound); !v.attests(v.asked("b")) {
				t.Fatal("not attested")
			}
			v.pass(10 * time.Millisecond)
			begun, bar := v.clock(), v.barFor(0)
			if err := c.between(fence.BarsPath(v.cfg.Socket)); err != nil {
				t.Fatal(err)
			}
			for _, boot := range []string{"v2", "v3"} { // the second finds what the first left
				v.start(boot, c.fresh)
				if b, other := v.hears("b", theBound), v.hears("c", theBound); b != c.b || other != c.c {
					t.Errorf("process %s answers b: %v, c: %v; want %v, %v", boot, b, other, c.b, c.c)
				}
				if got := v.listener.unheard()["b"]; got != (!c.b && c.c) {
					t.Errorf("process %s: no target while it is not answered: %v", boot, got)
				}
				v.listener.caughtUp()
				v.pass(bar / 3)
			}
			v.pass(bar - v.clock().Sub(begun) - 11*time.Millisecond)
			if b := v.hears("b", theBound); b != c.b {
				t.Errorf("b is answered before the bar is over: %v", b)
			}
			v.pass(11 * time.Millisecond)
			if !v.hears("b", theBound) || !v.hears("c", theBound) {
				t.Error("not answered although every bar is over")
			}
			v.start("v4", c.fresh)
			if !v.hears("b", theBound) || !v.hears("c", theBound) {
				t.Error("a later process does not answer")
			}
		})
	}
}

func needBootID(t *testing.T) {
	t.Helper()
	if file := filepath.Join(t.TempDir(), "x"); true {
		b, _, err := fence.OpenBars(file, time.Time{})
		if err != nil || b.Keep(nil) != nil {
			t.Fatal(err)
		}
		if b, _, _ = fence.OpenBars(file, time.Time{}); b.Lost {
			t.Skip("needs an id of this boot")
		}
	}
}

// A voter that stood still may have pulses that it has not read: nothing has ended before they had the time to be heard (S1).
func TestALateTimerSaysNothing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		late   time.Duration
		lapsed bool
	}{
		"in time":           {0, true},
		"a little late":     {lateRing, true},
		"late":              {lateRing + 1, false},
		"late by very much": {time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVoter(t)
			v.hears("b", theBound)
			v.rings(c.late)
			if got := v.listener.lapsed["b"]; got != c.lapsed || v.attests(v.asked("b")) != c.lapsed {
				t.Fatalf("ended: %v", got)
			}
			if c.lapsed {
				return
			}
			if wait := v.listener.due().Sub(v.clock()); wait != 2*v.timing().Pulse {
				t.Errorf("it waits for %v more", wait)
			}
			if !v.hears("b", theBound) { // it was in a buffer
				t.Error("what it had not read does not count")
			}
			v.rings(0)
			if !v.attests(v.asked("b")) {
				t.Error("a promise that has ended is not told")
			}
		})
	}
}

// A node that is heard again is not silent any more, and its next promise is watched as the first one was.
func TestANodeThatIsHeardAgainIsNotSilent(t *testing.T) {
	t.Parallel()
	v := newVoter(t)
	for range 3 {
		v.lapses("b")
		if nodes := v.listener.silent(); len(nodes) != 1 || v.listener.promised("b") || !v.listener.unheard()["b"] {
			t.Error("its promise has ended, and it is not called silent")
		}
		v.hears("b", theBound)
		if nodes := v.listener.silent(); len(nodes) != 0 || !v.listener.promised("b") || v.listener.unheard()["b"] {
			t.Error("it is heard, and called silent")
		}
	}
}

func TestWhatAVoterDoesNotAttest(t *testing.T) {
	t.Parallel()
	good := func(*voter, *attest) {}
	for name, c := range map[string]struct {
		before func(v *voter, q *attest)
		after  func(v *voter, q *attest) // when the promise has ended
		want   bool
	}{
		"a promise that has ended":                       {good, good, true},
		"a question of a former term":                    {good, func(_ *voter, q *attest) { q.Term-- }, false},
		"of a later one":                                 {good, func(_ *voter, q *attest) { q.Term++ }, true},
		"without a bar":                                  {good, func(_ *voter, q *attest) { q.Bar = 0 }, false},
		"with one below nothing":                         {good, func(_ *voter, q *attest) { q.Bar = -time.Second }, false},
		"with the longest":                               {good, func(_ *voter, q *attest) { q.Bar = maxBar }, true},
		"with one that is longer":                        {good, func(_ *voter, q *attest) { q.Bar = maxBar + 1 }, false},
		"of a node that was never heard":                 {good, func(_ *voter, q *attest) { q.Node = "c" }, false},
		"of one that is heard again":                     {good, func(v *voter, _ *attest) { v.hears("b", theBound) }, false},
		"of one that took it back":                       {func(v *voter, _ *attest) { v.hears("c", theBound); v.hears("b", 0) }, good, false},
		"of one that takes it back late":                 {good, func(v *voter, _ *attest) { v.hears("b", 0) }, false},
		"when it cannot be written down":                 {good, func(v *voter, _ *attest) { v.breakBars() }, false},
		"of a node it has barred already":                {good, func(v *voter, q *attest) { v.attests(*q) }, true},
		"once it is another process, that heard nothing": {good, func(v *voter, _ *attest) { v.start("v2", false) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t) // whose term is not the first
			v := &voter{Node: d.Node, hands: handed(d.Node), t: t}
			timing := theTiming(t)
			d.Node.now.Store(&timing)
			v.start("v1", true)
			q := v.asked("b")
			v.hears("b", theBound)
			c.before(v, &q)
			v.rings(0)
			c.after(v, &q)
			if got := v.attests(q); got != c.want {
				t.Errorf("attested: %v", got)
			}
			if c.want && v.hears(q.Node, theBound) {
				t.Error("answers a node whose promise it has said to be over")
			}
		})
	}
}

// breakBars leaves something in the place of the file that cannot be replaced.
func (v *voter) breakBars() {
	v.t.Helper()
	file := fence.BarsPath(v.cfg.Socket)
	if err := os.Remove(file); err != nil {
		v.t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(file, "full"), 0o700); err != nil {
		v.t.Fatal(err)
	}
}

// A leader that is a little faster than a voter need not ask twice.
func TestAVoterWaitsForAPromiseThatIsAboutToEnd(t *testing.T) {
	t.Parallel()
	v := newVoter(t)
	for range 20 {
		if !v.hears("b", theBound) {
			t.Fatal("not heard")
		}
		begun, said := time.Now(), make(chan bool, 1)
		go func() { said <- v.attests(v.asked("b")) }()
		select {
		case ok := <-said:
			if ok {
				t.Fatal("attested before the promise had ended")
			}
			continue // this machine stood still
		case <-time.After(attestWait / 4):
		}
		v.rings(0)
		rung := time.Since(begun)
		if ok := <-said; ok {
			return
		} else if rung < attestWait {
			t.Fatal("not attested although the promise has ended meanwhile")
		}
	}
	t.Error("this machine stands still all the time")
}
