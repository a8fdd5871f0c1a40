package node

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"hacluster/api"
	"hacluster/placement"
)

// admission is by what right a node comes in.
type admission struct {
	token    string // id of the token to spend
	replaces string // former identity of the member of that name; empty: the name is new
}

// admit decides whether a node may come in, and by what right.
func (b backend) admit(st placement.State, j api.Join) (a admission, refusal *api.Error) {
	var kept placement.Token
	if a.token, kept, refusal = b.checkToken(st, j); refusal != nil {
		return a, refusal
	}
	old, member := st.Nodes[j.Name]
	back := member && kept.Rejoin == j.Name
	if refusal := b.checkName(st, j, back); refusal != nil {
		return a, refusal
	}
	if !back || old.ID == j.ID {
		return a, nil
	}
	a.replaces = old.ID
	return a, b.checkGone(st, j.Name)
}

// checkGone refuses while the former identity may still act: it speaks, or its groups have not been taken over.
func (b backend) checkGone(st placement.State, name string) *api.Error {
	silent, seen, ok := b.n.leader.silence(name)
	limit := 2 * b.n.timing().Suspect
	switch {
	case !ok:
		return api.Errorf(api.CodeNoQuorum, "try again in a second", "this leader has just been elected")
	case silent < limit && !seen:
		return api.Errorf(api.CodeNoQuorum, "try again in a few seconds", "this leader was elected %s ago and cannot know before %s that %s is gone",
			silent.Round(time.Millisecond), limit, name)
	case silent < limit:
		return api.Errorf(api.CodeRefused, fmt.Sprintf("stop had on the machine that is %s now (systemctl stop had), wait a few seconds, then try again", name),
			"node %s may be up under its former identity: its last word is only %s old and %s of silence are needed", name, silent.Round(time.Millisecond), limit)
	}
	for _, group := range slices.Sorted(maps.Keys(st.Groups)) {
		if st.Groups[group].Owner == name {
			return api.Errorf(api.CodeRefused,
				fmt.Sprintf("wait until another node has taken it over; if none can, run hactl group offline %s on a member", group),
				"node %s still owns group %s", name, group)
		}
	}
	return nil
}

// silence is how long this leader has confirmed no lease of a node; what earlier leaders confirmed is older than its
// election; seen says whether this one has. ok is false while not leading.
func (l *leader) silence(node string) (silent time.Duration, seen, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ledger == nil {
		return 0, false, false
	}
	last := l.ledger.Since()
	if at := l.ledger.Confirmed(node); at.After(last) {
		last, seen = at, true
	}
	return l.n.clock().Sub(last), seen, true
}

// detach takes the former identity's vote away. That comes first: from here on no majority counts on votes that were lost
// with the disk, and the name is free in the Raft group. It is repeated by a second try.
func (b backend) detach(ctx context.Context, name string) error {
	if err := b.n.raft.Remove(ctx, name); err != nil {
		return api.Errorf(api.CodeNoQuorum, "bring a majority of the other nodes up, then try again; if they are gone for good see hactl quorum force",
			"the vote of the former node %s cannot be taken away: %v", name, err)
	}
	return nil
}

// command is the one entry that makes the node a member.
func (a admission) command(j api.Join) placement.Command {
	c := placement.Command{Kind: placement.CmdNode, Node: j.Name,
		NodeInfo: &placement.NodeState{ID: j.ID, Role: j.Role, Addresses: j.Addresses, Gossip: j.Gossip, Version: j.Version},
		Reason:   placement.Reason{Rule: placement.RuleNode, Text: fmt.Sprintf("node %s is a %s now", j.Name, j.Role)}}
	if a.replaces != "" {
		c.Kind, c.ID = placement.CmdReplaceNode, a.replaces
		c.Reason.Text = fmt.Sprintf("node %s comes back empty under a new identity; its former one is refused", j.Name)
	}
	return c
}
