package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"hacluster/lease"
	"hacluster/placement"
)

const (
	troubleFor = 30 // faults last for this many lease durations
	calmFor    = 25 // within this many, and calmBase, everything is online again (L1)
	calmBase   = 10 * time.Second
)

// Run simulates one cluster. The error is the first broken guarantee; the trace is what led to it.
func Run(o Options) (stats Stats, trace string, err error) {
	w := newWorld(o)
	d := w.timing.Duration
	w.run(troubleFor * d)
	w.after(0, nil, w.calm)
	w.settleDown(w.now + calmFor*d + calmBase)
	w.Stats.Simulated = w.now
	return w.Stats, w.Trace(), w.fail
}

// settleDown waits until everything is online, for a while, or the bound of L1 has passed.
func (w *World) settleDown(bound time.Duration) {
	for well := 0; w.fail == nil; {
		missing := w.offline()
		switch {
		case missing == "":
			well++
		case w.now >= bound:
			w.broken("L1: %s after the faults ended: %s", calmFor*w.timing.Duration+calmBase, missing)
			return
		default:
			well = 0
		}
		if well > 3 {
			return
		}
		w.run(w.now + w.timing.Duration)
	}
}

func newWorld(o Options) *World {
	w := &World{opt: o, rng: rand.New(rand.NewPCG(o.Seed, 1)), byName: map[string]*machine{}, acted: map[string]uint64{},
		truth: []truth{{}}}
	w.timing, _ = lease.Derive(lease.Profiles[w.rng.IntN(len(lease.Profiles))], lease.Address, lease.Overrides{})
	w.drawRegime()
	n := 3
	if w.chance(0.2) {
		n = 5
	}
	witness := w.chance(0.5)
	for i := range n {
		m := &machine{w: w, i: i, name: fmt.Sprintf("n%d", i+1), disk: &disk{}, kept: w.timing.Duration}
		// Two clocks part by at most Drift within one Duration.
		half := float64(w.timing.Drift) / float64(w.timing.Duration) / 2
		m.rate = 1 + half*(2*w.rng.Float64()-1)
		m.offset, m.skew = w.upTo(time.Hour), w.upTo(4*time.Second)-2*time.Second
		m.witness = witness && i == n-1
		w.nodes = append(w.nodes, m)
		w.byName[m.name] = m
	}
	w.net.cut, w.net.lag = make([][]bool, n), make([]time.Duration, n)
	for i := range w.net.cut {
		w.net.cut[i] = make([]bool, n)
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
		w.commit(uint64(len(w.truth)), e)
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
	add(placement.Command{Kind: placement.CmdConfig, Policy: &policy, Config: text})
	for _, g := range policy.Groups {
		for _, r := range g.Resources {
			w.keys = append(w.keys, key{g.Name, r.Name})
		}
	}
	w.shape = policy
}

// configuration draws a configuration; the second and later ones keep the resources and change the rest.
func (w *World) configuration() (placement.Policy, string) {
	t := w.timing
	if w.shape.Groups != nil && w.chance(0.6) {
		t.Duration = t.Duration * time.Duration(10+w.rng.IntN(15)) / 10
		t.Drift = t.Duration / 200
	}
	p := placement.Policy{SuspectAfter: t.Suspect, GroupWaitDelay: w.upTo(4 * t.Duration)}
	for i := range 1 + w.rng.IntN(3) {
		if w.shape.Groups != nil && i >= len(w.shape.Groups) {
			break
		}
		p.Groups = append(p.Groups, w.group(i, t))
	}
	for i := len(p.Groups); i < len(w.shape.Groups); i++ {
		p.Groups = append(p.Groups, w.group(i, t))
	}
	return p, configText(t.Duration)
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
	g.TakeoverWait = t.TakeoverWait(budget)
	if w.opt.Weak == WeakWait {
		g.TakeoverWait = g.TakeoverWait * 2 / 3
	}
	return g
}

// resources draws an address and what it needs.
func (w *World) resources(t lease.Timing) ([]placement.ResourcePolicy, placement.Standby) {
	base := placement.ResourcePolicy{RunOn: placement.RunOnOwner, RestartAction: placement.RestartThenFailover, RestartThreshold: 1,
		RestartPeriod: 10 * t.Duration, RestartDelay: 50 * time.Millisecond, PendingTimeout: 3 * t.Duration, StopBudget: time.Second}
	address := base
	address.Name, address.Address = "address", true
	service := base
	service.Name = "service"
	standby, chain := placement.StandbyCold, false
	switch w.rng.IntN(5) {
	case 0: // an address alone
		return []placement.ResourcePolicy{address}, standby
	case 1: // hot standby
		service.RunOn, service.RestartAction, standby = placement.RunOnEveryNode, placement.RestartFailoverFirst, placement.StandbyHot
		address.DependsOn = &placement.Expr{Name: "service"}
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
