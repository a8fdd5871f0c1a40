package sim

import (
	"reflect"
	"strings"
	"time"

	"hacluster/placement"
)

// checkStart is run when something begins to serve anywhere.
func (w *World) checkStart(m *machine, i int) {
	if w.keys[i].everyNode {
		return
	}
	w.checkAlone(m, i)
}

// checkEpoch is run when something is started for an epoch (S3).
func (w *World) checkEpoch(m *machine, i int, epoch uint64) {
	k := &w.keys[i]
	if k.everyNode {
		return
	}
	if epoch < w.acted[k.g] {
		w.broken("S3: %s starts %s/%s for epoch %d; epoch %d has acted already", m.name, k.group, k.resource, epoch, w.acted[k.g])
	}
	w.acted[k.g] = max(w.acted[k.g], epoch)
}

// checkAlone looks for a second node that serves the same (S1, S2).
func (w *World) checkAlone(m *machine, i int) {
	k := &w.keys[i]
	for _, other := range w.nodes {
		if other == m || !other.answers(i) {
			continue
		}
		switch {
		case !k.address && !k.exclusive:
		case w.excused(m, i) || w.excused(other, i):
			if k.address {
				w.Stats.ExcusedHeld++
			} else {
				w.Stats.Excused++
			}
			w.log("%s and %s both have %s/%s: nothing could prevent it", m.name, other.name, k.group, k.resource)
		case k.address:
			w.broken("S1: %s and %s both answer for the address %s of group %s", m.name, other.name, k.resource, k.group)
		default:
			w.broken("S2: %s and %s both run %s of group %s", m.name, other.name, k.resource, k.group)
		}
	}
}

// recheck looks at everything a machine serves, once it has had the time to take away what it lost.
func (w *World) recheck(m *machine, addresses bool) {
	for i := range w.keys {
		if k := &w.keys[i]; k.address == addresses && !k.everyNode && m.up && m.serves(i) {
			w.checkAlone(m, i)
		}
	}
}

// excused says that no layer could have ended what runs here in time. These are the limits that docs/design.md names, and no
// others; each use is counted.
//
//   - An exclusive service whose agent and dead man cannot run both: the kernel ends no services. Or one that does not die.
//   - What a machine finds when it has been suspended or frozen as a whole, until its dead man has run.
//   - An address behind gates that a promise is about, while the lease goes on: rules that were flushed, until the agent sees that,
//     and ticks that stood still, where no agent ran when the machine woke up.
//   - An address while nobody of ours runs and what the kernel counts was taken away: flushed rules, ticks that stood still.
func (w *World) excused(m *machine, i int) bool {
	t := &m.things[i]
	alone := m.bare || !m.guarded()
	if w.keys[i].address {
		if w.pulses && m.clock().Before(m.will) && (m.slept > t.slept || m.gate && m.flushed && w.unseen(m)) {
			return true
		}
		return w.now < m.grace || alone && (m.gate && m.flushed || m.slept > t.slept) || m.gave(i) && m.flushed && w.unseen(m)
	}
	return t.stuck || alone || w.now < m.grace+lateKill
}

// unseen says that the agent of a node that drains has not had the time to see that its rules are gone.
func (w *World) unseen(m *machine) bool {
	p := m.proc
	return p == nil || !p.runs() || !p.holder.CaughtUp(p.state.Index) ||
		w.now <= max(m.emptied, p.frozen, m.frozen, m.asleep, p.began)+m.span(drainEvery)+10*time.Millisecond+w.faults.margin
}

// checkElected is run at each election: what was committed in an earlier term is not lost (S4). A candidate may win a term that
// is over by then, and owes nothing to the later ones.
func (w *World) checkElected(p *proc) {
	w.shake()
	n := len(w.truth) - 1
	for n > 0 && w.truth[n].term >= p.m.disk.term {
		n--
	}
	if log := p.m.disk.log; len(log) < n || log[n-1] != w.truth[n].entry {
		w.broken("S4: %s is elected without the committed entry %d", p.m.name, n)
	}
}

// checkKept is run at the end: every node has, on disk, what was committed (S4).
func (w *World) checkKept() {
	n := len(w.truth) - 1
	have := uint64(0)
	for _, m := range w.nodes {
		if log := m.disk.log; len(log) >= n && log[n-1] == w.truth[n].entry {
			have++
		}
	}
	if int(have) <= len(w.nodes)/2 {
		w.broken("S4: entry %d was committed, and %d of %d nodes have it on disk", n, have, len(w.nodes))
	}
}

// checkApply is run at every entry that anybody applies first.
func (w *World) checkApply(before, after *placement.State, c *placement.Command, res placement.Result) {
	if err := after.Check(); err != nil {
		w.broken("%s: %v", c.Kind, err)
	}
	if err := placement.CheckStep(*before, *after); err != nil {
		w.broken("%s: %v", c.Kind, err)
	}
	if !res.Applied {
		return
	}
	w.Stats.Applied++
	w.moved(before, c)
	switch c.Kind {
	case placement.CmdTakeover:
		w.Stats.Takeovers++
		if strings.HasPrefix(c.Reason.Text, "the pulse of ") {
			w.Stats.Pulsed++
			if w.well(w.byName[before.Groups[c.Group].Owner]) {
				w.Stats.Needless++
			}
		}
		if c.Reason.Rule == placement.RuleFenced {
			w.Stats.Fenced++
		}
	case placement.CmdReleased:
		w.Stats.Moves++
		w.handed = w.handed || c.Node == w.lost
	}
	if w.opt.Trace > 0 {
		w.log("applied %s %s node %s epoch %d", c.Kind, c.Group, c.Node, after.Groups[c.Group].Epoch)
	}
	if w.opt.Seed%64 == 0 { // deterministic: the same command on the same state gives the same
		if again, r := before.Apply(*c); !reflect.DeepEqual(&again, after) || !reflect.DeepEqual(r, res) {
			w.broken("%s: Apply is not deterministic", c.Kind)
		}
	}
}

// well says that a node runs and reaches somebody, both ways.
func (w *World) well(m *machine) bool {
	if m == nil || !m.up || m.proc == nil || !m.proc.runs() {
		return false
	}
	for _, o := range w.nodes {
		if o != m && !w.net.cut[m.i][o.i] && !w.net.cut[o.i][m.i] {
			return true
		}
	}
	return false
}

// offline says what is missing for every group to be online; empty when nothing is (L1).
func (w *World) offline() string {
	st := w.latest()
	var missing []string
	for _, m := range w.nodes {
		if m.proc == nil || m.proc.abandoned {
			missing = append(missing, m.name+" has no agent")
		}
	}
	for _, g := range st.Policy.Groups {
		gs := st.Groups[g.Name]
		if gs.Phase != placement.PhaseOwned {
			missing = append(missing, g.Name+" is "+string(gs.Phase)+" ("+gs.Why.Text+")")
			continue
		}
		m := w.byName[gs.Owner]
		if m.proc == nil || gs.Offline {
			missing = append(missing, g.Name+" is wanted offline or its owner has no agent")
			continue
		}
		for _, r := range g.Resources {
			if i := w.index(g.Name, r.Name); !m.serves(i) || m.proc.slots[i].doing != "" || m.things[i].ends != 0 {
				missing = append(missing, g.Name+"/"+r.Name+" is not served by its owner "+gs.Owner)
			}
		}
	}
	if left := w.drains(); left != "" {
		missing = append(missing, left)
	}
	return strings.Join(missing, "; ")
}

// settleDown waits until everything is online, for a while, or the bound of L1 has passed.
func (w *World) settleDown() {
	bound := w.now + calmFor*w.longest() + calmBase
	thawed := w.now
	for _, m := range w.nodes {
		thawed = max(thawed, m.stopped()+lateKill)
	}
	bound += thawed - w.now
	for well := 0; w.fail == nil && well <= 2; well++ {
		missing := w.offline()
		if w.now < thawed { // a dead man that goes on takes away what its old deadline covers, for a moment
			well = -1
		}
		if missing != "" {
			well = -1
			if w.now >= bound {
				w.broken("L1: not within %d of the longest lease and %s after the faults ended: %s", calmFor, calmBase, missing)
				return
			}
		}
		w.run(w.now + w.timing.Duration)
	}
	if w.fail == nil {
		w.checkKept()
	}
}

// epilogue does one thing to a cluster that is well, in three runs of four, and watches that clients do not notice: an upgrade of the
// agent on an owner, its death (L3), the loss of a node that owns nothing (L2).
func (w *World) epilogue() {
	l := w.leader()
	if w.fail != nil || l == nil {
		return
	}
	if w.opt.Seed%4 == 0 {
		w.moveAtLast()
		return
	}
	if w.fence.when == placement.FenceAlways || w.fence.unsure >= 0 {
		return // an agent that dies and is away for longer than suspect is silent, and who is silent is fenced
	}
	owners := map[string]bool{}
	for _, gs := range w.latest().Groups { // order-free
		owners[gs.Owner] = true
	}
	var m *machine
	idle := w.opt.Seed%4 == 3
	for _, at := range w.rng.Perm(len(w.nodes)) {
		if n := w.nodes[at]; owners[n.name] != idle && n.up && n.asleep <= w.now && n.proc != nil && n.parent != nil && n.proc.timing == l.p.timing {
			m = n
		}
	}
	if m == nil {
		return
	}
	m.parent.pause = 0 // it has been well for long
	led, before := m == l.p.m, w.Stats.Takeovers
	w.watch()
	switch {
	case idle:
		w.lost, w.handed = m.name, false
		m.powerOff()
	case w.opt.Seed%4 == 1:
		w.upgrade(m)
	default:
		w.log("%s: its agent is killed", m.name)
		m.endAgent()
	}
	w.run(w.now + 5*l.p.timing.Duration)
	w.epilogued(idle, led, w.Stats.Takeovers > before)
}

// watch notes what clients see now.
func (w *World) watch() {
	w.watched = map[int]string{}
	for _, m := range w.nodes {
		for i := range w.keys {
			if k := &w.keys[i]; !k.everyNode && m.serves(i) && w.latest().Groups[k.group].Owner == m.name {
				w.watched[m.i*len(w.keys)+i] = ""
			}
		}
	}
}

// gone is called when something stops running. A planned move may come in between, by failback say.
func (w *World) gone(m *machine, i int, why string) {
	if w.watched == nil {
		return
	}
	at := m.i*len(w.keys) + i
	if _, ok := w.watched[at]; ok && w.latest().Groups[w.keys[i].group].Phase == placement.PhaseOwned {
		w.watched[at] = m.name + " no longer runs " + w.keys[i].group + "/" + w.keys[i].resource + ": " + why
	}
}

// epilogued judges. The loss of the leader costs an election, which may be split: no bound holds for every case, so it is counted.
func (w *World) epilogued(idle, led, takeover bool) {
	seen := ""
	for at := range len(w.nodes) * len(w.keys) {
		if s := w.watched[at]; s != "" {
			seen = s
		}
		m, i := w.nodes[at/len(w.keys)], at%len(w.keys)
		if _, ok := w.watched[at]; ok && seen == "" && !m.serves(i) && w.latest().Groups[w.keys[i].group].Owner == m.name && w.latest().Groups[w.keys[i].group].Phase == placement.PhaseOwned {
			seen = m.name + " does not answer for " + w.keys[i].group + "/" + w.keys[i].resource
		}
	}
	if seen == "" && takeover {
		seen = "a group was taken over"
	}
	w.watched = nil
	switch {
	case w.fail != nil:
	case idle && w.handed: // before anybody could know that it is lost, a group was moved to it: it owned something
	case led && seen == "":
		w.Stats.Lossless++
	case led:
		w.Stats.Costly++
	case seen != "" && idle:
		w.broken("L2: the loss of a node that owns nothing is seen: %s", seen)
	case seen != "":
		w.broken("L3: a restart of the agent is seen: %s", seen)
	case idle:
		w.Stats.Silent++
	default:
		w.Stats.Upgrades++
	}
}

// upgrade restarts dead man and agent in order, as systemctl restart does.
func (w *World) upgrade(m *machine) {
	w.log("%s: had is upgraded", m.name)
	m.stop()
	w.timer(w.between(20*time.Millisecond, 150*time.Millisecond), m.init, m.startParent)
}
