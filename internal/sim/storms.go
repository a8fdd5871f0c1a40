package sim

import "time"

// Storm is a kind of run that is made of few faults; one run in three is one of them.
type Storm string

const (
	NoStorm    Storm = ""
	StormMoves Storm = "moves" // groups move all the time, and agents die as soon as they have let go
	StormMute  Storm = "mute"  // answers are late, and nodes fall silent
	// StormEdge has nodes come back at the moment of the takeover.
	StormEdge Storm = "edge"
	// StormPause stops the leader for longer than its leases last.
	StormPause Storm = "pause"
	// StormTiming changes duration, profile and layer of leases while nodes fall silent.
	StormTiming Storm = "timing"
	// StormFreeze kills and freezes agents and dead men, alone and together.
	StormFreeze Storm = "freeze"
	// StormKill kills agents and dead men at once, on machines that hear of nobody then and keep no snapshots.
	StormKill    Storm = "kill"
	StormSuspend Storm = "suspend" // machines sleep
	StormLate    Storm = "late"    // answers are late, and who gets them is frozen
	StormUnlucky Storm = "unlucky" // agents stop between clock and system call
	StormPower   Storm = "power"   // machines lose power, disks are full, leadership moves
	StormFence   Storm = "fence"   // owners fall silent, and fence devices lie, fail and take their time
	StormPulse   Storm = "pulse"   // owners with pulses fall silent, stop, and come back; not among storms either
	StormForget  Storm = "forget"  // the part of it in which voters are started again
	StormDrain   Storm = "drain"   // groups move while connections are open; not among storms: it is drawn by itself
)

var storms = []Storm{StormMoves, StormMute, StormEdge, StormPause, StormTiming, StormFreeze, StormSuspend, StormLate, StormUnlucky, StormPower, StormFence, StormKill}

// regime is how rough a run is; drawn once.
type regime struct {
	every        time.Duration // between two faults, about
	lateApply    float64
	lostProposal float64
	snapshot     float64 // chance that one is taken when something was applied
	badStart     float64
	longStop     float64
	refusal      float64 // chance that a kill is refused
	alwaysSlow   bool
	bounce       float64 // chance that an agent is killed right after a promise
	starved      float64 // chance that a wake-up comes late, within the margin
	unlucky      float64 // chance that an agent is stopped between clock and system call
	margin       time.Duration
	weights      []int
}

// jitter is how late a loop wakes up; the timing's margin covers it.
func (r *regime) jitter(w *World) time.Duration {
	if r.starved == 0 || !w.chance(r.starved) {
		return 0
	}
	return w.upTo(r.margin / 3)
}

func (w *World) drawRegime() {
	pick := func(values ...float64) float64 { return values[w.rng.IntN(len(values))] }
	w.faults = regime{
		every:        w.between(w.timing.Duration/3, 3*w.timing.Duration),
		lateApply:    pick(0, 0.01, 0.1, 0.5),
		bounce:       pick(0, 0, 0.5),
		lostProposal: pick(0, 0, 0.05),
		snapshot:     pick(0.02, 0.1, 0.5),
		badStart:     pick(0, 0, 0.1),
		longStop:     pick(0, 0.1, 0.5),
		refusal:      pick(0, 0, 0, 0.2),
		starved:      pick(0, 0, 0, 0.2),
		unlucky:      pick(0, 0, 0.01),
		margin:       w.timing.Margin,
	}
	if w.chance(0.25) { // a network that is slow all the time
		w.net.slow, w.faults.alwaysSlow = w.upTo(w.timing.Duration/2), true
	}
	for range len(faults) - len(drainFaults) - len(pulseFaults) {
		w.faults.weights = append(w.faults.weights, w.rng.IntN(4))
	}
	w.faults.weights = append(w.faults.weights, make([]int, len(drainFaults)+len(pulseFaults))...)
	storm := w.opt.Storm
	if storm == NoStorm && w.chance(0.35) {
		storm = storms[w.rng.IntN(len(storms))]
	}
	if w.moving {
		storm = StormDrain
	}
	if w.beating && storm != StormForget {
		storm = StormPulse
	}
	w.brew(storm)
}

// brew makes a run of few kinds of faults.
func (w *World) brew(storm Storm) {
	d, r := w.timing.Duration, &w.faults
	w.storm = storm
	var only []string
	switch storm {
	case StormMoves:
		r.every, r.lateApply, r.bounce, r.snapshot, only = d/2, 0.5, 1, 0.5, []string{"administrator"}
		w.net.slow, r.alwaysSlow = w.upTo(d/2), true
	case StormMute:
		r.every, only = 2*d, []string{"laggard"}
	case StormEdge:
		r.every, only = 2*d, []string{"no way out for a takeover wait"}
	case StormPause:
		r.every, only = 4*d, []string{"leader frozen and cut off"}
	case StormTiming:
		r.every, only = d, []string{"configuration applied", "no way out"}
	case StormFreeze:
		r.every, only = 3*d/2, []string{"agent killed", "agent frozen", "dead man killed", "dead man frozen", "both killed", "both frozen", "user space frozen", "upgrade", "agent ends with a word unsaid"}
	case StormKill:
		r.every, r.snapshot, only = 4*d, 0, []string{"both killed and cut off"}
	case StormSuspend:
		r.every, only = 2*d, []string{"suspend"}
	case StormLate:
		r.every, only = 4*d, []string{"late, then mute, then frozen"}
	case StormUnlucky:
		r.every, r.unlucky, only = 4*d, 0.05, []string{"administrator"}
	case StormPower:
		r.every, only = d, []string{"power cut", "disk full", "leadership moved", "administrator"}
	case StormPulse, StormForget:
		r.every, only = w.between(d/4, 2*d), []string{"isolated", "no way in", "no way out", "one way between two", "loss", "leases late and doubled", "laggard", "agent killed",
			"agent frozen", "both frozen", "user space frozen", "suspend", "power cut", "leadership moved", "leader frozen and cut off", "configuration applied", "upgrade", "cut off from some"}
		kinds := 7
		if storm == StormForget {
			kinds, r.every = 2, d/3
		}
		switch w.prng.IntN(kinds) { // voters that forget, voters of which each hears somebody else
		case 0:
			only = []string{"agent killed", "one way between two", "leases late and doubled"}
		case 1:
			only = []string{"agent killed", "isolated", "no way out"}
		case 2:
			only = []string{"cut off from some", "leadership moved"}
		case 3: // what a lease needs comes, and what a pulse needs does not
			only = []string{"agent killed", "loss"}
		case 4: // an owner comes back before anybody can take its groups
			only = []string{"isolated", "administrator", "user space frozen"}
		}
	case StormDrain:
		w.brewMoves()
		return
	case StormFence:
		r.every, only = 2*d, []string{"isolated", "no way out", "agent frozen", "administrator"}
	default:
		return
	}
	for i := range faults {
		r.weights[i] = 0
		for _, name := range only {
			if faults[i].name == name && (storm != StormPulse || len(only) < 4 || w.prng.IntN(2) == 0) {
				r.weights[i] = 1
			}
		}
	}
}
