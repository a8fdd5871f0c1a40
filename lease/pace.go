package lease

import "time"

// PulseMode is what a node promises with its pulses.
type PulseMode string

const (
	PulseFree    PulseMode = "free"    // nothing: its gates follow the lease alone
	PulseBinding PulseMode = "binding" // nothing yet: gates are armed in short steps, until what was armed before is over
	PulseBound   PulseMode = "bound"   // gates are shut PulseBound after the last pulse that enough voters answered
)

// Pace decides when a node promises anything: in quiet times, and only while it can lose any one voter. A pulse that is late is
// nearer to a false failover than to a fault, so it takes its promise back and waits, longer each time. The zero value is free.
// Instants are the node's own boot-time clock.
type Pace struct {
	Pulse, Bound time.Duration // of the timing

	mode    PulseMode
	since   time.Time     // of the mode
	last    time.Time     // tick
	calm    time.Time     // not before this
	backoff time.Duration // of the last trouble
	Trouble string        // what the last one was, for people
}

// PaceInput is what a node knows at a tick.
type PaceInput struct {
	Wanted bool          // the timing has pulses, the gate works, and something is behind it that is held
	Spare  bool          // so many voters have answered lately that one more may fall silent
	Armed  time.Time     // until when a gate may be open by what was armed, by anybody
	Left   time.Duration // of what the voters' answers allow; of a bound node
}

const (
	paceStart = 300 * time.Millisecond // after the start of a process, or after it was given something to hold
	paceCalm  = time.Second            // the least time between trouble and a promise
	paceLong  = 5 * time.Minute        // the most
	paceTry   = 300 * time.Millisecond // binding lasts at least so long: the answers of so many pulses have been in time
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
	late := !p.last.IsZero() && now.Sub(p.last) > p.slack()+p.Pulse
	p.last = now
	if !in.Wanted {
		p.become(PulseFree, now)
		return p.Mode()
	}
	switch {
	case late:
		p.trouble(now, "this node stood still for a moment")
	case p.mode == PulseBound && in.Left < gateEarly+p.slack():
		p.trouble(now, "answers came late")
	case p.mode == PulseBound && !in.Spare, p.mode == PulseBinding && !in.Spare && now.Sub(p.since) > 4*p.Pulse:
		p.trouble(now, "a voter does not answer")
	case p.mode == PulseBinding && now.Sub(p.since) >= paceTry && !in.Armed.After(now.Add(p.Bound)):
		p.become(PulseBound, now)
	case p.Mode() == PulseFree && !now.Before(p.calm):
		p.become(PulseBinding, now)
	}
	if p.mode == PulseBound && now.Sub(p.since) > 2*paceLong {
		p.backoff = 0
	}
	return p.Mode()
}

// slack is how late a tick may be, and how much must be left beyond the end that the gate itself needs.
func (p *Pace) slack() time.Duration { return (p.Bound - gateEarly - p.Pulse) / 2 }

func (p *Pace) become(mode PulseMode, now time.Time) {
	if p.Mode() != mode {
		p.mode, p.since = mode, now
	}
}

// trouble takes the promise back, for longer each time; while there is none it only shows that it is not quiet yet.
func (p *Pace) trouble(now time.Time, what string) {
	wait := paceStart
	if p.Mode() != PulseFree {
		p.backoff = min(max(2*p.backoff, paceCalm), paceLong)
		p.Trouble, wait = what, p.backoff
	}
	if calm := now.Add(wait); calm.After(p.calm) {
		p.calm = calm
	}
	p.become(PulseFree, now)
}

// Reset forgets the last tick: the ticks paused, and a long pause is no trouble.
func (p *Pace) Reset() { p.last = time.Time{} }
