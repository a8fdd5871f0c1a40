package config

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"hacluster/fence"
	"hacluster/placement"
)

// Defaults of cluster.toml. Sources: docs/configuration.md and, where ours differs from Windows, the reason there.
const (
	defaultGroupWaitDelay = 2 * time.Minute

	defaultFailoverThreshold = -1 // nodes - 1
	defaultFailoverPeriod    = 6 * time.Hour
	defaultRetryPeriod       = time.Hour
	defaultPriority          = 2000

	defaultRestartThreshold = 1
	defaultRestartPeriod    = 15 * time.Minute
	defaultRestartDelay     = 500 * time.Millisecond
	defaultPendingTimeout   = 3 * time.Minute
	defaultDeadlockTimeout  = 30 * time.Second
	defaultStopBudget       = time.Second
	defaultLooksAlive       = time.Second
	defaultIsAlive          = 5 * time.Second

	defaultProbeTimeout = time.Second // or the interval, when that is shorter
	defaultAJPPort      = 8009

	// minInterval keeps a probe from becoming the load it is meant to see.
	minInterval = 10 * time.Millisecond
	// minTimeout is what a loaded machine may need to answer itself on loopback.
	minTimeout = 20 * time.Millisecond
	positive   = time.Nanosecond
)

// LoadCluster reads cluster.toml. The error joins every Fault of the file (see Faults), or says why it cannot be read.
func LoadCluster(file string) (Cluster, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return Cluster{}, fmt.Errorf("reading the cluster configuration: %w", err)
	}
	return ParseCluster(file, text, Known{})
}

// ParseCluster is LoadCluster for a text already read; file names it in messages. Owners are checked against the file's
// own lists, or where it has none against what is known.
func ParseCluster(file string, text []byte, known Known) (Cluster, error) {
	doc, t, err := open(file, text, "cluster", clusterKeys)
	if err != nil {
		return Cluster{}, err
	}
	c := Cluster{Name: t.name("cluster")}
	c.KernelLease, c.Timing = parseTiming(t, known.KernelLease)
	c.GroupWaitDelay = t.duration("group_wait_delay", defaultGroupWaitDelay, 0)
	nodes, witnesses := t.list("nodes", `["tomcat1", "tomcat2"]`, false), t.list("witnesses", `["witness"]`, false)
	c.Nodes, c.Witnesses = values(nodes), values(witnesses)
	c.FencePolicy = enum(t, "fence_policy", defaultFencePolicy, fence.Policies)
	c.FenceAction = enum(t, "fence_action", defaultFenceAction, fence.Actions)
	var fences []*parsedFence
	for _, f := range t.tables("fence") {
		fences = append(fences, parseFence(f))
	}
	var groups []*parsedGroup
	for _, g := range t.tables("group") {
		groups = append(groups, parseGroup(g))
	}
	t.done()
	owners := newRoster(t, nodes, witnesses, known)
	checkRelations(groups, owners)
	checkFences(t, c.FencePolicy, fences, owners)
	if err := joinFaults(doc.faults); err != nil {
		return Cluster{}, err
	}
	for _, p := range fences {
		c.Fences = append(c.Fences, p.d)
	}
	for _, p := range groups {
		c.Groups = append(c.Groups, p.g)
	}
	return c, nil
}

// parsedGroup is a group with its place in the file, for the relations that are checked after all are read.
type parsedGroup struct {
	t         *table
	g         Group
	preferred []elem
	resources []*parsedResource
}

func parseGroup(t *table) *parsedGroup {
	p := &parsedGroup{t: t}
	g := &p.g.GroupPolicy
	g.Name = t.name("group")
	p.preferred = t.list("preferred_owners", `["tomcat1", "tomcat2"]`, false)
	g.PreferredOwners = values(p.preferred)
	g.FailoverThreshold = parseFailoverThreshold(t)
	g.FailoverPeriod = t.duration("failover_period", defaultFailoverPeriod, positive)
	g.AutoFailback = enum(t, "auto_failback", "prevent", failbacks) == "allow"
	g.FailbackFrom, g.FailbackTo = parseWindow(t)
	g.RetryPeriod = parseRetryPeriod(t)
	g.Priority = parsePriority(t)
	g.AntiAffinity = values(t.list("anti_affinity", `["tomcat"]`, false))
	g.EnforceAntiAffinity = t.boolean("enforce_anti_affinity", false)
	if g.EnforceAntiAffinity && len(g.AntiAffinity) == 0 {
		t.fault("enforce_anti_affinity", `add anti_affinity = ["class"], or remove the key`, "there is no anti_affinity to enforce")
	}
	g.Standby = enum(t, "standby", placement.StandbyCold, standbys)
	for _, r := range t.tables("resource") {
		p.resources = append(p.resources, parseResource(r, *g))
	}
	t.done()
	defaultDependencies(p)
	for _, r := range p.resources {
		p.g.Resources = append(p.g.Resources, r.r)
	}
	return p
}

func parseFailoverThreshold(t *table) int {
	const hint = "use 0 for never, a number of failovers within failover_period, or -1 for the number of nodes less one"
	v, ok := t.lookup("failover_threshold")
	if !ok {
		return defaultFailoverThreshold
	}
	n, ok := v.(int64)
	switch {
	case !ok:
		t.fault("failover_threshold", hint, "%s is not a whole number", show(v))
	case n < -1 || n > 1_000_000:
		t.fault("failover_threshold", hint, "%d is out of range", n)
	default:
		return int(n)
	}
	return defaultFailoverThreshold
}

// parseWindow reads "22-4": from 22:00 until 04:00 by the leader's local clock.
func parseWindow(t *table) (from, to int) {
	const hint = `write two different hours of 0 to 23 like "22-4"`
	if !t.has("failback_window") {
		t.read["failback_window"] = true
		return -1, -1
	}
	before := len(t.doc.faults)
	s := t.str("failback_window", "")
	if len(t.doc.faults) > before {
		return -1, -1
	}
	a, b, ok := strings.Cut(s, "-")
	from, errFrom := strconv.Atoi(strings.TrimSpace(a))
	to, errTo := strconv.Atoi(strings.TrimSpace(b))
	if !ok || errFrom != nil || errTo != nil || from < 0 || from > 23 || to < 0 || to > 23 || from == to {
		t.fault("failback_window", hint, "%q is not a window of hours", s)
		return -1, -1
	}
	return from, to
}

func parseRetryPeriod(t *table) time.Duration {
	const key = "retry_period_on_failure"
	if t.m[key] == "never" {
		t.read[key] = true
		return 0
	}
	return t.duration(key, defaultRetryPeriod, positive)
}

func parsePriority(t *table) int {
	v, ok := t.lookup("priority")
	if !ok {
		return defaultPriority
	}
	if n, ok := v.(int64); ok && slices.Contains(priorities, int(n)) {
		return int(n)
	}
	t.fault("priority", "use 0 (no automatic start), 1000 (low), 2000 (medium) or 3000 (high)", "%s is not a priority", show(v))
	return defaultPriority
}

// defaultDependencies makes an address without depends_on follow all services of its group, so that clients are only
// sent where the service is online. An address on which a service depends, because it binds to it, is left alone.
func defaultDependencies(p *parsedGroup) {
	var services []placement.Expr
	for _, r := range p.resources {
		if !r.r.ResourcePolicy.Address && r.r.Name != "" {
			services = append(services, placement.Expr{Name: r.r.Name})
		}
	}
	edges := p.edges()
	var add []*parsedResource
	for _, r := range p.resources {
		needed := slices.ContainsFunc(services, func(s placement.Expr) bool { return reaches(edges, s.Name, r.r.Name) })
		if r.r.ResourcePolicy.Address && !r.t.has("depends_on") && len(services) > 0 && !needed {
			add = append(add, r)
		}
	}
	for _, r := range add {
		if len(services) == 1 {
			r.r.DependsOn = &services[0]
		} else {
			r.r.DependsOn = &placement.Expr{All: slices.Clone(services)}
		}
	}
}

// edges lists what each resource of the group depends on.
func (p *parsedGroup) edges() map[string][]string {
	edges := map[string][]string{}
	for _, r := range p.resources {
		edges[r.r.Name] = leaves(r.r.DependsOn)
	}
	return edges
}

// reaches says whether there is a way from one name to another along the edges.
func reaches(edges map[string][]string, from, to string) bool {
	seen := map[string]bool{}
	var walk func(name string) bool
	walk = func(name string) bool {
		if name == to {
			return true
		}
		if seen[name] {
			return false
		}
		seen[name] = true
		return slices.ContainsFunc(edges[name], walk)
	}
	return walk(from)
}
