// Package lease answers one question: who may still act? A node renews its lease with the leader; the leader may give
// away what a silent node owns only when every copy of that lease has run out, on every layer that enforces it.
//
// All of it is arithmetic on durations and on instants of one machine's boot-time clock; instants of two machines are
// never compared. The loops that send and receive live in package node. DESIGN.md has the proof.
package lease

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Profile is the one knob from which every timer derives.
type Profile string

const (
	Fast Profile = "fast" // quiet LAN
	LAN  Profile = "lan"  // default
	WAN  Profile = "wan"  // seconds of jitter
)

// Profiles in the order they are documented.
var Profiles = []Profile{Fast, LAN, WAN}

// Layer is how the kernel ends what a node holds when all of its user space is dead or frozen. One layer counts for the
// whole cluster, because the leader counts for every node what the slowest one needs.
type Layer string

const (
	Address Layer = "address" // the address carries a lifetime; the kernel counts it in whole seconds
	Gate    Layer = "gate"    // nf_tables drops what is for or from the address once a timeout has passed; milliseconds
)

// Layers in the order they are documented.
var Layers = []Layer{Address, Gate}

// Timing is a profile with everything derived. Zero values never occur in a Timing made by Derive.
type Timing struct {
	Profile     Profile       `json:"profile"`
	Layer       Layer         `json:"kernel_lease"`          // what enforces the end when nothing else does
	Renew       time.Duration `json:"renew"`                 // between two renewals of a node
	Duration    time.Duration `json:"duration"`              // D: a node may act until t0 + D
	Drift       time.Duration `json:"drift"`                 // how far two clocks may part within one D
	Margin      time.Duration `json:"margin"`                // scheduling of the release itself
	KernelSlack time.Duration `json:"kernel_slack"`          // how late the kernel may remove an address whose lifetime ended
	Heartbeat   time.Duration `json:"heartbeat"`             // Raft: a follower without contact for 1-2x this stands for election
	Election    time.Duration `json:"election"`              // Raft: a candidate without majority retries after 1-2x this
	LeaderLease time.Duration `json:"leader_lease"`          // Raft: a leader without a quorum for this steps down
	Suspect     time.Duration `json:"suspect"`               // a node silent for this is not chosen as a target
	Pulse       time.Duration `json:"pulse,omitempty"`       // between two pulses of a node that holds addresses; 0: none are sent
	PulseBound  time.Duration `json:"pulse_bound,omitempty"` // its gates are shut this long after the last pulse that enough voters answered
}

// Overrides replaces derived values; zero keeps the derived one.
type Overrides struct {
	Renew, Duration, Drift, Margin, KernelSlack, Heartbeat, Election, LeaderLease, Suspect, Pulse, PulseBound time.Duration
}

// kernelSlack is how late Linux may remove an address whose valid_lft has ended: the lifetime check is rounded up to a
// whole second when that is at most a quarter of a second later (ADDRCONF_TIMER_FUZZ in include/net/addrconf.h).
const kernelSlack = 250 * time.Millisecond

// gateSlack is how late the gate may close: it counts in ticks of the kernel's clock, at most 10 ms each, and package vip
// arms it so that it never ends after the lease.
const gateSlack = 10 * time.Millisecond

// gateEarly is how long before the end of the lease the gate may close, or can no longer be renewed (vip/DESIGN.md,
// "tickets"): a renewal that comes in this last part comes too late.
const gateEarly = 45 * time.Millisecond

// slack is the least that the kernel must be given to end what it enforces.
func (l Layer) slack() time.Duration {
	if l == Gate {
		return gateSlack
	}
	return kernelSlack
}

// early is how long before the end of a lease it is of no use any more.
func (l Layer) early() time.Duration {
	if l == Gate {
		return gateEarly
	}
	return 0
}

// Derive returns the timing of a profile, on the layer that the cluster has, with the overrides applied; the error joins
// every relation that does not hold. An empty profile is LAN, an empty layer Address.
func Derive(p Profile, l Layer, o Overrides) (Timing, error) {
	p, l = cmp.Or(p, LAN), cmp.Or(l, Address)
	if !slices.Contains(Layers, l) {
		return Timing{}, fmt.Errorf("kernel lease %q is unknown: use address or gate", l)
	}
	ms := func(renew, duration, margin, heartbeat time.Duration) Timing {
		return Timing{Profile: p, Layer: l, Renew: renew * time.Millisecond, Duration: duration * time.Millisecond, Margin: margin * time.Millisecond,
			Heartbeat: heartbeat * time.Millisecond}
	}
	var t Timing
	switch {
	case p == Fast && l == Gate: // the lease of lan; what makes it fast is the pulse
		t = ms(100, 900, 50, 150)
		t.Pulse, t.PulseBound = 20*time.Millisecond, 125*time.Millisecond
	case p == Fast:
		t = ms(100, 1100, 50, 150)
	case p == LAN && l == Gate:
		t = ms(100, 900, 50, 150)
	case p == LAN:
		t = ms(200, 1400, 100, 250)
	case p == WAN:
		t = ms(1000, 8000, 500, 1500)
	default:
		return Timing{}, fmt.Errorf("timing profile %q is unknown: use fast, lan or wan", p)
	}
	t.KernelSlack = l.slack()
	set := func(dst *time.Duration, derived, override time.Duration) {
		*dst = derived
		if override != 0 {
			*dst = override
		}
	}
	set(&t.Renew, t.Renew, o.Renew)
	set(&t.Duration, t.Duration, o.Duration)
	set(&t.Margin, t.Margin, o.Margin)
	set(&t.Heartbeat, t.Heartbeat, o.Heartbeat)
	set(&t.KernelSlack, t.KernelSlack, o.KernelSlack)
	set(&t.Drift, t.Duration/200, o.Drift)
	set(&t.Election, t.Heartbeat, o.Election)
	set(&t.LeaderLease, t.Heartbeat, o.LeaderLease)
	set(&t.Suspect, 3*t.Renew, o.Suspect)
	if l == Gate { // only the gate ends an address soon enough
		set(&t.Pulse, t.Pulse, o.Pulse)
		set(&t.PulseBound, t.PulseBound, o.PulseBound)
	}
	return t, t.Validate()
}

// Validate reports every relation between the values that does not hold.
func (t Timing) Validate() error {
	var errs []error
	fault := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	for _, v := range []struct {
		name string
		d    time.Duration
	}{{"renew", t.Renew}, {"duration", t.Duration}, {"drift", t.Drift}, {"margin", t.Margin}, {"heartbeat", t.Heartbeat},
		{"election", t.Election}, {"leader_lease", t.LeaderLease}, {"suspect", t.Suspect}} {
		fault(v.d > 0, "%s is %v: it must be positive", v.name, v.d)
	}
	fault(slices.Contains(Layers, t.Layer), "kernel_lease %q is unknown: use address or gate", t.Layer)
	fault(t.KernelSlack >= t.Layer.slack(), "kernel_slack %v is below %v, the rounding of the kernel's own clock", t.KernelSlack, t.Layer.slack())
	less := ""
	if early := t.Layer.early(); early > 0 {
		less = fmt.Sprintf(" less %v", early)
	}
	fault(t.Renew*3 <= t.Duration-t.Layer.early(), "renew %v x 3 exceeds duration %v%s: two lost renewals would end the lease", t.Renew, t.Duration, less)
	fault(t.Layer == Gate || t.Duration > time.Second,
		"duration %v must exceed 1s: the kernel counts address lifetimes in whole seconds", t.Duration)
	fault(t.LeaderLease <= t.Heartbeat, "leader_lease %v exceeds heartbeat %v: two leaders could overlap", t.LeaderLease, t.Heartbeat)
	fault(t.LeaderLossWorst() < t.Duration-t.Layer.early(),
		"renew %v + 3 x heartbeat %v + election %v = %v reaches duration %v%s: the loss of a leader would cost every owner its lease",
		t.Renew, t.Heartbeat, t.Election, t.LeaderLossWorst(), t.Duration, less)
	fault(t.Suspect >= 2*t.Renew, "suspect %v is below 2 x renew %v: one lost renewal would disqualify a node", t.Suspect, t.Renew)
	fault(t.Drift >= t.Duration/1000, "drift %v is below duration/1000: real clocks part faster", t.Drift)
	t.validatePulse(fault, less)
	return errors.Join(errs...)
}

// validatePulse reports the relations of the pulses that do not hold; less says what the gate takes from each end.
func (t Timing) validatePulse(fault func(ok bool, format string, args ...any), less string) {
	switch {
	case t.Pulse == 0 && t.PulseBound == 0:
		return
	case t.Pulse == 0 || t.PulseBound == 0:
		fault(false, "pulse %v and pulse_bound %v: neither is of use without the other", t.Pulse, t.PulseBound)
		return
	}
	fault(t.Layer == Gate, "pulse needs the kernel lease gate: the lifetime of an address is counted in whole seconds")
	fault(t.Pulse >= minPulse, "pulse %v is below %v", t.Pulse, minPulse)
	fault(t.Pulse*3 <= t.PulseBound-t.Layer.early(), "pulse %v x 3 exceeds pulse_bound %v%s: two lost pulses would shut the gate", t.Pulse, t.PulseBound, less)
	fault(t.PulseBound <= t.Duration, "pulse_bound %v exceeds duration %v, which ends the lease anyway", t.PulseBound, t.Duration)
}

// minPulse is the least time between two pulses.
const minPulse = 5 * time.Millisecond

// PulseWait is how long a voter waits after a pulse before it says that its promise has ended; zero: there are no pulses. The gate shuts
// before the promise ends, so nothing but the drift of the clocks is added.
func (t Timing) PulseWait() time.Duration {
	return t.PulseBound + pulseDrift(t.PulseBound, t.DriftPerSecond())
}

// PulseMost is the longest promise of a node whose pulses come late (Pace.Promise); zero: there are no pulses. Beyond half of the lease a
// proof gains little.
func (t Timing) PulseMost() time.Duration {
	return max(t.PulseBound, min(4*t.PulseBound, t.Duration/2))
}

// DriftPerSecond is Drift as a rate.
func (t Timing) DriftPerSecond() time.Duration {
	return time.Duration(float64(t.Drift) / t.Duration.Seconds())
}

// LeaderLossWorst is the longest a node goes without renewal when the leader dies: the renewal just missed, detection, one
// election round. hashicorp/raft does not restart a follower's timer (1-2x heartbeat) at each contact but asks at its end
// how old the last one is, so detection takes up to 3x heartbeat.
func (t Timing) LeaderLossWorst() time.Duration { return t.Renew + 3*t.Heartbeat + t.Election }

// Echoes says that leases are long enough for a leader to renew its own by echoes: it is older by one interval then. Without the gate the
// lifetimes of addresses, of whole seconds, would not be renewed in time.
func (t Timing) Echoes() bool {
	return t.Layer == Gate && t.LeaderLossWorst()+t.Renew+t.Layer.early() < t.Duration
}

// Served is how long an address is served at least after the renewals of its owner have ended and nothing takes it away sooner:
// what the kernel was armed with last.
func (t Timing) Served() time.Duration {
	if t.Layer == Gate {
		return t.Duration - gateEarly - t.Renew
	}
	return (t.Duration - 1).Truncate(time.Second)
}

// PulseServed is the same for a node that has promised with its pulses, after they have ended; zero: there are no pulses.
func (t Timing) PulseServed() time.Duration {
	if t.Pulse == 0 {
		return 0
	}
	return t.PulseBound - gateEarly - t.Pulse
}

// TakeoverWait is the silence after which what a node owns may be given away: the lease itself on the fastest credible
// clock, then the slowest layer that enforces its end. stopBudget is the longest kill of an exclusive resource of the
// group, zero when it has none.
func (t Timing) TakeoverWait(stopBudget time.Duration) time.Duration {
	return t.Duration + t.Drift + max(t.KernelSlack, stopBudget) + t.Margin
}
