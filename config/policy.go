package config

import (
	"slices"
	"strings"
	"time"

	"hacluster/lease"
	"hacluster/placement"
)

// Policy is what placement must know of this configuration. It is total: a Cluster that Parse returned gives a policy
// that satisfies placement's rules.
func (c Cluster) Policy() placement.Policy {
	p := placement.Policy{SuspectAfter: c.Timing.Suspect, GroupWaitDelay: c.GroupWaitDelay, NeedsGate: c.Timing.Layer == lease.Gate, Fencing: c.fencing()}
	for _, g := range c.Groups {
		policy := g.GroupPolicy
		policy.PreferredOwners = slices.Clone(policy.PreferredOwners)
		policy.AntiAffinity = slices.Clone(policy.AntiAffinity)
		policy.PossibleOwners, _ = g.possible()
		policy.Resources = nil
		var budget time.Duration
		policy.OnPulse = c.Timing.Pulse > 0
		for _, r := range g.Resources {
			policy.OnPulse = policy.OnPulse && (r.ResourcePolicy.Address || r.RunOn == placement.RunOnEveryNode)
			if r.Exclusive {
				budget = max(budget, r.StopBudget)
			}
			policy.Resources = append(policy.Resources, r.ResourcePolicy)
		}
		policy.TakeoverWait = c.Timing.TakeoverWait(budget)
		p.Groups = append(p.Groups, policy)
	}
	slices.SortFunc(p.Groups, func(a, b placement.GroupPolicy) int { return strings.Compare(a.Name, b.Name) })
	return p
}

// possible is the intersection of the resources' owners in the order of the first list; limited is false when no
// resource names any, and every member is possible.
func (g Group) possible() (owners []string, limited bool) {
	for _, r := range g.Resources {
		if len(r.Owners) == 0 {
			continue
		}
		if !limited {
			owners, limited = slices.Clone(r.Owners), true
			continue
		}
		owners = slices.DeleteFunc(owners, func(name string) bool { return !slices.Contains(r.Owners, name) })
	}
	return owners, limited
}
