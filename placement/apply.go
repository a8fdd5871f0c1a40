package placement

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// maxFailovers bounds the failure times kept for a group; more than any sensible failover_threshold.
const maxFailovers = 100

// Apply is the body of the replicated state machine: total and deterministic. s.Index must already be the Raft index of
// the command. A command that was decided on a state that has changed since is a no-op with Result.Stale; a command that
// can never be right is one with Result.Why. The receiver is never changed (copy on write).
func (s State) Apply(c Command) (State, Result) {
	apply, ok := appliers[c.Kind]
	if !ok {
		return s, refuse("command %q is unknown to this version", c.Kind)
	}
	next, res := apply(s, c)
	if res.Why != "" || res.Stale {
		return s, res
	}
	res.Applied = true
	return next.timed(c.Timed), res
}

var appliers = map[CommandKind]func(State, Command) (State, Result){
	CmdInit:        applyInit,
	CmdConfig:      applyConfig,
	CmdNode:        applyNode,
	CmdRemoveNode:  applyRemoveNode,
	CmdReplaceNode: applyReplaceNode,
	CmdForce:       applyForce,
	CmdAdmin:       applyAdmin,
	CmdNodeSeen:    applyNodeSeen,
	CmdGroupAdmin:  applyGroupAdmin,
	CmdAssign:      applyAssign,
	CmdRelease:     applyRelease,
	CmdReleased:    handOn(PhaseReleasing),
	CmdTakeover:    handOn(PhaseOwned, PhaseReleasing),
	CmdGroupFailed: applyGroupFailed,
	CmdGroupWell:   applyGroupWell,
	CmdRetry:       applyRetry,
	CmdToken:       applyToken,
	CmdSettle:      applySettle,
	CmdUseToken:    applyUseToken,
	CmdDrained:     applyDrained,
	CmdNote:        note,
}

func refuse(format string, args ...any) Result { return Result{Why: fmt.Sprintf(format, args...)} }

func stale(format string, args ...any) Result {
	return Result{Stale: true, Why: fmt.Sprintf(format, args...)}
}

// record appends the event of a command; from and to are the owners before and after.
func (s State) record(c Command, from, to string) State {
	s.Seq++
	e := Event{Seq: s.Seq, Time: c.At, Kind: string(c.Kind), Group: c.Group, Node: c.Node, From: from, To: to, Reason: c.Reason, By: c.By, Took: c.Took}
	if c.Group != "" {
		e.Epoch = s.Groups[c.Group].Epoch
	}
	keep := s.Events
	if len(keep) >= MaxEvents {
		keep = keep[len(keep)-MaxEvents+1:]
	}
	s.Events = append(slices.Clone(keep), e)
	return s
}

func (s State) withGroup(name string, g GroupState) State {
	s.Groups = maps.Clone(s.Groups)
	s.Groups[name] = g
	return s
}

func (s State) withNode(name string, n NodeState) State {
	s.Nodes = maps.Clone(s.Nodes)
	if s.Nodes == nil {
		s.Nodes = map[string]NodeState{}
	}
	s.Nodes[name] = n
	return s
}

func applyInit(s State, c Command) (State, Result) {
	if s.ID != "" {
		return s, stale("the cluster is initialised already")
	}
	if c.Cluster == "" || c.ID == "" {
		return s, refuse("init needs a cluster name and an id")
	}
	s.Cluster, s.ID = c.Cluster, c.ID
	return s.record(c, "", ""), Result{}
}

func applyConfig(s State, c Command) (State, Result) {
	if c.Version != s.ConfigVersion {
		return s, stale("configuration is at version %d, not %d: somebody else applied one", s.ConfigVersion, c.Version)
	}
	if c.Policy == nil {
		return s, refuse("configuration without policy")
	}
	groups := maps.Clone(s.Groups)
	if groups == nil {
		groups = map[string]GroupState{}
	}
	retired, kept := maps.Clone(s.Retired), c.Policy.names()
	for _, name := range slices.Sorted(maps.Keys(s.Groups)) {
		g := s.Groups[name]
		if kept[name] {
			continue
		}
		if g.Phase != PhaseUnowned {
			return s, refuse("group %s is still owned by %s and cannot be removed: run hactl group offline %s first", name, g.Owner, name)
		}
		if retired == nil {
			retired = map[string]uint64{}
		}
		retired[name] = g.Epoch
		delete(groups, name)
	}
	for _, p := range c.Policy.Groups {
		if _, known := groups[p.Name]; !known {
			groups[p.Name] = GroupState{Phase: PhaseUnowned, Epoch: retired[p.Name], Offline: p.Priority == 0, Since: c.At,
				Why: Reason{Rule: RuleConfig, Text: "new in the configuration"}}
			delete(retired, p.Name)
		}
	}
	// Leases given under the old timing may outlive the new takeover wait; the old one holds until they are gone.
	if floor := max(s.Floor, s.Policy.longestWait()); floor > c.Policy.shortestWait() {
		s.Floor, s.FloorIndex = floor, s.Index
	}
	s.Groups, s.Retired = groups, retired
	s.ConfigText, s.KernelLease, s.Policy = c.Config, c.KernelLease, *c.Policy
	s.ConfigVersion++
	return s.record(c, "", ""), Result{}
}

func applyNode(s State, c Command) (State, Result) {
	if c.Node == "" || c.NodeInfo == nil {
		return s, refuse("node command without node")
	}
	n := *c.NodeInfo
	if n.Role != RoleMember && n.Role != RoleWitness {
		return s, refuse("node %s has the unknown role %q", c.Node, n.Role)
	}
	if old, ok := s.Nodes[c.Node]; ok {
		if old.ID != n.ID {
			return s, refuse("node name %s belongs to a member with another identity", c.Node)
		}
		if old.Role != n.Role {
			return s, refuse("node %s is a %s: to change its role remove it and join again", c.Node, old.Role)
		}
		n.Admin, n.Joined, n.Lost = old.Admin, old.Joined, old.Lost
	} else {
		n.Admin, n.Joined = AdminUp, c.At
	}
	if _, revoked := s.Revoked[n.ID]; revoked {
		return s, refuse("node %s was removed with this identity: join again with a new one", c.Node)
	}
	s = s.withNode(c.Node, n)
	return s.record(c, "", ""), Result{}
}

func applyRemoveNode(s State, c Command) (State, Result) {
	n, ok := s.Nodes[c.Node]
	if !ok {
		return s, stale("node %s is not a member", c.Node)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Groups)) {
		g := s.Groups[name]
		if g.Owner != c.Node {
			continue
		}
		if !c.Force {
			return s, refuse("node %s owns group %s", c.Node, name)
		}
		g.LastOwner, g.Owner, g.Phase, g.MoveTo, g.Why, g.Since = g.Owner, "", PhaseUnowned, "", c.Reason, c.At
		g.Drain = nil
		s = s.withGroup(name, g)
	}
	s.Nodes = maps.Clone(s.Nodes)
	delete(s.Nodes, c.Node)
	s = s.revoke(n.ID, c.At)
	return s.record(c, "", ""), Result{}
}

func applyAdmin(s State, c Command) (State, Result) {
	n, ok := s.Nodes[c.Node]
	if !ok {
		return s, refuse("node %s is not a member", c.Node)
	}
	if c.Admin != AdminUp && c.Admin != AdminPaused && c.Admin != AdminDrain {
		return s, refuse("node state %q is unknown", c.Admin)
	}
	n.Admin = c.Admin
	s = s.withNode(c.Node, n)
	return s.record(c, "", ""), Result{}
}

func applyNodeSeen(s State, c Command) (State, Result) {
	n, ok := s.Nodes[c.Node]
	if !ok || n.Lost == c.Lost {
		return s, stale("nothing new about node %s", c.Node)
	}
	n.Lost = c.Lost
	s = s.withNode(c.Node, n)
	return s.record(c, "", ""), Result{}
}

func applyGroupAdmin(s State, c Command) (State, Result) {
	g, ok := s.Groups[c.Group]
	if !ok {
		return s, refuse("group %s does not exist", c.Group)
	}
	if c.Resource != "" {
		p, _ := s.Policy.Group(c.Group)
		if _, ok := p.Resource(c.Resource); !ok {
			return s, refuse("group %s has no resource %s", c.Group, c.Resource)
		}
		g.Resources = maps.Clone(g.Resources)
		if g.Resources == nil {
			g.Resources = map[string]bool{}
		}
		if c.Offline {
			g.Resources[c.Resource] = true
		} else {
			delete(g.Resources, c.Resource)
		}
	} else {
		g.Offline = c.Offline
		if g.Phase == PhaseUnowned {
			g.Why, g.Since = c.Reason, c.At
		}
	}
	if !c.Offline {
		g = g.forgiven()
	}
	s = s.withGroup(c.Group, g)
	return s.record(c, g.Owner, g.Owner), Result{}
}

// forgiven forgets failures: an administrator acted, or a new round begins.
func (g GroupState) forgiven() GroupState {
	g.Failed, g.RetryAt, g.Retries, g.GivenUp, g.Failovers = false, time.Time{}, 0, nil, nil
	g.Round++
	return g
}

// current fetches the group of a command and refuses one that was decided on another epoch or phase.
func (s State) current(c Command, phases ...Phase) (GroupState, Result) {
	g, ok := s.Groups[c.Group]
	switch {
	case !ok:
		return g, stale("group %s does not exist", c.Group)
	case g.Epoch != c.Epoch:
		return g, stale("group %s is at epoch %d, not %d", c.Group, g.Epoch, c.Epoch)
	case !slices.Contains(phases, g.Phase):
		return g, stale("group %s is %s", c.Group, g.Phase)
	}
	return g, Result{}
}

// mayOwn refuses a new owner that is not a member.
func (s State) mayOwn(node string) Result {
	n, ok := s.Nodes[node]
	if !ok {
		return refuse("node %s is not a member", node)
	}
	if n.Role == RoleWitness {
		return refuse("node %s is a witness and owns nothing", node)
	}
	return Result{}
}

// becomeOwned is the only edge to a new owner; it raises the epoch.
func (s State) becomeOwned(c Command, g GroupState) (State, Result) {
	if res := s.mayOwn(c.Node); res.Why != "" {
		return s, res
	}
	from := g.Owner
	if from != "" {
		g.LastOwner = from
	}
	if !g.Drain.handedTo(c, g.Epoch) {
		g.Drain = nil
	}
	g.Phase, g.Owner, g.MoveTo = PhaseOwned, c.Node, ""
	g.Epoch++
	g.AssignIndex, g.Why, g.Since = s.Index, c.Reason, c.At
	s = s.withGroup(c.Group, g)
	return s.record(c, from, c.Node), Result{}
}

// becomeUnowned is the edge to proven free.
func (s State) becomeUnowned(c Command, g GroupState) (State, Result) {
	from := g.Owner
	g.Phase, g.Owner, g.MoveTo, g.LastOwner, g.Drain = PhaseUnowned, "", "", from, nil
	g.Why, g.Since = c.Reason, c.At
	s = s.withGroup(c.Group, g)
	return s.record(c, from, ""), Result{}
}

func applyAssign(s State, c Command) (State, Result) {
	g, res := s.current(c, PhaseUnowned)
	if res.Why != "" {
		return s, res
	}
	if g.Offline {
		return s, stale("group %s is wanted offline", c.Group)
	}
	return s.becomeOwned(c, g)
}

func applyRelease(s State, c Command) (State, Result) {
	g, res := s.current(c, PhaseOwned)
	if res.Why != "" {
		return s, res
	}
	if c.Node != "" {
		if res := s.mayOwn(c.Node); res.Why != "" {
			return s, res
		}
	}
	if c.Reason.Rule == RuleMove { // the administrator acted: old failures no longer count
		g = g.forgiven()
	}
	g.Phase, g.MoveTo, g.Why, g.Since, g.Drain = PhaseReleasing, c.Node, c.Reason, c.At, c.Drain
	if c.Counted {
		g.Failovers = append(slices.Clone(g.Failovers), c.At)
		if len(g.Failovers) > maxFailovers {
			g.Failovers = g.Failovers[len(g.Failovers)-maxFailovers:]
		}
	}
	g = g.giveUpOn(c)
	s = s.withGroup(c.Group, g)
	return s.record(c, g.Owner, c.Node), Result{}
}

func (g GroupState) giveUpOn(c Command) GroupState {
	if c.Failing == "" {
		return g
	}
	g.GivenUp = maps.Clone(g.GivenUp)
	if g.GivenUp == nil {
		g.GivenUp = map[string]time.Time{}
	}
	g.GivenUp[c.Failing] = c.RetryAt
	return g
}

// handOn gives the group to the next owner, or to nobody. Whoever proposes it has the proof that the old one is out: its own
// word (released) or the end of its lease on every layer (takeover).
func handOn(phases ...Phase) func(State, Command) (State, Result) {
	return func(s State, c Command) (State, Result) {
		g, res := s.current(c, phases...)
		if res.Why != "" {
			return s, res
		}
		if c.Node == "" || g.Offline {
			c.Node = ""
			return s.becomeUnowned(c, g)
		}
		return s.becomeOwned(c, g)
	}
}

func applyGroupFailed(s State, c Command) (State, Result) {
	g, res := s.current(c, PhaseUnowned, PhaseOwned, PhaseReleasing)
	if res.Why != "" {
		return s, res
	}
	if g.Failed {
		return s, stale("group %s has failed already", c.Group)
	}
	g.Failed, g.Why, g.Since = true, c.Reason, c.At
	g.RetryAt = time.Time{}
	if g.Retries == 0 {
		g.RetryAt = c.RetryAt
	}
	s = s.withGroup(c.Group, g)
	return s.record(c, g.Owner, g.Owner), Result{}
}

func applyGroupWell(s State, c Command) (State, Result) {
	g, res := s.current(c, PhaseOwned)
	if res.Why != "" {
		return s, res
	}
	if !g.Failed && g.Retries == 0 {
		return s, stale("group %s is not marked as failed", c.Group)
	}
	g.Failed, g.Retries, g.RetryAt = false, 0, time.Time{}
	g.Why, g.Since = c.Reason, c.At
	s = s.withGroup(c.Group, g)
	return s.record(c, g.Owner, g.Owner), Result{}
}

func applyRetry(s State, c Command) (State, Result) {
	g, res := s.current(c, PhaseUnowned, PhaseOwned)
	if res.Why != "" {
		return s, res
	}
	if !g.Failed {
		return s, stale("group %s has not failed", c.Group)
	}
	retries := g.Retries + 1
	g = g.forgiven()
	g.Retries, g.Why = retries, c.Reason
	s = s.withGroup(c.Group, g)
	return s.record(c, g.Owner, g.Owner), Result{}
}

func applySettle(s State, c Command) (State, Result) {
	if s.Floor == 0 || s.FloorIndex != c.Epoch {
		return s, stale("the timing has settled, or changed again")
	}
	s.Floor, s.FloorIndex = 0, 0
	return s, Result{} // no event: nothing a reader would look for
}

func applyToken(s State, c Command) (State, Result) {
	if c.ID == "" || c.Token == nil {
		return s, refuse("token command without token")
	}
	tokens := map[string]Token{}
	// order-free: fills another map; spent and expired ones go with the next new one
	for id, t := range s.Tokens {
		if t.Used == "" && t.Expires.After(c.At) {
			tokens[id] = t
		}
	}
	tokens[c.ID] = *c.Token
	s.Tokens = tokens
	return s.record(c, "", ""), Result{}
}

func applyUseToken(s State, c Command) (State, Result) {
	t, ok := s.Tokens[c.ID]
	switch {
	case !ok:
		return s, refuse("join token %s is unknown", c.ID)
	case t.Used != "":
		return s, refuse("join token %s was used by node %s already", c.ID, t.Used)
	case !t.Expires.After(c.At):
		return s, refuse("join token %s has expired", c.ID)
	}
	t.Used = c.Node
	s.Tokens = maps.Clone(s.Tokens)
	s.Tokens[c.ID] = t
	return s.record(c, "", ""), Result{}
}
