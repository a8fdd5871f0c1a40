package placement

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// decider carries what one Decide call reads and what it has decided so far. It lives for that call only.
type decider struct {
	p      Policy
	s      State
	v      View
	now    time.Time
	owned  map[string]int             // node -> groups, the ones placed in this call included
	placed map[string]map[string]bool // anti-affinity class -> nodes that host it
	out    Decision

	decided map[string]bool // groups that a command was proposed for

	lenient bool // a node that was given up on will do: there is no other
}

func newDecider(p Policy, s State, v View, now time.Time) *decider {
	return &decider{p: p, s: s, v: v, now: now, owned: map[string]int{}, placed: map[string]map[string]bool{}, decided: map[string]bool{}}
}

// silent is how long the leader has confirmed no lease of the node. What earlier leaders confirmed is older than
// LeaderSince: they verified with a quorum that elected this leader later.
func (d *decider) silent(node string) time.Duration {
	last := d.v.LeaderSince
	if n, ok := d.v.Nodes[node]; ok && n.Confirmed.After(last) {
		last = n.Confirmed
	}
	return d.now.Sub(last)
}

// speaking says that the node renewed its lease with this leader lately.
func (d *decider) speaking(node string) bool {
	n, ok := d.v.Nodes[node]
	return ok && !n.Confirmed.IsZero() && d.now.Sub(n.Confirmed) <= d.p.SuspectAfter
}

func (d *decider) report(node, group string) GroupReport { return d.v.Nodes[node].Report.Groups[group] }

// possible says that the configuration lets the node own the group.
func (g GroupPolicy) possible(node string) bool {
	return len(g.PossibleOwners) == 0 || slices.Contains(g.PossibleOwners, node)
}

// unfit says why the node cannot take the group now; empty when it can.
func (d *decider) unfit(node string, g GroupPolicy) string {
	n, member := d.s.Nodes[node]
	switch {
	case !member:
		return "not a member"
	case n.Role == RoleWitness:
		return "witness"
	case !g.possible(node):
		return "not a possible owner"
	case n.Admin == AdminPaused:
		return "paused"
	case n.Admin == AdminDrain:
		return "drained"
	case !d.speaking(node):
		if d.v.Nodes[node].Confirmed.IsZero() {
			return "not seen since this leader was elected"
		}
		return fmt.Sprintf("silent for %s", round(d.silent(node)))
	case d.v.Nodes[node].Report.Leaving:
		return "its agent is stopping"
	case d.p.NeedsGate && !d.v.Nodes[node].Report.Gate:
		return noGate(d.v.Nodes[node].Report)
	}
	if until, ok := d.s.Groups[g.Name].GivenUp[node]; ok && until.After(d.v.Wall) && !d.lenient {
		return "the group failed there; given up on until " + until.UTC().Format(time.RFC3339)
	}
	if r := d.report(node, g.Name); r.Blocked != "" {
		return "blocked: " + r.Blocked
	}
	return ""
}

// noGate says that a node cannot enforce the lease that the cluster counts with, and why. It is no reason to take a group from
// an owner: what it may still do there is for its agent to say.
func noGate(r Report) string {
	if r.NoGate == "" {
		return "its kernel does not carry the gate"
	}
	return "its kernel does not carry the gate: " + r.NoGate
}

func (d *decider) readyStandby(node string, g GroupPolicy) bool {
	return g.Standby == StandbyHot && d.report(node, g.Name).Ready
}

// rank is the total order of candidates; smaller is better. The same view gives the same order on every leader.
type rank struct {
	affine    int // hosts an anti-affine group
	unready   int // hot standby that is not ready
	preferred int // index in preferred_owners, or behind all of them
	groups    int
	node      string
}

func (a rank) compare(b rank) int {
	return cmp.Or(cmp.Compare(a.affine, b.affine), cmp.Compare(a.unready, b.unready), cmp.Compare(a.preferred, b.preferred),
		cmp.Compare(a.groups, b.groups), cmp.Compare(a.node, b.node))
}

func (d *decider) rank(node string, g GroupPolicy) rank {
	r := rank{preferred: slices.Index(g.PreferredOwners, node), groups: d.owned[node], node: node}
	if r.preferred < 0 {
		r.preferred = len(g.PreferredOwners)
	}
	if g.Standby == StandbyHot && !d.report(node, g.Name).Ready {
		r.unready = 1
	}
	for _, class := range g.AntiAffinity {
		if d.placed[class][node] {
			r.affine = 1
		}
	}
	return r
}

// choose picks the best owner of the group except one node; rejected names every other node and why.
func (d *decider) choose(g GroupPolicy, except, exceptWhy string) (node string, rejected []Rejected) {
	var best *rank
	var fit []rank
	for _, name := range slices.Sorted(maps.Keys(d.s.Nodes)) {
		why := d.unfit(name, g)
		if name == except {
			why = exceptWhy
		}
		r := d.rank(name, g)
		if why == "" && r.affine == 1 && g.EnforceAntiAffinity {
			why = "hosts a group of the same anti-affinity class"
		}
		if why != "" {
			rejected = append(rejected, Rejected{Node: name, Why: why})
			continue
		}
		fit = append(fit, r)
		if best == nil || r.compare(*best) < 0 {
			best = &r
		}
	}
	if best == nil {
		return "", rejected
	}
	for _, r := range fit {
		if r != *best {
			rejected = append(rejected, Rejected{Node: r.node, Why: worse(r, *best)})
		}
	}
	return best.node, rejected
}

// worse says in words why a lost against b.
func worse(a, b rank) string {
	switch {
	case a.affine != b.affine:
		return "hosts a group of the same anti-affinity class"
	case a.unready != b.unready:
		return "its standby is not ready"
	case a.preferred != b.preferred:
		return b.node + " is preferred"
	case a.groups != b.groups:
		return fmt.Sprintf("owns %d groups, %s %d", a.groups, b.node, b.groups)
	}
	return b.node + " comes first by name"
}

// take notes a placement made in this call, so that the next groups see it.
func (d *decider) take(node string, g GroupPolicy) {
	d.owned[node]++
	for _, class := range g.AntiAffinity {
		if d.placed[class] == nil {
			d.placed[class] = map[string]bool{}
		}
		d.placed[class][node] = true
	}
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }
