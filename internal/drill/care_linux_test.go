package drill

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hacluster/internal/lab"
)

// TestPutBack: somebody else removes the address on the owner; it is there again before anybody fails over.
func TestPutBack(t *testing.T) {
	c, ctx := formed(t, Options{})
	owner, err := c.Owner(ctx)
	if err != nil {
		t.Fatal(err)
	}
	since := c.Client.Mark()
	if err := c.Lab.Node(owner).DelAddr(netip.PrefixFrom(c.VIP.Addr(), 32)); err != nil {
		t.Fatal(err)
	}
	if err := c.steady(ctx, time.Now()); err != nil {
		t.Fatal(err)
	}
	out, err := c.outcome(ctx, Outcome{Fault: "address removed", From: owner}, since)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("outage %s, %d failed", out.Outage, out.Failed)
	if out.To != owner || out.Breach() != "" {
		t.Errorf("owner %s -> %s, %s", owner, out.To, out.Breach())
	}
	log, _ := os.ReadFile(c.Agent(owner).Log)
	if !strings.Contains(string(log), "removed behind our back") {
		t.Error("nothing in the log says who removed it")
	}
}

// TestConflict: a machine outside of the cluster has the address. The first start finds it, says its hardware address and
// leaves it alone; when it is gone the administrator brings the group online.
func TestConflict(t *testing.T) {
	beside(t)
	c, ctx := formed(t, Options{NoApply: true})
	foreign := c.Lab.Client()
	if err := foreign.AddAddr(c.VIP); err != nil {
		t.Fatal(err)
	}
	text, err := c.Config()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(c.Lab.Dir(), "cluster.toml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Hactl(ctx, Nodes[0], "apply", file); err != nil {
		t.Fatal(err)
	}
	mac := foreign.MAC(0).String()
	if err := c.poll(ctx, "the conflict is reported", func() (bool, string) {
		out, _ := c.Hactl(ctx, Nodes[0], "-o", "json", "status")
		return strings.Contains(out, "is in use by") && strings.Contains(out, mac), out
	}); err != nil {
		t.Fatal(err)
	}
	for _, name := range Nodes {
		addrs, err := c.Lab.Node(name).Addrs()
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			if a.Addr() == c.VIP.Addr() {
				t.Errorf("%s took the address from its holder", name)
			}
		}
	}
	if err := foreign.DelAddr(c.VIP); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Hactl(ctx, Nodes[0], "group", "online", Group); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestRedundantNetworks: the nodes lose each other on the network that clients use. They go on over the other one: nobody
// notices (L2).
func TestRedundantNetworks(t *testing.T) {
	c, ctx := formed(t, Options{Net: 2})
	owner, err := c.Owner(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.steady(ctx, time.Now()); err != nil {
		t.Fatal(err)
	}
	since := c.Client.Mark()
	if err := c.Lab.IsolateFromPeers(owner, 0); err != nil {
		t.Fatal(err)
	}
	if err := c.lastsBeyondLease(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.steady(ctx, time.Now()); err != nil {
		t.Fatal(err)
	}
	out, err := c.outcome(ctx, Outcome{From: owner}, since)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("outage %s, %d failed", out.Outage, out.Failed)
	if out.To != owner || out.Failed != 0 || out.Breach() != "" {
		t.Errorf("owner %s -> %s, %d failed, %s", owner, out.To, out.Failed, out.Breach())
	}
}

// TestColdExclusive checks S2: what is exclusive runs on one node at a time, in a move, when the agent is killed or frozen
// with its dead man, and when it is cut off.
func TestColdExclusive(t *testing.T) {
	c, ctx := formed(t, Options{Cold: true})
	stop, done := make(chan struct{}), make(chan int)
	go func() { // samples both nodes
		both := 0
		for {
			select {
			case <-stop:
				done <- both
				return
			case <-time.After(5 * time.Millisecond):
			}
			n := 0
			for _, name := range Nodes[:2] {
				if c.signalService(name, func(*lab.Node, int) error { return nil }) == nil {
					n++
				}
			}
			if n > 1 {
				both++
			}
		}
	}()
	for _, name := range []string{"planned move", "service killed", "cut from peers", "agent frozen", "agent killed", "power cut"} {
		d, _ := Find(name)
		switch name {
		case "service killed": // a cold group restarts its service where it is
			d.Moves = false
		case "agent frozen": // the dead man has a new agent running before the longer takeover wait of an exclusive service is over
			d.Moves = false
		}
		out, err := c.Run(ctx, d)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%-16s outage %8s, %3d failed, double %s, %s -> %s", name, out.Outage.Round(time.Millisecond), out.Failed, out.Double, out.From, out.To)
		if b := out.Breach(); b != "" {
			t.Error(b)
		}
	}
	close(stop)
	if n := <-done; n > 0 {
		t.Errorf("the exclusive service was seen on two nodes %d times (S2)", n)
	}
}
