package raft

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"hacluster/placement"
)

func founding() []placement.Command {
	member := func(name, id string) placement.Command {
		return placement.Command{Kind: placement.CmdNode, Node: name, NodeInfo: &placement.NodeState{ID: id, Role: placement.RoleMember}}
	}
	return []placement.Command{{Kind: placement.CmdInit, Cluster: "shop", ID: clusterID}, member("n1", "id1"), member("n2", "id2"), member("n3", "id3")}
}

// found fills the state of a cluster and stops it.
func (c *cluster) found(events int) {
	c.t.Helper()
	l := c.leader()
	for _, cmd := range founding() {
		if res, err := l.raft.Propose(c.t.Context(), cmd); err != nil || !res.Applied {
			c.t.Fatal(res, err)
		}
	}
	for i := range events {
		l.propose(fmt.Sprint("decided ", i))
	}
}

func (c *cluster) stopAll() {
	for _, n := range c.nodes {
		n.stop()
	}
}

func end(node, incarnation string) placement.Command {
	return placement.Command{Kind: placement.CmdForce, Node: node, ID: incarnation, Reason: placement.Reason{Rule: placement.RuleQuorumForce, Text: "forced " + incarnation}}
}

func (n *node) force(incarnation string) {
	n.c.t.Helper()
	keep := filepath.Join(n.dir, "before-"+incarnation)
	n.c.must(Recover(n.dir, keep, n.name, end(n.name, incarnation), placement.State.Apply, nil))
	if _, err := os.Stat(filepath.Join(keep, storeFile)); err != nil {
		n.c.t.Fatal("no copy of the old state: ", err)
	}
	n.incarnation = incarnation
}

func TestRecoverKeepsEveryDecidedEntry(t *testing.T) { // S4
	for _, snapshot := range []bool{false, true} {
		t.Run(fmt.Sprint("with a snapshot: ", snapshot), func(t *testing.T) {
			c, _ := three(t)
			c.found(40)
			if snapshot {
				r := c.leader().raft
				c.must(r.raft.ReloadConfig(reloadTrailing(r, 1)))
				c.must(r.raft.Snapshot().Error())
				c.leader().propose("behind the snapshot")
			}
			n := c.leader()
			before := n.raft.State()
			pos := n.raft.Position()
			c.stopAll()
			found, err := Look(n.dir, placement.State.Apply)
			if err != nil || found.Position.Compare(pos) != 0 || found.State.Seq != before.Seq || len(found.Servers) != 3 {
				t.Fatalf("look: %+v, %v; running it was %+v", found.Position, err, pos)
			}
			n.force("inc1")
			c.must(n.start(false))
			if got := c.leader(); got != n {
				t.Fatal("another leads")
			}
			st := n.raft.State()
			if st.Incarnation != "inc1" || !has(st, "forced inc1") || !has(st, "decided 0") || !has(st, "decided 39") || snapshot && !has(st, "behind the snapshot") {
				t.Fatalf("lost: %d events of %d", len(st.Events), before.Seq)
			}
			n.propose("after")
			servers, err := n.raft.Servers()
			if err != nil || !slices.Equal(servers, []Server{{n.name, true}}) {
				t.Fatal(servers, err)
			}
			// Again from disk alone.
			n.stop()
			c.must(n.start(false))
			c.leader()
			c.everyoneHas("after")
		})
	}
}

func TestRecoverRefuses(t *testing.T) {
	c, _ := three(t)
	c.found(3)
	n := c.nodes["n2"]
	if _, err := Look(n.dir, placement.State.Apply); !errors.Is(err, ErrInUse) {
		t.Errorf("looking at a running node: %v", err)
	}
	if err := Recover(n.dir, filepath.Join(n.dir, "keep"), "n2", end("n2", "x"), placement.State.Apply, nil); !errors.Is(err, ErrInUse) {
		t.Errorf("recovering a running node: %v", err)
	}
	c.until("n2 has all", func() bool { return has(n.raft.State(), "decided 2") })
	c.stopAll()
	if err := Recover(n.dir, filepath.Join(n.dir, "keep"), "n2", end("stranger", "x"), placement.State.Apply, nil); err == nil {
		t.Error("a refused last command was taken")
	}
	if found, err := Look(n.dir, placement.State.Apply); err != nil || found.State.Incarnation != "" || len(found.Servers) != 3 {
		t.Errorf("a refused recovery changed something: %+v %v", found.Servers, err)
	}
	path := filepath.Join(n.dir, storeFile)
	c.must(os.Truncate(path, 9000))
	if err := Recover(n.dir, filepath.Join(n.dir, "keep2"), "n2", end("n2", "x"), placement.State.Apply, nil); !errors.Is(err, ErrDamaged) {
		t.Errorf("a damaged store: %v", err)
	}
	if _, err := Look(n.dir, placement.State.Apply); !errors.Is(err, ErrDamaged) {
		t.Errorf("looking at a damaged store: %v", err)
	}
	c.must(os.Remove(path))
	if _, err := Look(n.dir, placement.State.Apply); !errors.Is(err, ErrWiped) {
		t.Errorf("looking at a wiped store: %v", err)
	}
}

// TestALostNodeThatComesBackIsRefused: neither its votes nor its log count in the incarnation that went on without it.
func TestALostNodeThatComesBackIsRefused(t *testing.T) { // S4
	c, _ := three(t)
	c.found(5)
	n1 := c.nodes["n1"]
	c.until("n1 has all", func() bool { return has(n1.raft.State(), "decided 4") })
	c.stopAll()
	n1.force("inc1")
	c.must(n1.start(false))
	c.leader()
	n1.propose("without them")
	c.must(c.nodes["n2"].start(false))
	c.must(c.nodes["n3"].start(false))
	old := ""
	c.until("the lost nodes elect one of their own", func() bool {
		for _, name := range []string{"n2", "n3"} {
			if c.nodes[name].raft.IsLeader() {
				old = name
			}
		}
		return old != ""
	})
	// Even told to, the two histories do not mix.
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := c.nodes[old].raft.Propose(ctx, note("of the old incarnation")); err != nil {
		t.Fatal(err)
	}
	if err := n1.raft.AddNonvoter(ctx, "n2"); err != nil {
		t.Fatal(err)
	}
	n1.propose("to nobody")
	time.Sleep(20 * n1.c.timing.Heartbeat / 10) // that nothing happens cannot be waited for
	if has(n1.raft.State(), "of the old incarnation") || has(c.nodes["n2"].raft.State(), "to nobody") || has(c.nodes["n2"].raft.State(), "without them") {
		t.Fatal("two incarnations were mixed")
	}
}

// TestForcedHalvesCannotMerge: two administrators force at the same time.
func TestForcedHalvesCannotMerge(t *testing.T) {
	c, _ := three(t)
	c.found(5)
	n1, n2 := c.nodes["n1"], c.nodes["n2"]
	for _, n := range []*node{n1, n2} {
		c.until(n.name+" has all", func() bool { return has(n.raft.State(), "decided 4") })
	}
	c.stopAll()
	n1.force("left")
	n2.force("right")
	c.must(n1.start(false))
	c.must(n2.start(false))
	for _, n := range []*node{n1, n2} {
		c.until(n.name+" leads alone", func() bool { return n.raft.IsLeader() && n.raft.Barrier(t.Context()) == nil })
		if _, err := n.raft.Propose(t.Context(), note("only on "+n.name)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	c.must(n1.raft.AddNonvoter(ctx, "n2"))
	c.must(n2.raft.AddNonvoter(ctx, "n1"))
	time.Sleep(20 * n1.c.timing.Heartbeat / 10) // that nothing happens cannot be waited for
	if has(n1.raft.State(), "only on n2") || has(n2.raft.State(), "only on n1") || n1.raft.State().Incarnation != "left" || n2.raft.State().Incarnation != "right" {
		t.Fatal("the halves have merged")
	}
}

// TestARejoinedNodeVotesAgain: removed, emptied, added again under its name.
func TestARejoinedNodeVotesAgain(t *testing.T) { // S4
	c, leader := three(t)
	c.found(5)
	lost := c.follower(leader)
	lost.stop()
	c.must(os.RemoveAll(lost.dir))
	c.must(os.Mkdir(lost.dir, 0o700))
	if err := lost.start(false); !errors.Is(err, ErrWiped) {
		t.Fatalf("a wiped node: %v", err)
	}
	c.must(leader.raft.Remove(t.Context(), lost.name))
	leader.propose("while it is away")
	c.must(leader.raft.AddNonvoter(t.Context(), lost.name))
	c.must(lost.start(true))
	c.everyoneHas("while it is away")
	c.must(leader.raft.AddVoter(t.Context(), lost.name))
	var third *node
	for _, n := range c.nodes {
		if n != leader && n != lost {
			third = n
		}
	}
	third.stop()
	leader.propose("with the vote of the rejoined node")
	c.everyoneHas("with the vote of the rejoined node")
}
