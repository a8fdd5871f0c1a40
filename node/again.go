package node

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"hacluster/placement"
	"hacluster/raft"
)

// ErrStartAgain ends an agent that wants to be started again at once: part of a new timing takes effect at its start only.
// What runs goes on under its lease.
var ErrStartAgain = errors.New("the agent is to be started again")

const (
	// turnRest is how long everything must have been well before the next agent is started again. It is longer than an agent
	// that a former leader told to end goes on speaking.
	turnRest = 2 * time.Second
	// fewestForTurns is the least number of voters of which one may be away.
	fewestForTurns = 3
)

// turn is the one agent that is to end and be started again.
type turn struct {
	node, boot string // boot: of the process that is to end
}

// elector is a voter as the leader sees it when it decides whose turn it is.
type elector struct {
	name   string
	boot   string
	speaks bool
	heard  time.Duration // for how long this leader has heard this process
	awaits bool          // a new start
	wants  bool          // one, also if it has had its turn: by a configuration that came since it may want none any more
	owns   bool
	spare  bool // has no vote: its turn comes like that of others, and nobody waits for it
}

// nextTurn says which agent is started again now, or to whom a leader that waits for a start of its own hands leadership. One
// at a time, and only while every voter is there and has been for a moment: nodes that own nothing first, the leader last.
func nextTurn(self string, present turn, voters []elector) (next turn, transfer string) {
	votes := 0
	for _, v := range voters {
		if !v.spare {
			votes++
		}
	}
	ready := votes >= fewestForTurns
	for _, v := range voters {
		if v.name == present.node && v.boot == present.boot && v.wants {
			return present, "" // under way
		}
		ready = ready && (v.spare || v.speaks && v.heard >= turnRest)
	}
	if !ready {
		return turn{}, ""
	}
	voters = slices.SortedFunc(slices.Values(voters), func(a, b elector) int {
		return cmp.Or(cmp.Compare(rankOwner(a), rankOwner(b)), cmp.Compare(a.name, b.name))
	})
	other := ""
	for _, v := range voters {
		switch {
		case v.name == self:
		case v.awaits && v.speaks && v.heard >= turnRest:
			return turn{v.name, v.boot}, ""
		case other == "" && !v.spare:
			other = v.name
		}
	}
	if slices.ContainsFunc(voters, func(v elector) bool { return v.name == self && v.awaits }) {
		return turn{}, other
	}
	return turn{}, ""
}

func rankOwner(v elector) int {
	if v.owns {
		return 1
	}
	return 0
}

// turns looks after agents that wait for a new start. The caller is the leader's loop.
func (l *leader) turns(ctx context.Context, st placement.State, servers []raft.Server) (again bool) {
	voters, waiting := l.electors(st, servers)
	for _, gs := range st.Groups {
		if gs.Phase == placement.PhaseReleasing {
			return waiting // not in the middle of a move
		}
	}
	l.mu.Lock()
	before := l.turn
	next, transfer := nextTurn(l.n.name, before, voters)
	if l.turn = next; next.node != "" {
		l.turned[next.node] = st.ConfigVersion
	}
	l.mu.Unlock()
	if next != before && next.node != "" {
		l.n.log.Info("the agent of a node is started again, so that all of the new timing takes effect", "node", next.node)
	}
	if transfer != "" && l.n.clock().Sub(l.moved) >= turnRest {
		l.moved = l.n.clock()
		l.n.log.Info("handing leadership over, to be started again for the new timing", "node", transfer)
		l.n.logError("handing leadership over", l.n.raft.TransferLeadership(ctx, transfer))
	}
	return waiting
}

// electors are the members of the Raft group as the leader sees them, and whether any of them waits for a new start.
func (l *leader) electors(st placement.State, servers []raft.Server) (out []elector, waiting bool) {
	owners := map[string]bool{}
	for _, gs := range st.Groups {
		owners[gs.Owner] = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ledger == nil {
		return nil, false
	}
	now := l.n.clock()
	for _, s := range servers {
		r, ok := l.reports[s.Name]
		v := elector{name: s.Name, boot: r.boot, spare: !s.Voter, owns: owners[s.Name], speaks: ok && now.Sub(l.ledger.Confirmed(s.Name)) <= l.n.timing().Suspect}
		if v.speaks {
			v.heard = now.Sub(l.seen[s.Name])
		}
		// Once for each configuration: what a start has not mended another will not.
		v.wants = r.report.Retime
		v.awaits = v.wants && l.turned[s.Name] != st.ConfigVersion
		waiting = waiting || v.awaits
		out = append(out, v)
	}
	return out, waiting
}

// awaits says that the agent of a node is about to be started again.
func (l *leader) awaits(node string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reports[node].report.Retime
}

// hasTurn says that this process of that node is to end now.
func (l *leader) hasTurn(node, boot string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ledger != nil && l.turn == turn{node, boot}
}

// awaitsStart says that part of the timing takes effect when this agent is started again, and that somebody would do that.
func (n *Node) awaitsStart() bool { return n.unsettled.Load() && n.guarded }

// startAgain ends this agent to be started again, once. The lease is renewed just before, so that the next agent has all of it
// to take up what runs.
func (n *Node) startAgain() {
	if !n.awaitsStart() || !n.restarting.CompareAndSwap(false, true) {
		return
	}
	n.loops.Go(func() {
		n.log.Info("ending to be started again: part of the timing takes effect at the start only")
		n.goodbye()
		_, granted := n.renewer.caughtUp(0)
		n.renewer.kick()
		select {
		case <-n.ctx.Done():
		case <-granted:
		case <-time.After(n.timing().Renew):
		}
		n.fail(ErrStartAgain)
	})
}
