package sim

import (
	"time"

	"hacluster/placement"
)

// administer gives one command to whoever leads.
func (w *World) administer() bool {
	l := w.leader()
	if l == nil {
		return false
	}
	st := l.p.state
	node := w.node().name
	if len(st.Policy.Groups) == 0 {
		return false
	}
	group := st.Policy.Groups[w.rng.IntN(len(st.Policy.Groups))].Name
	reason := placement.Reason{Rule: placement.RuleNode, Text: "an administrator"}
	var c placement.Command
	switch n := w.rng.IntN(10); {
	case n < 5:
		var refusal *placement.Refusal
		if c, refusal = placement.PlanMove(st.Policy, *st, l.view(), l.p.m.clock(), group, []string{node, ""}[w.rng.IntN(2)]); refusal != nil || c.Kind == "" {
			return false
		}
		w.withDrain(l, &c)
	case n < 7:
		admins := []placement.Admin{placement.AdminPaused, placement.AdminDrain, placement.AdminUp, placement.AdminUp}
		c = placement.Command{Kind: placement.CmdAdmin, Node: node, Admin: admins[w.rng.IntN(len(admins))], Reason: reason}
	case n < 9:
		reason.Rule = placement.RuleOnline
		c = placement.Command{Kind: placement.CmdGroupAdmin, Group: group, Offline: w.chance(0.4), Reason: reason}
	default:
		c = w.configure(st.ConfigVersion)
	}
	c.At, c.By = l.p.m.wall(), l.p.m.name
	w.log("an administrator: %s %s %s", c.Kind, c.Group, c.Node)
	l.p.append(&c)
	return true
}

// configure applies another configuration.
func (w *World) configure(version uint64) placement.Command {
	policy, text := w.configuration()
	n, _ := timingOf(text)
	t := w.timings[n]
	w.log("a configuration: profile %s, kernel lease %s, leases of %s, takeover wait %s", t.Profile, t.Layer, t.Duration, policy.Groups[0].TakeoverWait)
	return placement.Command{Kind: placement.CmdConfig, Policy: &policy, Config: text, KernelLease: string(t.Layer), Version: version,
		Reason: placement.Reason{Rule: placement.RuleConfig, Text: "applied"}}
}

// leader is a process that leads, if any believes so; of two the one in the later term.
func (w *World) leader() *leader {
	var best *leader
	for _, m := range w.nodes {
		if p := m.proc; p != nil && p.runs() && p.raft.role == leading && p.lead.ledger != nil && (best == nil || p.lead.term > best.term) {
			best = p.lead
		}
	}
	return best
}

// calm ends every fault; administrators make everything available again until the cluster has taken it up.
func (w *World) calm() {
	w.quiet = true
	w.log("the faults end")
	for i := range w.net.cut {
		clear(w.net.cut[i])
	}
	w.net.loss, w.net.slow, w.net.twice, w.net.late = 0, 0, 0, 0
	clear(w.net.lag)
	w.faults = regime{}
	for _, m := range w.nodes {
		m.calm()
	}
	w.mend()
}

// calm mends and starts what is down. What is frozen or asleep goes on by itself.
func (m *machine) calm() {
	w := m.w
	m.disk.full = false
	if !m.up {
		m.boot()
		return
	}
	if p := m.proc; p != nil && (p.leaving || p.unsaid) {
		m.stop()
	}
	for i := range m.things {
		if m.things[i].stuck {
			m.end(i, w.upTo(time.Second), "killed at last")
		}
	}
	w.timer(0, m.init, m.startParent)
}

// mend makes what administrators took away available again.
func (w *World) mend() {
	l := w.leader()
	if l == nil {
		w.after(w.timing.Duration, nil, w.mend)
		return
	}
	for _, m := range w.nodes {
		if l.p.state.Nodes[m.name].Admin != placement.AdminUp {
			l.p.append(&placement.Command{Kind: placement.CmdAdmin, Node: m.name, Admin: placement.AdminUp, At: l.p.m.wall()})
		}
	}
	for _, g := range l.p.state.Policy.Groups {
		gs := l.p.state.Groups[g.Name]
		if gs.Offline || gs.Failed || len(gs.GivenUp) > 0 {
			l.p.append(&placement.Command{Kind: placement.CmdGroupAdmin, Group: g.Name, At: l.p.m.wall(), Reason: placement.Reason{Rule: placement.RuleOnline, Text: "online"}})
		}
	}
	w.after(2*w.timing.Duration, nil, w.mend)
}
