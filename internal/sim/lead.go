package sim

import (
	"math"
	"time"

	"hacluster/lease"
	"hacluster/placement"
)

// leader is a process's half of leading, as in package node.
type leader struct {
	p       *proc
	term    uint64
	ledger  *lease.Ledger // nil: not leading, or before the barrier
	reports map[string]reported
	asks    []ask
	round   *round
	rounds  int
	due     bool // a decision is scheduled
	gen     int
	busy    *pending // a proposal under way
	queue   []placement.Command

	settling time.Time
}

type reported struct {
	boot   int
	seq    uint64
	report placement.Report
}

// ask is a renewal that waits for a verification round.
type ask struct {
	node  string
	seq   uint64
	reply func(lease.Grant)
}

// round is one verification: a quorum says that it is still in this term.
type round struct {
	id    int
	term  uint64
	asks  []ask
	agree int
	done  bool
}

type pending struct {
	index, term uint64
}

func (l *leader) reset() {
	l.ledger, l.reports, l.asks, l.round, l.busy, l.queue = nil, nil, nil, nil, nil, nil
	l.settling = time.Time{}
}

// applied is called after every entry: the barrier makes a ledger, a proposal is answered.
func (l *leader) applied() {
	p := l.p
	if p.raft.role != leading {
		return
	}
	if l.ledger == nil && p.raft.applied >= p.raft.barrier {
		since := p.m.clock()
		if p.w.opt.Weak == WeakSince {
			since = since.Add(-time.Hour)
		}
		l.term, l.ledger, l.reports = p.m.disk.term, lease.NewLedger(since), map[string]reported{}
		p.kickRenew()
		l.kick()
	}
	if l.busy != nil && p.raft.applied >= l.busy.index {
		l.busy = nil
		l.next()
	}
}

// renew answers one renewal: it takes the report, has a quorum confirm that this node still leads, and grants.
func (l *leader) renew(node string, boot int, seq uint64, report placement.Report, reply func(lease.Grant)) {
	if l.ledger == nil || l.p.raft.role != leading {
		return
	}
	old, ok := l.reports[node]
	if ok && boot < old.boot && l.p.w.opt.Weak != WeakBoots {
		return // from a process that has been replaced: what it promised, its successor may not know yet
	}
	if !ok || old.boot != boot || seq > old.seq {
		l.reports[node] = reported{boot: boot, seq: seq, report: report}
		l.kick()
	}
	l.asks = append(l.asks, ask{node, seq, reply})
	if l.p.w.opt.Weak == WeakVerify {
		l.grant(l.asks)
		l.asks = nil
		return
	}
	if l.round == nil {
		l.verify()
	}
}

// verify starts a round for all who asked before it.
func (l *leader) verify() {
	p, w := l.p, l.p.w
	l.rounds++
	r := &round{id: l.rounds, term: l.term, asks: l.asks, agree: 1}
	l.round, l.asks = r, nil
	for _, m := range w.nodes {
		if m == p.m {
			continue
		}
		w.send(p.m, m, func(q *proc) {
			term := q.m.disk.term
			w.send(q.m, p.m, func(s *proc) {
				if s == p && term == r.term && !r.done {
					r.agree++
					r.finish(l)
				}
			})
		})
	}
	w.after(p.m.span(w.timing.Renew), p, func() {
		if !r.done {
			l.end(r)
		}
	})
	r.finish(l)
}

// finish grants once a quorum has answered.
func (r *round) finish(l *leader) {
	p := l.p
	if r.done || l.round != r || !p.majority(r.agree) {
		return
	}
	if l.ledger != nil && p.raft.role == leading && p.m.disk.term == r.term {
		l.grant(r.asks)
	}
	l.end(r)
}

func (l *leader) end(r *round) {
	r.done = true
	if l.round != r {
		return
	}
	l.round = nil
	if len(l.asks) > 0 {
		l.verify()
	}
}

func (l *leader) grant(asks []ask) {
	st := l.p.state
	for _, a := range asks {
		owned := map[string]uint64{}
		for group, gs := range st.Groups { // order-free
			if gs.Owner == a.node {
				owned[group] = gs.Epoch
			}
		}
		held := l.ledger.Confirm(a.node, owned, l.p.m.clock())
		a.reply(lease.Grant{Seq: a.seq, Leader: l.p.m.name, Index: st.Index, Held: held, Duration: l.p.m.kept})
	}
}

func (l *leader) kick() {
	if !l.due {
		l.due = true
		l.p.w.after(l.p.w.upTo(200*time.Microsecond)+l.p.w.faults.jitter(l.p.w), l.p, func() {
			l.due = false
			l.decide()
		})
	}
}

func (l *leader) view() placement.View {
	v := placement.View{Self: l.p.m.name, LeaderSince: l.ledger.Since(), Wall: l.p.m.wall(), Withheld: l.ledger.Withheld(), Nodes: make(map[string]placement.NodeView, len(l.reports))}
	for node, r := range l.reports { // order-free
		v.Nodes[node] = placement.NodeView{Confirmed: l.ledger.Confirmed(node), Report: r.report}
	}
	return v
}

// decide runs the pure core once and proposes what it says, one command after the other.
func (l *leader) decide() {
	if l.ledger == nil || l.p.raft.role != leading || l.busy != nil {
		return
	}
	l.gen++
	st := l.p.state
	now := l.p.m.clock()
	d := placement.Decide(st.Policy, *st, l.view(), now)
	for _, c := range d.Commands {
		if c.Kind == placement.CmdTakeover && l.p.w.opt.Weak != WeakWithhold {
			l.ledger.Withhold(c.Group, c.Epoch)
		}
	}
	l.queue = append(l.queue, d.Commands...)
	l.settle(st, now)
	if len(l.queue) > 0 {
		l.next()
		return
	}
	wait := 2 * time.Second
	if !d.Wake.IsZero() {
		wait = max(10*time.Microsecond, min(wait, d.Wake.Sub(now)))
	}
	gen := l.gen
	l.p.w.after(l.p.m.span(wait), l.p, func() {
		if l.gen == gen {
			l.decide()
		}
	})
}

// next proposes the next command of a decision; when all are answered it looks again.
func (l *leader) next() {
	if len(l.queue) == 0 {
		l.kick()
		return
	}
	c := l.queue[0]
	l.queue = l.queue[1:]
	if !l.p.w.quiet && l.p.w.chance(l.p.w.faults.lostProposal) {
		l.queue = nil // the queue of Raft was full
		l.p.w.log("%s: %s %s was not proposed", l.p.m.name, c.Kind, c.Group)
		l.p.w.after(l.p.m.span(l.p.w.timing.Renew), l.p, l.kick)
		return
	}
	l.propose(c)
}

func (l *leader) propose(c placement.Command) {
	l.p.w.log("%s proposes %s %s node %s epoch %d: %s", l.p.m.name, c.Kind, c.Group, c.Node, c.Epoch, c.Reason.Text)
	busy := &pending{index: math.MaxUint64, term: l.term}
	l.busy = busy
	busy.index = l.p.append(&c)
	l.p.w.after(l.p.m.span(5*time.Second), l.p, func() {
		if l.busy == busy {
			l.busy, l.queue = nil, nil
			l.kick()
		}
	})
}

// settle ends the floor under the takeover waits once no lease of a longer timing can be left, as node.settle does.
func (l *leader) settle(st *placement.State, now time.Time) {
	if st.Floor == 0 {
		return
	}
	ready := now.Sub(l.ledger.Since()) >= st.Floor
	for name := range st.Nodes { // order-free
		if l.reports[name].report.Applied < st.FloorIndex && now.Sub(l.ledger.Confirmed(name)) < st.Floor {
			ready = false
		}
	}
	switch {
	case !ready:
		l.settling = time.Time{}
	case l.settling.IsZero():
		l.settling = now
	case now.Sub(l.settling) >= st.Floor:
		l.queue = append(l.queue, placement.Command{Kind: placement.CmdSettle, Epoch: st.FloorIndex, At: l.p.m.wall(), By: l.p.m.name})
	}
	l.p.w.after(l.p.m.span(500*time.Millisecond), l.p, l.kick)
}
