package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"hacluster/api"
	"hacluster/config"
	"hacluster/internal/pki"
	"hacluster/internal/wire"
	"hacluster/placement"
	"hacluster/raft"
)

// leaderPatience is how long a leader may take to accept a connection. One that is gone is not asked for longer: the next is elected
// meanwhile.
const leaderPatience = 2 * time.Second

// backend serves the API of this node. Reads of the cluster and all writes go to the leader; it implements api.Backend.
type backend struct{ n *Node }

// forward gives a call to the leader. done is false where this node must answer itself: it leads, or nobody does.
func forward[T any](ctx context.Context, b backend, call func(context.Context, *api.Client) (T, error)) (out T, done bool, err error) {
	leader := b.n.raft.Leader()
	if leader == b.n.name || leader == "" {
		return out, false, nil
	}
	if by := api.ForwardedBy(ctx); by != "" {
		return out, true, api.Untried("try again in a second", "%s took %s for the leader, which says it is %s", by, b.n.name, leader)
	}
	var reached atomic.Bool // a call that is given up may still be dialing
	client := api.NewClient(leader, func(ctx context.Context) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, leaderPatience)
		defer cancel()
		c, err := b.n.dialer.Dial(ctx, leader, wire.ALPNAPI)
		if err == nil {
			reached.Store(true)
		}
		return c, err
	})
	client.By = b.n.name
	defer client.Close()
	if out, err = call(ctx, client); err != nil && !reached.Load() && ctx.Err() == nil {
		err = api.Untried("bring nodes back until a majority is up; hactl status shows who is missing", "the leader cannot be reached: %v", err)
	}
	return out, true, err
}

// Status implements api.Backend.
func (b backend) Status(ctx context.Context) (api.Status, error) {
	limited, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	st, done, err := forward(limited, b, func(ctx context.Context, c *api.Client) (api.Status, error) { return c.Status(ctx) })
	if done && err == nil {
		st.Node = b.n.name
		return st, nil
	}
	b.n.leader.heard(limited)
	return b.n.status(), nil
}

// Events implements api.Backend from this node's copy.
func (b backend) Events(_ context.Context, since uint64) ([]placement.Event, <-chan struct{}, error) {
	changed := b.n.stateChanged()
	events := b.n.raft.State().Events
	i, _ := slices.BinarySearchFunc(events, since+1, func(e placement.Event, seq uint64) int { return cmp.Compare(e.Seq, seq) })
	return events[i:], changed, nil
}

// Write implements api.Backend.
func (b backend) Write(ctx context.Context, w api.Write) (api.Reply, error) {
	if w.Verb == api.VerbFenceCheck {
		return b.fenceCheck(ctx, w)
	}
	r, done, err := forward(ctx, b, func(ctx context.Context, c *api.Client) (api.Reply, error) { return c.Write(ctx, w) })
	if done {
		return r, err
	}
	if !b.n.raft.IsLeader() {
		return api.Reply{}, b.n.noLeader()
	}
	if err := b.n.founded(); err != nil {
		return api.Reply{}, err
	}
	b.n.leader.heard(ctx)
	do, ok := map[api.Verb]func(context.Context, api.Write) (api.Reply, error){
		api.VerbApply: b.apply, api.VerbMove: b.move, api.VerbGroupOnline: b.groupAdmin, api.VerbGroupOffline: b.groupAdmin,
		api.VerbPause: b.nodeAdmin, api.VerbDrain: b.nodeAdmin, api.VerbResume: b.nodeAdmin, api.VerbRemove: b.remove, api.VerbToken: b.token,
		api.VerbFence: b.fence,
	}[w.Verb]
	if !ok {
		return api.Reply{}, api.Errorf(api.CodeInvalid, "see hactl help", "the verb %q is unknown to this agent", w.Verb)
	}
	return do(ctx, w)
}

// founded refuses what comes in the moment between the first election of a new cluster and its first entry: there is no
// name yet that a certificate could carry.
func (n *Node) founded() error {
	if n.raft.State().ID != "" {
		return nil
	}
	return api.Untried("try again in a second", "the cluster is just being founded")
}

func (n *Node) noLeader() error {
	return api.Untried("bring nodes back until a majority is up; hactl status shows who is missing",
		"the cluster has no leader: fewer than a majority of its voters can reach each other")
}

// commit proposes and turns every way it can end into an answer.
func (b backend) commit(ctx context.Context, c placement.Command) (placement.Result, error) {
	c.At, c.By = time.Now(), b.n.name
	res, err := b.n.leader.propose(ctx, c)
	b.n.leader.kick()
	var other raft.ErrNotLeader
	switch {
	case errors.As(err, &other):
		return res, api.Untried("try again", "the leader changed before the command was begun")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return res, api.Errorf(api.CodeTimeout, "hactl status and hactl events show whether it was carried out", "no majority confirmed the command in time")
	case err != nil:
		return res, api.Errorf(api.CodeNoQuorum, "hactl status shows the state of the cluster", "the command was not committed: %v", err)
	case res.Stale:
		return res, api.Errorf(api.CodeRefused, "look at hactl status and try again", "the state changed meanwhile: %s", res.Why)
	case res.Why != "":
		return res, api.Errorf(api.CodeRefused, "", "%s", res.Why)
	}
	return res, nil
}

func (b backend) move(ctx context.Context, w api.Write) (api.Reply, error) {
	l, st := b.n.leader, b.n.raft.State()
	l.moves.because(w.Group, placement.RuleMove, 0, b.n.clock())
	l.mu.Lock()
	if l.ledger == nil {
		l.mu.Unlock()
		return api.Reply{}, b.n.noLeader()
	}
	view := l.view()
	c, refusal := placement.PlanMove(st.Policy, st, view, b.n.clock(), w.Group, w.Node)
	undrained := ""
	if refusal == nil {
		undrained = placement.PlanDrain(st.Policy, st, view, &c, w.Drain)
	}
	l.mu.Unlock()
	switch {
	case refusal != nil:
		code := api.CodeRefused
		if _, ok := st.Groups[w.Group]; !ok {
			code = api.CodeNotFound
		}
		return api.Reply{}, api.Errorf(code, refusal.Hint, "%s", refusal.Why)
	case c.Kind == "":
		return api.Reply{Message: fmt.Sprintf("group %s is on %s already", w.Group, w.Node), Already: true, Target: w.Node, Epoch: st.Groups[w.Group].Epoch}, nil
	}
	reply := api.Reply{Message: fmt.Sprintf("group %s moves to %s", w.Group, c.Node), Epoch: c.Epoch, Target: c.Node}
	if w.DryRun {
		reply.Message = fmt.Sprintf("group %s would move to %s", w.Group, c.Node)
	}
	switch {
	case c.Drain != nil:
		reply.Message += fmt.Sprintf("; open connections may finish on %s for %s", c.Drain.Node, c.Drain.Timeout)
	case undrained != "":
		reply.Message += "; open connections end with it, because " + undrained
	}
	if w.DryRun {
		return reply, nil
	}
	_, err := b.commit(ctx, c)
	return reply, err
}

func (b backend) groupAdmin(ctx context.Context, w api.Write) (api.Reply, error) {
	offline := w.Verb == api.VerbGroupOffline
	word, rule := "online", placement.RuleOnline
	if offline {
		word, rule = "offline", placement.RuleOffline
	}
	gs, ok := b.n.raft.State().Groups[w.Group]
	if !ok {
		return api.Reply{}, api.Errorf(api.CodeNotFound, "hactl group list shows the groups", "group %s does not exist", w.Group)
	}
	reply := api.Reply{Message: fmt.Sprintf("group %s goes %s", w.Group, word), Epoch: gs.Epoch}
	if w.DryRun {
		return reply, nil
	}
	_, err := b.commit(ctx, placement.Command{Kind: placement.CmdGroupAdmin, Group: w.Group, Resource: w.Resource, Offline: offline,
		Reason: placement.Reason{Rule: rule, Text: fmt.Sprintf("an administrator wants group %s %s", w.Group, word)}})
	return reply, err
}

func (b backend) nodeAdmin(ctx context.Context, w api.Write) (api.Reply, error) {
	admin := map[api.Verb]placement.Admin{api.VerbPause: placement.AdminPaused, api.VerbDrain: placement.AdminDrain, api.VerbResume: placement.AdminUp}[w.Verb]
	text := map[placement.Admin]string{placement.AdminPaused: "is paused: nothing is placed there", placement.AdminDrain: "is drained: what it owns moves away",
		placement.AdminUp: "takes groups again"}[admin]
	node, ok := b.n.raft.State().Nodes[w.Node]
	if !ok {
		return api.Reply{}, api.Errorf(api.CodeNotFound, "hactl node list shows the members", "node %s is not a member", w.Node)
	}
	reply := api.Reply{Message: fmt.Sprintf("node %s %s", w.Node, text), Already: node.Admin == admin}
	if reply.Already || w.DryRun {
		return reply, nil
	}
	_, err := b.commit(ctx, placement.Command{Kind: placement.CmdAdmin, Node: w.Node, Admin: admin,
		Reason: placement.Reason{Rule: placement.RuleNode, Text: fmt.Sprintf("node %s %s", w.Node, text)}})
	return reply, err
}

// remove takes a node out for good. A living one must be drained first; of a dead one the administrator must say so.
func (b backend) remove(ctx context.Context, w api.Write) (api.Reply, error) {
	st := b.n.raft.State()
	if _, ok := st.Nodes[w.Node]; !ok {
		return api.Reply{}, api.Errorf(api.CodeNotFound, "hactl node list shows the members", "node %s is not a member", w.Node)
	}
	if w.Node == b.n.name {
		return api.Reply{}, api.Errorf(api.CodeRefused, "stop had on it and run the command on another node", "node %s leads the cluster now and cannot remove itself", w.Node)
	}
	since, _, _, _ := b.n.leader.alive()
	if last, ok := since[w.Node]; ok && last < 2*b.n.timing().Suspect && !w.Force {
		return api.Reply{}, api.Errorf(api.CodeRefused, fmt.Sprintf("run hactl node drain %s --wait, stop had there, then remove it; or repeat with --force", w.Node),
			"node %s is up", w.Node)
	}
	for _, name := range slices.Sorted(maps.Keys(st.Groups)) {
		if st.Groups[name].Owner == w.Node && !w.Force {
			return api.Reply{}, api.Errorf(api.CodeRefused,
				fmt.Sprintf("move the group away first; if %s is certainly powered off and will not return, repeat with --force", w.Node), "node %s owns group %s", w.Node, name)
		}
	}
	// Not even by force before its lease has run out: it may be alive and only unheard. And from then on it gets none for what
	// it owns, should it speak again before it is removed.
	if left := b.writeOff(w, st); left > 0 {
		return api.Reply{}, api.Errorf(api.CodeRefused, "repeat the command in "+left.Round(100*time.Millisecond).String()+"; if the node is up, stop had there first",
			"the lease of node %s has not run out yet", w.Node)
	}
	reply := api.Reply{Message: fmt.Sprintf("node %s is removed; its certificate is refused from now on", w.Node)}
	if w.DryRun {
		return reply, nil
	}
	if _, err := b.commit(ctx, placement.Command{Kind: placement.CmdRemoveNode, Node: w.Node, Force: w.Force,
		Reason: placement.Reason{Rule: placement.RuleNode, Text: fmt.Sprintf("an administrator removed node %s", w.Node)}}); err != nil {
		return api.Reply{}, err
	}
	if err := b.n.raft.Remove(ctx, w.Node); err != nil {
		return reply, api.Errorf(api.CodeNoQuorum, "the leader goes on trying", "node %s is removed from the state, but not from the voters yet: %v", w.Node, err)
	}
	return reply, nil
}

// writeOff is how long the removal of a node by force must wait.
func (b backend) writeOff(w api.Write, st placement.State) time.Duration {
	switch {
	case !w.Force || !owns(st, w.Node):
		return 0
	case w.DryRun:
		return b.n.leader.leaseLeft(w.Node, st)
	}
	return b.n.leader.writeOff(w.Node)
}

func owns(st placement.State, node string) bool {
	for _, gs := range st.Groups {
		if gs.Owner == node {
			return true
		}
	}
	return false
}

func (b backend) token(ctx context.Context, w api.Write) (api.Reply, error) {
	ttl := w.TTL
	if ttl <= 0 {
		ttl = time.Hour
	}
	role := cmp.Or(w.Role, placement.RoleMember)
	what := fmt.Sprintf("join token for one %s, valid for %s", role, ttl)
	if w.Rejoin != "" {
		old, ok := b.n.raft.State().Nodes[w.Rejoin]
		if !ok {
			return api.Reply{}, api.Errorf(api.CodeNotFound, "hactl node list shows the members; a machine that is none joins with hactl join", "node %s is not a member", w.Rejoin)
		}
		role, what = old.Role, fmt.Sprintf("token with which %s can come back, valid for %s", w.Rejoin, ttl)
	}
	token := pki.NewToken(b.n.ca.fingerprint)
	_, err := b.commit(ctx, placement.Command{Kind: placement.CmdToken, ID: token.ID,
		Token:  &placement.Token{Hash: token.Hash(), Role: role, Rejoin: w.Rejoin, Expires: time.Now().Add(ttl)},
		Reason: placement.Reason{Rule: placement.RuleNode, Text: "a " + what}})
	if err != nil {
		return api.Reply{}, err
	}
	return api.Reply{Message: what, Token: token.String()}, nil
}

// apply checks a configuration against the members and commits it.
func (b backend) apply(ctx context.Context, w api.Write) (api.Reply, error) {
	st := b.n.raft.State()
	known := config.Known{}
	for _, name := range slices.Sorted(maps.Keys(st.Nodes)) {
		if st.Nodes[name].Role == placement.RoleWitness {
			known.Witnesses = append(known.Witnesses, name)
		} else {
			known.Members = append(known.Members, name)
		}
	}
	next, err := config.ParseCluster(cmp.Or(w.File, "cluster.toml"), []byte(w.Config), known)
	if err != nil {
		refusal := api.Errorf(api.CodeInvalid, "mend the file and apply it again; hactl check tells the same without a cluster", "the configuration has faults")
		refusal.Faults = faultLines(err)
		return api.Reply{}, refusal
	}
	if err := checkFences(ctx, b.n.name, next.Fences); err != nil {
		return api.Reply{}, err
	}
	if next.Name != st.Cluster {
		return api.Reply{}, api.Errorf(api.CodeRefused, fmt.Sprintf("write name = %q, or apply it to the other cluster", st.Cluster),
			"the file is for cluster %q, this is %q", next.Name, st.Cluster)
	}
	layer, err := resolveLayer(next.KernelLease, inForce(st), b.n.leader.carriers(st))
	if err != nil {
		return api.Reply{}, err
	}
	known.KernelLease = layer.layer
	if next, err = config.ParseCluster(cmp.Or(w.File, "cluster.toml"), []byte(w.Config), known); err != nil {
		return api.Reply{}, err // cannot be: what it can come to was checked
	}
	return b.commitConfig(ctx, w, st, next, layer)
}

// commitConfig makes a checked configuration the one in force, unless it is so already or this is a dry run.
func (b backend) commitConfig(ctx context.Context, w api.Write, st placement.State, next config.Cluster, layer resolution) (api.Reply, error) {
	var old config.Cluster
	if st.ConfigText != "" {
		var err error
		if old, err = parseApplied(st); err != nil {
			old = config.Cluster{}
		}
	}
	changes := config.Diff(old, next)
	if st.ConfigVersion == 0 { // against nothing only the groups are news
		changes = slices.DeleteFunc(changes, func(line string) bool { return !strings.HasPrefix(line, "group ") })
	}
	reply := api.Reply{Changes: changes, Version: st.ConfigVersion, Warnings: layer.warnings}
	if len(changes) == 0 && st.ConfigVersion > 0 { // also the same text, unless auto comes to something else now
		reply.Already, reply.Message = true, fmt.Sprintf("configuration %d says the same already; %s", st.ConfigVersion, layer.say())
		return reply, nil
	}
	if w.DryRun {
		reply.Message = "nothing was changed (dry run); " + layer.say()
		return reply, nil
	}
	policy := next.Policy()
	evidence := append(slices.Clone(changes), layer.say())
	if _, err := b.commit(ctx, placement.Command{Kind: placement.CmdConfig, Version: st.ConfigVersion, Config: w.Config, Policy: &policy, KernelLease: string(layer.layer),
		Reason: placement.Reason{Rule: placement.RuleConfig, Text: fmt.Sprintf("configuration %d applied", st.ConfigVersion+1), Evidence: evidence}}); err != nil {
		return api.Reply{}, err
	}
	reply.Version = st.ConfigVersion + 1
	reply.Message = fmt.Sprintf("configuration %d is in force; %s", reply.Version, layer.say())
	return reply, nil
}

// faultLines gives one line for each fault of a joined error.
func faultLines(err error) []string {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var lines []string
		for _, e := range joined.Unwrap() {
			lines = append(lines, faultLines(e)...)
		}
		return lines
	}
	return []string{err.Error()}
}
