package sim

import (
	"math"
	"math/bits"
	"slices"
	"time"

	"hacluster/placement"
)

// entry is one entry of the log; nil cmd: the barrier of a new leader.
type entry struct {
	term uint64
	cmd  *placement.Command
}

// disk is what survives a crash.
type disk struct {
	term  uint64
	voted string
	log   []*entry // log[0] is index 1
	// snapshot is the index of the state that a new process begins with.
	snapshot uint64

	full     bool          // every write fails
	unsynced int           // entries of the newest write; a power cut takes them away where nobody waits for the disk (WeakSync)
	votedAt  time.Duration // likewise the vote
}

// crash is a power cut. What was confirmed is on disk.
func (d *disk) crash(w *World) {
	if w.opt.Weak != WeakSync {
		return
	}
	if n := max(int(d.snapshot), len(d.log)-d.unsynced); n < len(d.log) {
		d.log = d.log[:n:n]
	}
	d.unsynced = 0
	if w.now-d.votedAt < w.timing.Heartbeat {
		d.voted = ""
	}
}

// write says that the disk took what is about to be written. One that does not ends this node's part in Raft, and the agent with it.
func (p *proc) write() bool {
	if !p.m.disk.full {
		return true
	}
	if !p.failing {
		p.failing = true
		p.w.log("%s: its disk is full; the agent ends", p.m.name)
		p.w.after(p.w.upTo(time.Millisecond), &p.actor, p.m.endAgent)
	}
	return false
}

type role int

const (
	follower role = iota
	candidate
	leading
)

// ballot is who voted in one campaign, a bit for each node; answers to another one do not count.
type ballot uint64

func newRaftState(n int) raftState {
	return raftState{match: make([]uint64, n), acked: make([]time.Duration, n)}
}

// raftState is the part of Raft that a crash takes away.
type raftState struct {
	role    role
	leader  *machine      // nil: none is known
	contact time.Duration // last word of a leader
	commit  uint64
	applied uint64
	votes   *ballot  // of the newest campaign
	match   []uint64 // by node
	acked   []time.Duration
	barrier uint64 // index of this term's first entry
	applyAt bool   // an apply is scheduled
}

func (p *proc) last() (index, term uint64) {
	log := p.m.disk.log
	if len(log) == 0 {
		return 0, 0
	}
	return uint64(len(log)), log[len(log)-1].term
}

// quorum says that a majority is in the set.
func (p *proc) quorum(set uint64) bool { return bits.OnesCount64(set) > len(p.w.nodes)/2 }

// follow steps down into a term.
func (p *proc) follow(term uint64) {
	if term > p.m.disk.term && p.write() {
		p.m.disk.term, p.m.disk.voted = term, ""
		p.raft.leader = nil
	}
	if p.raft.role == leading {
		p.w.log("%s leads no longer (term %d)", p.m.name, term)
		p.lead.reset()
	}
	p.raft.role = follower
}

// watchLeader stands for election when no leader was heard of for a random while.
func (p *proc) watchLeader(timeout time.Duration) {
	p.w.timer(p.m.span(timeout), &p.actor, func() {
		h := p.timing.Heartbeat
		next := h + p.w.upTo(h)
		if p.raft.role == leading {
			p.watchLeader(next)
			return
		}
		if quiet := p.w.now - p.raft.contact; quiet < timeout {
			p.watchLeader(max(next-quiet, time.Millisecond))
			return
		}
		p.raft.leader = nil
		p.campaign(true)
		p.watchLeader(p.timing.Election + p.w.upTo(p.timing.Election))
	})
}

// campaign asks for votes; first only whether it would get them (pre-vote).
func (p *proc) campaign(pre bool) {
	if p.raft.role == leading {
		return // a request to stand that came late
	}
	w, d := p.w, p.m.disk
	term := d.term + 1
	votes := new(ballot)
	*votes = 1 << p.m.i
	p.raft.role, p.raft.votes = candidate, votes
	if !pre {
		if !p.write() {
			return
		}
		d.term, d.voted = term, p.m.name
		d.unsynced = 0
	}
	index, lastTerm := p.last()
	for _, m := range w.nodes {
		if m == p.m {
			continue
		}
		w.send(p.m, m, func(q *proc) {
			ok := q.vote(p.m.name, term, index, lastTerm, pre)
			voterTerm := q.m.disk.term
			w.send(q.m, p.m, func(r *proc) {
				if r != p || p.raft.role != candidate || p.raft.votes != votes {
					return
				}
				if voterTerm > p.m.disk.term {
					p.follow(voterTerm)
					return
				}
				if !ok || !pre && d.term != term || pre && d.term+1 != term {
					return
				}
				*votes |= 1 << q.m.i
				if !p.quorum(uint64(*votes)) {
					return
				}
				if pre {
					p.campaign(false)
				} else {
					p.win()
				}
			})
		})
	}
}

func (p *proc) vote(from string, term, index, lastTerm uint64, pre bool) bool {
	if p.failing {
		return false
	}
	if term < p.m.disk.term || pre && term == p.m.disk.term {
		return false
	}
	myIndex, myTerm := p.last()
	current := lastTerm > myTerm || lastTerm == myTerm && index >= myIndex
	if pre {
		return current && (p.raft.leader == nil || p.w.now-p.raft.contact > p.timing.Heartbeat) && p.raft.role != leading
	}
	if term > p.m.disk.term {
		p.follow(term)
	}
	if p.failing || !current || p.m.disk.voted != "" && p.m.disk.voted != from || p.raft.role == leading {
		return false
	}
	if !p.write() {
		return false
	}
	p.m.disk.voted, p.raft.contact = from, p.w.now
	p.m.disk.votedAt = p.w.now
	return true
}

func (p *proc) win() {
	w := p.w
	w.Stats.Elected++
	w.log("%s is elected in term %d", p.m.name, p.m.disk.term)
	p.raft.role, p.raft.leader = leading, p.m
	clear(p.raft.match)
	for i := range p.raft.acked {
		p.raft.acked[i] = w.now
	}
	w.checkElected(p)
	p.append(nil)
	p.raft.barrier, _ = p.last()
	p.beat(p.m.disk.term)
	p.kickRenew()
}

// beat sends heartbeats while it leads the term, and steps down without a quorum.
func (p *proc) beat(term uint64) {
	if p.raft.role != leading || p.m.disk.term != term {
		return
	}
	alive := uint64(1) << p.m.i
	for i := range p.w.nodes {
		if p.w.now-p.raft.acked[i] <= p.timing.LeaderLease {
			alive |= 1 << i
		}
	}
	if !p.quorum(alive) {
		p.follow(term)
		p.raft.leader = nil
		return
	}
	p.replicate()
	p.w.timer(p.m.span(p.timing.Heartbeat/2), &p.actor, func() { p.beat(term) })
}

// append adds an entry as leader and returns its index.
func (p *proc) append(c *placement.Command) uint64 {
	d := p.m.disk
	if !p.write() {
		return math.MaxUint64
	}
	d.log = append(d.log[:len(d.log):len(d.log)], &entry{term: d.term, cmd: c})
	d.unsynced++
	p.raft.match[p.m.i] = uint64(len(d.log))
	p.replicate()
	return uint64(len(d.log))
}

// replicate sends the whole log as it is now; receivers keep what they have of it.
func (p *proc) replicate() {
	w, term := p.w, p.m.disk.term
	log := p.m.disk.log[:len(p.m.disk.log):len(p.m.disk.log)]
	commit := p.raft.commit
	for _, m := range w.nodes {
		if m == p.m {
			continue
		}
		w.send(p.m, m, func(q *proc) {
			ok := q.receive(p.m, term, log, commit)
			theirs := q.m.disk.term
			w.send(q.m, p.m, func(r *proc) {
				if r != p || p.raft.role != leading || p.m.disk.term != term {
					return
				}
				if theirs > term {
					p.follow(theirs)
					return
				}
				if ok {
					p.raft.acked[q.m.i] = w.now
					if n := uint64(len(log)); n > p.raft.match[q.m.i] {
						p.raft.match[q.m.i] = n
						p.advance()
					}
				}
			})
		})
	}
}

func (p *proc) receive(from *machine, term uint64, log []*entry, commit uint64) bool {
	d := p.m.disk
	if term < d.term {
		return false
	}
	if term > d.term || p.raft.role != follower {
		p.follow(term)
	}
	if p.failing {
		return false
	}
	if p.raft.leader != from {
		p.raft.leader = from
		p.kickRenew()
	}
	p.raft.contact = p.w.now
	if n := len(log); n > 0 && (len(d.log) < n || d.log[n-1] != log[n-1]) {
		if !p.write() {
			return false
		}
		d.unsynced = max(0, n-len(d.log))
		d.log = log
	}
	if commit = min(commit, uint64(len(log))); commit > p.raft.commit {
		p.raft.commit = commit
		p.applySoon()
	}
	return true
}

// advance commits what a majority has, entries of the own term only.
func (p *proc) advance() {
	var all [7]uint64
	have := append(all[:0], p.raft.match...)
	slices.Sort(have)
	n := have[(len(have)-1)/2]
	if n > p.raft.commit && p.m.disk.log[n-1].term == p.m.disk.term {
		p.raft.commit = n
		p.applySoon()
		p.replicate() // tells the followers
	}
}

// applySoon applies what is committed: at once as a rule, sometimes late.
func (p *proc) applySoon() {
	if p.raft.applyAt {
		return
	}
	p.raft.applyAt = true
	delay := p.w.upTo(500 * time.Microsecond)
	if p.w.chance(p.w.faults.lateApply) {
		delay = p.w.upTo(p.w.timing.Duration)
	}
	p.w.after(delay, &p.actor, func() {
		p.raft.applyAt = false
		upTo := p.raft.commit
		if n := int(upTo - p.raft.applied); n > 1 && p.w.chance(p.w.faults.lateApply) {
			upTo = p.raft.applied + 1 + uint64(p.w.rng.IntN(n-1)) // somebody looks at it halfway
		}
		for p.raft.applied < upTo {
			p.raft.applied++
			p.w.commit(p.raft.applied, p.m.disk.log[p.raft.applied-1], p.m.disk.term)
		}
		p.state = &p.w.truth[p.raft.applied].state
		if p.w.chance(p.w.faults.snapshot) {
			p.m.disk.snapshot = p.raft.applied
		}
		p.applied()
		if p.raft.applied < p.raft.commit {
			p.applySoon()
		}
	})
}

// maxCommands is far more than any run has.
const maxCommands = 3000

// commit takes an entry into the truth, the first time that anybody applies it; the term is that of who does.
func (w *World) commit(index uint64, e *entry, term uint64) {
	if index < uint64(len(w.truth)) {
		if w.truth[index].entry != e {
			w.broken("the model of Raft is wrong: two entries at index %d", index)
		}
		return
	}
	before := w.truth[index-1].state
	s := before
	s.Index = index
	next, res := s, placement.Result{}
	if e.cmd != nil {
		next, res = s.Apply(*e.cmd)
		w.checkApply(&s, &next, e.cmd, res)
		if w.opt.Weak == WeakFloor || w.opt.Weak == WeakLayer && next.KernelLease != s.KernelLease {
			next.Floor, next.FloorIndex = 0, 0
		}
	}
	if index > maxCommands {
		w.broken("the cluster turns in circles: %d commands", index)
	}
	w.truth = append(w.truth, truth{entry: e, term: term, state: next})
}
