package config

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"hacluster/placement"
	"hacluster/resources"
)

// parsedResource is a resource with its place in the file.
type parsedResource struct {
	t      *table
	r      Resource
	owners []elem
}

func parseResource(t *table, g placement.GroupPolicy) *parsedResource {
	p := &parsedResource{t: t}
	r, policy := &p.r, &p.r.ResourcePolicy
	policy.Name = t.name("resource")
	if policy.Name == "and" || policy.Name == "or" {
		t.fault("name", "choose another", "%q is a word of depends_on expressions", policy.Name)
	}
	kind := requiredEnum(t, "type", "say what the resource is: ", resourceKinds)
	policy.DependsOn = parseDependsOn(t)
	policy.RunOn = enum(t, "run_on", placement.RunOnOwner, runOns)
	policy.Address = kind == resources.KindAddress
	policy.Exclusive = parseExclusive(t, policy)
	p.owners = t.list("possible_owners", `["tomcat1", "tomcat2"]`, false)
	r.Owners = values(p.owners)
	if list, ok := t.m["possible_owners"].([]any); ok && len(list) == 0 {
		t.fault("possible_owners", "remove the key to allow every member", "the array is empty")
	}
	parseRestart(t, policy, g.Standby)
	if !t.boolean("persistent_state", true) {
		t.fault("persistent_state", "remove the key", "what an administrator took offline always stays so until hactl brings it online: false is not supported")
	}
	r.Deadlock = t.duration("deadlock_timeout", defaultDeadlockTimeout, positive)
	intervals := probeIntervals{
		looksAlive: t.duration("looks_alive_interval", defaultLooksAlive, minInterval),
		isAlive:    t.duration("is_alive_interval", defaultIsAlive, minInterval),
	}
	r.Spec = resources.Spec{Group: g.Name, Name: policy.Name, Kind: kind,
		PendingTimeout: policy.PendingTimeout, StopBudget: policy.StopBudget}
	if kind != "" {
		t.only(resourceFields, string(kind), "resource")
		parseKind(t, r)
	}
	if kind == resources.KindScript {
		r.Spec.StatusInterval = intervals.looksAlive
	}
	r.Probes = parseProbes(t, r.Spec, intervals)
	t.done()
	return p
}

// requiredEnum is enum for a key that must be there; S("") when it is not or wrong.
func requiredEnum[S ~string](t *table, key, hint string, words []S) S {
	if !t.has(key) {
		t.read[key] = true
		t.fault(key, hint+orList(words), "is missing")
		return ""
	}
	return enum(t, key, "", words)
}

func parseDependsOn(t *table) *placement.Expr {
	before := len(t.doc.faults)
	text := t.str("depends_on", "")
	if len(t.doc.faults) > before {
		return nil
	}
	e, err := ParseDependsOn(text)
	if err != nil {
		t.fault("depends_on", `join names of this group with "and" or "or", like "db and (cache or disk)"`, "%s: %v", show(text), err)
		return nil
	}
	return e
}

// parseExclusive reads guarantee S2, which a service that runs on the owner has unless it is turned off.
func parseExclusive(t *table, policy *placement.ResourcePolicy) bool {
	everywhere := policy.RunOn == placement.RunOnEveryNode
	if policy.Address && everywhere {
		t.fault("run_on", `use run_on = "owner"`, "a floating address cannot be on every node")
	}
	exclusive := t.boolean("exclusive", !policy.Address && !everywhere)
	if exclusive && everywhere && !policy.Address {
		t.fault("exclusive", `remove one of the two`, `an exclusive resource runs on one node only, and run_on is "every-node"`)
	}
	return exclusive && !policy.Address
}

func parseRestart(t *table, policy *placement.ResourcePolicy, standby placement.Standby) {
	action := placement.RestartThenFailover
	if standby == placement.StandbyHot {
		action = placement.RestartFailoverFirst // the standby is there in less time than any restart takes
	}
	policy.RestartAction = enum(t, "restart_action", action, restartActions)
	policy.RestartThreshold = t.integer("restart_threshold", defaultRestartThreshold, 0, 1_000_000)
	policy.RestartPeriod = t.duration("restart_period", defaultRestartPeriod, positive)
	policy.RestartDelay = t.duration("restart_delay", defaultRestartDelay, 0)
	policy.PendingTimeout = t.duration("pending_timeout", defaultPendingTimeout, positive)
	policy.StopBudget = t.duration("stop_budget", defaultStopBudget, positive)
}

// parseKind reads the keys that belong to one type only.
func parseKind(t *table, r *Resource) {
	s := &r.Spec
	switch s.Kind {
	case resources.KindAddress:
		r.Address = parseAddress(t)
		r.Interface = t.str("interface", "")
		r.Tickle = t.boolean("tickle", true)
	case resources.KindSystemd:
		s.Unit = parseUnit(t, "unit", "")
		s.EveryNode = r.RunOn == placement.RunOnEveryNode
	case resources.KindProcess:
		s.Command = requiredCommand(t, "command")
		s.Dir = absolute(t, "dir")
		s.Env = t.texts("env", envFault)
		s.User = t.str("user", "")
		s.StopSignal = enum(t, "stop_signal", "SIGTERM", stopSignals)
	case resources.KindScript:
		s.Dir = absolute(t, "dir")
		s.Env = t.texts("env", envFault)
		s.Start = requiredCommand(t, "start")
		s.Stop = requiredCommand(t, "stop")
		s.Status = requiredCommand(t, "status")
	}
}

func envFault(name, value string) (reason, hint string) {
	if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(value, 0) {
		return "not an environment variable", `remove "=" and NUL characters`
	}
	return "", ""
}

func requiredCommand(t *table, key string) []string {
	if !t.has(key) {
		t.read[key] = true
		t.fault(key, `write it like ["/usr/local/bin/program", "argument"]`, "is missing")
		return nil
	}
	return t.command(key)
}

// absolute reads a path that has to mean the same on every node.
func absolute(t *table, key string) string {
	path := t.str(key, "")
	if t.has(key) && t.m[key] == path && !isAbs(path) {
		t.fault(key, "write the whole path: the file is the same on every node, the working directory is not",
			"%s is not an absolute path", show(path))
	}
	return path
}

// unitPattern is systemd.unit(5): the characters of a unit name, with a suffix for the type.
var unitPattern = regexp.MustCompile(`^[A-Za-z0-9:_.\\@-]+\.(service|socket|target|mount|scope|slice|timer|path|device|swap|automount)$`)

// parseUnit reads a unit name; without a suffix it is a service, as for systemctl. An empty default makes it required.
func parseUnit(t *table, key, def string) string {
	if !t.has(key) && def != "" {
		t.read[key] = true
		return def
	}
	unit, ok := t.required(key, `name the systemd unit, like "tomcat10.service"`)
	if !ok {
		return ""
	}
	if !unitPattern.MatchString(unit) && unitPattern.MatchString(unit+".service") {
		unit += ".service"
	}
	if !unitPattern.MatchString(unit) {
		t.fault(key, `write it like "tomcat10.service"`, "%s is not a systemd unit", show(unit))
	}
	return unit
}

func parseAddress(t *table) netip.Prefix {
	const hint = `write it with its prefix length, like "10.0.0.5/24"`
	s, ok := t.required("address", "write the floating address with its prefix length, like \"10.0.0.5/24\"")
	if !ok {
		return netip.Prefix{}
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		before, _, slash := strings.Cut(s, "/")
		switch a, err := netip.ParseAddr(before); {
		case err != nil:
			t.fault("address", hint, "%s is not an IP address", show(s))
		case a.Zone() != "":
			t.fault("address", `remove the zone and name the interface by interface = "eth0"`, "%s has a zone", show(s))
		case slash:
			t.fault("address", fmt.Sprintf("use /1 to /%d", a.BitLen()), "%s has a prefix length that does not exist", show(s))
		default:
			t.fault("address", hint, "%s has no prefix length", show(s))
		}
		return netip.Prefix{}
	}
	if reason, hint := prefixFault(p); reason != "" {
		t.fault("address", hint, "%v %s", p, reason)
		return netip.Prefix{}
	}
	return p
}

// prefixFault says why a floating address cannot be that.
func prefixFault(p netip.Prefix) (reason, hint string) {
	a := p.Addr()
	const other = "choose a free host address of the subnet"
	switch {
	case a.Is4In6():
		return "is an IPv4 address in IPv6 clothes", fmt.Sprintf("write %v", a.Unmap())
	case a.IsUnspecified():
		return "is the unspecified address", other
	case a.IsLoopback():
		return "is a loopback address", "a floating address must be reachable from outside; " + other
	case a.IsMulticast():
		return "is a multicast address", other
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "is the broadcast address", other
	case p.Bits() == 0:
		return "has prefix length 0", "write the prefix length of the subnet, like /24"
	case a.BitLen()-p.Bits() < 2: // RFC 3021, RFC 6164: no network or broadcast address there
		return "", ""
	case p.Masked().Addr() == a && a.Is4():
		return "is the network address", other
	case p.Masked().Addr() == a:
		return "is the subnet-router anycast address", other
	case a.Is4() && isBroadcast(p):
		return "is the broadcast address", other
	}
	return "", ""
}

// isBroadcast says whether all host bits of an IPv4 prefix are set.
func isBroadcast(p netip.Prefix) bool {
	b := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		if b[bit/8]&(0x80>>(bit%8)) == 0 {
			return false
		}
	}
	return true
}
