package node

import (
	"context"
	"fmt"
	"slices"
	"time"

	"hacluster/placement"
	"hacluster/raft"
)

// care looks after the Raft group itself: new members become voters, and leadership goes where nothing is owned. It is
// true while it waits for something that no event tells of.
func (l *leader) care(ctx context.Context) (again bool) {
	st := l.n.raft.State()
	servers, err := l.n.raft.Servers()
	if err != nil {
		l.n.logError("asking for the voters", err)
		return true
	}
	for _, s := range servers {
		if _, member := st.Nodes[s.Name]; !member && s.Name != l.n.name {
			l.n.logError("removing a former member from the Raft group", l.n.raft.Remove(ctx, s.Name))
			again = true
		}
	}
	again = l.seat(ctx, st, servers) || again
	again = l.turns(ctx, st, servers) || again
	l.handOver(ctx, st, servers)
	l.settle(ctx, st)
	l.readdress(ctx, st)
	return again || st.Floor > 0
}

// seat changes one vote where package raft says so; true while it waits for what no event tells of.
func (l *leader) seat(ctx context.Context, st placement.State, servers []raft.Server) (again bool) {
	promote, demote, again := raft.NextSeat(l.n.name, l.seats(st, servers))
	var err error
	switch {
	case promote != "":
		if err = l.n.raft.AddVoter(ctx, promote); err == nil {
			l.n.log.Info("node votes now", "node", promote)
			l.kick()
		}
	case demote != "":
		if err = l.n.raft.Demote(ctx, demote); err == nil {
			l.n.log.Info("node votes no more: another takes its place", "node", demote)
			l.kick()
		}
	}
	l.n.logError("changing who votes", err)
	return again
}

// seats are the members of the Raft group as this leader knows them.
func (l *leader) seats(st placement.State, servers []raft.Server) (out []raft.Seat) {
	for _, s := range servers {
		node, member := st.Nodes[s.Name]
		if !member && s.Name != l.n.name {
			continue // about to be removed
		}
		seat := raft.Seat{Name: s.Name, Voter: s.Voter, Witness: node.Role == placement.RoleWitness, Steady: l.steady(s.Name), Caught: l.caught(s.Name, st.Index)}
		if silent, _, ok := l.silence(s.Name); ok && !seat.Steady {
			seat.Silent = silent
		}
		out = append(out, seat)
	}
	return out
}

// settle ends the floor under the takeover waits once no lease of a former, longer timing can be left: every node has
// taken up the new one, or is silent, for as long as the old one lasted.
func (l *leader) settle(ctx context.Context, st placement.State) {
	ready := st.Floor > 0
	now := l.n.clock()
	l.mu.Lock()
	for name := range st.Nodes {
		if l.ledger == nil || now.Sub(l.ledger.Since()) < st.Floor {
			ready = false
			break
		}
		last := l.ledger.Confirmed(name)
		if l.reports[name].report.Applied < st.FloorIndex && now.Sub(last) < st.Floor {
			ready = false
		}
	}
	if !ready {
		l.settling = time.Time{}
	} else if l.settling.IsZero() {
		l.settling = now
	}
	due := ready && now.Sub(l.settling) >= st.Floor
	term := l.term
	l.mu.Unlock()
	if due {
		_, err := l.propose(ctx, placement.Command{Kind: placement.CmdSettle, Epoch: st.FloorIndex, Term: term, At: time.Now(), By: l.n.name})
		l.n.logError("settling the timing", err)
	}
}

// readdress follows a node whose addresses changed, as it says of itself by gossip.
func (l *leader) readdress(ctx context.Context, st placement.State) {
	for _, m := range l.n.gossip() {
		old, ok := st.Nodes[m.Name]
		if _, revoked := st.Revoked[old.ID]; !ok || revoked || !m.Alive || len(m.Addresses) == 0 || slices.Equal(old.Addresses, m.Addresses) {
			continue
		}
		next := old
		next.Addresses, next.Version = m.Addresses, m.Version
		_, err := l.propose(ctx, placement.Command{Kind: placement.CmdNode, Node: m.Name, NodeInfo: &next, At: time.Now(), By: l.n.name,
			Reason: placement.Reason{Rule: placement.RuleNode, Text: fmt.Sprintf("node %s has the addresses %v now", m.Name, m.Addresses)}})
		l.n.logError("following a change of addresses", err)
	}
}

// steady says that a node renews, and has done so for a moment.
func (l *leader) steady(node string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ledger == nil {
		return false
	}
	now := l.n.clock()
	_, ok := l.reports[node]
	return ok && now.Sub(l.ledger.Confirmed(node)) < l.n.timing().Suspect && now.Sub(l.seen[node]) > promoteAfter
}

// caught says that a node has nearly all of the log.
func (l *leader) caught(node string, index uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ledger != nil && l.reports[node].report.Applied+catchUp >= index
}

// handOver gives leadership to a voter that owns nothing, best a witness, so that the crash of an owner does not also cost
// an election.
func (l *leader) handOver(ctx context.Context, st placement.State, servers []raft.Server) {
	owners := map[string]bool{}
	for _, gs := range st.Groups {
		if gs.Owner != "" {
			owners[gs.Owner] = true
		}
		if gs.Phase == placement.PhaseReleasing {
			return // not in the middle of a move
		}
	}
	if !owners[l.n.name] || l.busyFencing() || l.n.clock().Sub(l.moved) < transferPause {
		return
	}
	var best string
	for _, s := range servers {
		if !s.Voter || s.Name == l.n.name || owners[s.Name] || !l.steady(s.Name) || !l.caught(s.Name, st.Index) || l.awaits(s.Name) {
			continue
		}
		if best == "" || st.Nodes[s.Name].Role == placement.RoleWitness {
			best = s.Name
		}
	}
	if best == "" {
		return
	}
	l.moved = l.n.clock()
	l.n.log.Info("handing leadership to a node that owns nothing", "node", best)
	l.n.logError("handing leadership over", l.n.raft.TransferLeadership(ctx, best))
}
