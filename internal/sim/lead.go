package sim

import (
	"maps"
	"math"
	"strconv"
	"time"

	"hacluster/lease"
	"hacluster/placement"
)

// leader is a process's half of leading, as in package node.
type leader struct {
	p       *proc
	term    uint64
	ledger  *lease.Ledger // nil: not leading, or before the barrier
	reports []reported    // by node
	asks    []ask
	waiting []ask // verified, of processes that are new to this leader, and a proposal is under way
	echoes  lease.Echoes
	carried time.Time // when they last renewed this node's own lease
	settled []int     // the process of each node that has been granted what every proposal before it had made
	round   *round
	slow    []bool // nodes that let a round wait
	due     bool   // a decision is scheduled
	timerN  int
	set     time.Duration // when the timer rings; 0: not set
	busy    *pending      // a proposal under way
	queue   []placement.Command

	settling time.Time
	floored  bool // another look at the floor is due

	asking [maxNodes]bool      // a question about the pulses of that node is under way, or a pause after it
	proofs [maxNodes]*question // that they have ended

	views   map[string]placement.FenceView
	run     *fenceRun // under way; nil: none
	yielded time.Duration
}

type reported struct {
	boot   int
	seq    uint64
	rev    int
	report *placement.Report // nil: nothing was heard
}

// ask is a renewal: from a process, with its report.
type ask struct {
	from   *proc
	rev    int
	seq    uint64
	term   uint64 // of the sender, read after t0
	echo   uint64 // the newest grant that it has of this leader in that term
	report *placement.Report
}

// round is one verification: a quorum says that it is still in this term.
type round struct {
	term  uint64
	asks  []ask
	asked int
	order [maxNodes]*machine
	nodes int
	agree uint64 // who answered, a bit for each node
	done  bool
}

const maxNodes = 5

type pending struct {
	index, term uint64
}

func (l *leader) reset() {
	l.ledger, l.reports, l.asks, l.waiting, l.round, l.busy, l.queue = nil, nil, nil, nil, nil, nil, nil
	l.settling = time.Time{}
	l.views, l.run = nil, nil
	l.proofs = [maxNodes]*question{}
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
		l.term, l.ledger, l.reports = p.m.disk.term, lease.NewLedger(since), make([]reported, len(p.w.nodes))
		l.settled = make([]int, len(p.w.nodes))
		l.echoes, l.carried = lease.Echoes{}, time.Time{}
		l.slow = make([]bool, len(p.w.nodes))
		p.kickRenew()
		l.kick()
	}
	l.committed()
	if l.busy != nil && p.raft.applied >= l.busy.index {
		l.busy = nil
		l.answer() // between two proposals of one decision grants may go out, as in package node
		l.next()
	}
}

// renew answers one renewal: it takes the report, has a quorum confirm that this node still leads, and grants.
func (l *leader) renew(a ask) {
	if l.ledger == nil || l.p.raft.role != leading {
		return
	}
	old := &l.reports[a.from.m.i]
	known := old.report != nil
	if known && a.from.boot < old.boot && l.p.w.opt.Weak != WeakBoots && l.p.w.opt.Weak != WeakGate {
		return // from a process that has been replaced: what it promised, its successor may not know yet
	}
	if !known || old.boot != a.from.boot || a.seq > old.seq {
		if !known || old.boot != a.from.boot {
			l.p.replicate() // a new process learns at once what is committed
		}
		news := !known || old.boot != a.from.boot || old.rev != a.rev
		*old = reported{boot: a.from.boot, seq: a.seq, rev: a.rev, report: a.report}
		if news {
			l.kick()
		}
	}
	if l.vouched(a) {
		l.waiting = append(l.waiting, a)
		l.answer()
		return
	}
	l.asks = append(l.asks, a)
	if l.p.w.opt.Weak == WeakVerify {
		l.grant(l.asks)
		l.asks = nil
		return
	}
	if l.round == nil {
		l.verify()
	}
}

// vouched says that the sender's word of its term is as good as a round, as in package node. There is no weakening of it: of three
// nodes, the one that the sender votes for later needs the sender for its barrier, too, and from then on the sender asks that one.
func (l *leader) vouched(a ask) bool {
	p := l.p
	return a.term == l.term && p.m.disk.term == l.term && a.from.m != p.m && p.quorum(1<<p.m.i|1<<a.from.m.i)
}

// verify starts a round for all who asked before it. As few voters are asked at first as a quorum needs, those that answered
// last time; the rest when one of them is slow.
func (l *leader) verify() {
	p, w := l.p, l.p.w
	r := &round{term: l.term, asks: l.asks, agree: 1 << p.m.i}
	l.round, l.asks = r, nil
	for _, late := range []bool{false, true} {
		for _, m := range w.nodes {
			if m != p.m && l.slow[m.i] == late {
				r.order[r.nodes] = m
				r.nodes++
			}
		}
	}
	l.question(r, len(w.nodes)/2)
	renew := p.m.span(p.timing.Renew)
	w.timer(renew/8, &p.actor, func() {
		if r.done {
			return
		}
		for _, m := range r.order[:r.asked] {
			if r.agree&(1<<m.i) == 0 {
				l.slow[m.i] = true
			}
		}
		l.question(r, r.nodes)
		w.timer(renew*7/8, &p.actor, func() {
			if !r.done {
				l.end(r)
			}
		})
	})
	r.finish(l)
}

// question asks the first n voters of the round.
func (l *leader) question(r *round, n int) {
	p, w := l.p, l.p.w
	for ; r.asked < n; r.asked++ {
		w.send(p.m, r.order[r.asked], func(q *proc) {
			term := q.m.disk.term
			w.send(q.m, p.m, func(s *proc) {
				if s == p && term == r.term && !r.done {
					r.agree |= 1 << q.m.i
					l.slow[q.m.i] = false
					r.finish(l)
				}
			})
		})
	}
}

// finish grants once a quorum has answered.
func (r *round) finish(l *leader) {
	p := l.p
	if r.done || l.round != r || !p.quorum(r.agree) {
		return
	}
	if l.ledger != nil && p.raft.role == leading && p.m.disk.term == r.term {
		l.waiting = append(l.waiting, r.asks...)
		l.answer()
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

// answer grants what has been verified. The first grant of a process waits for the proposal under way, as in package node
// (settledFor); later ones do not.
func (l *leader) answer() {
	if len(l.waiting) == 0 || l.ledger == nil {
		return
	}
	asks := l.waiting
	l.waiting = nil
	ready := asks[:0:0]
	for _, a := range asks {
		switch {
		case l.busy == nil, l.settled[a.from.m.i] == a.from.boot:
			l.settled[a.from.m.i] = a.from.boot
			ready = append(ready, a)
		default:
			l.waiting = append(l.waiting, a)
		}
	}
	l.grant(ready)
}

func (l *leader) grant(asks []ask) {
	for _, a := range asks {
		from, own := a.from, uint64(0)
		if from.m != l.p.m && l.p.timing.Echoes() {
			own = l.p.holder.Send(l.p.m.clock())
		}
		g := l.granting(from, a.seq)
		if own > 0 {
			l.echo(a, own)
		}
		l.p.w.sendLease(l.p.m, from.m, 0, func(r *proc) {
			if r == from {
				from.granted(g)
			}
		})
	}
}

// granting confirms a process and lists what it may act for.
func (l *leader) granting(from *proc, seq uint64) lease.Grant {
	st, name := l.p.state, from.m.name
	owned := map[string]uint64{}
	for group, gs := range st.Groups { // order-free
		if gs.Owner == name {
			owned[group] = gs.Epoch
		}
	}
	if l.ledger.Confirmed(name).IsZero() {
		l.kick()
	}
	return lease.Grant{Seq: seq, Leader: l.p.m.name, Index: st.Index, Held: l.ledger.Confirm(name, owned, l.p.m.clock()), Duration: l.p.timing.Duration, Term: l.term}
}

// echo renews this node's own lease by what the voters say of their grants, as in package node.
func (l *leader) echo(a ask, own uint64) {
	p, now := l.p, l.p.m.clock()
	boot := strconv.Itoa(a.from.boot)
	if a.term == l.term {
		l.echoes.Heard(a.from.m.name, boot, a.echo)
	}
	l.echoes.Granted(a.from.m.name, boot, a.seq, own)
	seq := l.echoes.Newest(p.m.name, p.w.names)
	if seq == 0 || p.m.disk.term != l.term || l.settled[p.m.i] != p.boot || now.Sub(l.carried) < p.timing.Renew/2 {
		return
	}
	l.carried = now
	g := l.granting(p, seq)
	p.w.after(p.w.upTo(100*time.Microsecond), &p.actor, func() { p.granted(g) })
	p.renewIn(p.timing.Renew * 5 / 4)
}

func (l *leader) kick() {
	if !l.due {
		l.due = true
		l.p.w.after(l.p.w.upTo(200*time.Microsecond)+l.p.w.faults.jitter(l.p.w), &l.p.actor, func() {
			l.due = false
			l.decide()
		})
	}
}

func (l *leader) view() placement.View {
	w := l.p.w
	v := placement.View{Self: l.p.m.name, LeaderSince: l.ledger.Since(), Wall: l.p.m.wall(), Withheld: l.ledger.Withheld(), Nodes: make(map[string]placement.NodeView, len(l.reports))}
	for i, r := range l.reports {
		if r.report != nil {
			v.Nodes[w.nodes[i].name] = placement.NodeView{Confirmed: l.ledger.Confirmed(w.nodes[i].name), Report: *r.report}
		}
	}
	if w.pulses {
		v.Lapsed, v.Unheard = l.lapses(l.p.m.clock()), l.unheard()
	}
	if w.fence.when != "" {
		v.Fenced, v.Listening, v.Ending = maps.Clone(l.views), l.ledger.Since(), map[string]bool{}
		for i, r := range l.reports { // one that leaves is taken for one that said goodbye, the sooner and the longer
			v.Ending[w.nodes[i].name] = r.report != nil && r.report.Leaving
		}
		for _, m := range w.nodes {
			v.Voters = append(v.Voters, m.name)
		}
	}
	return v
}

// decide runs the pure core once and proposes what it says, one command after the other.
func (l *leader) decide() {
	if l.ledger == nil || l.p.raft.role != leading || l.busy != nil {
		return
	}
	st := l.p.state
	now := l.p.m.clock()
	for _, m := range l.p.w.nodes {
		l.lapsed(m)
	}
	d := placement.Decide(st.Policy, *st, l.view(), now)
	for _, c := range d.Commands {
		if c.Kind == placement.CmdTakeover && l.p.w.opt.Weak != WeakWithhold {
			l.ledger.Withhold(c.Group, c.Epoch)
		}
	}
	l.queue = append(l.queue, d.Commands...)
	for _, o := range d.Fences {
		l.fence(o)
	}
	l.yield(d.Yield)
	if l.ledger == nil { // the disk is full, or it leads no longer
		return
	}
	l.settle(st, now)
	if len(l.queue) > 0 {
		l.next()
		return
	}
	wait := 2 * time.Second
	if !d.Wake.IsZero() {
		wait = max(10*time.Microsecond, min(wait, d.Wake.Sub(now)))
	}
	l.sleep(wait)
}

// sleep sets the timer of the loop; one that rings too early is set again then.
func (l *leader) sleep(wait time.Duration) {
	w := l.p.w
	at := w.now + l.p.m.span(wait)
	if l.set != 0 && l.set <= at {
		return
	}
	l.timerN++
	n := l.timerN
	l.set = at
	w.timer(at-w.now, &l.p.actor, func() {
		if l.timerN == n {
			l.set = 0
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
		l.p.w.timer(l.p.m.span(l.p.timing.Renew), &l.p.actor, l.kick)
		return
	}
	l.propose(c)
}

func (l *leader) propose(c placement.Command) {
	p, w := l.p, l.p.w
	if w.opt.Trace > 0 {
		w.log("%s proposes %s %s node %s epoch %d: %s", p.m.name, c.Kind, c.Group, c.Node, c.Epoch, c.Reason.Text)
	}
	busy := &pending{index: math.MaxUint64, term: l.term}
	l.busy = busy
	busy.index = p.append(&c)
	w.timer(p.m.span(5*time.Second), &p.actor, func() {
		if l.busy == busy && l.ledger != nil { // it may still be committed: no grant before a barrier has shown what became of it
			l.reset()
			p.append(nil)
			p.raft.barrier, _ = p.last()
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
		r := l.reports[l.p.w.byName[name].i].report
		if (r == nil || r.Applied < st.FloorIndex) && now.Sub(l.ledger.Confirmed(name)) < st.Floor {
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
	if !l.floored {
		l.floored = true
		l.p.w.timer(l.p.m.span(500*time.Millisecond), &l.p.actor, func() {
			l.floored = false
			l.kick()
		})
	}
}
