package raft

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"hacluster/internal/pki"
	"hacluster/internal/wire"
	"hacluster/lease"
	"hacluster/placement"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const clusterID = "c0ffee"

// cluster is a group of nodes over real TLS on loopback.
type cluster struct {
	t      *testing.T
	ca     *pki.CA
	timing lease.Timing
	noHint bool

	mu    sync.Mutex
	addrs map[string]string
	nodes map[string]*node
}

type node struct {
	c     *cluster
	name  string
	dir   string
	creds *pki.Credentials
	mux   *wire.Mux
	raft  *Raft

	incarnation string
	mu          sync.Mutex
	applied     chan struct{} // closed at the next change of state
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	ca, err := pki.NewCA("shop", clusterID, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	timing, err := lease.Derive(lease.LAN, lease.Address, lease.Overrides{})
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{t: t, ca: ca, timing: timing, addrs: map[string]string{}, nodes: map[string]*node{}}
}

func (c *cluster) creds(certName string) *pki.Credentials {
	c.t.Helper()
	key, csr, err := pki.NewCSR(certName)
	if err != nil {
		c.t.Fatal(err)
	}
	cert, err := c.ca.Issue(csr, pki.Identity{Cluster: "shop", ClusterID: clusterID, Name: certName, NodeID: pki.NewID()}, time.Now())
	if err != nil {
		c.t.Fatal(err)
	}
	creds, err := pki.NewCredentials(c.ca.CertPEM(), cert, key)
	if err != nil {
		c.t.Fatal(err)
	}
	return creds
}

func (c *cluster) resolve(name string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.addrs[name]; a != "" {
		return []string{a}
	}
	return nil
}

func (c *cluster) add(name string) *node {
	n := &node{c: c, name: name, dir: c.t.TempDir(), creds: c.creds(name)}
	c.nodes[name] = n
	return n
}

// start brings a node up; fresh as in Config.
func (n *node) start(fresh bool) error {
	n.c.t.Helper()
	mux, err := wire.Listen([]string{"127.0.0.1:0"}, wire.Config{Credentials: n.creds})
	if err != nil {
		n.c.t.Fatal(err)
	}
	n.applied = make(chan struct{})
	r, err := Open(Config{
		Name: n.name, DataDir: n.dir, Fresh: fresh, Incarnation: n.incarnation, Timing: n.c.timing, Listener: mux.Listener(wire.ALPNRaft),
		Dialer:  &wire.Dialer{Credentials: n.creds, Resolve: n.c.resolve, DeadAfter: 2 * n.c.timing.Heartbeat},
		Log:     slog.New(slog.NewTextHandler(testWriter{n.c.t, n.name}, nil)),
		Apply:   placement.State.Apply,
		Changed: n.changed,
		noHint:  n.c.noHint,
	})
	if err != nil {
		mux.Close()
		return err
	}
	n.mux, n.raft = mux, r
	n.c.mu.Lock()
	n.c.addrs[n.name] = mux.Addrs()[0].String()
	n.c.mu.Unlock()
	n.c.t.Cleanup(n.stop)
	return nil
}

func (n *node) changed(placement.State) {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.applied)
	n.applied = make(chan struct{})
}

// waitIndex returns when the node has applied an entry.
func (n *node) waitIndex(ctx context.Context, index uint64) error {
	for {
		n.mu.Lock()
		ch := n.applied
		n.mu.Unlock()
		if n.raft.State().Index >= index {
			return nil
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (n *node) stop() {
	if n.raft == nil {
		return
	}
	if err := n.raft.Close(); err != nil {
		n.c.t.Error(n.name, err)
	}
	if err := n.mux.Close(); err != nil {
		n.c.t.Error(n.name, err)
	}
	n.raft = nil
}

type testWriter struct {
	t    *testing.T
	name string
}

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s: %s", w.name, b)
	return len(b), nil
}

// three is a running cluster of three voters, with its leader.
func three(t *testing.T) (*cluster, *node) {
	t.Helper()
	c := newCluster(t)
	return c, c.form()
}

func (c *cluster) form() *node {
	c.t.Helper()
	n1 := c.add("n1")
	if err := Bootstrap(n1.dir, "n1", nil); err != nil {
		c.t.Fatal(err)
	}
	c.must(n1.start(true))
	leader := c.leader()
	for _, name := range []string{"n2", "n3"} {
		c.must(c.add(name).start(true))
		c.must(leader.raft.AddVoter(c.t.Context(), name))
	}
	return leader
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// leader waits for the one running node that leads, with its barrier passed, and that the others know.
func (c *cluster) leader() *node {
	c.t.Helper()
	var found *node
	c.until("a leader", func() bool {
		for _, n := range c.nodes {
			if n.raft != nil && n.raft.IsLeader() && n.raft.Barrier(c.t.Context()) == nil {
				found = n
				return true
			}
		}
		return false
	})
	return found
}

func (c *cluster) until(what string, ok func() bool) {
	c.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			c.t.Fatalf("not in time: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func note(text string) placement.Command {
	return placement.Command{Kind: placement.CmdNote, At: time.Unix(1, 0).UTC(), Reason: placement.Reason{Rule: placement.RuleNode, Text: text}}
}

func (n *node) propose(text string) {
	n.c.t.Helper()
	n.c.until("proposing "+text, func() bool {
		l := n
		if !l.raft.IsLeader() {
			l = n.c.leader()
		}
		_, err := l.raft.Propose(n.c.t.Context(), note(text))
		if err != nil {
			n.c.t.Log(err)
		}
		return err == nil
	})
}

func has(s placement.State, text string) bool {
	return slices.ContainsFunc(s.Events, func(e placement.Event) bool { return e.Reason.Text == text })
}

func (c *cluster) everyoneHas(text string) {
	c.t.Helper()
	for _, n := range c.nodes {
		if n.raft != nil {
			c.until(n.name+" has "+text, func() bool { return has(n.raft.State(), text) })
		}
	}
}

func TestThreeNodesAgree(t *testing.T) {
	c, leader := three(t)
	leader.propose("one")
	c.everyoneHas("one")
	if s := leader.raft.State(); s.Index == 0 || s.Index != s.Events[0].Seq && s.Index < s.Events[0].Seq {
		t.Errorf("index %d of the state", s.Index)
	}
	for _, n := range c.nodes {
		c.until(n.name+" knows the leader", func() bool { return n.raft.Leader() == leader.name })
		if n == leader {
			if n.raft.LastContact() != 0 {
				t.Error("the leader has lost contact with itself")
			}
			continue
		}
		if d := n.raft.LastContact(); d < 0 || d > 5*time.Second {
			t.Errorf("%s: last contact %v ago", n.name, d)
		}
		_, err := n.raft.Propose(t.Context(), note("no"))
		var nl ErrNotLeader
		if !errors.As(err, &nl) || nl.Leader != leader.name {
			t.Errorf("%s: proposing at a follower: %v", n.name, err)
		}
	}
	servers, err := leader.raft.Servers()
	if want := []Server{{"n1", true}, {"n2", true}, {"n3", true}}; err != nil || !slices.Equal(servers, want) {
		t.Errorf("servers %v, %v", servers, err)
	}
}

func TestLeaderDiesAndReturns(t *testing.T) {
	c, old := three(t)
	old.propose("before")
	c.everyoneHas("before")
	woken := c.follower(old).raft.Leadership()
	term := old.raft.Term()
	old.stop()
	leader := c.leader()
	select {
	case <-woken:
	default:
		t.Error("nobody was woken by the change of leader")
	}
	if leader.raft.Term() <= term {
		t.Errorf("term %d after %d", leader.raft.Term(), term)
	}
	leader.propose("without the old leader")
	c.must(old.start(false)) // at another port: its name is dialed anew
	c.everyoneHas("without the old leader")
	c.everyoneHas("before")
}

func (c *cluster) follower(leader *node) *node {
	for _, name := range []string{"n1", "n2", "n3"} {
		if n := c.nodes[name]; n != leader && n != nil && n.raft != nil {
			return n
		}
	}
	return nil
}

func TestLeadershipIsHandedOver(t *testing.T) {
	c, old := three(t)
	to := c.follower(old)
	old.propose("one")
	c.must(old.raft.TransferLeadership(t.Context(), to.name))
	c.until("leadership moves", func() bool { return to.raft.IsLeader() })
	to.propose("two")
	c.everyoneHas("two")
	if err := old.raft.TransferLeadership(t.Context(), to.name); !errors.As(err, new(ErrNotLeader)) {
		t.Errorf("a follower handing over: %v", err)
	}
}

func TestJoinWithoutVoteThenPromote(t *testing.T) {
	c, leader := three(t)
	n4 := c.add("n4")
	c.must(n4.start(true))
	c.must(leader.raft.AddNonvoter(t.Context(), "n4"))
	leader.propose("seen by the new node")
	c.everyoneHas("seen by the new node")
	role := func() (voter, member bool) {
		s, err := leader.raft.Servers()
		c.must(err)
		for _, x := range s {
			if x.Name == "n4" {
				return x.Voter, true
			}
		}
		return false, false
	}
	if v, m := role(); v || !m {
		t.Errorf("voter %v, member %v", v, m)
	}
	c.must(leader.raft.AddVoter(t.Context(), "n4"))
	if v, m := role(); !v || !m {
		t.Errorf("voter %v, member %v", v, m)
	}
	c.must(leader.raft.Remove(t.Context(), "n4"))
	if _, m := role(); m {
		t.Error("still a member")
	}
}

func TestStateSurvivesRestart(t *testing.T) { // S4
	c, leader := three(t)
	for i := range 20 {
		leader.propose(fmt.Sprint("event ", i))
	}
	c.everyoneHas("event 19")
	want := leader.raft.State()
	for _, n := range c.nodes {
		n.stop()
	}
	for _, n := range c.nodes {
		c.must(n.start(false))
	}
	c.leader()
	c.everyoneHas("event 19")
	for _, n := range c.nodes {
		got := n.raft.State()
		if got.Seq != want.Seq || len(got.Events) != len(want.Events) {
			t.Errorf("%s came back with %d events up to %d, had %d up to %d", n.name, len(got.Events), got.Seq, len(want.Events), want.Seq)
		}
	}
}

func TestSnapshotIsTakenAndSent(t *testing.T) {
	c, leader := three(t)
	late := c.add("n4")
	leader.propose("in the snapshot")
	for _, n := range c.nodes {
		if n.raft == nil {
			continue
		}
		c.must(n.raft.raft.ReloadConfig(reloadTrailing(n.raft, 1)))
		c.until("a snapshot", func() bool { return n.raft.raft.Snapshot().Error() == nil })
	}
	for i := range 10 {
		leader.propose(fmt.Sprint("after ", i))
	}
	c.until("a second snapshot", func() bool { return leader.raft.raft.Snapshot().Error() == nil })
	if first, _ := leader.raft.store.FirstIndex(); first < 3 {
		t.Fatalf("the log still begins at %d", first)
	}
	c.must(late.start(true))
	c.must(leader.raft.AddNonvoter(t.Context(), "n4"))
	leader.propose("behind the snapshot")
	c.everyoneHas("in the snapshot")
	c.everyoneHas("behind the snapshot")
	leader.stop()
	late.stop()
	c.must(leader.start(false))
	c.must(late.start(false))
	c.everyoneHas("in the snapshot")
}

func TestWrongIdentityIsRefused(t *testing.T) {
	c, leader := three(t)
	n3 := c.nodes["n3"]
	if n3 == leader {
		n3 = c.nodes["n2"]
	}
	n3.stop()
	n3.creds = c.creds("n9") // answers at n3's address, but is another node
	c.must(n3.start(false))
	leader.propose("only for members")
	for _, n := range c.nodes {
		if n != n3 {
			c.until(n.name, func() bool { return has(n.raft.State(), "only for members") })
		}
	}
	// The leader has gone on dialing the impostor all the while.
	contact := n3.raft.LastContact()
	if has(n3.raft.State(), "only for members") || contact >= 0 {
		t.Errorf("the impostor was given the log; last contact %v", contact)
	}
}

func TestDecidedInAnotherTermIsStale(t *testing.T) {
	_, leader := three(t)
	cmd := note("old decision")
	cmd.Term = leader.raft.Term() + 7
	res, err := leader.raft.Propose(t.Context(), cmd)
	if err != nil || !res.Stale || has(leader.raft.State(), "old decision") {
		t.Errorf("%+v, %v", res, err)
	}
	cmd.Term = leader.raft.Term()
	if res, err := leader.raft.Propose(t.Context(), cmd); err != nil || !res.Applied {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestIsolatedLeaderStepsDown(t *testing.T) {
	c, leader := three(t)
	for _, n := range c.nodes {
		if n != leader {
			n.stop()
		}
	}
	c.until("it steps down", func() bool { return !leader.raft.IsLeader() })
	if err := leader.raft.Barrier(t.Context()); !errors.As(err, new(ErrNotLeader)) {
		t.Errorf("barrier without a quorum: %v", err)
	}
}

func TestClosedRaftAnswers(t *testing.T) {
	c := newCluster(t)
	n := c.add("n1")
	c.must(Bootstrap(n.dir, "n1", nil))
	if err := Bootstrap(n.dir, "n1", nil); !errors.Is(err, ErrExists) {
		t.Errorf("second bootstrap: %v", err)
	}
	c.must(n.start(true))
	r := c.leader().raft
	n.stop()
	if _, err := r.Propose(t.Context(), note("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	<-r.Done()
	if !errors.Is(r.Err(), ErrClosed) {
		t.Errorf("got %v", r.Err())
	}
}
