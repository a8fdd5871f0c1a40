package config

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"hacluster/health"
)

// Diff says in one line each what the new configuration changes, for a human who is about to apply it. Things are
// matched by name; the order of groups and probes, which decides nothing, is not compared. No lines: nothing changes.
func Diff(old, new Cluster) []string {
	before, after := facts(old), facts(new)
	var lines []string
	add := func(scope, format string, args ...any) {
		line := fmt.Sprintf(format, args...)
		if scope != "" {
			line = scope + ": " + line
		}
		lines = append(lines, line)
	}
	gone := func(all []fact, other []fact, word string) {
		for _, f := range all {
			if find(other, f.scope) == nil && (f.parent == "" || find(other, f.parent) != nil) {
				add(f.scope, "%s%s", word, f.what)
			}
		}
	}
	gone(before, after, "removed")
	for _, f := range after {
		was := find(before, f.scope)
		if was == nil {
			continue
		}
		for i, p := range f.properties {
			from := was.properties[i].value
			if p.name == orderOfResources && !reordered(from, p.value) {
				continue // something was added or removed, which has its own line
			}
			if from != p.value {
				add(f.scope, "%s %s -> %s", p.name, orNone(from), orNone(p.value))
			}
		}
	}
	gone(after, before, "added")
	return lines
}

// fact is one thing of a configuration flattened: the cluster, a group, a resource or a probe.
type fact struct {
	scope      string // "group idm: resource vip"
	parent     string // scope of what it is part of
	what       string // " (systemd tomcat10.service)", for added and removed
	properties []property
}

type property struct{ name, value string }

const orderOfResources = "order of resources"

// reordered says whether two lists hold the same names.
func reordered(a, b string) bool {
	x, y := strings.Split(a, ", "), strings.Split(b, ", ")
	slices.Sort(x)
	slices.Sort(y)
	return slices.Equal(x, y)
}

func find(all []fact, scope string) *fact {
	for i := range all {
		if all[i].scope == scope {
			return &all[i]
		}
	}
	return nil
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// facts flattens a configuration; the properties of one kind of thing always come in the same number and order.
func facts(c Cluster) []fact {
	t := c.Timing
	all := []fact{{properties: []property{
		{"name", c.Name},
		{"timing", string(t.Profile)},
		{"kernel_lease", string(c.KernelLease)},
		{"kernel lease in force", string(t.Layer)},
		{"renew", human(t.Renew)}, {"duration", human(t.Duration)}, {"drift", human(t.Drift)}, {"margin", human(t.Margin)},
		{"kernel_slack", human(t.KernelSlack)}, {"heartbeat", human(t.Heartbeat)}, {"election", human(t.Election)},
		{"leader_lease", human(t.LeaderLease)}, {"suspect", human(t.Suspect)},
		{"pulse", human(t.Pulse)}, {"pulse_bound", human(t.PulseBound)},
		{"group_wait_delay", human(c.GroupWaitDelay)},
		{"nodes", words(c.Nodes)},
		{"witnesses", words(c.Witnesses)},
		{"fence_policy", string(c.FencePolicy)},
		{"fence_action", string(c.FenceAction)},
	}}}
	for _, d := range c.Fences {
		all = append(all, fenceFact(d))
	}
	for _, g := range c.Groups {
		all = append(all, groupFact(g))
		for _, r := range g.Resources {
			f := resourceFact(r)
			f.parent, f.scope = "group "+g.Name, "group "+g.Name+": resource "+r.Name
			all = append(all, f)
			for _, p := range r.Probes {
				pf := probeFact(p)
				pf.parent, pf.scope = f.scope, f.scope+": probe "+p.Name
				all = append(all, pf)
			}
		}
	}
	return all
}

func groupFact(g Group) fact {
	var names []string
	for _, r := range g.Resources {
		names = append(names, r.Name)
	}
	window := ""
	if g.FailbackFrom >= 0 {
		window = fmt.Sprintf("%d-%d", g.FailbackFrom, g.FailbackTo)
	}
	failback, threshold, retry := "prevent", strconv.Itoa(g.FailoverThreshold), human(g.RetryPeriod)
	if g.AutoFailback {
		failback = "allow"
	}
	if g.FailoverThreshold < 0 {
		threshold = "nodes - 1"
	}
	if g.RetryPeriod == 0 {
		retry = "never"
	}
	return fact{scope: "group " + g.Name, what: " (" + words(names) + ")", properties: []property{
		{"preferred_owners", words(g.PreferredOwners)},
		{"failover_threshold", threshold},
		{"failover_period", human(g.FailoverPeriod)},
		{"auto_failback", failback},
		{"failback_window", window},
		{"retry_period_on_failure", retry},
		{"priority", strconv.Itoa(g.Priority)},
		{"anti_affinity", words(g.AntiAffinity)},
		{"enforce_anti_affinity", strconv.FormatBool(g.EnforceAntiAffinity)},
		{"standby", string(g.Standby)},
		{orderOfResources, words(names)},
	}}
}

func resourceFact(r Resource) fact {
	s, address := r.Spec, ""
	if r.Address != (netip.Prefix{}) {
		address = r.Address.String()
	}
	what := string(s.Kind)
	for _, more := range []string{address, s.Unit} {
		if more != "" {
			what += " " + more
		}
	}
	return fact{what: " (" + what + ")", properties: []property{
		{"type", string(s.Kind)},
		{"address", address},
		{"interface", r.Interface},
		{"tickle", strconv.FormatBool(r.Tickle)},
		{"unit", s.Unit},
		{"command", command(s.Command)},
		{"dir", s.Dir},
		{"env", pairs(s.Env)},
		{"user", s.User},
		{"stop_signal", s.StopSignal},
		{"start", command(s.Start)},
		{"stop", command(s.Stop)},
		{"status", command(s.Status)},
		{"looks_alive_interval", duration(s.StatusInterval)}, // of probes: shown there
		{"depends_on", FormatDependsOn(r.DependsOn)},
		{"run_on", string(r.RunOn)},
		{"exclusive", strconv.FormatBool(r.Exclusive)},
		{"possible_owners", words(r.Owners)},
		{"restart_action", string(r.RestartAction)},
		{"restart_threshold", strconv.Itoa(r.RestartThreshold)},
		{"restart_period", human(r.RestartPeriod)},
		{"restart_delay", human(r.RestartDelay)},
		{"pending_timeout", human(r.PendingTimeout)},
		{"stop_budget", human(r.StopBudget)},
		{"deadlock_timeout", human(r.Deadlock)},
	}}
}

func probeFact(p health.Spec) fact {
	statuses := make([]string, len(p.Status))
	for i, n := range p.Status {
		statuses[i] = strconv.Itoa(n)
	}
	port := ""
	if p.Port != 0 {
		port = strconv.Itoa(p.Port)
	}
	return fact{what: " (" + string(p.Kind) + ")", properties: []property{
		{"type", string(p.Kind)},
		{"level", string(p.Level)},
		{"interval", human(p.Interval)},
		{"timeout", human(p.Timeout)},
		{"timeout_min", duration(p.TimeoutMin)},
		{"fall", strconv.Itoa(p.Fall)},
		{"rise", strconv.Itoa(p.Rise)},
		{"host", p.Host},
		{"port", port},
		{"url", p.URL},
		{"status", words(statuses)},
		{"body", p.Body},
		{"header", pairs(p.Header)},
		{"want_header", pairs(p.WantHeader)},
		{"max_latency", duration(p.MaxLatency)},
		{"ca_file", p.CAFile},
		{"server_name", p.ServerName},
		{"command", command(p.Command)},
		{"unit", p.Unit},
		{"pid_file", p.PIDFile},
		{"process", p.Process},
	}}
}

// words renders a list of names, which hold no commas.
func words(all []string) string { return strings.Join(all, ", ") }

// command renders program and arguments so that two different ones never look alike.
func command(args []string) string {
	quoted := make([]string, len(args))
	for i, a := range args {
		quoted[i] = a
		if a == "" || strings.ContainsAny(a, " \t\r\n\"'\\") {
			quoted[i] = strconv.Quote(a)
		}
	}
	return strings.Join(quoted, " ")
}

func pairs(m map[string]string) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		all = append(all, k+"="+strconv.Quote(m[k]))
	}
	return strings.Join(all, ", ")
}

// duration renders a duration for which zero means none.
func duration(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return human(d)
}
