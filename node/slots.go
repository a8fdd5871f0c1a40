package node

import (
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"hacluster/config"
	"hacluster/internal/boottime"
	"hacluster/placement"
	"hacluster/resources"
	"hacluster/vip"

	"log/slog"
)

// key names a resource.
type key struct{ group, resource string }

// slots are all resources of this node. Only the act loop uses them; the slots themselves are safe for anybody.
type slots struct {
	log      *slog.Logger
	node     string
	stateDir string
	clock    boottime.Clock
	vips     *vip.Manager
	gate     *gatekeeper
	leases   leaseSource
	wake     func()
	ladder   *ladder
	plans    drainSource
	tickles  tickleSource
	laps     laps
	turns    turns // of all addresses of the node

	version  uint64 // of the configuration they were made from
	rounds   map[string]uint64
	live     map[key]*slot
	listed   listed          // of live
	waiting  map[key]opening // successors of changed resources
	retiring []*slot         // changed or removed by a new configuration; stopped with the settings they were started with
	turned   bool            // what runs here by which settings is no longer what exclusive said last
	faults   []string
	disown   sync.WaitGroup
}

// configure follows the replicated configuration; ok says that it is a new one. A resource whose settings changed is
// stopped the old way first. Addresses that carry our mark and are in no configuration are leftovers and go.
func (s *slots) configure(st placement.State) (c config.Cluster, ok bool) {
	if st.ConfigVersion == s.version {
		s.retire()
		return c, false
	}
	var err error
	c, err = parseApplied(st)
	if err != nil {
		// Agents of different versions: keep what runs rather than guess.
		s.log.Error("this agent cannot read the applied configuration; it keeps the one before", "version", st.ConfigVersion, "err", err)
		s.faults = []string{fmt.Sprintf("this agent cannot read configuration %d: upgrade it", st.ConfigVersion)}
		s.version = st.ConfigVersion
		return c, false
	}
	s.version, s.faults, s.turned = st.ConfigVersion, nil, true
	wanted := map[key]config.Resource{}
	for _, g := range c.Groups {
		for _, r := range g.Resources {
			wanted[key{g.Name, r.Name}] = r
		}
	}
	for k, old := range s.live {
		if r, ok := wanted[k]; ok && reflect.DeepEqual(r, old.res) {
			delete(wanted, k)
			continue
		}
		delete(s.live, k)
		s.listed = listed{}
		if r, ok := wanted[k]; ok && sameThing(r, old.res) {
			s.part(old) // only limits and probes differ: the new slot adopts what the old one ran
			continue
		}
		s.retiring = append(s.retiring, old)
	}
	s.waiting = map[key]opening{}
	for k, r := range wanted {
		s.waiting[k] = opening{r, slices.Contains(possibleOwners(groupPolicy(st, k.group), st), s.node)}
	}
	s.retire()
	s.sweep()
	return c, true
}

// following is the version of the configuration that the slots were made from; 0: none that this agent could read.
func (s *slots) following() uint64 {
	if len(s.faults) > 0 {
		return 0
	}
	return s.version
}

// sweep removes addresses that carry our mark and belong to no resource of this node.
func (s *slots) sweep() {
	known := map[netip.Addr]bool{}
	for _, sl := range s.retiring {
		known[sl.res.Address.Addr()] = true
	}
	for _, sl := range s.live {
		known[sl.res.Address.Addr()] = true
	}
	for _, o := range s.waiting {
		known[o.res.Address.Addr()] = true
	}
	swept, err := s.vips.Sweep(func(p netip.Prefix) bool { return known[p.Addr()] })
	if err != nil {
		s.log.Error("removing leftover addresses", "err", err)
	}
	for _, h := range swept {
		s.log.Warn("removed a leftover address", "vip", h.Address, "interface", h.Interface)
	}
}

// retire stops what a former configuration had, and forgets it once the OS says that nothing of it is left.
func (s *slots) retire() {
	var rest []*slot
	for _, old := range s.retiring {
		lr := old.local()
		switch {
		case lr.State == placement.StateOffline && !old.lingers(), lr.State == placement.StateFailed && !lr.Running:
			s.part(old)
			s.turned = true
			continue
		case lr.Doing == "":
			old.perform(placement.Action{Kind: placement.ActStop, Group: old.group, Resource: old.res.Name, Why: "no longer in the configuration"})
		}
		rest = append(rest, old)
	}
	s.retiring = rest
	// The successor of a changed resource begins when nothing of the former is left: it must not take that for its own.
	for k, o := range s.waiting {
		if !slices.ContainsFunc(s.retiring, func(old *slot) bool { return key{old.group, old.res.Name} == k }) {
			delete(s.waiting, k)
			s.open(k, o.res, o.possible)
			s.turned = true
		}
	}
}

// opening is a resource whose slot is not open yet.
type opening struct {
	res      config.Resource
	possible bool
}

// sameThing says that two settings drive the same object of the OS, so that only limits and probes differ: the new slot
// adopts what the old one ran.
func sameThing(a, b config.Resource) bool {
	return reflect.DeepEqual(a.Spec, b.Spec) && a.Address == b.Address && a.Interface == b.Interface && a.RunOn == b.RunOn
}

// open makes the slot of a resource; possible says that this node may own its group.
func (s *slots) open(k key, r config.Resource, possible bool) {
	log := s.log.With("group", k.group, "resource", r.Name)
	var drv resources.Driver
	var err error
	if r.ResourcePolicy.Address {
		a := &address{vips: s.vips, gate: s.gate, clock: s.clock, log: log, lease: s.leases, possible: possible, wake: s.wake, plans: s.plans, tickles: s.tickles, tickling: r.Tickle, turns: s.turns,
			spec: vip.Spec{Group: k.group, Resource: r.Name, Address: r.Address, Interface: r.Interface}}
		a.adoptDrain()
		drv = a
	} else {
		drv, err = resources.New(s.spec(k, r), s.log)
	}
	if err != nil {
		log.Error("resource cannot be driven on this node", "err", err)
		drv = undriven{err}
	}
	sl := newSlot(k.group, r, drv, possible, s.log, s.clock, s.wake)
	sl.ladder = s.ladder
	if r.RunOn == placement.RunOnOwner {
		sl.leased = func() bool {
			until, ok := s.leases.until(k.group)
			return ok && s.clock().Before(until)
		}
	}
	s.live[k] = sl
	s.listed = listed{}
}

// spec completes the settings of a resource with what belongs to this node.
func (s *slots) spec(k key, r config.Resource) resources.Spec {
	spec := r.Spec
	spec.Group, spec.Name, spec.StateDir = k.group, r.Name, filepath.Join(s.stateDir, k.group)
	spec.Env = map[string]string{"HAD_NODE": s.node, "HAD_GROUP": k.group, "HAD_RESOURCE": r.Name}
	for name, value := range r.Spec.Env {
		spec.Env[name] = value
	}
	return spec
}

// local gathers what every slot knows and the instant at which time alone may change it.
func (s *slots) local(st placement.State, node string) (out map[string]map[string]placement.LocalResource, wake time.Time) {
	out = map[string]map[string]placement.LocalResource{}
	now := s.clock()
	for k, sl := range s.live {
		gs := st.Groups[k.group]
		if s.rounds[k.group] != gs.Round {
			sl.forget(true)
		} else if sl.res.RunOn == placement.RunOnOwner && gs.Owner != node {
			sl.forget(false) // a failure where the group no longer is, is history
		}
		if end := sl.graceEnds(); !end.IsZero() {
			if end.After(now) && (wake.IsZero() || end.Before(wake)) {
				wake = end
			}
			sl.recheck()
		}
		if out[k.group] == nil {
			out[k.group] = map[string]placement.LocalResource{}
		}
		out[k.group][k.resource] = sl.gather()
	}
	for name, gs := range st.Groups {
		s.rounds[name] = gs.Round
	}
	for k := range s.waiting { // until the old one is gone the new one must not start
		if out[k.group] == nil {
			out[k.group] = map[string]placement.LocalResource{}
		}
		out[k.group][k.resource] = placement.LocalResource{State: placement.StateOfflinePending, Running: true, Wall: time.Now(),
			Detail: "the former configuration of it is being stopped"}
	}
	return out, wake
}

func (s *slots) perform(a placement.Action) {
	if sl := s.live[key{a.Group, a.Resource}]; sl != nil {
		sl.perform(a)
	}
}

// askAddresses has the kernel asked about every address, after an event of its.
func (s *slots) askAddresses() {
	for _, sl := range s.live {
		if _, ok := sl.drv.(*address); ok {
			sl.ask()
		}
	}
}

func (s *slots) close() {
	for _, sl := range s.live {
		sl.close()
		if a, ok := sl.drv.(*address); ok {
			a.close()
		}
	}
	for _, sl := range s.retiring {
		sl.close()
	}
	s.disown.Wait()
}

// leftIn says that something of the group is not proven gone although nothing of it is online: what a former configuration
// had, or an address behind a closed gate.
func (s *slots) leftIn(group string) bool {
	for _, old := range s.retiring {
		if old.group == group {
			return true
		}
	}
	for k, sl := range s.live {
		if k.group == group && sl.lingers() {
			return true
		}
	}
	return false
}

// exclusive are the settings of what may run on one node only, for the dead man. Of a changed resource these are the ones it was
// started with, until nothing of it is left.
func (s *slots) exclusive() []resources.Spec {
	var out []resources.Spec
	for _, sl := range append(slices.Collect(maps.Values(s.live)), s.retiring...) {
		if sl.res.Exclusive && !sl.res.ResourcePolicy.Address {
			out = append(out, s.spec(key{sl.group, sl.res.Name}, sl.res))
		}
	}
	return out
}

// sever kills what a former configuration has left where this node holds no lease for the group, as Reconcile does with what
// is configured: nothing that may run on one node only is stopped politely then (S1, S2).
func (s *slots) sever(leased map[string]time.Time, inherited time.Time) {
	now := s.clock()
	for _, old := range s.retiring {
		if until, ok := leased[old.group]; ok && until.After(now) || inherited.After(now) {
			continue
		}
		lr := old.local()
		gone := lr.State == placement.StateOffline || lr.State == placement.StateFailed && !lr.Running
		if !gone && lr.Doing != placement.ActKill && old.res.RunOn == placement.RunOnOwner && (old.res.Exclusive || old.res.ResourcePolicy.Address) {
			old.perform(placement.Action{Kind: placement.ActKill, Group: old.group, Resource: old.res.Name,
				Why: "no longer in the configuration, and this node holds no lease for the group"})
		}
	}
}

// onOwner says that an action is about something that runs on the owner only.
func (s *slots) onOwner(a placement.Action) bool {
	sl := s.live[key{a.Group, a.Resource}]
	return sl != nil && sl.res.RunOn == placement.RunOnOwner
}
