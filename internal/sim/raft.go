package sim

import (
	"sort"
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
}

type role int

const (
	follower role = iota
	candidate
	leading
)

// ballot is who voted in one campaign; answers to another one do not count.
type ballot map[string]bool

// raftState is the part of Raft that a crash takes away.
type raftState struct {
	role    role
	leader  string
	contact time.Duration // last word of a leader
	commit  uint64
	applied uint64
	votes   *ballot // of the newest campaign
	match   map[string]uint64
	acked   map[string]time.Duration
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

func (p *proc) majority(n int) bool { return n > len(p.w.nodes)/2 }

// follow steps down into a term.
func (p *proc) follow(term uint64) {
	if term > p.m.disk.term {
		p.m.disk.term, p.m.disk.voted = term, ""
		p.raft.leader = ""
	}
	if p.raft.role == leading {
		p.w.log("%s leads no longer (term %d)", p.m.name, term)
		p.lead.reset()
	}
	p.raft.role = follower
}

// watchLeader stands for election when no leader was heard of for a random while.
func (p *proc) watchLeader(timeout time.Duration) {
	p.w.after(p.m.span(timeout), p, func() {
		h := p.w.timing.Heartbeat
		next := h + p.w.upTo(h)
		if p.raft.role == leading {
			p.watchLeader(next)
			return
		}
		if quiet := p.w.now - p.raft.contact; quiet < timeout {
			p.watchLeader(max(next-quiet, time.Millisecond))
			return
		}
		p.raft.leader = ""
		p.campaign(true)
		p.watchLeader(p.w.timing.Election + p.w.upTo(p.w.timing.Election))
	})
}

// campaign asks for votes; first only whether it would get them (pre-vote).
func (p *proc) campaign(pre bool) {
	if p.raft.role == leading {
		return // a request to stand that came late
	}
	w, d := p.w, p.m.disk
	term := d.term + 1
	votes := &ballot{p.m.name: true}
	p.raft.role, p.raft.votes = candidate, votes
	if !pre {
		d.term, d.voted = term, p.m.name
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
				(*votes)[q.m.name] = true
				if !p.majority(len(*votes)) {
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
	if term < p.m.disk.term || pre && term == p.m.disk.term {
		return false
	}
	myIndex, myTerm := p.last()
	current := lastTerm > myTerm || lastTerm == myTerm && index >= myIndex
	if pre {
		return current && (p.raft.leader == "" || p.w.now-p.raft.contact > p.w.timing.Heartbeat) && p.raft.role != leading
	}
	if term > p.m.disk.term {
		p.follow(term)
	}
	if !current || p.m.disk.voted != "" && p.m.disk.voted != from || p.raft.role == leading {
		return false
	}
	p.m.disk.voted, p.raft.contact = from, p.w.now
	return true
}

func (p *proc) win() {
	w := p.w
	w.Stats.Elected++
	w.log("%s is elected in term %d", p.m.name, p.m.disk.term)
	p.raft.role, p.raft.leader = leading, p.m.name
	p.raft.match, p.raft.acked = map[string]uint64{}, map[string]time.Duration{}
	for _, m := range w.nodes {
		p.raft.acked[m.name] = w.now
	}
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
	alive := 1
	for _, m := range p.w.nodes {
		if m != p.m && p.w.now-p.raft.acked[m.name] <= p.w.timing.LeaderLease {
			alive++
		}
	}
	if !p.majority(alive) {
		p.follow(term)
		p.raft.leader = ""
		return
	}
	p.replicate()
	p.w.after(p.m.span(p.w.timing.Heartbeat/3), p, func() { p.beat(term) })
}

// append adds an entry as leader and returns its index.
func (p *proc) append(c *placement.Command) uint64 {
	d := p.m.disk
	d.log = append(d.log, &entry{term: d.term, cmd: c})
	p.raft.match[p.m.name] = uint64(len(d.log))
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
			ok := q.receive(p.m.name, term, log, commit)
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
					p.raft.acked[q.m.name] = w.now
					p.raft.match[q.m.name] = max(p.raft.match[q.m.name], uint64(len(log)))
					p.advance()
				}
			})
		})
	}
}

func (p *proc) receive(from string, term uint64, log []*entry, commit uint64) bool {
	d := p.m.disk
	if term < d.term {
		return false
	}
	if term > d.term || p.raft.role != follower {
		p.follow(term)
	}
	if p.raft.leader != from {
		p.raft.leader = from
		p.kickRenew()
	}
	p.raft.contact = p.w.now
	if n := len(log); n > 0 && (len(d.log) < n || d.log[n-1] != log[n-1]) {
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
	var have []uint64
	for _, m := range p.w.nodes {
		have = append(have, p.raft.match[m.name])
	}
	sort.Slice(have, func(i, j int) bool { return have[i] > have[j] })
	n := have[len(have)/2]
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
	p.w.after(delay, p, func() {
		p.raft.applyAt = false
		upTo := p.raft.commit
		if n := int(upTo - p.raft.applied); n > 1 && p.w.chance(p.w.faults.lateApply) {
			upTo = p.raft.applied + 1 + uint64(p.w.rng.IntN(n-1)) // somebody looks at it halfway
		}
		for p.raft.applied < upTo {
			p.raft.applied++
			p.w.commit(p.raft.applied, p.m.disk.log[p.raft.applied-1])
		}
		p.state = &p.w.truth[p.raft.applied].state
		if p.w.chance(0.1) {
			p.m.disk.snapshot = p.raft.applied
		}
		p.applied()
		if p.raft.applied < p.raft.commit {
			p.applySoon()
		}
	})
}

// commit takes an entry into the truth, the first time that anybody applies it.
func (w *World) commit(index uint64, e *entry) {
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
		w.checkApply(s, next, *e.cmd, res)
		if w.opt.Weak == WeakFloor {
			next.Floor, next.FloorIndex = 0, 0
		}
	}
	w.truth = append(w.truth, truth{entry: e, state: next, res: res})
}
