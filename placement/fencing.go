package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// FenceWhen says when a node is fenced without an administrator's order.
type FenceWhen string

const (
	FenceNever      FenceWhen = "never"       // only by an administrator's order; also what an empty word means
	FenceWhenUnsure FenceWhen = "when-unsure" // where the end of its lease cannot prove that the owner has let go
	FenceAlways     FenceWhen = "always"      // each owner that falls silent; one that ended in order only when its lease has run out
)

// FenceAction is what is done to a node.
type FenceAction string

const (
	FenceOff    FenceAction = "off"
	FenceReboot FenceAction = "reboot"
	FenceOn     FenceAction = "on" // gives power back; by an administrator's order only
)

// FencingPolicy is the part of the configuration that says whom to fence.
type FencingPolicy struct {
	When   FenceWhen   `json:"when,omitempty"`
	Action FenceAction `json:"action,omitempty"` // FenceOff or FenceReboot
	Nodes  []string    `json:"nodes,omitempty"`  // that a device can fence, sorted
}

// FenceView is what this leader knows of the fencing of one node. It begins anew with each election: what a leader before
// did proves nothing here, because nobody knows which renewals it granted afterwards.
type FenceView struct {
	Running bool      // an attempt is under way
	Ended   time.Time // of the newest attempt; zero: none has ended
	Failed  int       // attempts in a row that no device confirmed
	Why     string    // what came of the newest, in one line without secrets

	// Off is when a device confirmed that the node was stopped, zero where none did. Every process of the node that this
	// leader had heard until then has ended. A renewal that is confirmed later is from one that has not: the proof is void.
	Off time.Time
}

// FenceOrder is one node to be fenced now.
type FenceOrder struct {
	Node   string
	Action FenceAction
	Epoch  uint64   // the newest of the groups that wait for it, 0: none does
	Groups []string // that wait for it, in the order in which they are looked after
	Why    Reason
}

const (
	fencePause    = 5 * time.Second // between two attempts on a node; doubled at each failure
	maxFencePause = 5 * time.Minute
)

// pause is the least time between the end of the newest attempt and the next.
func (f FenceView) pause() time.Duration {
	pause := fencePause
	for i := 1; i < f.Failed && pause < maxFencePause; i++ {
		pause *= 2
	}
	return min(pause, maxFencePause)
}

// off says that a device confirmed that the node was stopped, and that nothing was heard of it since.
func (d *decider) off(node string) bool {
	at := d.v.Fenced[node].Off
	return !at.IsZero() && !d.v.Nodes[node].Confirmed.After(at)
}

// fenced says that the node is proven to hold nothing. The word of a device is believed when the silence agrees with it: a
// device that switches something else than it should leaves a node that goes on renewing.
func (d *decider) fenced(node string) bool { return d.off(node) && !d.speaking(node) }

// fenceable says that the configuration allows the node to be fenced without an administrator's order.
func (d *decider) fenceable(node string) bool {
	f := d.p.Fencing
	return (f.When == FenceWhenUnsure || f.When == FenceAlways) && slices.Contains(f.Nodes, node)
}

// doubt says why the end of the owner's lease would not prove that it has let the group go, as it said itself; empty: it
// would. Without a device that could help it is not asked for: time is then the only proof there is.
func (d *decider) doubt(g GroupPolicy, owner string) string {
	if !d.fenceable(owner) {
		return ""
	}
	return d.unsure(g, owner)
}

// unsure is doubt whether there is a device that could help or not: the end of a pulse is a proof only where nothing speaks against it,
// for without it time is one.
func (d *decider) unsure(g GroupPolicy, owner string) string {
	n, heard := d.v.Nodes[owner]
	if !heard {
		return ""
	}
	if b := n.Report.Groups[g.Name].Blocked; b != "" {
		return "it could not prove that it stopped " + b
	}
	for _, res := range g.Resources {
		switch {
		case res.Exclusive && n.Report.Unsure != "":
			return n.Report.Unsure
		case res.Address && d.p.NeedsGate && n.Report.NoGate != "":
			return "its kernel does not enforce the lease: " + n.Report.NoGate
		}
	}
	return ""
}

// quiet is the silence that counts for fencing: a node that nobody could hear because this leader stood still is not
// silent.
func (d *decider) quiet(node string) time.Duration {
	quiet := d.silent(node)
	if deaf := d.now.Sub(d.v.Listening); !d.v.Listening.IsZero() && deaf < quiet {
		return deaf
	}
	return quiet
}

// fenceWhy says why the owner of a group has to be fenced; empty: it has not. Nobody is fenced for a group that this very
// decision hands on, whatever the proof: least of all an owner that said that it has let go. It may serve other groups.
func (d *decider) fenceWhy(g GroupPolicy, gs GroupState) string {
	r := d.report(gs.Owner, g.Name)
	switch {
	case d.decided[g.Name], gs.Phase == PhaseUnowned, !d.fenceable(gs.Owner):
		return ""
	case d.speaking(gs.Owner):
		if gs.Phase == PhaseReleasing && r.Blocked != "" {
			return d.doubt(g, gs.Owner)
		}
		return ""
	}
	limit := d.p.SuspectAfter
	if d.v.Nodes[gs.Owner].Confirmed.IsZero() {
		limit *= 2 // it has to find this leader first
	}
	if quiet := d.quiet(gs.Owner); quiet <= limit {
		d.wakeAt(d.now.Add(limit - quiet + time.Millisecond))
		return ""
	}
	silence := fmt.Sprintf("silent for %s", round(d.silent(gs.Owner)))
	if why := d.doubt(g, gs.Owner); why != "" {
		return silence + ", and " + why
	}
	if d.p.Fencing.When != FenceAlways {
		return ""
	}
	// One that said goodbye is not taken for dead while its lease lasts. After that nothing is known of it either.
	if d.v.Ending[gs.Owner] && d.silent(gs.Owner) < d.wait(g) {
		d.note(g, "its owner %s ended in order, and is not fenced while its lease may last", gs.Owner)
		return ""
	}
	return silence
}

// fencing orders at most one node to be fenced: the owner of the group that is looked after first.
func (d *decider) fencing(groups []GroupPolicy) {
	var orders []FenceOrder
	for _, g := range groups {
		gs := d.s.Groups[g.Name]
		why := d.fenceWhy(g, gs)
		if why == "" {
			continue
		}
		i := slices.IndexFunc(orders, func(o FenceOrder) bool { return o.Node == gs.Owner })
		if i < 0 {
			i = len(orders)
			orders = append(orders, FenceOrder{Node: gs.Owner, Action: cmp.Or(d.p.Fencing.Action, FenceReboot)})
		}
		o := &orders[i]
		o.Epoch = max(o.Epoch, gs.Epoch)
		o.Groups = append(o.Groups, g.Name)
		o.Why.Evidence = append(o.Why.Evidence, fmt.Sprintf("group %s, epoch %d: %s", g.Name, gs.Epoch, why))
	}
	for _, o := range orders {
		if len(d.out.Fences) > 0 {
			return
		}
		d.order(o)
	}
}

// order asks for one node to be fenced, or notes why that has to wait.
func (d *decider) order(o FenceOrder) {
	f := d.v.Fenced[o.Node]
	why := d.noFence(o.Node, o.Action)
	next := f.Ended.Add(f.pause())
	switch {
	case d.fenced(o.Node): // and no node can take the group
		return
	case d.off(o.Node): // confirmed; only the silence is still to come
		d.wakeAt(d.v.Nodes[o.Node].Confirmed.Add(d.p.SuspectAfter + time.Millisecond))
		return
	case o.Node == d.v.Self:
		d.out.Yield = fmt.Sprintf("%s cannot fence itself: %s", o.Node, strings.Join(o.Why.Evidence, "; "))
	case why == "" && !f.Ended.IsZero() && next.After(d.now):
		d.wakeAt(next)
		why = fmt.Sprintf("%s; next attempt in %s", f.Why, round(next.Sub(d.now)))
		if !f.Off.IsZero() {
			why = "it renewed its lease after that was " + why
		}
	case why == "":
		o.Why.Rule = RuleFence
		o.Why.Text = fmt.Sprintf("node %s is fenced (%s), because it has not let go of %s", o.Node, o.Action, strings.Join(o.Groups, ", "))
		d.out.Fences = append(d.out.Fences, o)
		return
	}
	text := fmt.Sprintf("its owner %s has to be fenced: %s", o.Node, why)
	if f.Running {
		text = fmt.Sprintf("its owner %s is being fenced", o.Node)
	}
	for _, g := range o.Groups {
		d.out.Notes = append(d.out.Notes, g+": "+text)
	}
}

// noFence says why a node must not be fenced now, empty: it may.
func (d *decider) noFence(node string, action FenceAction) string {
	// order-free: at most one is running
	for other, f := range d.v.Fenced {
		if f.Running {
			return other + " is being fenced, and only one node at a time may be"
		}
	}
	if action == FenceOn {
		return ""
	}
	if node == d.v.Self {
		return "it leads, and a node cannot confirm its own fencing"
	}
	up := 0
	for _, voter := range d.v.Voters {
		// One that was stopped a moment ago may not be silent for long enough yet.
		if voter != node && (voter == d.v.Self || d.speaking(voter) && !d.off(voter)) {
			up++
		}
	}
	if needed := len(d.v.Voters)/2 + 1; up < needed {
		return fmt.Sprintf("without it %d of %d voters would be up, and %d are needed", up, len(d.v.Voters), needed)
	}
	return ""
}

// PlanFence checks an administrator's order to fence a node, or to switch it on again. now is the leader's boot-time clock.
func PlanFence(p Policy, s State, v View, now time.Time, node string, action FenceAction) (FenceOrder, *Refusal) {
	d := newDecider(p, s, v, now)
	if _, member := s.Nodes[node]; !member {
		return FenceOrder{}, &Refusal{fmt.Sprintf("node %s is not a member", node), "hactl node list shows the members"}
	}
	if !slices.Contains(p.Fencing.Nodes, node) {
		return FenceOrder{}, &Refusal{fmt.Sprintf("no fence device is configured for node %s", node), "name the node in a [[fence]] of cluster.toml and apply it"}
	}
	if why := d.noFence(node, action); why != "" {
		return FenceOrder{}, &Refusal{fmt.Sprintf("node %s is not fenced: %s", node, why), "hactl status shows who leads and who is up"}
	}
	o := FenceOrder{Node: node, Action: action, Why: Reason{Rule: RuleFence, Text: fmt.Sprintf("an administrator orders: %s node %s", action, node)}}
	for _, g := range p.Groups {
		if gs := s.Groups[g.Name]; gs.Owner == node {
			o.Groups, o.Epoch = append(o.Groups, g.Name), max(o.Epoch, gs.Epoch)
			o.Why.Evidence = append(o.Why.Evidence, fmt.Sprintf("it owns group %s, epoch %d", g.Name, gs.Epoch))
		}
	}
	if d.speaking(node) {
		o.Why.Evidence = append(o.Why.Evidence, "it renews its lease")
	} else {
		o.Why.Evidence = append(o.Why.Evidence, fmt.Sprintf("silent for %s", round(d.silent(node))))
	}
	return o, nil
}
