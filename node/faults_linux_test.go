package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hacluster/api"
	"hacluster/placement"
)

// breaker stands between a node and the lease connections that it makes to others.
type breaker struct {
	mode  atomic.Pointer[func(ctx context.Context) (net.Conn, error)] // nil: works
	links atomic.Pointer[links]
}

// insert puts it into a node that does not run yet.
func (b *breaker) insert(n *Node) {
	dial := n.links.dial
	n.links.dial = func(ctx context.Context, peer string) (net.Conn, error) {
		if mode := b.mode.Load(); mode != nil {
			return (*mode)(ctx)
		}
		return dial(ctx, peer)
	}
	b.links.Store(n.links)
}

// set changes how connections are made and ends those there are; nil: they work again.
func (b *breaker) set(mode func(ctx context.Context) (net.Conn, error)) {
	if mode == nil {
		b.mode.Store(nil)
	} else {
		b.mode.Store(&mode)
	}
	ls := b.links.Load()
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, l := range ls.all {
		l.dialing.Lock() // an attempt that began before is over, and its connection goes too
		l.mu.Lock()
		conn := l.conn
		l.mu.Unlock()
		l.dialing.Unlock()
		if conn != nil {
			l.broke(conn)
		}
	}
}

func cut(context.Context) (net.Conn, error) { return nil, errors.New("cut") }

// formOnA is form with the group online on a, led by w.
func formOnA(t *testing.T, config func(c *cluster) string, more ...string) *cluster {
	t.Helper()
	c := form(t, append([]string{"a", "b", "w"}, more...)...)
	c.do(api.Write{Verb: api.VerbApply, Config: config(c)})
	c.serving("a", 0)
	c.until("w leads, which can own nothing, and all are well", func() error {
		if l := c.leader(); l.name != "w" {
			return errors.New(l.name + " leads")
		}
		st, err := c.nodes["b"].client.Status(t.Context())
		if err != nil || st.Health != api.HealthOK {
			return fmt.Errorf("%v, %s, %+v", err, st.Health, st)
		}
		return nil
	})
	return c
}

func webOnA(c *cluster) string { return c.webConfig(`preferred_owners = ["a", "b"]`) }

// The owner's renewals do not get through, all else does: it kills what is exclusive when its lease ends, and only then,
// after the takeover wait, another starts it. The service tells if there were ever two (S2).
func TestAnOwnerWithoutLeaseKillsBeforeAnotherStarts(t *testing.T) {
	c := formOnA(t, webOnA)
	a, wait := c.nodes["a"], c.state().Policy.Groups[0].TakeoverWait
	d, renew := a.n.timing().Duration, a.n.timing().Renew
	for {
		old, term := c.serving("a", 0), c.leader().n.raft.Term()
		begin := time.Now()
		a.cable.set(cut)
		var died, took time.Duration
		c.until("the service has ended and the group is taken over", func() error {
			if now := time.Since(begin); !alive(old.pid) && died == 0 {
				died = now
			}
			if gs := c.state().Groups["web"]; gs.Epoch == old.epoch && a.n.raft.Term() == term {
				return fmt.Errorf("service ended: %v, state %+v", died, gs)
			}
			took = time.Since(begin)
			return nil
		})
		a.cable.set(nil)
		if a.n.raft.Term() != term { // this machine was so busy that there was an election: begin again
			c.serving("", 0)
			c.until("a can be moved to", func() error {
				_, err := c.write(api.Write{Verb: api.VerbMove, Group: "web", Node: "a"})
				return err
			})
			continue
		}
		s := c.serving("b", old.epoch)
		if died == 0 || died > d+later+500*time.Millisecond {
			t.Errorf("the service lived for %v without a renewal, the lease lasts %v", died, d)
		}
		if took < wait-2*renew {
			t.Errorf("taken over after %v, the takeover wait is %v", took, wait)
		}
		t.Logf("lease %v: ended after %v; takeover wait %v: taken over after %v", d, died.Round(time.Millisecond), wait, took.Round(time.Millisecond))
		c.wantNode("a", "up", "")
		if again := c.serving("b", 0); again != s {
			t.Errorf("the return of the old owner moved the group: %+v", again)
		}
		return
	}
}

// Raft goes on, but the voters do not confirm this leader's term: it must not grant anything, and every lease ends. There are five:
// of three, a renewal confirms its leader by itself (TestARenewalVouchesForItsLeader).
func TestALeaderThatIsNotConfirmedGrantsNothing(t *testing.T) {
	c := formOnA(t, webOnA, "x", "y")
	for name, mode := range map[string]func(ctx context.Context) (net.Conn, error){
		"the voters do not answer":         cut,
		"the voters are in a later term":   answering(message{Term: 1 << 40}),
		"the voters refuse the question":   answering(message{Refused: "no"}),
		"the voters answer something else": answering(message{}),
	} {
		if !t.Run(name, func(t *testing.T) {
			c.t = t
			old := c.serving("", 0)
			leader := c.leader()
			leader.cable.set(mode)
			c.until("every lease and what it covered has ended", func() error {
				for _, m := range c.running() {
					if left := m.n.renewer.remaining(); left > 0 {
						return fmt.Errorf("%s has %v", m.name, left)
					}
				}
				if alive(old.pid) {
					return errors.New("the service runs")
				}
				return nil
			})
			leader.cable.set(nil)
			c.serving("", 0)
		}) {
			break
		}
	}
	c.t = t
}

// answering is a peer that answers every question in the same way.
func answering(a message) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			r := bufio.NewReader(far)
			for {
				q, err := readFrame(r)
				if err != nil {
					return
				}
				a := a
				a.ID = q.ID
				if writeFrame(far, a) != nil {
					return
				}
			}
		}()
		return near, nil
	}
}

// While anything of the group is left on the old owner it does not promise the epoch away, and nobody else begins (S2).
func TestAMoveWaitsForAStopThatTakesLong(t *testing.T) {
	c := formOnA(t, func(c *cluster) string {
		stubborn := strings.Replace(webOnA(c), "exec sleep", `trap "" TERM; exec sleep`, 1)
		return strings.Replace(stubborn, "restart_delay", "pending_timeout = \"2s\"\nrestart_delay", 1)
	})
	old := c.serving("a", 0)
	c.do(api.Write{Verb: api.VerbMove, Group: "web", Node: "b"})
	begin := time.Now()
	c.until("the old owner's process is gone", func() error {
		starts := c.starts() // fails the test at a second instance
		gs := c.state().Groups["web"]
		// In this order: what is read later is true later.
		if alive(old.pid) {
			if gs.Phase != placement.PhaseReleasing && gs.Epoch != old.epoch || len(starts) > 1 {
				t.Fatalf("the process lives, and the state is %+v, starts %+v", gs, starts)
			}
			return errors.New("it lives")
		}
		return nil
	})
	took := time.Since(begin)
	c.serving("b", old.epoch)
	if took < time.Second {
		t.Errorf("the stop took %v: it was no orderly one", took)
	}
}
