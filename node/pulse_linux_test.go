package node

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/api"
	"hacluster/internal/boottime"
	"hacluster/placement"
)

// patient has pulses that a busy machine keeps, too, and a lease that outlasts elections under the race detector: for what must cost the
// client nothing.
const patient = "timing = \"fast\"\ntiming_override = { duration = \"3s\", pulse = \"40ms\", pulse_bound = \"400ms\" }"

// bound waits until a node has promised to the others that its gates will be shut soon.
func (g *gated) bound(node string, voters ...string) {
	g.t.Helper()
	g.until(node+" promises", func() error {
		for _, v := range voters {
			if !g.nodes[v].n.listener.promised(node) {
				return fmt.Errorf("nothing to %s", v)
			}
		}
		return nil
	})
}

// With everything that could act frozen on the owner, another node serves the address long before the owner's lease is over, because the
// voters have said that its gates are shut; and the owner has answered nobody since (S1).
func TestAFrozenOwnerIsReplacedWithinItsPulse(t *testing.T) {
	g := newGated(t, `timing = "fast"`)
	g.apart()
	g.online("a")
	g.quiet("a")
	p := g.ping(time.Millisecond)
	defer p.close()
	var took []time.Duration
	for range often(3) {
		g.answers(p, "a", func() int { _, n := p.newest("a"); return n + 50 }())
		g.bound("a", "b", "w")
		frozen := boottime.Now()
		if err := g.child.Process.Signal(unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		g.answers(p, "b", func() int { _, n := p.newest("b"); return n + 20 }())
		took = append(took, boottime.Now().Sub(frozen))
		last, n := p.newest("a")
		_, promise := g.nodes["b"].n.listener.last("a")
		if after := last.Sub(frozen); promise < g.nodes["b"].n.timing().PulseBound || after > promise {
			t.Errorf("the frozen owner answered %v after the freeze; its promise was %v (S1)", after, promise)
		}
		why := g.state().Groups["web"].Why
		if !strings.Contains(why.Text, "the pulse of a has stopped") {
			t.Logf("taken by another rule: %q", why.Text) // a machine that stands still: then nothing was promised
		}
		if err := g.child.Process.Signal(unix.SIGCONT); err != nil {
			t.Fatal(err)
		}
		thawed := boottime.Now()
		g.until("the thawed node has taken its address away", func() error {
			if boottime.Now().Sub(thawed) < 300*time.Millisecond {
				return errors.New("it may still do something foolish")
			}
			if out := sh(t, "ip", "-n", nsOf(t, "a"), "-4", "-o", "addr"); strings.Contains(out, theVIP.Addr().String()) {
				return errors.New(out)
			}
			return nil
		})
		if _, m := p.newest("a"); m != n {
			t.Errorf("the thawed node answered %d times (S1)", m-n)
		}
		g.until("a owns the group again", func() error {
			if gs := g.state().Groups["web"]; gs.Owner != "a" || gs.Phase != placement.PhaseOwned {
				_, err := g.write(api.Write{Verb: api.VerbMove, Group: "web", Node: "a"})
				return errors.Join(err, errors.New("it does not yet"))
			}
			return nil
		})
	}
	t.Logf("frozen to 20 answers of the next owner: %v", took)
}

// While the owner has promised that its gates will be shut soon, the loss of any one voter costs its clients nothing (L2), nor does a restart of
// its own agent (L3): it takes the promise back in time.
func TestRestartsCostABoundOwnerNothing(t *testing.T) {
	g := newGated(t, patient)
	g.quiet("a")
	p := g.ping(time.Millisecond)
	defer p.close()
	restarts := []string{"w", "b", "w", "b", "a", "a", "a"}
	if testing.Short() {
		restarts = []string{"w", "b", "a"}
	}
	for _, node := range restarts {
		g.bound("a", "b", "w")
		g.nodes[node].stop()
		_, n := p.newest("a")
		if node != "a" {
			g.answers(p, "a", n+500) // longer than a promise lasts
		}
		g.nodes[node].start()
		g.until(node+" is up", func() error {
			if st, err := g.nodes["w"].client.Status(t.Context()); err != nil || st.Quorum.Alive < 3 {
				return fmt.Errorf("%+v, %v", st.Quorum, err)
			}
			return nil
		})
		_, n = p.newest("a")
		g.answers(p, "a", n+500)
		t.Logf("%s: longest without an answer so far: %v", node, p.longest())
	}
	g.allFrom(p, "a")
}
