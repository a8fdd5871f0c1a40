package lease

import "time"

// PulseMode is what a node promises with its pulses.
type PulseMode string

const (
	PulseFree    PulseMode = "free"    // nothing: its gates follow the lease alone
	PulseTrying  PulseMode = "trying"  // nothing: it looks whether the voters answer in time
	PulseBinding PulseMode = "binding" // nothing yet: gates are armed in short steps, until what was armed before is over
	PulseBound   PulseMode = "bound"   // gates are shut PulseBound after the last pulse that enough voters answered
)

// Pace decides when a node promises anything: in quiet times, and only while it can lose any one voter. A pulse that is late is
// nearer to a false failover than to a fault, so it takes its promise back and waits, longer each time; and what it promises after
// that lasts so long that a pulse may be late by twice as much (Promise). The zero value is free. Instants are the node's own
// boot-time clock.
type Pace struct {
	Pulse, Bound, Most time.Duration // of the timing: between two pulses, the shortest promise and the longest

	mode    PulseMode
	since   time.Time     // of the mode
	last    time.Time     // tick
	calm    time.Time     // not before this
	backoff time.Duration // of the last trouble
	shaky   string        // what makes it take a promise back as soon as the voters answer again
	Trouble string        // what the last one was, for people

	delay  time.Duration    // the answers that are awaited are late by so much already
	worst  [2]time.Duration // the longest delay of this stretch of time and of the one before
	turned time.Time        // when this stretch began
}

// PaceInput is what a node knows at a tick.
type PaceInput struct {
	Wanted bool          // the timing has pulses, the gate works, and something is behind it that is held
	Heard  bool          // so many voters have answered lately as a promise needs to be prolonged
	Spare  bool          // and one more
	Armed  time.Time     // until when a gate may be open by what was armed, by anybody
	Left   time.Duration // of what the voters' answers allow; of a bound node
	Age    time.Duration // of the newest pulse that as many have answered as a promise needs
}

const (
	paceStart = 300 * time.Millisecond // after the start of a process, or after it was given something to hold
	paceCalm  = time.Second            // the least time between trouble and a promise
	paceLong  = 5 * time.Minute        // the most
	paceTry   = 300 * time.Millisecond // all answers were in time for so long before gates are armed in short steps
	paceKeep  = 5 * time.Minute        // a delay is remembered for so long at least, and for less than twice as long
)

// Mode is what was decided last.
func (p *Pace) Mode() PulseMode {
	if p.mode == "" {
		return PulseFree
	}
	return p.mode
}

// Tick decides. It is called every Pulse; a tick that comes late is trouble, because the process or its machine stood still.
func (p *Pace) Tick(now time.Time, in PaceInput) PulseMode {
	if first := now.Add(paceStart); p.last.IsZero() && first.After(p.calm) {
		p.calm = first
	}
	p.remember(now)
	since := p.Pulse
	if !p.last.IsZero() {
		since = now.Sub(p.last)
	}
	p.last = now
	late := since > p.slack()+p.Pulse
	p.note(since - p.Pulse)
	if !in.Wanted {
		p.become(PulseFree, now)
		return p.Mode()
	}
	if p.mode == PulseBinding || p.mode == PulseBound {
		p.answered(in.Age)
	}
	switch p.Mode() {
	case PulseFree:
		p.unbound(now, late)
	case PulseTrying:
		p.trying(now, late, in)
	case PulseBinding:
		p.binding(now, late, in)
	case PulseBound:
		p.bound(now, late, in)
	}
	if p.mode == PulseBound && now.Sub(p.since) > 10*p.backoff {
		p.backoff = 0
	}
	return p.Mode()
}

func (p *Pace) unbound(now time.Time, late bool) {
	if late { // not quiet yet
		p.pause(now, p.Trouble, paceStart)
	} else if !now.Before(p.calm) {
		p.become(PulseTrying, now)
	}
}

// trying shortens nothing yet: only with a voter to spare is it worth while.
func (p *Pace) trying(now time.Time, late bool, in PaceInput) {
	switch {
	case late:
		p.pause(now, stoodStill, paceStart)
	case !in.Spare && now.Sub(p.since) > 5*p.Pulse:
		p.pause(now, voterSilent, paceCalm)
	case in.Spare && now.Sub(p.since) >= paceTry:
		p.become(PulseBinding, now)
	}
}

func (p *Pace) binding(now time.Time, late bool, in PaceInput) {
	switch {
	case late:
		p.trouble(now, stoodStill)
	case !in.Spare:
		p.pause(now, voterSilent, paceStart)
	case now.Sub(p.since) > 0 && !in.Armed.After(now.Add(p.Promise())):
		p.become(PulseBound, now)
	}
}

// bound takes the promise back only while that can be answered. A node that hears nobody is cut off, and if the voters still hear it they
// would wait for the end of its lease, though its gates are shut.
func (p *Pace) bound(now time.Time, late bool, in PaceInput) {
	switch {
	case late:
		p.shaky = stoodStill
	case in.Left < gateEarly+p.slack() && p.shaky == "":
		p.shaky = answersLate
	case !in.Spare && p.shaky == "":
		p.shaky = voterSilent
	}
	switch {
	case p.shaky == "" || !in.Heard:
	case p.shaky == voterSilent:
		p.pause(now, p.shaky, paceStart)
	default:
		p.trouble(now, p.shaky)
	}
}

const (
	stoodStill  = "this node stood still for a moment"
	voterSilent = "a voter does not answer"
	answersLate = "answers came late"
)

// Promise is how long a promise lasts: as long as the timing says, or longer where pulses were late in the last minutes. What was late
// once will be late again, and by more.
func (p *Pace) Promise() time.Duration {
	return max(p.Bound, min(gateEarly+p.Pulse+2*max(p.worst[0], p.worst[1]), p.Most))
}

// slack is how late a tick may be, and how much must be left beyond the end that the gate itself needs.
func (p *Pace) slack() time.Duration { return (p.Promise() - gateEarly - p.Pulse) / 2 }

// remember forgets delays that are long ago.
func (p *Pace) remember(now time.Time) {
	switch age := now.Sub(p.turned); {
	case age >= 2*paceKeep:
		p.worst, p.turned = [2]time.Duration{}, now
	case age >= paceKeep:
		p.worst, p.turned = [2]time.Duration{0, p.worst[0]}, now
	}
}

// note keeps a delay. One that no promise would have survived counts as the longest that one does.
func (p *Pace) note(delay time.Duration) {
	p.worst[0] = max(p.worst[0], min(delay, (p.Most-gateEarly-p.Pulse)/2))
}

// answered notes how late answers were once they have come. Those that stay away for longer than any promise are no delay: the node was
// cut off.
func (p *Pace) answered(age time.Duration) {
	if age > 2*p.Pulse {
		p.delay = max(p.delay, age-p.Pulse)
		return
	}
	if p.delay <= p.Most {
		p.note(p.delay)
	}
	p.delay = 0
}

func (p *Pace) become(mode PulseMode, now time.Time) {
	if p.Mode() != mode {
		p.mode, p.since, p.shaky, p.delay = mode, now, "", 0
	}
}

// trouble is a machine or a network that is not quiet: the promise is taken back, for longer each time.
func (p *Pace) trouble(now time.Time, what string) {
	p.backoff = min(max(2*p.backoff, paceCalm), paceLong)
	p.pause(now, what, p.backoff)
}

// pause takes the promise back for a while.
func (p *Pace) pause(now time.Time, what string, wait time.Duration) {
	if calm := now.Add(wait); calm.After(p.calm) {
		p.calm = calm
	}
	p.Trouble = what
	p.become(PulseFree, now)
}

// Reset forgets the last tick: the ticks paused, and a long pause is no trouble.
func (p *Pace) Reset() { p.last, p.Trouble = time.Time{}, "" }
