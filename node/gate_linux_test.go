package node

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/api"
	"hacluster/fence"
	"hacluster/internal/boottime"
	"hacluster/placement"
	"hacluster/vip"
)

// With everything that could act frozen, the kernel ends the lease to the millisecond: nobody is answered any more, by packet
// or at the link layer, before the takeover; and the thawed agent does not bring it back.
func TestAFrozenOwnerStopsAnsweringBeforeItsLeaseEnds(t *testing.T) {
	g := newGated(t, `timing = "fast"`)
	if l := g.nodes["b"].n.timing(); l.Duration >= time.Second {
		t.Fatalf("the kernel lease in force is %s, duration %v", l.Layer, l.Duration)
	}
	g.apart()
	g.online("a")
	g.quiet("a")
	p := g.ping(time.Millisecond)
	defer p.close()
	g.answers(p, "a", 20)
	d := g.nodes["b"].n.timing().Duration
	g.nodes["b"].stop() // nobody takes over: the client goes on asking the frozen node
	_, n := p.newest("a")
	g.answers(p, "a", n+50)
	frozen := boottime.Now()
	if err := g.child.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	g.until("the lease is over", func() error {
		if left := d - boottime.Now().Sub(frozen) + 100*time.Millisecond; left > 0 {
			return fmt.Errorf("%v left", left)
		}
		return nil
	})
	last, _ := p.newest("a")
	t.Logf("duration %v: the frozen owner answered last %v after the freeze", d, last.Sub(frozen))
	if last.Sub(frozen) > d {
		t.Errorf("the frozen owner answered %v after the freeze; its lease lasted %v at most (S1)", last.Sub(frozen), d)
	}
	if g.resolves() {
		t.Error("somebody answers for the address at the link layer (S1)")
	}
	g.nodes["b"].start()
	g.answers(p, "b", 20)
	_, before := p.newest("a")
	if err := g.child.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	thawed := boottime.Now()
	g.until("the thawed node has taken its address away", func() error {
		if boottime.Now().Sub(thawed) < 500*time.Millisecond {
			return errors.New("it may still do something foolish")
		}
		if out := sh(t, "ip", "-n", nsOf(t, "a"), "-4", "-o", "addr"); strings.Contains(out, theVIP.Addr().String()) {
			return errors.New(out)
		}
		return nil
	})
	if _, after := p.newest("a"); after != before {
		t.Errorf("the thawed node answered %d times (S1)", after-before)
	}
}

// An agent that is replaced leaves the gate as it is: no packet is lost.
func TestARestartOfTheAgentLosesNothing(t *testing.T) {
	g := newGated(t, `timing = "lan"`)
	g.quiet("a")
	p := g.ping(time.Millisecond)
	defer p.close()
	g.answers(p, "a", 100)
	for range often(3) {
		g.nodes["a"].stop()
		g.nodes["a"].start()
		_, n := p.newest("a")
		g.answers(p, "a", n+500)
	}
	g.allFrom(p, "a")
}

// Somebody takes the whole rule set away, as each restart of nftables.service does: the client does not notice, and the gate
// is there again within a renewal on the owner, within gateEvery elsewhere.
func TestAFlushedRuleSetIsMended(t *testing.T) {
	g := newGated(t, patient)
	g.quiet("a")
	p := g.ping(time.Millisecond)
	defer p.close()
	g.answers(p, "a", 100)
	for i, damage := range []string{"flush ruleset", "delete table inet had", "flush table arp had"} {
		for _, node := range []string{"a", "b"} {
			if node == "b" && i > 0 && testing.Short() { // it takes gateEvery, whatever the damage was
				continue
			}
			g.nft(node, damage)
			flushed := time.Now()
			g.until(fmt.Sprintf("%s on %s is mended", damage, node), func() error { return g.guards(node, node == "a") })
			t.Logf("%s on %s: mended after %v", damage, node, time.Since(flushed).Round(time.Millisecond))
			if node == "a" && i == 0 && time.Since(flushed) > time.Second {
				t.Errorf("an owner's gate was away for %v", time.Since(flushed))
			}
		}
	}
	g.allFrom(p, "a")
}

// A planned move hands the address over shut; had release leaves nothing of ours in the kernel.
func TestAMoveShutsAndAReleaseLeavesNoTable(t *testing.T) {
	g := newGated(t, `timing = "fast"`)
	g.do(api.Write{Verb: api.VerbMove, Group: "web", Node: "b"})
	g.online("b")
	if err := g.guards("a", false); err != nil { // shut, not only left to end with the lease
		t.Error(err)
	}
	p := g.ping(time.Millisecond)
	defer p.close()
	g.answers(p, "b", 50)
	if _, n := p.newest("a"); n != 0 {
		t.Errorf("a answered %d times (S1)", n)
	}
	for _, name := range []string{"a", "b"} {
		g.nodes[name].stop()
		err := within(nsOf(t, name), func() error {
			_, err := vip.Release()
			return errors.Join(err, vip.RemoveGate())
		})
		if out := g.nft(name, "list", "tables"); err != nil || strings.Contains(out, vip.GateTable) {
			t.Errorf("%s: %v, tables left: %s", name, err, out)
		}
	}
	if g.resolves() {
		t.Error("somebody answers after the release")
	}
}

// What cannot be saved is reset at once: a client that only waits learns of a planned move, and of the group going offline, within
// 50 ms of the address leaving, and nothing new was accepted where it left.
func TestAPlannedMoveResetsConnections(t *testing.T) {
	g := newGated(t, `timing = "lan"`)
	server := map[string]net.Listener{}
	for _, name := range []string{"a", "b"} {
		if err := within(nsOf(t, name), func() (err error) {
			server[name], err = net.Listen("tcp", ":80")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { server[name].Close() })
	}
	for _, step := range []struct {
		from string
		w    api.Write
	}{{"a", api.Write{Verb: api.VerbMove, Group: "web", Node: "b"}}, {"b", api.Write{Verb: api.VerbGroupOffline, Group: "web"}}} {
		g.online(step.from)
		var c net.Conn
		if err := within(g.client, func() (err error) {
			c, err = net.DialTimeout("tcp", netip.AddrPortFrom(theVIP.Addr(), 80).String(), 5*time.Second)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		p := g.ping(time.Millisecond)
		g.answers(p, step.from, 20)
		ended := make(chan error, 1)
		var at time.Time
		go func() {
			_, err := c.Read(make([]byte, 1))
			at = boottime.Now()
			ended <- err
		}()
		g.do(step.w)
		select {
		case err := <-ended:
			last, _ := p.newest(step.from)
			t.Logf("%s: %v, %v after its last answer", step.w.Verb, err, at.Sub(last))
			if !errors.Is(err, unix.ECONNRESET) || at.Sub(last) > 50*time.Millisecond {
				t.Errorf("%s: the connection ended with %v, %v after the last answer of %s", step.w.Verb, err, at.Sub(last), step.from)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s: the client still waits", step.w.Verb)
		}
		p.close()
	}
}

// The kernel takes an address away when its time is over, and keeps the connections to it: of a machine that stood still. They go when
// the agent runs again, or a client that comes again from the same port would be taken for one of them.
func TestConnectionsOfAnAddressThatTheKernelTookAwayGoToo(t *testing.T) {
	b := newDrainBench(t)
	b.start(3, nil)
	b.dial()
	if err := b.vips.Remove(b.spec); err != nil {
		t.Fatal(err)
	}
	if open, err := b.vips.Connections(theVIP.Addr()); err != nil || len(open) != 1 {
		t.Fatalf("%v, %v: this test shows nothing", open, err)
	}
	if err := b.Stop(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	if open, err := b.vips.Connections(theVIP.Addr()); err != nil || len(open) != 0 {
		t.Errorf("%v, %v", open, err)
	}
}

// While the gate is the kernel lease and cannot be set up, an owner gives its address up before its lease could end unseen,
// and says why; another node takes over.
func TestAnOwnerWithoutAGateGivesUp(t *testing.T) {
	g := newGated(t, `timing = "fast"`)
	g.nft("a", "delete table inet had; add table inet had; add chain inet had mine") // somebody else's now
	g.online("b")
	if out := sh(t, "ip", "-n", nsOf(t, "a"), "-4", "-o", "addr"); strings.Contains(out, theVIP.Addr().String()) {
		t.Errorf("a still has it: %s", out)
	}
	if ok, why := g.nodes["a"].n.gate.carries(); ok || !strings.Contains(why, "not had's") {
		t.Errorf("a says %v, %q of its gate", ok, why)
	}
}

// The kernel lease is changed while the address is served, there and back: no packet is lost and the timing follows.
func TestTheLayerChangesWhileServing(t *testing.T) {
	g := newGated(t, `timing = "fast"`)
	g.quiet("a")
	p := g.ping(time.Millisecond)
	defer p.close()
	layers := []string{"address", "gate", "address", "auto"}
	if testing.Short() {
		layers = layers[:2]
	}
	for _, layer := range layers {
		g.apply("timing = \"fast\"\nkernel_lease = \"" + layer + "\"")
		g.until("a has taken up "+layer, func() error {
			if sub := g.nodes["a"].n.timing().Duration < time.Second; sub != (layer != "address") {
				return fmt.Errorf("duration %v", g.nodes["a"].n.timing().Duration)
			}
			out := g.nft("a", "list", "tables")
			if there := strings.Contains(out, vip.GateTable); there != (layer != "address") {
				return fmt.Errorf("tables: %s", out)
			}
			return nil
		})
		_, n := p.newest("a")
		g.answers(p, "a", n+3000) // longer than any lifetime that the layer before may have armed
		t.Logf("%s: longest without an answer so far: %v", layer, p.longest())
	}
	g.allFrom(p, "a")
}

// A machine that was suspended, for however short, has lost its lease before it does anything else.
func TestASuspendEndsTheLease(t *testing.T) {
	g := newGated(t, `timing = "lan"`)
	g.quiet("a")
	g.nodes["a"].slept.Store(int64(100 * time.Millisecond))
	g.until("the address was taken away and put back under another lease", func() error {
		if g.nodes["a"].n.resumes.Load() == 0 {
			return errors.New("not noticed")
		}
		return g.guards("a", true)
	})
	g.online("a")
}

// guards checks the gate of a node: that the address is behind it, and whether it is open.
func (g *gated) guards(node string, open bool) error {
	entries, err := g.nodes[node].n.vips.Gate()
	if err != nil {
		return err
	}
	if len(entries) != 1 || entries[0].Address != theVIP.Addr() || entries[0].Alive != open {
		return fmt.Errorf("%s: the gate is %+v, want open %v", node, entries, open)
	}
	return nil
}

// answers waits until a node has answered so often.
func (g *gated) answers(p *pinger, node string, n int) {
	g.t.Helper()
	g.until(fmt.Sprintf("%s has answered %d times", node, n), func() error {
		if _, got := p.newest(node); got < n {
			return fmt.Errorf("%d", got)
		}
		return nil
	})
}

// quiet waits until the cluster has settled: the node that owns nothing leads.
func (g *gated) quiet(owner string) {
	g.t.Helper()
	g.until("a node that owns nothing leads", func() error {
		if l := g.leader(); l.name == owner {
			return errors.New(l.name + " leads")
		}
		return nil
	})
}

// A killed agent is started again by its dead man; until it has a lease of its own only what is left of the old one keeps the
// address. This measures how long that takes.
func TestAKilledAgentHasALeaseAgainInTime(t *testing.T) {
	// Without pulses: with them the voters may say sooner that the gates are shut. The race detector makes a start two to three times as long.
	g := newGated(t, "timing = \"lan\"\nkernel_lease = \"gate\"")
	g.apart()
	g.online("a")
	g.quiet("a")
	p := g.ping(time.Millisecond)
	defer p.close()
	will := fence.WillPath(g.nodes["a"].cfg.Socket)
	var took []time.Duration
	moved := 0
	for range 7 {
		g.until("a owns the group", func() error {
			if gs := g.state().Groups["web"]; gs.Owner != "a" || gs.Phase != placement.PhaseOwned { // on a busy machine it took too long
				moved++
				_, err := g.write(api.Write{Verb: api.VerbMove, Group: "web", Node: "a"})
				return errors.Join(err, errors.New("it does not yet"))
			}
			return nil
		})
		_, n := p.newest("a")
		g.answers(p, "a", n+300)
		killed := boottime.Now()
		if err := g.child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = g.child.Wait()
		old := fence.ReadWill(will)
		g.spawn()
		g.until("the next agent has a lease", func() error {
			if !fence.ReadWill(will).After(old) {
				return errors.New("none yet")
			}
			return nil
		})
		took = append(took, boottime.Now().Sub(killed).Round(time.Millisecond))
	}
	slices.Sort(took)
	t.Logf("from the death of the agent to the first lease of the next: %v", took)
	if took[len(took)/2] > 300*time.Millisecond {
		t.Errorf("half of the agents took longer than 300ms: %v", took)
	}
	g.online("a")
	if moved == 0 {
		g.allFrom(p, "a")
	}
}
