package node

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"hacluster/internal/boottime"
	"hacluster/lease"
	"hacluster/placement"
)

const (
	maxPulses = 8                      // unanswered at once, for each voter
	freeRetry = 100 * time.Millisecond // between two pulses that take the promises back, while too few have answered
	freeRest  = time.Second            // the same to voters whose answer is not needed
)

// pulser is this node's half of the pulses (lease/DESIGN.md, "Takeover by pulse"): it tells every voter that the gates of its
// addresses will be shut soon unless they answer, and says until when they may be armed. Where that cannot be kept, or is not wanted,
// it takes the promise back, and the gates follow the lease alone.
type pulser struct {
	n    *Node
	wake chan struct{}

	flight sync.WaitGroup
	alarm  *boottime.Alarm // rings when a promise ends, by a clock that counts suspend; nil: none

	mu       sync.Mutex
	holder   lease.PulseHolder
	pace     lease.Pace
	ending   bool     // this process ends in order: it promises nothing any more
	granted  []string // voters that the newest grant counts
	lines    map[string]*pulseLine
	freed    chan struct{} // closed and replaced when the node has become free
	free     bool
	promised bool // a bound pulse was sent since
}

// pulseLine is what is under way with one voter.
type pulseLine struct {
	slots chan struct{}
	sent  time.Time // newest pulse
	heard time.Time // when the newest one was sent that was answered
}

func newPulser(n *Node, boot string) (*pulser, error) {
	p := &pulser{n: n, wake: make(chan struct{}, 1), holder: lease.PulseHolder{Boot: boot}, lines: map[string]*pulseLine{}, freed: make(chan struct{})}
	n.gate.follows(p)
	var err error
	p.alarm, err = boottime.NewAlarm(n.wakeAct)
	return p, err
}

func (p *pulser) close() {
	if p != nil {
		p.n.logError("closing the alarm of the pulses", p.alarm.Close())
	}
}

func (p *pulser) kick() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// cap is until when a gate may be armed now, whatever the lease says; zero: not at all.
func (p *pulser) cap() time.Time {
	voters := p.n.voters()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.capped(voters, p.n.clock())
}

// forever is later than the end of any lease.
const forever = 24 * time.Hour

// capped is cap for a caller who holds mu.
func (p *pulser) capped(voters []string, now time.Time) time.Time {
	until, free := p.holder.Until(voters, p.n.name)
	mode := p.pace.Mode()
	switch {
	case len(p.granted) > 0 && !slices.Equal(voters, p.granted): // none are named by a leader that knows no pulses, and gives nothing away by them
		return time.Time{} // the next grant counts as this node does, or this node as the grant
	case free && (mode == lease.PulseFree || mode == lease.PulseTrying):
		return now.Add(forever)
	case free:
		end := now.Add(p.pace.Promise())
		p.holder.Armed(end) // what the first promise must cover, also where the timing has become shorter meanwhile
		return end
	}
	return until
}

// counted notes which voters the leader that granted counts.
func (p *pulser) counted(voters []string) {
	p.mu.Lock()
	news := !slices.Equal(p.granted, voters)
	p.granted = voters
	p.mu.Unlock()
	if news {
		p.kick()
	}
}

// loop sends pulses until ctx ends.
func (p *pulser) loop(ctx context.Context) {
	defer p.flight.Wait()
	timer := boottime.NewTimer()
	defer timer.Close()
	for {
		timer.Reset(p.tick(ctx))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-p.wake:
		}
	}
}

// tick decides what to promise, sends what is due, and returns when to look again.
func (p *pulser) tick(ctx context.Context) time.Duration {
	t, voters := p.n.timing(), p.n.voters()
	gate := p.n.gate.behind()
	now := p.n.clock()
	p.mu.Lock()
	wanted := t.Pulse > 0 && gate.works && gate.held > 0 && !p.ending && !p.n.abandoned.Load()
	if wanted || p.pace.Mode() != lease.PulseFree {
		p.pace.Pulse, p.pace.Bound, p.pace.Most = t.Pulse, t.PulseBound, t.PulseMost()
	}
	until, free := p.holder.Until(voters, p.n.name)
	age, spare := p.ages(voters, now)
	in := lease.PaceInput{Wanted: wanted, Heard: age <= 9*t.Pulse/4, Spare: spare <= 7*t.Pulse/2, Armed: gate.armed, Left: until.Sub(now), Age: age}
	if free {
		in.Left = p.pace.Promise()
	}
	before, lasted := p.pace.Mode(), p.pace.Promise()
	mode, lasts, why := p.pace.Tick(now, in), p.pace.Promise(), p.pace.Trouble
	if !wanted {
		p.pace.Reset()
	}
	again := freeRetry
	switch {
	case mode != before:
		again = 0
	case free:
		again = freeRest
	case wanted:
		again = t.Pulse
	}
	due := p.due(voters, mode, now, again)
	p.mu.Unlock()
	if mode != before && (mode == lease.PulseBound || before == lease.PulseBound) {
		p.n.wakeAct() // to report it
	}
	if lasts != lasted && wanted {
		p.n.log.Info("how long a promise of the pulses lasts follows how late they were in the last minutes", "promise", lasts.Round(time.Millisecond), "before", lasted.Round(time.Millisecond))
	}
	if before == lease.PulseBound && mode != before && wanted {
		p.n.log.Info("pulses stop for a while: until they go on a fault of this node is noticed by the end of its lease", "why", why)
	}
	p.beat(ctx, due, mode, gate.armed, t)
	if wanted {
		p.extend() // for the lease again where a promise was taken back
		return t.Pulse
	}
	return p.rest(voters, free)
}

// says is what the report says of the pulses.
func (p *pulser) says() string {
	b := p.n.gate.behind()
	if p.n.timing().Pulse == 0 || b.held == 0 {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !b.works:
		return "the gate does not work"
	case p.pace.Mode() == lease.PulseBound:
		return placement.PulseBound
	}
	return cmp.Or(p.pace.Trouble, "it has just begun")
}

// rest is when a node that promises nothing looks again: until all voters have answered that.
func (p *pulser) rest(voters []string, free bool) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	wait := idle
	for _, v := range voters {
		switch {
		case v == p.n.name || p.holder.Open(v):
		case !free:
			return freeRetry
		default:
			wait = freeRest
		}
	}
	return wait
}

// ages is how long ago the newest pulse was sent that so many voters have answered as a promise needs, this one among them, and that one more
// has; forever if they have answered none. The caller holds mu.
func (p *pulser) ages(voters []string, now time.Time) (enough, spare time.Duration) {
	all := make([]time.Duration, 0, len(voters)+2)
	for _, v := range voters {
		if v == p.n.name {
			all = append(all, 0)
		} else if l := p.lines[v]; l != nil {
			all = append(all, now.Sub(l.heard))
		} else {
			all = append(all, forever)
		}
	}
	all = append(all, forever, forever) // no voter, or none to spare
	slices.Sort(all)
	return all[len(voters)/2], all[len(voters)/2+1]
}

// due lists who is sent a pulse now: everybody each time while answers are counted, else who has not answered yet that nothing is
// promised. The caller holds mu.
func (p *pulser) due(voters []string, mode lease.PulseMode, now time.Time, again time.Duration) (out []string) {
	for _, v := range voters {
		if v == p.n.name {
			continue
		}
		l := p.lines[v]
		if l == nil {
			l = &pulseLine{slots: make(chan struct{}, maxPulses)}
			p.lines[v] = l
		}
		if mode != lease.PulseFree || !p.holder.Open(v) && now.Sub(l.sent) >= again-again/8 {
			out = append(out, v)
		}
	}
	return out
}

// beat sends one pulse to each.
func (p *pulser) beat(ctx context.Context, voters []string, mode lease.PulseMode, armed time.Time, t lease.Timing) {
	if len(voters) == 0 {
		return
	}
	bound, limit := time.Duration(0), 2*t.Renew
	if mode != lease.PulseFree {
		limit = 3 * t.Pulse
	}
	p.mu.Lock()
	if mode == lease.PulseBound {
		bound = p.pace.Promise()
		p.holder.Armed(armed) // not before: what was armed for the lease has been made shorter since
	}
	m := p.holder.Beat(bound, p.n.clock())
	p.mu.Unlock()
	for _, voter := range voters {
		p.mu.Lock()
		l := p.lines[voter]
		select {
		case l.slots <- struct{}{}:
		default:
			p.mu.Unlock()
			continue // enough under way: it does not answer
		}
		now := p.n.clock() // t0, before the first byte leaves
		m := p.holder.Send(voter, m, now)
		p.promised = p.promised || bound > 0
		l.sent = now
		p.mu.Unlock()
		p.flight.Go(func() {
			defer func() { <-l.slots }()
			a, err := p.n.links.call(ctx, voter, message{Pulse: &m}, limit)
			p.answered(voter, l, m, now, a, err)
		})
	}
}

// answered takes what came back. A voter whose agent knows no pulses cannot say that one has stopped either.
func (p *pulser) answered(voter string, l *pulseLine, m lease.Pulse, sent time.Time, a message, err error) {
	unknown := err != nil && err.Error() == errUnknown.Error()
	if err != nil && !unknown {
		return
	}
	p.mu.Lock()
	if met := p.holder.Met(voter, a.By); !a.Heard && !unknown {
		if met { // another process of the voter than the pulse was for
			l.sent = time.Time{}
			p.kick()
		}
		p.mu.Unlock()
		return
	}
	if sent.After(l.heard) && !unknown {
		l.heard = sent
	}
	news := p.holder.Answered(voter, m.Seq)
	if news {
		p.became()
	}
	p.mu.Unlock()
	if !news {
		return
	}
	if p.extend(); m.Bound == 0 {
		p.kick()
		p.n.wakeAct()
	}
}

// stands says that this process has promised something that it has not taken back yet.
func (p *pulser) stands() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.promised
}

// became notes whether the node is free. The caller holds mu.
func (p *pulser) became() {
	_, free := p.holder.Until(p.n.voters(), p.n.name)
	if free && !p.free {
		close(p.freed)
		p.freed = make(chan struct{})
	}
	p.free, p.promised = free, p.promised && !free
}

// extend arms the gates by the newest answers.
func (p *pulser) extend() {
	if p.n.gate.extend() {
		p.n.wakeAct()
	}
	voters := p.n.voters()
	p.mu.Lock()
	bound := p.pace.Mode() == lease.PulseBound
	until, _ := p.holder.Until(voters, p.n.name)
	p.mu.Unlock()
	if bound { // after a suspend the gate would be open for as long as it slept: the act loop looks first whether there was one
		p.n.logError("setting the alarm for the end of a promise", p.alarm.Set(until))
	}
}

// end takes the promises back for good and waits until enough voters know: from then on the gates follow the lease alone, which
// covers them until the next process has one of its own (L3).
func (p *pulser) end(ctx context.Context) {
	p.mu.Lock()
	p.ending = true
	p.mu.Unlock()
	for {
		p.kick()
		p.mu.Lock()
		done, freed := !p.promised && p.pace.Mode() == lease.PulseFree, p.freed
		p.mu.Unlock()
		if done {
			break
		}
		select {
		case <-ctx.Done():
			return
		case <-freed:
		case <-time.After(p.n.timing().Renew / 4):
		}
	}
	p.n.gate.extend()
}

// voters are the names of those who vote, sorted, as this node knows them; the newest configuration counts, committed or not.
func (n *Node) voters() (out []string) {
	if n.voting != nil {
		return n.voting()
	}
	if n.raft == nil {
		return nil
	}
	servers, err := n.raft.Servers()
	if err != nil {
		return nil
	}
	for _, s := range servers {
		if s.Voter {
			out = append(out, s.Name)
		}
	}
	slices.Sort(out)
	return out
}
