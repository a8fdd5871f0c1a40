package sim

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"hacluster/lease"
	"hacluster/placement"
)

const (
	troubleFor = 18 // faults last for this many lease durations
	calmFor    = 25 // within this many of the longest one, and calmBase, everything is online again (L1)
	calmBase   = 15 * time.Second

	longestBudget = time.Second // of a kill
)

// Run simulates one cluster. The error is the first broken guarantee; the trace is what led to it.
func Run(o Options) (stats Stats, trace string, err error) {
	w := newWorld(o)
	w.run(troubleFor * w.timing.Duration)
	w.after(0, nil, w.calm)
	w.settleDown()
	w.epilogue()
	w.Stats.Simulated = w.now
	return w.Stats, w.Trace(), w.fail
}

func newWorld(o Options) *World {
	w := &World{opt: o, rng: rand.New(rand.NewPCG(o.Seed, 1)), byName: map[string]*machine{}, truth: []truth{{}}, queue: make(events, 0, 256),
		drng: rand.New(rand.NewPCG(o.Seed, 12)), prng: rand.New(rand.NewPCG(o.Seed, 23))}
	w.drawMoves()
	w.drawPulses()
	layer := lease.Layers[w.rng.IntN(len(lease.Layers))]
	if o.Storm == StormUnlucky || w.moving {
		layer = lease.Gate // it is about nothing else
	}
	w.timing, _ = lease.Derive(lease.Profiles[w.rng.IntN(len(lease.Profiles))], layer, lease.Overrides{})
	if w.pulses {
		w.timing, _ = lease.Derive(lease.Fast, lease.Gate, lease.Overrides{})
	}
	w.timing = w.withPulse(w.timing)
	w.timings = append(w.timings, w.timing)
	w.drawRegime()
	n := 3
	if w.chance(0.2) || w.beating && w.prng.IntN(3) == 0 && w.opt.Storm != StormForget {
		n = maxNodes
	}
	witness := w.chance(0.5)
	for i := range n {
		m := &machine{w: w, i: i, name: "n" + strconv.Itoa(i+1), disk: &disk{}}
		// Two clocks part by at most Drift within one Duration; half of the machines are at the bound.
		half := float64(w.timing.Drift) / float64(w.timing.Duration) / 2
		m.rate = 1 + half*(2*w.rng.Float64()-1)
		if w.chance(0.5) {
			m.rate = 1 + half*float64(2*w.rng.IntN(2)-1)
		}
		m.offset, m.skew = w.upTo(time.Hour), w.upTo(4*time.Second)-2*time.Second
		m.witness = witness && i == n-1
		m.kernel, m.init = &actor{m: m, kernel: true}, &actor{m: m}
		w.nodes = append(w.nodes, m)
		w.byName[m.name] = m
		w.names = append(w.names, m.name)
		w.voters = append(w.voters, m.name)
	}
	w.net.cut, w.net.lag = make([][]bool, n), make([]time.Duration, n)
	for i := range w.net.cut {
		w.net.cut[i] = make([]bool, n)
	}
	if w.drawFencing(w.storm == StormFence); w.gentle {
		w.fence = fencing{unsure: -1}
	}
	w.found()
	for _, m := range w.nodes {
		w.after(w.upTo(w.timing.Duration), nil, m.boot)
	}
	w.after(2*w.timing.Duration, nil, w.trouble)
	return w
}

// found puts a cluster with members and a configuration into every node's log.
func (w *World) found() {
	add := func(c placement.Command) {
		c.At = wallBase
		e := &entry{term: 1, cmd: &c}
		for _, m := range w.nodes {
			m.disk.term = 1
			m.disk.log = append(m.disk.log, e)
		}
		w.commit(uint64(len(w.truth)), e, 1)
	}
	add(placement.Command{Kind: placement.CmdInit, Cluster: "sim", ID: "sim"})
	for _, m := range w.nodes {
		role := placement.RoleMember
		if m.witness {
			role = placement.RoleWitness
		}
		add(placement.Command{Kind: placement.CmdNode, Node: m.name, NodeInfo: &placement.NodeState{ID: m.name, Role: role}})
	}
	policy, text := w.configuration()
	w.shape = policy
	for g, gp := range policy.Groups {
		for _, r := range gp.Resources {
			w.keys = append(w.keys, key{group: gp.Name, resource: r.Name, g: g, address: r.Address, exclusive: r.Exclusive,
				everyNode: r.RunOn == placement.RunOnEveryNode, hot: gp.Standby == placement.StandbyHot, budget: r.StopBudget})
		}
	}
	w.acted = make([]uint64, len(policy.Groups))
	for _, m := range w.nodes {
		m.things = make([]thing, len(w.keys))
	}
	add(placement.Command{Kind: placement.CmdConfig, Policy: &policy, Config: text, KernelLease: string(w.timing.Layer)})
}

// index finds a resource; -1: there is none of that name.
func (w *World) index(group, resource string) int {
	for i := range w.keys {
		if w.keys[i].group == group && w.keys[i].resource == resource {
			return i
		}
	}
	return -1
}

// configuration draws a configuration; the second and later ones keep the resources and change the rest.
func (w *World) configuration() (placement.Policy, string) {
	n := 0
	if w.shape.Groups != nil && w.chance(0.6) {
		n = w.retiming()
	}
	t := w.timings[n]
	p := placement.Policy{SuspectAfter: t.Suspect, GroupWaitDelay: w.upTo(4 * t.Duration), NeedsGate: t.Layer == lease.Gate,
		Fencing: placement.FencingPolicy{When: w.fence.when, Action: w.fence.action, Nodes: w.fence.nodes}}
	groups := len(w.shape.Groups)
	if groups == 0 {
		groups = 1 + w.rng.IntN(3)
	}
	for i := range groups {
		p.Groups = append(p.Groups, w.group(i, t))
	}
	return p, strconv.Itoa(n)
}

// retiming draws another timing: longer leases, another profile, another layer.
func (w *World) retiming() int {
	t := w.timings[w.rng.IntN(len(w.timings))]
	profile, layer, over := t.Profile, t.Layer, lease.Overrides{}
	switch w.rng.IntN(3) {
	case 0:
		over.Duration = t.Duration * time.Duration(10+w.rng.IntN(15)) / 10
	case 1:
		layer = lease.Layers[w.rng.IntN(len(lease.Layers))]
	default:
		profile, layer = lease.Profiles[w.rng.IntN(2)], lease.Layers[w.rng.IntN(len(lease.Layers))]
	}
	t, err := lease.Derive(profile, layer, over)
	if err != nil {
		w.broken("a timing of the simulator: %v", err)
	}
	w.timings = append(w.timings, w.withPulse(t))
	return len(w.timings) - 1
}

// timingOf reads the text of a configuration, which is an index into World.timings here.
func timingOf(text string) (int, bool) {
	n, err := strconv.Atoi(text)
	return n, err == nil
}

// longest is the longest lease that any configuration had.
func (w *World) longest() (d time.Duration) {
	for _, t := range w.timings {
		d = max(d, t.Duration)
	}
	return d
}

func (w *World) group(i int, t lease.Timing) placement.GroupPolicy {
	g := placement.GroupPolicy{Name: fmt.Sprintf("g%d", i+1), FailoverThreshold: w.rng.IntN(4) - 1, FailoverPeriod: 20 * t.Duration,
		AutoFailback: w.chance(0.5), FailbackFrom: -1, FailbackTo: -1, RetryPeriod: 10 * t.Duration, Priority: 1000 * (1 + w.rng.IntN(3)), Standby: placement.StandbyCold}
	members := []string{}
	for _, m := range w.nodes {
		if !m.witness {
			members = append(members, m.name)
		}
	}
	if w.chance(0.6) {
		w.rng.Shuffle(len(members), func(a, b int) { members[a], members[b] = members[b], members[a] })
		g.PreferredOwners = members[:1+w.rng.IntN(len(members))]
	}
	if w.chance(0.3) {
		g.AntiAffinity = []string{"apart"}
	}
	budget := time.Duration(0)
	if w.shape.Groups != nil {
		g.Resources, g.Standby = w.shape.Groups[i].Resources, w.shape.Groups[i].Standby
	} else {
		g.Resources, g.Standby = w.resources(t)
	}
	for _, r := range g.Resources {
		if r.Exclusive {
			budget = max(budget, r.StopBudget)
		}
	}
	g.OnPulse = t.Pulse > 0
	for _, r := range g.Resources {
		g.OnPulse = g.OnPulse && (r.Address || r.RunOn == placement.RunOnEveryNode)
	}
	w.gentlePolicy(&g)
	g.TakeoverWait = t.TakeoverWait(budget)
	if w.opt.Weak == WeakWait {
		g.TakeoverWait = g.TakeoverWait * 2 / 3
	}
	return g
}

// resources draws an address and what it needs.
func (w *World) resources(t lease.Timing) ([]placement.ResourcePolicy, placement.Standby) {
	base := placement.ResourcePolicy{RunOn: placement.RunOnOwner, RestartAction: placement.RestartThenFailover, RestartThreshold: 1,
		RestartPeriod: 10 * t.Duration, RestartDelay: 50 * time.Millisecond, PendingTimeout: 3 * t.Duration, StopBudget: longestBudget}
	address := base
	address.Name, address.Address = "address", true
	service := base
	service.Name = "service"
	standby, chain := placement.StandbyCold, false
	kind := w.rng.IntN(5)
	if w.moving {
		kind = 1
	}
	if w.pulses && w.prng.IntN(4) > 0 {
		kind = w.prng.IntN(2)
	}
	switch kind {
	case 0: // an address alone
		return []placement.ResourcePolicy{address}, standby
	case 1: // hot standby
		return hotStandby(address, service), placement.StandbyHot
	case 2: // an exclusive service behind its address
		service.Exclusive = true
		address.DependsOn = &placement.Expr{Name: "service"}
	case 4: // and that stands on something itself
		chain, service.Exclusive = true, true
		address.DependsOn = &placement.Expr{Name: "service"}
	case 3: // an exclusive service that binds to its address
		service.Exclusive = true
		service.DependsOn = &placement.Expr{Name: "address"}
	}
	if chain {
		disk := base
		disk.Name = "disk"
		service.DependsOn = &placement.Expr{Name: "disk"}
		return []placement.ResourcePolicy{address, service, disk}, standby
	}
	return []placement.ResourcePolicy{address, service}, standby
}
