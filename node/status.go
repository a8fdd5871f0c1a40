package node

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"hacluster/api"
	"hacluster/config"
	"hacluster/placement"
)

// status is the cluster as this node sees it: complete on the leader, from its own copy of the state elsewhere.
func (n *Node) status() api.Status {
	st := n.raft.State()
	since, reports, notes, leading := n.leader.alive()
	s := api.Status{Cluster: st.Cluster, Timing: n.timing(), Leader: n.raft.Leader(), Node: n.name, Stale: !leading, At: time.Now(), Config: st.ConfigVersion}
	s.Profile = s.Timing.Profile
	if !leading && s.Leader == "" {
		at := n.raft.Position()
		s.Log = &api.Log{Term: at.Term, Index: at.Index, Applied: at.Applied}
	}
	if !leading {
		since, reports = map[string]time.Duration{}, map[string]placement.Report{n.name: n.renewer.current()}
	}
	c, _ := parseApplied(st)
	s.Nodes = n.nodeStatus(st, since, reports, leading)
	s.Quorum = n.quorum(since, leading)
	moves := newestMoves(st)
	for _, g := range st.Policy.Groups {
		gs := groupStatus(g, st, c, since, reports, notes, s.Timing.Suspect)
		if e, ok := moves[g.Name]; ok {
			gs.Move = n.leader.moves.status(e, reports[e.To].Groups[g.Name].Lap)
		}
		s.Groups = append(s.Groups, gs)
	}
	s.Warnings = append(gateWarnings(s, st.Policy.NeedsGate), warnings(s, reports)...)
	if short := shortBy(st, s.Timing); short > 0 {
		s.Warnings = append(s.Warnings, fmt.Sprintf("leases are shorter by %v than this version of had derives them, because the configuration was applied by another: run hactl apply with the same file", short))
	}
	if len(st.Events) > 0 {
		s.LastEvent = &st.Events[len(st.Events)-1]
	}
	s.Health = summary(s)
	return s
}

func (n *Node) nodeStatus(st placement.State, since map[string]time.Duration, reports map[string]placement.Report, leading bool) []api.NodeStatus {
	voters := map[string]bool{}
	servers, _ := n.raft.Servers()
	for _, s := range servers {
		voters[s.Name] = s.Voter
	}
	t, fenced := n.timing(), n.leader.fenceFlags()
	var out []api.NodeStatus
	for _, name := range slices.Sorted(maps.Keys(st.Nodes)) {
		node := st.Nodes[name]
		ns := api.NodeStatus{Name: name, Role: node.Role, Leader: name == n.raft.Leader(), Voter: voters[name], Addresses: node.Addresses,
			Version: reports[name].Version, LastSeen: -1, Gate: reports[name].Gate, NoGate: reports[name].NoGate, Config: reports[name].Config}
		last, seen := since[name]
		if seen {
			ns.LastSeen, ns.Lease = last, max(0, t.Duration-last)
		} else if name == n.name {
			ns.Lease = n.renewer.remaining()
		}
		for _, group := range slices.Sorted(maps.Keys(st.Groups)) {
			if st.Groups[group].Owner == name {
				ns.Groups = append(ns.Groups, group)
			}
		}
		switch {
		case leading && (!seen || last > t.Suspect):
			ns.State = "down"
			if !voters[name] && !seen {
				ns.State = "joining"
			}
		case !leading && name != n.name:
			ns.State = "unknown"
		case node.Admin != placement.AdminUp:
			ns.State = "paused"
		default:
			ns.State = "up"
		}
		if node.Admin == placement.AdminDrain {
			flag := "drained"
			if len(ns.Groups) > 0 {
				flag = "draining"
			}
			ns.Flags = append(ns.Flags, flag)
		}
		if reports[name].Leaving {
			ns.Flags = append(ns.Flags, "leaving")
		}
		if reports[name].Retime {
			ns.Flags = append(ns.Flags, "retiming")
		}
		if flag := fenced[name]; flag != "" {
			ns.Flags = append(ns.Flags, flag)
		}
		if !leading && name == n.name && n.raft.Leader() == "" {
			ns.Flags = append(ns.Flags, "isolated")
		}
		if _, revoked := st.Revoked[node.ID]; revoked { // by a forced quorum
			ns.State, ns.Flags = "down", append(ns.Flags, "must-rejoin")
		}
		if node.Role == placement.RoleMember {
			ns.Pulse = reports[name].Pulse
			ns.Release = reports[name].Layers // of the others nothing is known without a leader
			if name == n.name {
				ns.Release = n.layers
			}
		}
		out = append(out, ns)
	}
	return out
}

// quorum counts voters and says in words which losses can still be taken.
func (n *Node) quorum(since map[string]time.Duration, leading bool) api.Quorum {
	var q api.Quorum
	servers, _ := n.raft.Servers()
	for _, s := range servers {
		if !s.Voter {
			continue
		}
		q.Voters++
		if last, ok := since[s.Name]; leading && ok && last <= n.timing().Suspect || !leading && s.Name == n.name {
			q.Alive++
		}
	}
	q.Needed = q.Voters/2 + 1
	switch spare := q.Alive - q.Needed; {
	case !leading && n.raft.Leader() == "":
		q.Margin = "no quorum: this node reaches fewer than a majority"
	case !leading:
		q.Margin = "the leader does not answer"
	case spare < 0:
		q.Margin = "no quorum"
	case spare == 0 && q.Voters <= 2:
		q.Margin = "no voter may fail: add a witness"
	case spare == 0:
		q.Margin = "no further voter may fail"
	case spare == 1:
		q.Margin = "one more voter may fail"
	default:
		q.Margin = fmt.Sprintf("%d more voters may fail", spare)
	}
	return q
}

func groupStatus(g placement.GroupPolicy, st placement.State, c config.Cluster, since map[string]time.Duration, reports map[string]placement.Report, notes []string, suspect time.Duration) api.GroupStatus {
	gs := st.Groups[g.Name]
	out := api.GroupStatus{Name: g.Name, Owner: gs.Owner, Epoch: gs.Epoch, Phase: gs.Phase, Since: gs.Since, Why: gs.Why}
	kinds := map[string]string{}
	for _, cg := range c.Groups {
		if cg.Name != g.Name {
			continue
		}
		for _, r := range cg.Resources {
			kinds[r.Name] = string(r.Spec.Kind)
			if r.ResourcePolicy.Address {
				kinds[r.Name] = "address"
				out.Addresses = append(out.Addresses, r.Address.Addr().String())
			}
		}
	}
	for _, note := range notes {
		if text, ok := strings.CutPrefix(note, g.Name+": "); ok {
			out.Notes = append(out.Notes, text)
		}
	}
	for _, node := range possibleOwners(g, st) {
		if b := reports[node].Groups[g.Name].Blocked; b != "" && !slices.ContainsFunc(out.Notes, func(n string) bool { return strings.Contains(n, b) }) {
			out.Notes = append(out.Notes, "blocked on "+node+": a human is needed: "+b)
		}
		if r := reports[node].Groups[g.Name].Drain; r != nil && !r.Done {
			out.Notes = append(out.Notes, drainNote(node, r))
		}
	}
	var states []placement.ResourceState
	for _, r := range g.Resources {
		nodes := []string{gs.Owner}
		if r.RunOn == placement.RunOnEveryNode {
			nodes = possibleOwners(g, st)
		}
		for _, node := range nodes {
			rs := api.ResourceStatus{Group: g.Name, Name: r.Name, Type: kinds[r.Name], Node: node, State: placement.StateOffline}
			rep, known := reports[node].Groups[g.Name].Resources[r.Name]
			if last, ok := since[node]; node != "" && (!known || ok && last > suspect) {
				rs.State = placement.StateUnknown
			} else if known {
				rs.State, rs.Verdict, rs.Detail, rs.Since = rep.State, rep.Verdict, rep.Detail, rep.Since
			}
			if node == gs.Owner {
				states = append(states, rs.State)
			}
			if node != "" || r.RunOn == placement.RunOnOwner {
				out.Resources = append(out.Resources, rs)
			}
		}
	}
	out.State = groupState(gs, states)
	if gs.Failed {
		text := "failed: " + gs.Why.Text
		if !gs.RetryAt.IsZero() {
			text += "; next round at " + gs.RetryAt.Local().Format("15:04:05")
		}
		out.Notes = append(out.Notes, text)
	}
	for _, node := range possibleOwners(g, st) {
		if node == gs.Owner {
			continue
		}
		out.Standbys = append(out.Standbys, standbyStatus(node, g, st, since, reports, suspect))
	}
	return out
}

func standbyStatus(node string, g placement.GroupPolicy, st placement.State, since map[string]time.Duration, reports map[string]placement.Report, suspect time.Duration) api.StandbyStatus {
	sb := api.StandbyStatus{Node: node}
	last, seen := since[node]
	rep := reports[node].Groups[g.Name]
	switch {
	case !seen || last > suspect:
		sb.Why = "down"
	case st.Nodes[node].Admin != placement.AdminUp:
		sb.Why = "paused"
	case reports[node].Leaving:
		sb.Why = "its agent is stopping"
	case st.Policy.NeedsGate && !reports[node].Gate:
		sb.Why = "its kernel does not carry the gate"
	case rep.Blocked != "":
		sb.Why = "blocked: a human is needed: " + rep.Blocked
	case rep.Unfit != "":
		sb.Why = rep.Unfit
	case g.Standby == placement.StandbyHot && !rep.Ready:
		sb.Why = "not ready"
		for _, name := range slices.Sorted(maps.Keys(rep.Resources)) {
			p, _ := g.Resource(name)
			if r := rep.Resources[name]; p.RunOn == placement.RunOnEveryNode && (r.State != placement.StateOnline || r.Verdict != "" && r.Verdict != "healthy") {
				sb.Why = strings.TrimSpace(fmt.Sprintf("%s is %s %s", name, r.State, r.Verdict))
			}
		}
	default:
		sb.Ready = true
	}
	return sb
}

// possibleOwners lists the members that may own the group.
func possibleOwners(g placement.GroupPolicy, st placement.State) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(st.Nodes)) {
		if st.Nodes[name].Role == placement.RoleMember && (len(g.PossibleOwners) == 0 || slices.Contains(g.PossibleOwners, name)) {
			out = append(out, name)
		}
	}
	return out
}

// groupState folds resource states into WSFC's group states.
func groupState(gs placement.GroupState, states []placement.ResourceState) string {
	count := map[placement.ResourceState]int{}
	for _, s := range states {
		count[s]++
	}
	pending := count[placement.StateOnlinePending] + count[placement.StateOfflinePending] + count[placement.StateInitializing]
	switch {
	case gs.Failed || count[placement.StateFailed] > 0:
		return "failed"
	case pending > 0 || gs.Phase == placement.PhaseReleasing:
		return "pending"
	case gs.Phase == placement.PhaseUnowned:
		return "offline"
	case len(states) > 0 && count[placement.StateOnline] == len(states):
		return "online"
	case count[placement.StateUnknown] > 0:
		return "unknown"
	case count[placement.StateOnline] > 0:
		return "partial-online"
	case !gs.Offline && count[placement.StateOffline] > 0:
		return "pending" // placed, and its first action has not begun
	}
	return "offline"
}

// gateWarnings names the nodes that cannot own anything, because the gate is in force and their kernels do not carry it.
func gateWarnings(s api.Status, needsGate bool) (out []string) {
	for _, n := range s.Nodes {
		if needsGate && n.Role == placement.RoleMember && (n.State == "up" || n.State == "paused") && !n.Gate {
			why := cmp.Or(n.NoGate, "its agent does not say why")
			out = append(out, n.Name+": "+api.NoGateWarning+", so it owns nothing: "+why+"; load nf_tables there, or apply the configuration again with kernel_lease = \"auto\"")
		}
	}
	return out
}

func warnings(s api.Status, reports map[string]placement.Report) []string {
	var out []string
	for _, n := range s.Nodes {
		if n.State == "down" {
			continue // what it said last may be mended
		}
		for _, w := range reports[n.Name].Warnings {
			out = append(out, n.Name+": "+w)
		}
	}
	if s.Stale {
		out = append(out, "this is what "+s.Node+" knows by itself; the leader does not answer")
	}
	if s.Quorum.Voters == 2 {
		out = append(out, "two voters: the loss of either stops the cluster; add a witness with hactl token --role witness")
	}
	for _, g := range s.Groups {
		if w := noStandby(g); w != "" && g.State != "offline" && !s.Stale {
			out = append(out, w)
		}
	}
	return out
}

// reasonsTold bounds the nodes of which a warning says why.
const reasonsTold = 3

// noStandby says that a group has nowhere to go, and why; empty: it has.
func noStandby(g api.GroupStatus) string {
	var why []string
	for i, sb := range g.Standbys {
		switch {
		case sb.Ready:
			return ""
		case i < reasonsTold:
			why = append(why, sb.Node+": "+sb.Why)
		case i == reasonsTold:
			why = append(why, fmt.Sprintf("and %d more", len(g.Standbys)-i))
		}
	}
	text := "group " + g.Name + " has no node to fail over to"
	if len(why) > 0 {
		text += " (" + strings.Join(why, "; ") + ")"
	}
	return text
}

// summary sums a status up (docs/cli.md, exit codes of hactl status).
func summary(s api.Status) api.Health {
	h := api.HealthOK
	if s.Stale || s.Quorum.Alive < s.Quorum.Needed {
		return api.HealthDown
	}
	for _, n := range s.Nodes {
		if n.State == "down" {
			h = api.HealthDegraded
		}
	}
	for _, g := range s.Groups {
		wanted := g.Why.Rule != placement.RuleOffline
		switch {
		case g.State == "failed", g.State == "unknown", g.State == "offline" && wanted:
			return api.HealthDown
		case g.State == "pending", g.State == "partial-online":
			h = api.HealthDegraded
		}
	}
	if len(s.Warnings) > 0 {
		h = api.HealthDegraded
	}
	return h
}
