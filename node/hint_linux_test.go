package node

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hacluster/config"
	"hacluster/fence"
	"hacluster/internal/boottime"
	"hacluster/lease"
	"hacluster/placement"
	"hacluster/raft"
)

// nowhere is a network in which nobody is: Raft never knows a leader.
type nowhere struct{ closed chan struct{} }

func (nowhere) Dial(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("no route")
}
func (n nowhere) Accept() (net.Conn, error) { <-n.closed; return nil, net.ErrClosed }
func (n nowhere) Close() error              { close(n.closed); return nil }
func (n nowhere) Addr() net.Addr            { return &net.TCPAddr{} }

// asked is one question of the renewer's, to be answered.
type asked struct {
	peer   string
	m      message
	answer func(message)
}

// lonely is an agent whose Raft knows no leader and whose lease connections lead to the test. Its clock stands still.
func lonely(t *testing.T) (*Node, chan asked) {
	t.Helper()
	timing, err := lease.Derive(lease.WAN, lease.Gate, lease.Overrides{}) // patient with this machine
	if err != nil {
		t.Fatal(err)
	}
	dir, now := t.TempDir(), boottime.Now()
	n := &Node{name: "a", cfg: config.Node{Socket: filepath.Join(dir, "had.sock"), DataDir: dir}, log: discard(), clock: func() time.Time { return now }, actWake: make(chan struct{}, 1), grantWake: make(chan struct{}, 1)}
	n.ctx, n.cancel = context.WithCancelCause(context.Background())
	n.now.Store(&timing)
	n.raft, err = raft.Open(raft.Config{Name: "a", DataDir: dir, Fresh: true, Dialer: nowhere{}, Listener: nowhere{make(chan struct{})}, Timing: timing,
		Apply: placement.State.Apply})
	if err != nil {
		t.Fatal(err)
	}
	questions := make(chan asked)
	n.links = &links{dial: func(_ context.Context, peer string) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			r := bufio.NewReader(far)
			for {
				m, err := readFrame(r)
				if err != nil {
					return
				}
				questions <- asked{peer, m, func(a message) {
					a.ID = m.ID
					writeFrame(far, a)
				}}
			}
		}()
		return near, nil
	}}
	t.Cleanup(func() {
		n.cancel(context.Canceled)
		n.links.close()
		if err := n.raft.Close(); err != nil {
			t.Error(err)
		}
	})
	return n, questions
}

// willed leaves what an agent before this one would have: a lease for a moment more, granted by that leader.
func willed(t *testing.T, n *Node, leader string) {
	t.Helper()
	will, _ := fence.OpenWill(fence.WillPath(n.cfg.Socket), n.clock(), time.Second)
	will.Leader = leader
	will.Leave(n.clock().Add(500 * time.Millisecond))
	will.Close()
	if _, err := os.Stat(fence.WillPath(n.cfg.Socket)); err != nil {
		t.Skip("needs a file that outlives an agent: ", err)
	}
}

// While Raft knows no leader (a process that has just started, connections that are stuck in a network that was cut) the lease
// is renewed with who granted the newest one, until that one says that it leads no more (L1, L3).
func TestALeaseIsRenewedWithWhoGrantedItWhileRaftKnowsNoLeader(t *testing.T) {
	n, questions := lonely(t)
	willed(t, n, "b")
	r := newRenewer(n, boottime.NewSuspend(nil))
	defer r.will.Close()
	if leader := n.raft.Leader(); leader != "" {
		t.Fatalf("Raft knows %s", leader)
	}
	ask := func() asked {
		t.Helper()
		if !r.send(t.Context()) {
			t.Fatal("nobody is asked")
		}
		select {
		case q := <-questions:
			if q.peer != "b" || q.m.Renew == nil {
				t.Fatalf("asked %s for %+v, want b for a renewal", q.peer, q.m)
			}
			return q
		case <-time.After(10 * time.Second):
			t.Fatal("nothing was asked")
		}
		panic("unreachable")
	}
	for range 2 { // by the will of the process before, then by the grant of its own
		_, granted := r.caughtUp(0)
		q := ask()
		q.answer(message{Grant: &lease.Grant{Seq: q.m.Renew.Seq, Leader: "b", Duration: n.timing().Duration}})
		select {
		case <-granted:
		case <-time.After(10 * time.Second):
			t.Fatal("the grant does not count")
		}
		if left := r.remaining(); left <= 0 || left > n.timing().Duration {
			t.Errorf("the lease lasts for %v", left)
		}
	}
	ask().answer(message{Refused: errDeposed.Error()}) // for now; the lease lives
	r.flight.Wait()
	ask().answer(message{Refused: errNotLeader.Error()})
	r.flight.Wait()
	if r.send(t.Context()) {
		t.Error("one that leads no more is asked again")
	}
}

// This process does not lead although the one before it did.
func TestANodeThatHasJustStartedDoesNotAskItself(t *testing.T) {
	n, _ := lonely(t)
	willed(t, n, "a")
	r := newRenewer(n, boottime.NewSuspend(nil))
	defer r.will.Close()
	if leader := r.leader(); leader != "" || r.send(t.Context()) {
		t.Errorf("asked %q", leader)
	}
}

// Who has granted nothing for longer than a lease lasts, and does not answer, is asked no more: Raft will know.
func TestASilentGranterIsForgottenWithItsLease(t *testing.T) {
	n, _ := lonely(t)
	willed(t, n, "b")
	n.links.dial = func(context.Context, string) (net.Conn, error) { return nil, errors.New("no route") }
	r := newRenewer(n, boottime.NewSuspend(nil))
	defer r.will.Close()
	r.send(t.Context())
	r.flight.Wait()
	if leader := r.leader(); leader != "" { // this process has no lease yet: the first failure is enough
		t.Errorf("still asks %q", leader)
	}
}

// An agent whose dead man has died kills what is exclusive, and a kill may take long. Until it has ended its lease gets no
// longer, and it starts nothing again: nobody stands behind it (S1, S2). The simulator found what happened else.
func TestAnAbandonedAgentGetsNoLeaseAndBeginsNothing(t *testing.T) {
	n, questions := lonely(t)
	n.asleep = boottime.NewSuspend(nil)
	willed(t, n, "b")
	r := newRenewer(n, boottime.NewSuspend(nil))
	n.renewer = r
	defer r.will.Close()
	ask := func() asked {
		t.Helper()
		if !r.send(t.Context()) {
			t.Fatal("nobody is asked")
		}
		return <-questions
	}
	grant := func(q asked) {
		q.answer(message{Grant: &lease.Grant{Seq: q.m.Renew.Seq, Leader: "b", Duration: n.timing().Duration}})
		r.flight.Wait()
	}
	grant(ask())
	end, now := r.holder.Until(), n.clock()
	if !end.After(now) {
		t.Fatal("no lease")
	}
	n.clock = func() time.Time { return now.Add(time.Second) }
	late := ask() // under way when the dead man dies
	n.abandoned.Store(true)
	grant(late)
	r.send(t.Context())
	select {
	case q := <-questions:
		t.Errorf("asked %s for %+v", q.peer, q.m)
	case <-time.After(50 * time.Millisecond):
	}
	if got := r.holder.Until(); !got.Equal(end) {
		t.Errorf("the lease became longer by %v", got.Sub(end))
	}
	if next := n.act(t.Context()); !next.Equal(end) { // there is no more of a node here than its lease: a round would crash
		t.Errorf("acts again in %v, want the end of the lease in %v", next.Sub(now), end.Sub(now))
	}
}

// The timers of the runtime stand still in suspend; what wakes the agent at the end of its lease does not (S1).
func TestTheEndOfALeaseWakesTheAgent(t *testing.T) {
	n, questions := lonely(t)
	var err error
	if n.alarm, err = boottime.NewAlarm(n.wakeAct); err != nil {
		t.Fatal(err)
	}
	defer n.alarm.Close()
	willed(t, n, "b")
	r := newRenewer(n, boottime.NewSuspend(nil))
	defer r.will.Close()
	if !r.send(t.Context()) {
		t.Fatal("nobody is asked")
	}
	q := <-questions
	q.answer(message{Grant: &lease.Grant{Seq: q.m.Renew.Seq, Leader: "b", Duration: 200 * time.Millisecond}})
	r.flight.Wait()
	<-n.grantWake // for the grant itself
	select {
	case <-n.actWake:
	case <-time.After(10 * time.Second):
		t.Fatal("the lease has ended, and nothing woke the agent")
	}
	if now, end := boottime.Now(), r.holder.Until(); now.Before(end) {
		t.Errorf("woken %v before the end of the lease", end.Sub(now))
	}
}
