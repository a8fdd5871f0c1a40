package node

import (
	"slices"

	"hacluster/lease"
)

// tie is a renewal of the leader's own that is older than a grant to a voter. With three nodes at rest, asking the voters for it ten times a
// second was an eighth of what a leader used of the processor: they say it by themselves a moment later (lease.Echoes).
type tie struct {
	seq     uint64       // 0: none
	applied uint64       // of this node's report
	grant   *lease.Grant // of this node's own lease, by the echo that came with the voter's renewal
}

// tie begins a renewal of this node's own before a grant to a voter is sent.
func (l *leader) tie(node string) *tie {
	l.mu.Lock()
	of := node != l.n.name && slices.Contains(l.voters, node) && l.n.timing().Echoes()
	l.mu.Unlock()
	if !of {
		return &tie{}
	}
	r := l.n.renewer
	r.mu.Lock()
	defer r.mu.Unlock()
	r.resumed()
	return &tie{seq: r.holder.Send(l.n.clock()), applied: r.report.Applied}
}

// echo takes what a voter's renewal says of the grant before, and ties the one that is about to be sent. Where a quorum has said enough, and
// long enough after the last time, own gets a grant of this node's own lease. The caller holds mu and has found this node to lead in its term.
//
// The first grant of this process is not made so, because it has to wait for proposals under way (settledFor).
func (l *leader) echo(node string, m renewal, own *tie) {
	if own.seq == 0 {
		return
	}
	if m.Term == l.term {
		l.echoes.Heard(node, m.Boot, m.Echo)
	}
	l.echoes.Granted(node, m.Boot, m.Seq, own.seq)
	now, self := l.n.clock(), l.n.name
	seq := l.echoes.Newest(self, l.countVoters(now))
	old, ok := l.reports[self]
	if seq == 0 || !ok || old.boot != l.n.renewer.boot || l.settled[self] != old.boot || now.Sub(l.carried) < l.n.timing().Renew/2 {
		return
	}
	grant, err := l.grant(self, renewal{Seq: seq})
	if err != nil {
		return // the round that follows says why
	}
	old.report.Applied = max(old.report.Applied, own.applied)
	l.reports[self] = old
	l.carried, own.grant = now, grant
}

// carried takes up a lease that the voters have renewed with theirs, and lets the next renewal of this node's own wait: also where that grant is
// older than the newest, because the next one will not be.
func (r *renewer) carried(grant lease.Grant) {
	if !r.confirm(grant, renewal{}) && r.remaining() == 0 {
		return
	}
	select {
	case r.echoed <- struct{}{}:
	default:
	}
}
