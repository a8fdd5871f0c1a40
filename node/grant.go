package node

import (
	"context"
	"fmt"
	"time"

	"hacluster/lease"
	"hacluster/raft"
)

// renew answers one renewal: it takes the report, has a quorum confirm that this node still leads, and grants.
func (l *leader) renew(ctx context.Context, node string, m renewal) (*lease.Grant, error) {
	if err := l.take(node, m); err != nil {
		return nil, err
	}
	if !l.vouched(node, m) {
		ctx, cancel := context.WithTimeout(ctx, 2*l.n.timing().Renew)
		defer cancel()
		if err := l.verify(ctx); err != nil {
			return nil, err
		}
	}
	term, settled, err := l.settledFor(node, m.Boot)
	if err != nil {
		return nil, err
	}
	if !settled {
		l.proposing.Lock()
		defer l.proposing.Unlock()
	}
	own := l.tie(node)
	grant, err := l.confirm(node, m, term, own)
	if own.grant != nil {
		l.n.renewer.carried(*own.grant)
	}
	return grant, err
}

// confirm grants what has been verified in a term.
func (l *leader) confirm(node string, m renewal, term uint64, own *tie) (*lease.Grant, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ledger == nil || l.term != term || term != l.n.raft.Term() {
		return nil, errNotLeader
	}
	l.settled[node] = m.Boot
	grant, err := l.grant(node, m)
	if err != nil || node == l.n.name {
		return grant, err
	}
	if m.Quiet && m.Term == term {
		l.n.raft.Heard(node, term)
	}
	l.echo(node, m, own)
	return grant, nil
}

// prompt says that a renewal is answered without a round, and without waiting for proposals.
func (l *leader) prompt(node string, m renewal) bool {
	_, settled, err := l.settledFor(node, m.Boot)
	return err == nil && settled && l.vouched(node, m)
}

// vouched says that a renewal proves by itself what a round would. The sender read its term after the instant that its lease
// counts from, this node reads its own now: where these two are a quorum of the voters, neither has voted for a later leader
// before that instant, so any later leader is elected after it.
func (l *leader) vouched(node string, m renewal) bool {
	l.mu.Lock()
	term, leading := l.term, l.ledger != nil
	l.mu.Unlock()
	if !leading || m.Term != term || node == l.n.name {
		return false
	}
	servers, err := l.n.raft.Servers()
	if err != nil {
		return false
	}
	return majority(servers, l.n.name, node) && l.n.raft.IsLeader() && l.n.raft.Term() == term
}

// majority says that two nodes are a quorum of the voters.
func majority(servers []raft.Server, a, b string) bool {
	voters, both := 0, 0
	for _, s := range servers {
		if s.Voter {
			voters++
			if s.Name == a || s.Name == b {
				both++
			}
		}
	}
	return both == 2 && both > voters/2
}

// settledFor says in which term this node leads, and whether a grant to that process need not wait for the proposals that
// are under way.
//
// Only the first one of a process does. Followers may know of a commit before this node has applied it: the process before
// may have promised away what such an entry asked for, and the new one, whose copy of the state may be older, takes the index of its first grant for
// what it must have caught up with (lease.Holder.UntilFor). It has to be one that includes the entry. A process that once
// had such a grant never acts again for what it promised, because its own copy of the state never goes back, and what is
// taken without a promise is withheld before it is proposed. So later grants may be made from a state that is behind, and a
// slow disk, which proposals wait for, costs no lease.
func (l *leader) settledFor(node, boot string) (term uint64, settled bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ledger == nil {
		return 0, false, errNotLeader
	}
	return l.term, l.settled[node] == boot, nil
}

// grant confirms a node and lists what it may act for. The caller holds mu and has made sure that this node leads.
func (l *leader) grant(node string, m renewal) (*lease.Grant, error) {
	st := l.n.raft.State()
	if _, member := st.Nodes[node]; !member {
		return nil, fmt.Errorf("node %s is not a member", node)
	}
	duration := l.covered.by(st, l.n.timing())
	if duration <= 0 {
		return nil, errUncovered
	}
	owned := map[string]uint64{}
	for group, gs := range st.Groups {
		if gs.Owner == node {
			owned[group] = gs.Epoch
		}
	}
	now := l.n.clock()
	// What a node that was silent reports counts from the moment that it is confirmed: nothing else would have it looked at.
	news := now.Sub(l.ledger.Confirmed(node)) > l.n.timing().Suspect
	voters := l.countVoters(now)
	held := l.ledger.Confirm(node, owned, now)
	l.fencing.heardOne(node, l.reports[node].ending, now, l.deafAfter())
	if news {
		l.kick()
	}
	return &lease.Grant{Seq: m.Seq, Leader: l.n.name, Index: st.Index, Held: held, Duration: duration, Voters: voters, Term: l.term,
		Next: rhythm(now, l.n.timing().Renew)}, nil
}

// writeOff makes sure that no grant lists what a node owns any more, once no lease of it can be left; until then it returns
// how long that takes and does nothing. It must come before a proposal that takes from a node without its word.
func (l *leader) writeOff(node string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := l.n.raft.State()
	if left := l.left(node, st); left > 0 || l.ledger == nil {
		return left
	}
	for group, gs := range st.Groups {
		if gs.Owner == node {
			l.ledger.Withhold(group, gs.Epoch)
		}
	}
	return 0
}
