package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"hacluster/api"
	"hacluster/placement"
)

// One cluster goes through what an administrator and fate do to it. Each step leaves it well, with the group online; the
// service itself tells when it is ever started twice (S2).
func TestACluster(t *testing.T) {
	c := form(t, "a", "b", "w")
	step := func(name string, run func(t *testing.T)) {
		t.Helper()
		if !t.Run(name, func(t *testing.T) { c.t = t; run(t) }) {
			t.FailNow()
		}
		c.t = t
	}
	step("a configuration with faults is refused with all of them", func(t *testing.T) {
		_, err := c.write(api.Write{Verb: api.VerbApply, Config: "name = \"lab\"\nfoo = 1\nbar = 2\n", File: "x.toml"})
		refused(t, err, api.CodeInvalid, "faults", "mend")
		var e *api.Error
		if errors.As(err, &e) && len(e.Faults) != 2 {
			t.Errorf("faults: %q", e.Faults)
		}
		_, err = c.write(api.Write{Verb: api.VerbApply, Config: strings.Replace(c.webConfig(""), `"lab"`, `"other"`, 1)})
		refused(t, err, api.CodeRefused, `"other"`, `name = "lab"`)
	})
	step("a configuration brings its group online", func(t *testing.T) {
		config := c.webConfig(`preferred_owners = ["a", "b"]`)
		if r := c.do(api.Write{Verb: api.VerbApply, Config: config, DryRun: true}); c.state().ConfigVersion != 0 || len(r.Changes) == 0 {
			t.Errorf("dry run: %+v, version %d", r, c.state().ConfigVersion)
		}
		if r := c.do(api.Write{Verb: api.VerbApply, Config: config}); r.Version != 1 || r.Already {
			t.Errorf("applied: %+v", r)
		}
		if s := c.serving("a", 0); s.epoch != 1 {
			t.Errorf("epoch %d at the first start", s.epoch)
		}
		if r := c.do(api.Write{Verb: api.VerbApply, Config: config}); !r.Already || r.Version != 1 {
			t.Errorf("applied again: %+v", r)
		}
	})
	step("leadership goes to the node that owns nothing", func(t *testing.T) {
		c.until("w leads, which can own nothing", func() error {
			if l := c.leader(); l.name != "w" {
				return errors.New(l.name + " leads")
			}
			return nil
		})
	})
	step("every node tells the same", c.tellsTheSame)
	step("a move", func(t *testing.T) {
		old := c.serving("a", 0)
		measured := c.timing(t, "b", "decided", "committed", "released", "handed-on", "acquired")
		c.do(api.Write{Verb: api.VerbMove, Group: "web", Node: "b"})
		s := c.serving("b", old.epoch)
		measured()
		if alive(old.pid) || s.epoch <= old.epoch {
			t.Errorf("from %+v to %+v", old, s)
		}
		if r := c.do(api.Write{Verb: api.VerbMove, Group: "web", Node: "b"}); !r.Already {
			t.Errorf("moved again: %+v", r)
		}
		_, err := c.write(api.Write{Verb: api.VerbMove, Group: "web", Node: "w"})
		refused(t, err, api.CodeRefused, "w", "")
		_, err = c.write(api.Write{Verb: api.VerbMove, Group: "none", Node: "a"})
		refused(t, err, api.CodeNotFound, "none", "")
	})
	step("a process that dies is started again, and the second time the group fails over", func(t *testing.T) {
		first := c.serving("b", 0)
		c.kill(first.pid)
		c.until("it was started again", func() error {
			if s := c.starts(); s[len(s)-1] == first {
				return errors.New("not yet")
			}
			return nil
		})
		second := c.serving("b", 0)
		if second.epoch != first.epoch {
			t.Errorf("the restart on the same node changed the epoch: %+v, %+v", first, second)
		}
		measured := c.timing(t, "a", "detected", "decided", "committed", "released", "handed-on", "acquired")
		c.kill(second.pid)
		c.serving("a", second.epoch)
		measured()
		why := c.state().Groups["web"].Why
		if why.Rule != placement.RuleFailover || len(why.Evidence) == 0 {
			t.Errorf("why: %+v", why)
		}
	})
	step("a drain", func(t *testing.T) {
		c.do(api.Write{Verb: api.VerbGroupOnline, Group: "web"}) // b is given up on no more
		old := c.serving("a", 0)
		c.do(api.Write{Verb: api.VerbDrain, Node: "a"})
		c.serving("b", old.epoch)
		c.wantNode("a", "paused", "drained")
		if r := c.do(api.Write{Verb: api.VerbDrain, Node: "a"}); !r.Already {
			t.Errorf("drained again: %+v", r)
		}
		c.do(api.Write{Verb: api.VerbResume, Node: "a"})
		c.wantNode("a", "up", "")
	})
	step("a pause moves nothing", func(t *testing.T) {
		old := c.serving("b", 0)
		c.do(api.Write{Verb: api.VerbPause, Node: "b"})
		c.wantNode("b", "paused", "")
		if s := c.serving("b", 0); s != old {
			t.Errorf("%+v became %+v", old, s)
		}
		c.do(api.Write{Verb: api.VerbResume, Node: "b"})
		c.wantNode("b", "up", "")
	})
	step("a group goes offline and online", func(t *testing.T) {
		old := c.serving("b", 0)
		c.do(api.Write{Verb: api.VerbGroupOffline, Group: "web"})
		c.until("it is offline", func() error {
			st, err := c.running()[0].client.Status(t.Context())
			if g := group(st); err != nil || g.State != "offline" || alive(old.pid) {
				return fmt.Errorf("%v, %s, process alive: %v", err, g.State, alive(old.pid))
			}
			return nil
		})
		c.do(api.Write{Verb: api.VerbGroupOnline, Group: "web"})
		c.serving("", old.epoch)
	})
	step("the history", c.history)
	step("a leader stops and the lease lives on", func(t *testing.T) {
		old := c.serving("", 0)
		leader := c.leader()
		if leader.name == old.node {
			t.Fatalf("%s leads and owns", leader.name)
		}
		leader.stop()
		next := c.leader()
		if next == leader {
			t.Fatal("the stopped node leads")
		}
		// It has just been elected: what it says is true all the same.
		if st, err := next.client.Status(t.Context()); err != nil || node(st, old.node).State != "up" || node(st, next.name).State != "up" || st.Stale || group(st).State != "online" {
			t.Errorf("right after the election: %v, %+v", err, st)
		}
		// Longer than any lease that the stopped leader gave: what serves now does so under the next one's.
		c.until("the next leader has granted leases", func() error {
			n := c.nodes[old.node].n
			n.renewer.mu.Lock()
			defer n.renewer.mu.Unlock()
			if l := n.renewer.holder.Leader(); l == leader.name {
				return errors.New("the newest is of " + l)
			}
			return nil
		})
		if s := c.serving(old.node, 0); s != old {
			t.Errorf("%+v became %+v", old, s)
		}
		leader.start()
		c.wantNode(leader.name, "up", "")
	})
	step("an agent that starts again takes up what runs", func(t *testing.T) {
		old := c.serving("", 0)
		epoch := c.state().Groups["web"].Epoch
		c.nodes[old.node].stop()
		if !alive(old.pid) {
			t.Fatal("the end of the agent ended the service")
		}
		c.nodes[old.node].start()
		c.wantNode(old.node, "up", "")
		if s := c.serving(old.node, 0); s != old || c.state().Groups["web"].Epoch != epoch {
			t.Errorf("%+v became %+v, epoch %d became %d", old, s, epoch, c.state().Groups["web"].Epoch)
		}
	})
	step("the agent of an owner that leads says goodbye to the next leader", c.goodbyes)
	step("an agent that is lost loses its group after the takeover wait", c.lost)
	step("a majority that is lost takes everything away", c.quorumLost)
}

// tellsTheSame compares what the nodes say of the cluster, on the wire.
func (c *cluster) tellsTheSame(t *testing.T) {
	c.serving("a", 0)
	for _, m := range c.running() {
		var st api.Status
		c.until(m.name+" tells what the leader knows", func() (err error) { // a leader may just have been elected
			if st, err = m.client.Status(t.Context()); err == nil && st.Stale {
				err = errors.New("it tells what it knows itself")
			}
			return err
		})
		b, err := json.Marshal(st)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`"cluster":"lab"`, `"node":"` + m.name + `"`, `"stale":false`, `"health":"healthy"`, `"config":1`, `"profile":"lan"`,
			`"voters":3,"alive":3,"needed":2`, `"margin":"one more voter may fail"`, `"state":"online"`, `"owner":"a"`, `"role":"witness"`} {
			if !strings.Contains(string(b), want) {
				t.Fatalf("%s: no %s in %s", m.name, want, b)
			}
		}
		g := group(st)
		if len(g.Standbys) != 1 || g.Standbys[0].Node != "b" || !g.Standbys[0].Ready || len(g.Resources) != 1 || g.Resources[0].Type != "process" {
			t.Errorf("%s: group %+v", m.name, g)
		}
		for _, n := range st.Nodes {
			if n.LastSeen < 0 || n.LastSeen > st.Timing.Suspect || n.Lease <= 0 || n.Lease > st.Timing.Duration || n.Version != "test" || len(n.Addresses) != 1 ||
				(n.Role == placement.RoleMember) != (n.Release != "") {
				t.Errorf("%s of %s: %+v", m.name, n.Name, n)
			}
		}
		if len(st.Warnings) > 0 || st.LastEvent == nil {
			t.Errorf("%s: warnings %q, last event %v", m.name, st.Warnings, st.LastEvent)
		}
	}
}

func (c *cluster) wantNode(name, state, flag string) {
	c.t.Helper()
	c.until(fmt.Sprintf("node %s is %s %s", name, state, flag), func() error {
		st, err := c.running()[0].client.Status(c.t.Context())
		if n := node(st, name); err != nil || n.State != state || flag != "" && !slices.Contains(n.Flags, flag) || flag == "" && len(n.Flags) > 0 {
			return fmt.Errorf("%v, %s, %q", err, n.State, n.Flags)
		}
		return nil
	})
}

// history reads the events of every node, from the beginning and from the middle, and follows a move.
func (c *cluster) history(t *testing.T) {
	want := c.state().Events
	for i, e := range want {
		if e.Seq != uint64(i+1) || e.Reason.Text == "" || e.Time.IsZero() {
			t.Errorf("event %d: %+v", i, e)
		}
	}
	for _, m := range c.running() {
		for _, since := range []uint64{0, uint64(len(want) / 2), want[len(want)-1].Seq} {
			c.until("the node has caught up", func() error {
				got, err := m.client.Events(t.Context(), since)
				if err != nil || len(got) < len(want)-int(since) || len(got) > 0 && got[0].Seq != since+1 {
					return fmt.Errorf("%v, %d events since %d", err, len(got), since)
				}
				return nil
			})
		}
	}
	old := c.serving("", 0)
	to := map[string]string{"a": "b", "b": "a"}[old.node]
	enough := errors.New("enough")
	ended := make(chan error, 1)
	var seen []string
	go func() {
		ended <- c.nodes["a"].client.Follow(t.Context(), c.state().Seq, func(e placement.Event) error {
			seen = append(seen, e.Kind)
			if e.Kind == string(placement.CmdReleased) && e.To == to {
				return enough
			}
			return nil
		}, func(err error) { t.Errorf("the stream broke: %v", err) })
	}()
	c.do(api.Write{Verb: api.VerbMove, Group: "web", Node: to})
	if err := <-ended; !errors.Is(err, enough) {
		t.Errorf("following: %v", err)
	}
	if i := slices.Index(seen, string(placement.CmdRelease)); i < 0 || i > slices.Index(seen, string(placement.CmdReleased)) {
		t.Errorf("followed %q: release must come before released", seen)
	}
	c.serving(to, old.epoch)
}

// lost: nobody may take the group before every copy of the lost owner's lease has run out (S1, S2).
func (c *cluster) lost(t *testing.T) {
	old := c.serving("", 0)
	owner := c.nodes[old.node]
	var wait time.Duration
	for _, g := range c.state().Policy.Groups {
		wait = g.TakeoverWait
	}
	before := time.Now() // the last confirmation of the owner's lease comes after this
	timing := owner.n.timing()
	owner.stop()
	var took time.Duration
	measured := c.timing(t, map[string]string{"a": "b", "b": "a"}[old.node], "detected", "decided", "committed", "acquired")
	c.until("the group is taken over", func() error {
		gs := c.state().Groups["web"]
		took = time.Since(before)
		if gs.Owner == old.node {
			return errors.New("not yet")
		}
		if gs.Why.Rule != placement.RuleNodeLost {
			t.Errorf("why: %+v", gs.Why)
		}
		return nil
	})
	// The confirmation that counts may be one renewal older than the stop.
	if earliest := wait - timing.Renew - timing.Renew/2; took < earliest {
		t.Errorf("taken over after %v, not before %v", took, earliest)
	}
	c.serving("", old.epoch)
	measured()
	c.rode(t)
	c.wantNode(old.node, "down", "")
	t.Logf("takeover wait %v, taken over %v after the loss", wait, took.Round(time.Millisecond))
	owner.start()
	c.wantNode(old.node, "up", "")
	c.until("the loss and the return are in the history", func() error {
		var kinds []string
		for _, e := range c.state().Events {
			if e.Seq > 0 && e.Node == old.node && e.Kind == string(placement.CmdNodeSeen) {
				kinds = append(kinds, e.Reason.Text)
			}
		}
		if len(kinds) < 2 || !strings.Contains(kinds[len(kinds)-1], "back") {
			return fmt.Errorf("seen: %q", kinds)
		}
		return nil
	})
}

// quorumLost: what is left of a cluster without a majority may do nothing, and says so.
func (c *cluster) quorumLost(t *testing.T) {
	old := c.serving("", 0)
	left := c.nodes[old.node]
	for _, m := range c.running() {
		if m != left {
			m.stop()
		}
	}
	c.until("the lease has ended and the service with it", func() error {
		if alive(old.pid) {
			return errors.New("it runs")
		}
		return nil
	})
	c.until("it knows that it is alone", func() error {
		st, err := left.client.Status(t.Context())
		n := node(st, left.name)
		if err != nil || !st.Stale || st.Health != api.HealthDown || st.Leader != "" || !slices.Contains(n.Flags, "isolated") || n.Lease != 0 ||
			!strings.HasPrefix(st.Quorum.Margin, "no quorum") || node(st, "w").State != "unknown" {
			return fmt.Errorf("%v, stale %v, %s, leader %q, %+v, %+v", err, st.Stale, st.Health, st.Leader, n, st.Quorum)
		}
		return nil
	})
	_, err := left.client.Write(t.Context(), api.Write{Verb: api.VerbMove, Group: "web"})
	refused(t, err, api.CodeNoQuorum, "no leader", "majority")
	if !api.AsError(err).Untried {
		t.Error("it is not said that nothing was begun")
	}
	for _, m := range c.nodes {
		if m.n == nil {
			m.start()
		}
	}
	c.serving("", 0)
}
