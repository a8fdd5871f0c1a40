package node

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"hacluster/api"
	"hacluster/lease"
	"hacluster/placement"
)

// Followers may act on an entry before the leader has applied it. A new process, whose copy of the state may be older than what
// the one before promised, counts as caught up with the index of its first grant: that one waits for the proposals under way (S1, S2).
func TestTheFirstGrantOfAProcessWaitsForTheProposalsUnderWay(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	epoch, _ := d.owned()
	d.leader.proposing.RLock() // as propose does while an entry is under way
	got := make(chan *lease.Grant, 1)
	m := d.renewal()
	m.Boot = "its successor"
	go func() {
		g, err := d.leader.renew(t.Context(), "b", m)
		if err != nil {
			t.Error(err)
		}
		got <- g
	}()
	d.asked() <- nil
	waitFor(t, "the grant waits", func() error {
		if !d.leader.proposing.TryRLock() {
			return nil
		}
		d.leader.proposing.RUnlock()
		select {
		case g := <-got:
			t.Fatalf("granted %v beside a proposal whose outcome is not known", g)
		default:
		}
		return errors.New("nobody waits")
	})
	if res, err := d.raft.Propose(t.Context(), placement.Command{Kind: placement.CmdTakeover, Group: "web", Epoch: epoch, Node: "c", At: time.Now()}); err != nil || !res.Applied {
		t.Fatalf("%+v, %v", res, err)
	}
	index := d.raft.State().Index
	d.leader.proposing.RUnlock()
	if g := <-got; g == nil || g.Held["web"] != 0 || g.Index < index {
		t.Errorf("granted %+v; c owns it since index %d", g, index)
	}
}

// A slow disk, which proposals wait for, must cost no lease: only a process that is new to this leader waits for them.
func TestLaterGrantsDoNotWaitForProposals(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	epoch, _ := d.owned()
	d.leader.proposing.RLock() // as propose does while an entry is under way
	defer d.leader.proposing.RUnlock()
	if held := d.renew("b"); held["web"] != epoch {
		t.Errorf("granted %v, want epoch %d", held, epoch)
	}
	for name, c := range map[string]struct{ node, boot string }{
		"another process of the node": {"b", "its successor"},
		"the node again after that":   {"c", "a process that only c has"},
	} {
		if _, settled, err := d.leader.settledFor(c.node, c.boot); settled || err != nil {
			t.Errorf("%s: settled %v, %v", name, settled, err)
		}
	}
	d.leader.mu.Lock()
	d.leader.ledger = nil // as after a lost proposal
	d.leader.mu.Unlock()
	if _, _, err := d.leader.settledFor("b", "boot"); !errors.Is(err, errNotLeader) {
		t.Errorf("without a ledger: %v, want %v", err, errNotLeader)
	}
	if !d.leader.leading(t.Context()) {
		t.Fatal("it does not lead again")
	}
	if _, settled, err := d.leader.settledFor("b", "boot"); settled || err != nil {
		t.Errorf("what an earlier ledger granted counts: settled %v, %v", settled, err)
	}
}

// A proposal that failed may still be committed later. Until a barrier has shown what became of it nothing is granted.
func TestNothingIsGrantedWhileTheFateOfAProposalIsUnknown(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.owned()
	// A time that cannot be written down: the proposal fails on its way.
	never := time.Date(100_000, 1, 1, 0, 0, 0, 0, time.UTC)
	if _, err := d.leader.propose(t.Context(), placement.Command{Kind: placement.CmdNote, At: never}); err == nil {
		t.Fatal("the proposal was to fail")
	}
	if err := d.leader.take("b", d.renewal()); !errors.Is(err, errNotLeader) {
		t.Fatalf("a renewal is taken: %v, want %v", err, errNotLeader)
	}
	d.pass(time.Second)
	if !d.leader.leading(t.Context()) {
		t.Fatal("it does not lead again")
	}
	if since := d.leader.ledger.Since(); !since.Equal(d.clock()) {
		t.Errorf("the waits count from %v, want %v: what was granted last is not known any more", since, d.clock())
	}
	d.renew("b")
}

// What a process said last may come after its successor has spoken. Its promises do not bind the successor (S2).
func TestWhatAReplacedProcessSaysLateIsRefused(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	say := func(boot string, seq, released uint64) error {
		return d.leader.take("b", renewal{Seq: seq, Boot: boot, Report: placement.Report{Groups: map[string]placement.GroupReport{"web": {Released: released}}}})
	}
	for _, c := range []struct {
		name          string
		boot          string
		seq, released uint64
		err           error
		want          uint64 // promise that is believed
	}{
		{"the first report", "one", 5, 1, nil, 1},
		{"a newer one", "one", 7, 2, nil, 2},
		{"one that was overtaken changes nothing", "one", 6, 9, nil, 2},
		{"a new process begins anew", "two", 1, 0, nil, 0},
		{"the former process comes late", "one", 8, 9, errReplaced, 0},
		{"the new one goes on", "two", 2, 3, nil, 3},
		{"the next one", "three", 1, 0, nil, 0},
		{"the first process again", "one", 9, 9, errReplaced, 0},
		{"the second process again", "two", 9, 9, errReplaced, 0},
	} {
		if err := say(c.boot, c.seq, c.released); !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", c.name, err, c.err)
		}
		if got := d.leader.reports["b"].report.Groups["web"].Released; got != c.want {
			t.Errorf("%s: the promise of epoch %d is believed, want %d", c.name, got, c.want)
		}
	}
}

// A node that is removed by force may be alive and only unheard: what it owns is not free before its lease has run out, for a
// leader that was just elected too (S1).
func TestAForcedRemovalWaitsForTheLease(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	_, wait := d.owned()
	remove := func() (refused bool) {
		t.Helper()
		_, err := (backend{d.Node}).remove(t.Context(), api.Write{Verb: api.VerbRemove, Node: "b", Force: true, DryRun: true})
		var e *api.Error
		switch {
		case err == nil:
			return false
		case errors.As(err, &e) && strings.Contains(e.Message, "has not run out"):
			return true
		}
		t.Fatal(err)
		return false
	}
	steps := func(who string) {
		t.Helper()
		if !remove() {
			t.Errorf("%s: b is removed at once", who)
		}
		d.pass(wait - 1)
		if !remove() {
			t.Errorf("%s: b is removed before the takeover wait", who)
		}
		d.pass(1)
		if remove() {
			t.Errorf("%s: b is not removed although its lease has run out", who)
		}
	}
	steps("the leader that granted")
	d.leader.ledger = nil
	if !remove() {
		t.Error("b is removed by a node that does not lead")
	}
	if !d.leader.leading(t.Context()) {
		t.Fatal("it does not lead again")
	}
	steps("a new leader")
}

// Its lease may run out, an administrator may say that it is to go, and it may speak again before it is gone (S1).
func TestANodeThatIsRemovedByForceIsGrantedNothing(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	epoch, wait := d.owned()
	w := api.Write{Verb: api.VerbRemove, Node: "b", Force: true}
	if left := (backend{d.Node}).writeOff(w, d.raft.State()); left != wait {
		t.Errorf("%v is left of the lease, want %v", left, wait)
	}
	if held := d.renew("b"); held["web"] != epoch {
		t.Errorf("what was refused has an effect: granted %v", held)
	}
	d.pass(wait)
	w.DryRun = true
	if left := (backend{d.Node}).writeOff(w, d.raft.State()); left != 0 || len(d.leader.ledger.Withheld()) > 0 {
		t.Errorf("a dry run: %v left, withheld %v", left, d.leader.ledger.Withheld())
	}
	w.DryRun = false
	if left := (backend{d.Node}).writeOff(w, d.raft.State()); left != 0 {
		t.Errorf("%v is left of the lease", left)
	}
	if held := d.renew("b"); len(held) > 0 {
		t.Errorf("b is granted %v while it is removed", held)
	}
}

// What a leader knew in an earlier term is worth nothing in a later one: another may have led in between and granted (S1).
func TestALeaderThatIsElectedAgainBeginsAnew(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.owned()
	d.leader.ledger.Withhold("web", 1)
	d.leader.term-- // as if what it knows was from the term before
	ctx, cancel := context.WithCancel(t.Context())
	d.leader.asking.Go(func() { (<-d.leader.asks) <- nil })
	if _, err := d.leader.renew(ctx, "b", d.renewal()); !errors.Is(err, errNotLeader) {
		t.Errorf("renewed: %v, want %v", err, errNotLeader)
	}
	cancel()
	d.leader.asking.Wait()
	d.pass(time.Second)
	if !d.leader.leading(t.Context()) {
		t.Fatal("it does not lead")
	}
	l := d.leader.ledger
	if !l.Since().Equal(d.clock()) || !l.Confirmed("b").IsZero() || len(l.Withheld()) > 0 || len(d.leader.reports) > 0 {
		t.Errorf("since %v, b confirmed at %v, withheld %v, %d reports: want nothing of before %v", l.Since(), l.Confirmed("b"), l.Withheld(),
			len(d.leader.reports), d.clock())
	}
}

// What was decided on what one term knew is not carried out in another.
func TestWhatWasDecidedInAnotherTermIsNotCarriedOut(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	epoch, wait := d.owned()
	d.pass(wait)
	d.renew("c")
	d.leader.term++
	d.leader.decide(t.Context())
	d.leader.term--
	if gs := d.raft.State().Groups["web"]; gs.Owner != "b" || gs.Epoch != epoch {
		t.Errorf("taken by a decision of another term: %+v", gs)
	}
}

// While a resource of a former configuration is not proven gone, the group is not promised away (S2).
func TestNothingIsPromisedWhileAFormerConfigurationRuns(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.pass(d.raft.State().Policy.GroupWaitDelay) // for the preferred owner, which does not come
	d.renew("a")
	d.leader.decide(t.Context())
	gs := d.raft.State().Groups["web"]
	if gs.Owner != "a" {
		t.Fatalf("owner %q", gs.Owner)
	}
	d.commit(placement.Command{Kind: placement.CmdGroupAdmin, Group: "web", Offline: true})
	d.commit(placement.Command{Kind: placement.CmdRelease, Group: "web", Epoch: gs.Epoch})
	old := newMachine()
	old.running = true
	old.stop = func(context.Context) error { return errors.New("it does not stop") }
	old.kill = old.stop
	former := service()
	former.Name = "former"
	d.slots.retiring = append(d.slots.retiring, newSlot("web", former, old, false, discard(), d.clock, func() {}))
	waitFor(t, "what is configured now is offline", func() error {
		d.act(t.Context())
		local, _ := d.slots.local(d.raft.State(), "a")
		if got := local["web"]["svc"].State; got != placement.StateOffline {
			return errors.New("it is " + string(got))
		}
		return nil
	})
	d.act(t.Context())
	if r := d.renewer.current().Groups["web"]; d.released["web"] != 0 || r.Released != 0 || !r.Holding {
		t.Errorf("promised epoch %d while its former service runs; reported %+v", d.released["web"], r)
	}
	old.set(false, false)
	waitFor(t, "it is promised when the former service is gone", func() error {
		for _, s := range d.slots.retiring {
			s.ask()
		}
		d.act(t.Context())
		if d.released["web"] != gs.Epoch || d.renewer.current().Groups["web"].Released != gs.Epoch {
			return errors.New("not yet")
		}
		return nil
	})
}

// A machine that lost its disk comes back under a new identity. Until its former self is proven gone there would be two of
// them, with one name (S1, S4).
func TestANodeComesBackOnlyWhenItsFormerSelfIsGone(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.owned()
	limit := 2 * d.timing().Suspect
	refused := func(when, node, want string) {
		t.Helper()
		got := ""
		if e := (backend{d.Node}).checkGone(d.raft.State(), node); e != nil {
			got = e.Message
		}
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s, %s: %q, want %q", when, node, got, want)
		}
	}
	d.pass(time.Second)
	d.renew("c")
	refused("while it speaks", "c", "may be up under its former identity")
	d.pass(limit - 1)
	refused("a moment too early", "c", "may be up under its former identity")
	d.pass(1)
	refused("when it has been silent", "c", "")
	refused("while it owns something", "b", "still owns group web")
	d.leader.ledger = nil
	refused("without a leader", "c", "has just been elected")
	if !d.leader.leading(t.Context()) {
		t.Fatal("it does not lead again")
	}
	refused("by a leader that has not heard of it", "c", "cannot know before")
	d.pass(limit)
	refused("by a leader that has waited for it", "c", "")
}
