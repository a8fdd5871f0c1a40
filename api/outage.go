package api

import (
	"time"

	"hacluster/lease"
)

// TimingReport is GET /v1/timing: the values derived from the profile and what they mean for clients.
type TimingReport struct {
	Timing       lease.Timing  `json:"timing"`
	TakeoverWait time.Duration `json:"takeover_wait_ns"` // for a group without exclusive resources
	Outages      []Outage      `json:"outages"`
}

// Outage is the time without service that clients see after one kind of fault.
type Outage struct {
	Fault   string        `json:"fault"` // stable word
	Best    time.Duration `json:"best_ns"`
	Typical time.Duration `json:"typical_ns"`
	Worst   time.Duration `json:"worst_ns"`
	How     string        `json:"how"` // what the sum is made of
}

// Load says what a group adds to the cluster's own times. All fields are optional.
type Load struct {
	StopBudget time.Duration // longest kill of an exclusive resource
	Start      time.Duration // cold standby: from start to serving
	Stop       time.Duration // cold standby: orderly stop before a planned move
	Interval   time.Duration // of the probe that sees a hang; 0: 1s
	Timeout    time.Duration // of that probe; 0: 1s
	Fall       int           // of that probe; 0: 3
}

// hot says that the load leaves nothing to the owner alone but addresses.
func (l Load) hot() bool { return l.StopBudget == 0 && l.Start == 0 && l.Stop == 0 }

// span is a best, typical and worst duration.
type span [3]time.Duration

func (a span) plus(b span) span { return span{a[0] + b[0], a[1] + b[1], a[2] + b[2]} }
func same(d time.Duration) span { return span{d, d, d} }

func (a span) outage(fault, how string) Outage { return Outage{fault, a[0], a[1], a[2], how} }

// What one step costs on a quiet LAN with disks that sync in a few milliseconds. The worst is a loaded machine, not a
// bound: only what the lease arithmetic gives is one.
var (
	stepEvent    = span{3 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond}          // OS event to report at the leader
	stepCommit   = span{5 * time.Millisecond, 12 * time.Millisecond, 40 * time.Millisecond}          // one Raft entry on a majority of disks, applied at the owner
	stepAnnounce = span{5 * time.Millisecond, 10 * time.Millisecond, 30 * time.Millisecond}          // address added, neighbours told, first connection
	stepRelease  = span{3 * time.Millisecond, 8 * time.Millisecond, 30 * time.Millisecond}           // address removed and read back
	stepAttest   = span{1 * time.Millisecond, 2 * time.Millisecond, 20 * time.Millisecond}           // a question to the voters and its answers
	stepDecide   = span{0, 5 * time.Millisecond, 20 * time.Millisecond}                              // leader wakes and decides
	placeCost    = stepDecide.plus(stepCommit).plus(stepAnnounce)                                    // an unowned group appears on its owner
	moveCost     = stepDecide.plus(stepCommit).plus(stepRelease).plus(stepCommit).plus(stepAnnounce) // release, released, acquire
)

// NewTimingReport explains a timing for a group with hot standby and the default probes.
func NewTimingReport(t lease.Timing) TimingReport {
	return TimingReport{Timing: t, TakeoverWait: t.TakeoverWait(0), Outages: Outages(t, Load{})}
}

// Outages estimates what clients see, for:
//
//   - node-loss: the leader last confirmed the owner's lease between 0 and one renewal before the loss and waits out the
//     takeover wait from there. At worst the owner also led: the new leader counts from its own election, which takes up to three
//     heartbeat timeouts and one election.
//     Where the owner has only addresses for itself and promises with pulses, the voters wait for the end of its last promise instead, and
//     are asked once. That is the best and the typical case; the worst is an owner that promised nothing just then, or also led.
//   - agent-loss: the address outlives the agent until the kernel's lease of it ends; an agent that is started again before that
//     re-adopts what runs and nobody notices. At worst it never returns: the address is served for as long as the kernel was armed for
//     (the whole seconds below the lease, or with the gate nearly all of it), and the rest is as for node-loss. An agent that was ended
//     in order has taken its promises back; one that has not leaves gates that shut before another node takes over.
//   - process-death: an event of the operating system, then a move. At worst the event was lost and the next report, one
//     renewal later, tells.
//   - hang: `fall` probes in a row must fail, the last one by its timeout, then a move.
//   - planned-move: the old owner releases, reads back, and the new one acquires; no time is waited.
//
// A cold standby adds the start of the service to each, and its orderly stop to a planned move.
func Outages(t lease.Timing, l Load) []Outage {
	orDefault(&l.Interval, time.Second)
	orDefault(&l.Timeout, time.Second)
	if l.Fall <= 0 {
		l.Fall = 3
	}
	wait, start := t.TakeoverWait(l.StopBudget), same(l.Start)
	election := 3*t.Heartbeat + t.Election
	lost := span{wait - t.Renew, wait - t.Renew/2, wait + election}.plus(placeCost).plus(start)
	lostHow := "takeover wait less the age of the last renewal, then commit and announce; worst: the owner also led"

	agent := span{0, 0, wait + election - t.Served()}.plus(span{0, 0, placeCost[2] + l.Start})
	agentHow := "none if the agent is back within its lease; worst: it never returns and it also led"
	if t.Pulse > 0 && l.hot() {
		asked := span{t.PulseWait() - t.Pulse, t.PulseWait() - t.Pulse/2, wait + election}.plus(placeCost)
		lost = asked.plus(span{stepAttest[0], stepAttest[1], 0})
		lostHow = "the promise of its last pulse less its age, a question to the voters, commit and announce; worst: takeover wait, it promised nothing just then " +
			"or also led"
		agent = span{0, lost[1] - t.PulseServed() - t.Pulse/2, lost[2] - t.PulseServed()}
		agentHow = "none if it ended in order, or promised nothing and is back within its lease; else its gates shut before another node takes over; " +
			"worst: it also led"
	}

	died := stepEvent.plus(span{0, 0, t.Renew}).plus(moveCost).plus(start)

	every := max(l.Interval, l.Timeout)
	n := time.Duration(l.Fall)
	seen := span{(n-1)*every + l.Timeout, (n-1)*every + every/2 + l.Timeout, n*every + l.Timeout}
	hung := seen.plus(moveCost).plus(start)

	moved := moveCost.plus(start).plus(same(l.Stop))
	return []Outage{
		lost.outage("node-loss", lostHow),
		agent.outage("agent-loss", agentHow),
		died.outage("process-death", "event, release, two commits, announce; worst: told by the next renewal"),
		hung.outage("hang", "probes that must fail in a row, then a move"),
		moved.outage("planned-move", "release and read back, two commits, announce"),
	}
}

func orDefault(d *time.Duration, v time.Duration) {
	if *d <= 0 {
		*d = v
	}
}
