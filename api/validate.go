package api

import (
	"fmt"
	"slices"
	"strings"

	"hacluster/lease"
	"hacluster/placement"
)

// Verdict is what one check came to.
type Verdict string

const (
	VerdictOK    Verdict = "ok"
	VerdictWarn  Verdict = "warn"  // works, and will not survive all that it should
	VerdictFault Verdict = "fault" // does not work
)

// Check is one thing that was looked at (WSFC: a test of Test-Cluster).
type Check struct {
	Check   string  `json:"check"`   // stable word
	Subject string  `json:"subject"` // node or group; empty: the cluster
	Verdict Verdict `json:"verdict"`
	Detail  string  `json:"detail"` // what was seen, and for anything but ok what to do
}

// Validation is what `hactl validate` prints.
type Validation struct {
	Cluster string  `json:"cluster"`
	Verdict Verdict `json:"verdict"` // the worst
	Checks  []Check `json:"checks"`
}

// Validate checks a living cluster by its status; it changes nothing. Every check has at least one line, also when all is well.
func Validate(st Status) Validation {
	v := Validation{Cluster: st.Cluster, Verdict: VerdictOK}
	for _, check := range []func(Status) []Check{checkLeader, checkNodes, checkQuorum, checkVersions, checkKernelLease, checkConfig, checkGroups, checkStandbys, checkReports} {
		v.Checks = append(v.Checks, check(st)...)
	}
	for _, c := range v.Checks {
		switch {
		case c.Verdict == VerdictFault:
			v.Verdict = VerdictFault
		case c.Verdict == VerdictWarn && v.Verdict == VerdictOK:
			v.Verdict = VerdictWarn
		}
	}
	return v
}

func finding(v Verdict, check, subject, format string, args ...any) Check {
	return Check{Check: check, Subject: subject, Verdict: v, Detail: fmt.Sprintf(format, args...)}
}

func checkLeader(st Status) []Check {
	switch {
	case st.Stale:
		return []Check{finding(VerdictFault, "leader", "", "%s answers from its own copy: it cannot reach a leader, and what follows may be old", st.Node)}
	case st.Leader == "":
		return []Check{finding(VerdictFault, "leader", "", "there is none")}
	}
	return []Check{finding(VerdictOK, "leader", "", "%s", st.Leader)}
}

// checkNodes asks whether every member speaks.
func checkNodes(st Status) (out []Check) {
	voters := 0
	for _, n := range st.Nodes {
		if n.Voter {
			voters++
		}
	}
	for _, n := range st.Nodes {
		flags := ""
		if len(n.Flags) > 0 {
			flags = " (" + strings.Join(n.Flags, ", ") + ")"
		}
		switch n.State {
		case "up":
			out = append(out, finding(VerdictOK, "member", n.Name, "speaks%s", flags))
		case "paused":
			out = append(out, finding(VerdictWarn, "member", n.Name, "is paused%s: hactl node resume %s when the work on it is done", flags, n.Name))
		case "joining":
			out = append(out, finding(VerdictWarn, "member", n.Name, "has joined and has not spoken yet: start had there"))
		default:
			out = append(out, finding(VerdictFault, "member", n.Name, "is %s%s: start had there, and look at the network between the nodes", n.State, flags))
		}
		switch {
		case n.Voter || n.State == "joining":
		case voters >= 3 && voters%2 == 1: // as package raft deals out the votes
			out = append(out, finding(VerdictOK, "member", n.Name, "does not vote: %d others do, and it takes the place of one that stays away", voters))
		default:
			out = append(out, finding(VerdictWarn, "member", n.Name, "does not vote"))
		}
	}
	return out
}

func checkQuorum(st Status) []Check {
	q := st.Quorum
	v := VerdictOK
	switch spare := q.Alive - q.Needed; {
	case spare < 0:
		v = VerdictFault
	case spare == 0:
		v = VerdictWarn
	}
	return []Check{finding(v, "quorum", "", "%d of %d voters, %d needed: %s", q.Alive, q.Voters, q.Needed, q.Margin)}
}

func checkVersions(st Status) []Check {
	var versions []string
	for _, n := range st.Nodes {
		if n.Version != "" && !slices.Contains(versions, n.Version) {
			versions = append(versions, n.Version)
		}
	}
	if len(versions) < 2 {
		return []Check{finding(VerdictOK, "version", "", "every node that speaks runs %s", strings.Join(versions, ""))}
	}
	var out []Check
	for _, n := range st.Nodes {
		if n.Version != "" {
			out = append(out, finding(VerdictWarn, "version", n.Name, "runs %s: finish the upgrade", n.Version))
		}
	}
	return out
}

// checkKernelLease says which layer counts and who could not carry the shorter one.
func checkKernelLease(st Status) []Check {
	var without []NodeStatus
	unheard := 0
	for _, n := range st.Nodes {
		switch {
		case n.Role == placement.RoleWitness:
		case n.State != "up" && n.State != "paused":
			unheard++
		case !n.Gate:
			without = append(without, n)
		}
	}
	why := func(n NodeStatus) string {
		if n.NoGate == "" {
			return "its agent does not say that its kernel carries the gate"
		}
		return n.NoGate
	}
	if st.Timing.Layer == lease.Gate {
		out := []Check{finding(VerdictOK, "kernel-lease", "", "gate: a silent node is replaced after %v", st.Timing.TakeoverWait(0))}
		if st.Timing.Pulse > 0 {
			out[0].Detail += fmt.Sprintf("; where it has only addresses %v after its last pulse", st.Timing.PulseWait())
		}
		for _, n := range without {
			out = append(out, finding(VerdictFault, "kernel-lease", n.Name, "owns nothing, its kernel does not carry the gate: %s", why(n)))
		}
		return out
	}
	out := []Check{finding(VerdictOK, "kernel-lease", "", "address lifetime: a silent node is replaced after %v", st.Timing.TakeoverWait(0))}
	if len(without) == 0 && unheard == 0 {
		out[0].Detail += `; every node carries the gate: with kernel_lease = "auto" the next apply takes it`
	}
	for _, n := range without {
		out = append(out, finding(VerdictOK, "kernel-lease", n.Name, "could not carry the gate: %s", why(n)))
	}
	return out
}

// checkConfig asks whether the configuration is applied everywhere.
func checkConfig(st Status) []Check {
	var out []Check
	for _, n := range st.Nodes {
		switch {
		case n.State != "up" && n.State != "paused":
		case n.Config == 0 && st.Config > 0:
			out = append(out, finding(VerdictWarn, "config", n.Name, "does not say that it follows version %d: is its agent older?", st.Config))
		case n.Config != st.Config:
			out = append(out, finding(VerdictWarn, "config", n.Name, "follows version %d, not %d", n.Config, st.Config))
		case slices.Contains(n.Flags, "retiming"):
			out = append(out, finding(VerdictWarn, "config", n.Name, "waits to be started again, so that all of the timing takes effect; the leader does it as soon as every voter is up"))
		}
	}
	if len(out) == 0 {
		out = append(out, finding(VerdictOK, "config", "", "every node that speaks follows version %d", st.Config))
	}
	return out
}

func checkGroups(st Status) []Check {
	if len(st.Groups) == 0 {
		return []Check{finding(VerdictWarn, "group", "", "there are none yet: describe them in a cluster.toml, then hactl apply")}
	}
	var out []Check
	for _, g := range st.Groups {
		switch {
		case g.State == "online":
			out = append(out, finding(VerdictOK, "group", g.Name, "online on %s", g.Owner))
		case g.State == "offline" && g.Why.Rule == placement.RuleOffline:
			out = append(out, finding(VerdictOK, "group", g.Name, "offline, as an administrator wants it"))
		case g.State == "pending" || g.State == "partial-online":
			out = append(out, finding(VerdictWarn, "group", g.Name, "%s: look again in a moment, or hactl group show %s", g.State, g.Name))
		default:
			out = append(out, finding(VerdictFault, "group", g.Name, "%s: see hactl group show %s", g.State, g.Name))
		}
	}
	return out
}

// checkStandbys asks whether every group that is wanted online could fail over now.
func checkStandbys(st Status) (out []Check) {
	for _, g := range st.Groups {
		if g.State == "offline" {
			continue
		}
		var ready, not []string
		for _, s := range g.Standbys {
			if s.Ready {
				ready = append(ready, s.Node)
			} else {
				not = append(not, s.Node+" ("+s.Why+")")
			}
		}
		switch {
		case len(ready) == 0 && len(not) == 0:
			out = append(out, finding(VerdictWarn, "standby", g.Name, "no other node may own it"))
		case len(ready) == 0:
			out = append(out, finding(VerdictWarn, "standby", g.Name, "none is ready: %s", strings.Join(not, ", ")))
		default:
			out = append(out, finding(VerdictOK, "standby", g.Name, "%s can take it", strings.Join(ready, ", ")))
		}
	}
	return out
}

// checkReports passes on what the nodes warn of. What another check says is not said again.
func checkReports(st Status) (out []Check) {
	for _, w := range st.Warnings {
		name, text, ok := strings.Cut(w, ": ")
		known := slices.ContainsFunc(st.Nodes, func(n NodeStatus) bool { return n.Name == name })
		if ok && known && !strings.HasPrefix(text, NoGateWarning) {
			out = append(out, finding(VerdictWarn, "report", name, "%s", text))
		}
	}
	if len(out) == 0 {
		out = append(out, finding(VerdictOK, "report", "", "no node warns of its settings"))
	}
	return out
}

// NoGateWarning begins the warning of a node that cannot own while the gate is in force.
const NoGateWarning = "its kernel does not carry the gate"
