package sim

import (
	"strconv"
	"time"

	"hacluster/placement"
)

// Storm is a kind of run that is made of one or two faults; one run in four is one of them.
type Storm string

const (
	NoStorm    Storm = ""
	StormMoves Storm = "moves" // groups move all the time, and agents die as soon as they have let go
	StormMute  Storm = "mute"  // answers are late, and nodes fall silent
	// StormPause stops the leader for longer than its leases last.
	StormPause Storm = "pause"
	// StormTiming changes the duration of leases while nodes fall silent.
	StormTiming Storm = "timing"
)

// regime is how rough a run is; drawn once.
type regime struct {
	every        time.Duration // between two faults, about
	lateApply    float64
	lostProposal float64
	badStart     float64
	longStop     float64
	alwaysSlow   bool
	bounce       float64 // chance that an agent is killed right after a promise
	starved      float64 // chance that a wake-up comes late, within the margin
	margin       time.Duration
	weights      []int
}

// jitter is how late a loop wakes up; the timing's margin covers it.
func (r *regime) jitter(w *World) time.Duration {
	if r.starved == 0 || !w.chance(r.starved) {
		return 0
	}
	return w.upTo(r.margin / 3)
}

func (w *World) drawRegime() {
	w.faults = regime{
		every:        w.between(w.timing.Duration/3, 3*w.timing.Duration),
		lateApply:    []float64{0, 0.01, 0.1, 0.5}[w.rng.IntN(4)],
		bounce:       []float64{0, 0, 0.5}[w.rng.IntN(3)],
		lostProposal: []float64{0, 0, 0.05}[w.rng.IntN(3)],
		badStart:     []float64{0, 0, 0.1}[w.rng.IntN(3)],
		longStop:     []float64{0, 0.1, 0.5}[w.rng.IntN(3)],
		starved:      []float64{0, 0, 0.2}[w.rng.IntN(3)],
		margin:       w.timing.Margin,
	}
	if w.chance(0.25) { // a network that is slow all the time
		w.net.slow, w.faults.alwaysSlow = w.upTo(w.timing.Duration/2), true
	}
	for range faults {
		w.faults.weights = append(w.faults.weights, w.rng.IntN(4))
	}
	storm := w.opt.Storm
	if storm == NoStorm && w.chance(0.25) {
		storm = []Storm{StormMoves, StormMute, StormPause, StormTiming}[w.rng.IntN(4)]
	}
	only := map[string]bool{}
	switch storm {
	case StormMoves:
		w.faults.every, w.faults.lateApply, w.faults.bounce, only["administrator"] = w.timing.Duration/2, 0.5, 1, true
		w.net.slow, w.faults.alwaysSlow = w.upTo(w.timing.Duration/2), true
	case StormMute:
		w.faults.every, only["laggard"] = 2*w.timing.Duration, true
	case StormPause:
		w.faults.every, only["pause leader"] = 4*w.timing.Duration, true
	case StormTiming:
		w.faults.every, only["configure"], only["mute"] = w.timing.Duration, true, true
	default:
		return
	}
	for i := range faults {
		w.faults.weights[i] = 0
		if only[faults[i].name] {
			w.faults.weights[i] = 1
		}
	}
}

// faults are everything that may happen to a cluster. Each ends by itself, or at the quiet end of the run.
var faults = []struct {
	name string
	do   func(w *World)
}{
	{"isolate", func(w *World) { w.cutNode(w.node(), true, true) }},
	{"deaf", func(w *World) { w.cutNode(w.node(), true, false) }},
	{"mute", func(w *World) { w.cutNode(w.node(), false, true) }},
	{"one way", func(w *World) {
		a, b := w.node(), w.node()
		w.Stats.Cuts++
		w.net.cut[a.i][b.i] = true
		w.log("cut %s -> %s", a.name, b.name)
		w.after(w.long(), nil, func() { w.net.cut[a.i][b.i] = false })
	}},
	{"loss", func(w *World) {
		w.net.loss = w.rng.Float64() * 0.5
		w.after(w.long(), nil, func() { w.net.loss = 0 })
	}},
	{"slow", func(w *World) {
		if w.faults.alwaysSlow {
			return
		}
		w.net.slow = w.upTo(w.timing.Duration)
		w.after(w.long(), nil, func() { w.net.slow = 0 })
	}},
	{"laggard", func(w *World) { // what a node is told comes late; then nobody hears it any more
		m, d := w.node(), w.timing.Duration
		w.net.lag[m.i] = w.between(d/4, d/2)
		w.log("%s hears everything %s late", m.name, w.net.lag[m.i])
		w.after(w.upTo(2*d), nil, func() {
			if !w.quiet {
				w.cutNode(m, false, true)
			}
		})
		w.after(4*d, nil, func() { w.net.lag[m.i] = 0 })
	}},
	{"pause leader", func(w *World) { // it believes to lead when it goes on, and nobody can tell it otherwise
		l, d := w.leader(), w.timing.Duration
		if l == nil {
			return
		}
		m := l.p.m
		m.frozen = w.now + w.between(d, 4*d)
		m.expose()
		w.Stats.Freezes++
		w.log("%s, which leads, is frozen until %.3fs", m.name, m.frozen.Seconds())
		w.cutFor(m, true, true, 5*d)
	}},
	{"kill agent", func(w *World) {
		if m := w.node(); m.proc != nil {
			w.Stats.Kills++
			w.log("%s: its agent is killed", m.name)
			m.endAgent()
			back := w.long()
			if w.chance(0.5) {
				back = w.between(10*time.Millisecond, 300*time.Millisecond)
			}
			w.after(back, nil, m.startAgent)
		}
	}},
	{"freeze agent", func(w *World) {
		if m := w.node(); m.proc != nil && m.frozen <= w.now {
			w.Stats.Freezes++
			m.frozen = w.now + w.long()
			m.expose()
			w.log("%s: its agent is frozen until %.3fs", m.name, m.frozen.Seconds())
		}
	}},
	{"power", func(w *World) {
		if m := w.node(); m.up {
			m.powerOff()
			w.after(w.long()+w.timing.Duration, nil, func() {
				if !m.up {
					m.boot()
				}
			})
		}
	}},
	{"transfer", func(w *World) {
		if p := w.node().proc; p != nil && p.raft.role != leading {
			w.after(0, p, func() { p.campaign(false) })
		}
	}},
	{"crash service", func(w *World) {
		m, k := w.node(), w.keys[w.rng.IntN(len(w.keys))]
		if t := m.thing(k); m.up && t.on && k.resource != "address" {
			m.turnOff(k, "it crashed")
		}
	}},
	{"administrator", func(w *World) { w.administer() }},
	{"administrator", func(w *World) { w.administer() }},
	{"configure", func(w *World) {
		if l := w.leader(); l != nil {
			c := w.configure(l.p.state.ConfigVersion)
			c.At, c.By = l.p.m.wall(), l.p.m.name
			l.p.append(&c)
		}
	}},
	{"leave", func(w *World) {
		if p := w.node().proc; p != nil {
			p.leaving = true
			w.log("%s: its agent leaves", p.m.name)
			p.kickAct()
			w.after(w.long(), p, func() {
				p.m.endAgent()
				w.after(w.long(), nil, p.m.startAgent)
			})
		}
	}},
}

// long is how long a fault lasts: around everything that a lease can last.
func (w *World) long() time.Duration {
	return w.between(w.timing.Duration/10, 4*w.timing.Duration)
}

func (w *World) cutNode(m *machine, in, out bool) { w.cutFor(m, in, out, w.long()) }

func (w *World) cutFor(m *machine, in, out bool, d time.Duration) {
	w.Stats.Cuts++
	w.log("cut %s (in %v, out %v)", m.name, in, out)
	set := func(v bool) {
		for _, o := range w.nodes {
			if o != m {
				w.net.cut[o.i][m.i] = w.net.cut[o.i][m.i] != in && w.net.cut[o.i][m.i] || in && v
				w.net.cut[m.i][o.i] = w.net.cut[m.i][o.i] != out && w.net.cut[m.i][o.i] || out && v
			}
		}
	}
	set(true)
	w.after(d, nil, func() { set(false); w.log("%s is reachable again", m.name) })
}

// trouble makes faults until the quiet end.
func (w *World) trouble() {
	if w.quiet {
		return
	}
	sum := 0
	for _, n := range w.faults.weights {
		sum += n
	}
	if sum > 0 {
		at := w.rng.IntN(sum)
		for i, n := range w.faults.weights {
			if at -= n; at < 0 {
				faults[i].do(w)
				break
			}
		}
	}
	w.after(w.upTo(2*w.faults.every), nil, w.trouble)
}

// administer gives one command to whoever leads.
func (w *World) administer() {
	l := w.leader()
	if l == nil {
		return
	}
	st := l.p.state
	node := w.node().name
	if len(st.Policy.Groups) == 0 {
		return
	}
	group := st.Policy.Groups[w.rng.IntN(len(st.Policy.Groups))].Name
	reason := placement.Reason{Rule: placement.RuleNode, Text: "an administrator"}
	var c placement.Command
	switch n := w.rng.IntN(10); {
	case n < 5:
		var refusal *placement.Refusal
		if c, refusal = placement.PlanMove(st.Policy, *st, l.view(), l.p.m.clock(), group, []string{node, ""}[w.rng.IntN(2)]); refusal != nil || c.Kind == "" {
			return
		}
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
}

// configure applies another configuration.
func (w *World) configure(version uint64) placement.Command {
	policy, text := w.configuration()
	w.log("a configuration with leases of %s ns", text)
	return placement.Command{Kind: placement.CmdConfig, Policy: &policy, Config: text, Version: version, Reason: placement.Reason{Rule: placement.RuleConfig, Text: "applied"}}
}

// leader is a process that leads, if any believes so; of two the one in the later term.
func (w *World) leader() *leader {
	var best *leader
	for _, m := range w.nodes {
		if p := m.proc; p != nil && m.frozen <= w.now && p.raft.role == leading && p.lead.ledger != nil && (best == nil || p.lead.term > best.term) {
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
	w.net.loss, w.net.slow = 0, 0
	clear(w.net.lag)
	w.faults.longStop, w.faults.lateApply = 0, 0
	for _, m := range w.nodes {
		m.frozen = min(m.frozen, w.now)
		if p := m.proc; p != nil && p.leaving {
			m.endAgent()
		}
		if !m.up {
			m.boot()
		}
		m.startAgent()
	}
	w.mend()
}

// mend makes what administrators took away available again.
func (w *World) mend() {
	l := w.leader()
	if l == nil {
		w.after(w.timing.Duration, nil, w.mend)
		return
	}
	again := false
	for _, m := range w.nodes {
		if l.p.state.Nodes[m.name].Admin != placement.AdminUp {
			again = true
			l.p.append(&placement.Command{Kind: placement.CmdAdmin, Node: m.name, Admin: placement.AdminUp, At: l.p.m.wall()})
		}
	}
	for _, g := range l.p.state.Policy.Groups {
		gs := l.p.state.Groups[g.Name]
		if gs.Offline || gs.Failed || len(gs.GivenUp) > 0 {
			again = true
			l.p.append(&placement.Command{Kind: placement.CmdGroupAdmin, Group: g.Name, At: l.p.m.wall(), Reason: placement.Reason{Rule: placement.RuleOnline, Text: "online"}})
		}
	}
	if again {
		w.after(2*w.timing.Duration, nil, w.mend)
	} else {
		w.after(w.timing.Duration, nil, w.mend)
	}
}

// configText stands for the text of a configuration; only the lease duration matters to the nodes here.
func configText(d time.Duration) string { return strconv.FormatInt(int64(d), 10) }

func configuredDuration(text string) time.Duration {
	ns, _ := strconv.ParseInt(text, 10, 64)
	return time.Duration(ns)
}
