package config

import (
	"net/netip"
	"slices"
	"strings"

	"hacluster/placement"
)

// roster is who may own a group.
type roster struct {
	members   []string // empty: nobody knows, every name passes
	witnesses []string
	source    string // where members comes from, for messages
}

// newRoster joins the lists of the file with what the cluster knows, and reports where they contradict each other.
func newRoster(t *table, nodes, witnesses []elem, known Known) roster {
	r := roster{members: values(nodes), witnesses: append(values(witnesses), known.Witnesses...), source: "nodes"}
	if !t.has("nodes") {
		r.members, r.source = known.Members, "the cluster"
	}
	for _, list := range []struct {
		key   string
		elems []elem
	}{{"nodes", nodes}, {"witnesses", witnesses}} {
		for _, e := range list.elems {
			if !namePattern.MatchString(e.value) {
				t.faultAt(e.line, list.key, nameHint, "%s is not a name", show(e.value))
			}
		}
	}
	for _, e := range witnesses {
		switch {
		case slices.Contains(values(nodes), e.value):
			t.faultAt(e.line, "witnesses", "list it once", "%q is in nodes and in witnesses", e.value)
		case slices.Contains(known.Members, e.value):
			t.faultAt(e.line, "witnesses", "the role is set when a node joins: move the name to nodes",
				"%q is a member of the cluster, not a witness", e.value)
		}
	}
	for _, e := range nodes {
		if slices.Contains(known.Witnesses, e.value) {
			t.faultAt(e.line, "nodes", "the role is set when a node joins: move the name to witnesses",
				"%q is a witness of the cluster", e.value)
		}
	}
	return r
}

// check reports owners that cannot own.
func (r roster) check(t *table, key string, owners []elem) {
	for _, e := range owners {
		switch {
		case slices.Contains(r.witnesses, e.value):
			t.faultAt(e.line, key, "remove it: a witness votes and owns nothing", "%q is a witness", e.value)
		case len(r.members) == 0 || slices.Contains(r.members, e.value):
			if !namePattern.MatchString(e.value) {
				t.faultAt(e.line, key, nameHint, "%s is not a name", show(e.value))
			}
		default:
			hint := didYouMean(e.value, r.members)
			if hint == "" {
				hint = "known members: " + strings.Join(r.members, ", ")
			}
			t.faultAt(e.line, key, hint, "node %q does not exist in %s", e.value, r.source)
		}
	}
}

// checkRelations reports what is wrong between values that are each right by themselves.
func checkRelations(groups []*parsedGroup, owners roster) {
	names := map[string]bool{}
	addresses := map[netip.Addr]string{}
	units := map[string]string{}
	for _, p := range groups {
		if p.g.Name != "" && names[p.g.Name] {
			p.t.fault("name", "rename one of them", "there are two groups called %q", p.g.Name)
		}
		names[p.g.Name] = true
		owners.check(p.t, "preferred_owners", p.preferred)
		checkMembers(p)
		for _, r := range p.resources {
			owners.check(r.t, "possible_owners", r.owners)
			checkUnique(p, r, addresses, units)
			checkRetry(p, r)
		}
		checkOwners(p, owners)
		checkStandby(p)
		checkDependencies(p)
	}
}

// checkMembers reports an empty group and resources with one name.
func checkMembers(p *parsedGroup) {
	if list, ok := p.t.m["resource"].([]any); len(p.resources) == 0 && (!p.t.has("resource") || ok && len(list) == 0) {
		p.t.fault("resource", "add at least one [[group.resource]] below it, or remove the group", "group %q has no resources", p.g.Name)
	}
	seen := map[string]bool{}
	for _, r := range p.resources {
		name := r.r.Name
		if name != "" && seen[name] {
			r.t.fault("name", "rename one of them", "group %s has two resources called %q", p.g.Name, name)
		}
		seen[name] = true
	}
}

// checkUnique reports what only one resource of the whole cluster may have.
func checkUnique(p *parsedGroup, r *parsedResource, addresses map[netip.Addr]string, units map[string]string) {
	here := "resource " + r.r.Name + " of group " + p.g.Name
	if a := r.r.Address.Addr(); r.r.Address.IsValid() {
		if other, ok := addresses[a]; ok {
			r.t.fault("address", "give each its own address", "%v is also the address of %s", a, other)
		}
		addresses[a] = here
	}
	if unit := r.r.Spec.Unit; unit != "" {
		if other, ok := units[unit]; ok {
			r.t.fault("unit", "one resource must own the unit; others can watch it with a probe of type systemd",
				"%s is also the unit of %s", unit, other)
		}
		units[unit] = here
	}
}

// checkRetry reports a retry that would come before the restarts of the last round are forgotten.
func checkRetry(p *parsedGroup, r *parsedResource) {
	retry, period := p.g.RetryPeriod, r.r.RestartPeriod
	if retry == 0 || retry >= period {
		return
	}
	t, key := r.t, "restart_period"
	if p.t.has("retry_period_on_failure") {
		t, key = p.t, "retry_period_on_failure"
	}
	t.fault(key, `lengthen retry_period_on_failure, shorten restart_period, or write retry_period_on_failure = "never"`,
		"retry_period_on_failure %s is shorter than the restart_period %s of resource %s", human(retry), human(period), r.r.Name)
}

// checkOwners reports a group that has nowhere to live, and preferred owners that are not possible.
func checkOwners(p *parsedGroup, owners roster) {
	possible, limited := p.g.possible()
	if !limited {
		return
	}
	if len(possible) == 0 {
		p.t.fault("resource", "let their possible_owners share at least one node", "no node is a possible owner of all resources of group %s",
			p.g.Name)
		return
	}
	for _, e := range p.preferred {
		exists := len(owners.members) == 0 || slices.Contains(owners.members, e.value)
		if exists && !slices.Contains(possible, e.value) && !slices.Contains(owners.witnesses, e.value) {
			p.t.faultAt(e.line, "preferred_owners", "add it to possible_owners of every resource that has them, or remove it here",
				"%q is not a possible owner of group %s", e.value, p.g.Name)
		}
	}
}

// checkStandby reports a standby that the resources do not provide, and resources that the standby does not want.
func checkStandby(p *parsedGroup) {
	everywhere := false
	for _, r := range p.resources {
		if r.r.RunOn != placement.RunOnEveryNode || r.r.ResourcePolicy.Address {
			continue
		}
		everywhere = true
		if p.g.Standby == placement.StandbyCold {
			r.t.fault("run_on", `write standby = "hot" in the group, or run_on = "owner" here`,
				"resource %s runs on every node, and the standby of group %s is cold", r.r.Name, p.g.Name)
		}
	}
	if p.g.Standby == placement.StandbyHot && !everywhere && len(p.resources) > 0 {
		p.t.fault("standby", `write run_on = "every-node" for the service that is to be ready, or standby = "cold"`,
			"the standby is hot, and no resource of group %s runs on every node", p.g.Name)
	}
}

// checkDependencies reports unknown names, cycles, and services on every node that need something of the owner.
func checkDependencies(p *parsedGroup) {
	byName := map[string]*parsedResource{}
	var names []string
	for _, r := range p.resources {
		name := r.r.Name
		byName[name] = r
		names = append(names, name)
	}
	for _, r := range p.resources {
		for _, name := range leaves(r.r.DependsOn) {
			other, ok := byName[name]
			switch {
			case !ok:
				hint := didYouMean(name, names)
				if hint == "" {
					hint = "resources of the group: " + strings.Join(names, ", ")
				}
				r.t.fault("depends_on", hint, "there is no resource %q in group %s", name, p.g.Name)
			case r.r.RunOn == placement.RunOnEveryNode && other.r.RunOn == placement.RunOnOwner:
				r.t.fault("depends_on", "a standby could never start: turn the dependency round, or run both on every node",
					"resource %s runs on every node, and %s on the owner only", r.r.Name, name)
			}
		}
	}
	for _, cycle := range cycles(names, p.edges()) {
		byName[cycle[0]].t.fault("depends_on", "remove one of the dependencies",
			"the resources depend on each other in a circle: %s", strings.Join(cycle, " -> "))
	}
}

// cycles returns one way round for each circle that a depth-first walk in the order of names meets.
func cycles(names []string, edges map[string][]string) [][]string {
	var found [][]string
	done := map[string]bool{}
	var walk func(path []string)
	walk = func(path []string) {
		last := path[len(path)-1]
		for _, next := range edges[last] {
			if i := slices.Index(path, next); i >= 0 {
				found = append(found, append(slices.Clone(path[i:]), next))
			} else if !done[next] {
				walk(append(slices.Clone(path), next))
			}
		}
		done[last] = true
	}
	for _, name := range names {
		if !done[name] {
			walk([]string{name})
		}
	}
	return found
}
