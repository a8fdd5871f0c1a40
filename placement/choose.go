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
	placed map[string]map[string]bool // anti-affinity class -> nodes that host it
	out    Decision

	candidates []*candidate // every member, by name
	candidate  map[string]*candidate

	decided map[string]bool // groups that a command was proposed for

	lenient bool // a node that was given up on will do: there is no other, or an administrator named it
}

// candidate is a member as a possible owner. What is the same for every group is found once: with a thousand groups and
// 64 nodes it would be asked for 64,000 times.
type candidate struct {
	name    string
	barred  string // why it can take no group, whatever the group lets it; asked before that
	unfit   string // and asked after that
	reports map[string]GroupReport
	owned   int // groups, the ones placed in this call included
}

func newDecider(p Policy, s State, v View, now time.Time) *decider {
	d := &decider{p: p, s: s, v: v, now: now, placed: map[string]map[string]bool{}, decided: map[string]bool{},
		candidates: make([]*candidate, 0, len(s.Nodes)), candidate: make(map[string]*candidate, len(s.Nodes))}
	for _, name := range slices.Sorted(maps.Keys(s.Nodes)) {
		c := &candidate{name: name, unfit: d.unfitForAll(name), reports: v.Nodes[name].Report.Groups}
		if s.Nodes[name].Role == RoleWitness {
			c.barred = "witness"
		}
		d.candidates = append(d.candidates, c)
		d.candidate[name] = c
	}
	return d
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
	c := d.candidate[node]
	if c == nil {
		return "not a member"
	}
	return d.unfitFor(c, &g, d.s.Groups[g.Name].GivenUp)
}

// unfitFor is unfit, where it is known on which nodes the group was given up.
func (d *decider) unfitFor(c *candidate, g *GroupPolicy, givenUp map[string]time.Time) string {
	switch {
	case c.barred != "":
		return c.barred
	case !g.possible(c.name):
		return "not a possible owner"
	case c.unfit != "":
		return c.unfit
	}
	if until, ok := givenUp[c.name]; ok && until.After(d.v.Wall) && !d.lenient {
		return "the group failed there; given up on until " + until.UTC().Format(time.RFC3339)
	}
	switch r := c.reports[g.Name]; {
	case r.Blocked != "":
		return "blocked: " + r.Blocked
	case r.Unfit != "":
		return r.Unfit
	}
	return ""
}

// unfitForAll says why a member cannot take any group now; empty when it can.
func (d *decider) unfitForAll(node string) string {
	v, admin := d.v.Nodes[node], d.s.Nodes[node].Admin
	switch {
	case admin == AdminPaused:
		return "paused"
	case admin == AdminDrain:
		return "drained"
	case !d.speaking(node):
		if v.Confirmed.IsZero() {
			return "not seen since this leader was elected"
		}
		return fmt.Sprintf("silent for %s", round(d.silent(node)))
	case v.Report.Leaving:
		return "its agent is stopping"
	case d.v.Unheard[node], d.lapsed(node):
		return "its gates stay shut for a while, because its pulse had stopped"
	case d.p.NeedsGate && !v.Report.Gate:
		return noGate(v.Report)
	}
	return ""
}

// lapsed says that the gates of the node are proven to be shut. They stay so while the proof holds, whatever the node renews.
func (d *decider) lapsed(node string) bool {
	_, lapsed := d.v.Lapsed[node]
	return lapsed
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

func (d *decider) rank(c *candidate, g *GroupPolicy) rank {
	r := rank{preferred: slices.Index(g.PreferredOwners, c.name), groups: c.owned, node: c.name}
	if r.preferred < 0 {
		r.preferred = len(g.PreferredOwners)
	}
	if g.Standby == StandbyHot && !c.reports[g.Name].Ready {
		r.unready = 1
	}
	for _, class := range g.AntiAffinity {
		if d.placed[class][c.name] {
			r.affine = 1
		}
	}
	return r
}

// choose picks the best owner of the group except one node; rejected names every other node and why.
func (d *decider) choose(g GroupPolicy, except, exceptWhy string) (node string, rejected []Rejected) {
	givenUp := d.s.Groups[g.Name].GivenUp
	var best rank
	fit := make([]rank, 0, len(d.candidates))
	rejected = make([]Rejected, 0, len(d.candidates))
	for _, c := range d.candidates {
		why := d.unfitFor(c, &g, givenUp)
		if c.name == except {
			why = exceptWhy
		}
		r := d.rank(c, &g)
		if why == "" && r.affine == 1 && g.EnforceAntiAffinity {
			why = "hosts a group of the same anti-affinity class"
		}
		if why != "" {
			rejected = append(rejected, Rejected{Node: c.name, Why: why})
			continue
		}
		if len(fit) == 0 || r.compare(best) < 0 {
			best = r
		}
		fit = append(fit, r)
	}
	var like rank // the newest that was told about, and what: most nodes lose for the same reason
	text := ""
	for _, r := range fit {
		if r == best {
			continue
		}
		if like.node = r.node; text == "" || r != like {
			like, text = r, worse(r, best)
		}
		rejected = append(rejected, Rejected{Node: r.node, Why: text})
	}
	if len(rejected) == 0 {
		rejected = nil
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
	if c := d.candidate[node]; c != nil {
		c.owned++
	}
	for _, class := range g.AntiAffinity {
		if d.placed[class] == nil {
			d.placed[class] = map[string]bool{}
		}
		d.placed[class][node] = true
	}
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }

// atLeast rounds up: what has lasted as long as it must is not told as if it had been shorter.
func atLeast(d time.Duration) time.Duration {
	return (d + time.Millisecond - 1).Truncate(time.Millisecond)
}
