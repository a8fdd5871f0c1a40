package node

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"hacluster/api"
	"hacluster/internal/boottime"
	"hacluster/placement"
)

// desk is a node that leads a cluster of one voter, without its loops and with a clock that stands still: every step of
// leading is taken by the test.
type desk struct {
	t *testing.T
	*Node
	mu  sync.Mutex
	now time.Time
	seq uint64
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	needNetwork(t)
	c := newCluster(t)
	m := c.add("a")
	m.found()
	n, err := Open(Options{Config: m.cfg, Version: "test", Log: m.log()})
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{t: t, Node: n, now: boottime.Now()}
	t.Cleanup(n.close)
	n.clock = d.clock
	waitFor(t, "the node leads", func() error {
		if !n.leader.leading(t.Context()) {
			return errors.New("not yet")
		}
		return nil
	})
	d.commit(placement.Command{Kind: placement.CmdInit, Cluster: "lab", ID: n.id.ClusterID})
	for _, name := range []string{"a", "b", "c"} { // only a is there; b and c are what the test says of them
		d.commit(placement.Command{Kind: placement.CmdNode, Node: name, NodeInfo: &placement.NodeState{ID: name, Role: placement.RoleMember, Addresses: []string{name + ":1"}}})
	}
	if _, err := (backend{n}).apply(t.Context(), api.Write{Config: c.webConfig(`preferred_owners = ["b", "c"]`)}); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *desk) clock() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now
}

// pass lets time pass on the desk's clock.
func (d *desk) pass(t time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now = d.now.Add(t)
}

func (d *desk) commit(c placement.Command) {
	d.t.Helper()
	c.At = time.Now()
	if res, err := d.leader.propose(d.t.Context(), c); err != nil || res.Why != "" {
		d.t.Fatalf("%s: %+v, %v", c.Kind, res, err)
	}
}

// renewal is what a node sends now; it reports that it is well and holds nothing.
func (d *desk) renewal() renewal {
	d.seq++
	return renewal{Seq: d.seq, Boot: "boot", Report: placement.Report{Applied: d.raft.State().Index, Gate: true}}
}

// renew has a node renew its lease, with a verification round.
func (d *desk) renew(node string) map[string]uint64 {
	d.t.Helper()
	return d.confirm(node, d.renewal())
}

// confirm answers a renewal, with a verification round.
func (d *desk) confirm(node string, m renewal) map[string]uint64 {
	d.t.Helper()
	ctx, cancel := context.WithCancel(d.t.Context())
	defer cancel()
	var round sync.WaitGroup
	round.Go(func() { d.leader.verifyLoop(ctx) })
	defer round.Wait()
	defer cancel()
	g, err := d.leader.renew(ctx, node, m)
	if err != nil {
		d.t.Fatalf("%s renews: %v", node, err)
	}
	return g.Held
}

// owned gives the group to b, which holds a lease for it, and returns its epoch and the takeover wait.
func (d *desk) owned() (epoch uint64, wait time.Duration) {
	d.t.Helper()
	d.renew("b")
	d.renew("c")
	d.leader.decide(d.t.Context())
	st := d.raft.State()
	gs := st.Groups["web"]
	if held := d.renew("b"); gs.Owner != "b" || held["web"] != gs.Epoch {
		d.t.Fatalf("owner %q, epoch %d, granted %v", gs.Owner, gs.Epoch, held)
	}
	return gs.Epoch, st.Policy.Groups[0].TakeoverWait
}

// From the decision to take a group on, whatever becomes of the proposal, no grant lists the epoch (S1, S2).
func TestNoGrantCoversWhatIsBeingTaken(t *testing.T) {
	t.Parallel()
	for name, proposing := range map[string]struct {
		ctx  func(context.Context) (context.Context, context.CancelFunc)
		term uint64
	}{
		"the proposal is lost":    {func(ctx context.Context) (context.Context, context.CancelFunc) { return context.WithTimeout(ctx, 0) }, 0},
		"the proposal is refused": {context.WithCancel, 999},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			epoch, wait := d.owned()
			d.pass(wait)
			d.renew("c")
			d.leader.term += proposing.term
			ctx, cancel := proposing.ctx(t.Context())
			d.leader.decide(ctx)
			cancel()
			d.leader.term -= proposing.term
			if held := d.renew("b"); held["web"] == epoch {
				t.Fatalf("b was granted epoch %d, which is being taken from it", epoch)
			}
			// And b, which speaks again, does not keep it from being carried out: somebody must serve.
			waitFor(t, "the group has an owner that is granted its epoch", func() error {
				d.leader.decide(t.Context())
				gs := d.raft.State().Groups["web"]
				if held := d.renew(gs.Owner); gs.Epoch <= epoch || held["web"] != gs.Epoch {
					return errors.New("epoch " + gs.Owner)
				}
				return nil
			})
		})
	}
}

// Until the silence has lasted for the takeover wait nothing is taken, to the nanosecond.
func TestNothingIsTakenBeforeTheTakeoverWait(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	epoch, wait := d.owned()
	d.pass(wait - 1)
	d.renew("c")
	wake := d.leader.decide(t.Context())
	if gs := d.raft.State().Groups["web"]; gs.Owner != "b" || gs.Epoch != epoch {
		t.Fatalf("taken early: %+v", gs)
	}
	if left := wake.Sub(d.clock()); left <= 0 || left > time.Millisecond {
		t.Errorf("looks again in %v", left)
	}
	d.pass(1)
	d.leader.decide(t.Context())
	if gs := d.raft.State().Groups["web"]; gs.Owner != "c" || gs.Epoch <= epoch {
		t.Fatalf("not taken: %+v", gs)
	}
}

// asked waits for the question whether this node still leads, which a renewal must ask.
func (d *desk) asked() chan error {
	d.t.Helper()
	select {
	case done := <-d.leader.asks:
		return done
	case <-time.After(patience):
		d.t.Fatal("a renewal was answered without a verification")
		return nil
	}
}

// A renewal counts for the leader, and is granted, only once a quorum has confirmed that it leads. Otherwise a deposed
// leader would give leases, and a leader that was not confirmed would reckon with contacts that gave none.
func TestARenewalCountsOnlyOnceItIsVerified(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	type answer struct {
		held map[string]uint64
		err  error
	}
	renew := func() chan answer {
		out := make(chan answer, 1)
		m := d.renewal()
		go func() {
			g, err := d.leader.renew(t.Context(), "b", m)
			if g == nil {
				out <- answer{nil, err}
				return
			}
			out <- answer{g.Held, err}
		}()
		return out
	}
	confirmed := func() time.Time {
		d.leader.mu.Lock()
		defer d.leader.mu.Unlock()
		return d.leader.ledger.Confirmed("b")
	}
	got := renew()
	ask := d.asked()
	if at := confirmed(); !at.IsZero() {
		t.Error("confirmed before the quorum was asked")
	}
	ask <- errDeposed
	if a := <-got; !errors.Is(a.err, errDeposed) || a.held != nil {
		t.Errorf("granted %v, %v, by a leader that is not confirmed", a.held, a.err)
	}
	if at := confirmed(); !at.IsZero() {
		t.Error("confirmed although no quorum answered")
	}
	got = renew()
	ask = d.asked()
	d.pass(time.Second) // the quorum takes its time; the confirmation is given after it
	ask <- nil
	if a := <-got; a.err != nil || !confirmed().Equal(d.clock()) {
		t.Errorf("%v, confirmed at %v, it is %v", a.err, confirmed(), d.clock())
	}
}

// The lease counts from before the first byte of the renewal left, however late the answer is (S1, S2).
func TestALeaseCountsFromBeforeItsRenewalWasSent(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	t0 := d.clock()
	granted := d.renewer.granted
	if !d.renewer.send(t.Context()) {
		t.Fatal("nobody to renew with")
	}
	ask := d.asked()
	late := 300 * time.Millisecond
	d.pass(late)
	ask <- nil
	d.renewer.flight.Wait()
	select {
	case <-granted:
	default:
		t.Fatal("nothing was granted")
	}
	if got, want := d.renewer.remaining(), d.timing().Duration-late; got != want {
		t.Errorf("%v are left, want %v: the lease began at %v", got, want, t0)
	}
	// One that comes when its lease is over changes nothing.
	d.renewer.send(t.Context())
	ask = d.asked()
	d.pass(d.timing().Duration)
	ask <- nil
	d.renewer.flight.Wait()
	if got := d.renewer.remaining(); got > 0 {
		t.Errorf("an answer after the end of its own lease gave %v", got)
	}
}

// A grant that knows of an assignment and does not list its epoch has taken it back: the lease goes on, not for that group.
func TestAGrantWithoutTheEpochIsNoLeaseForIt(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.pass(d.raft.State().Policy.GroupWaitDelay) // for the preferred owner, which does not come
	d.renew("a")
	d.leader.decide(t.Context())
	gs := d.raft.State().Groups["web"]
	if gs.Owner != "a" {
		t.Fatalf("owner %q", gs.Owner)
	}
	leased := func() bool {
		if !d.renewer.send(t.Context()) {
			t.Fatal("nobody to renew with")
		}
		d.asked() <- nil
		d.renewer.flight.Wait()
		if d.renewer.remaining() != d.timing().Duration {
			t.Fatal("nothing was granted")
		}
		_, ok := d.renewer.leased(d.raft.State())["web"]
		if _, same := d.renewer.until("web"); same != ok {
			t.Error("the act loop and the address do not agree on the lease")
		}
		return ok
	}
	if !leased() {
		t.Error("no lease for what is owned")
	}
	d.leader.ledger.Withhold("web", gs.Epoch)
	if leased() {
		t.Error("a lease for what is withheld")
	}
}
