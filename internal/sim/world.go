package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"hacluster/lease"
	"hacluster/placement"
)

// World is one cluster in simulated time.
type World struct {
	opt     Options
	rng     *rand.Rand
	now     time.Duration
	queue   events
	seq     uint64
	timing  lease.Timing   // of the beginning: faults last about as long as its leases
	timings []lease.Timing // every one that a configuration had; ConfigText is an index
	nodes   []*machine
	byName  map[string]*machine
	names   []string // of all nodes
	net     network
	truth   []truth // by Raft index: what was committed and what it made; index 0 is the empty state
	acted   []uint64
	quiet   bool // the faults have ended
	keys    []key
	faults  regime
	shape   placement.Policy // the configuration of the beginning
	trace   []string
	traced  int
	fail    error
	Stats   Stats
	watched map[int]string // while an epilogue watches: what may not stop, by node and resource
	lost    string         // the node that owned nothing and was lost at the end
	handed  bool           // and was given a group nevertheless
	fence   fencing
	storm   Storm

	prng     *rand.Rand // for pulses
	pulses   bool       // some timing may have them
	longer   bool       // and promises last longer at times than it says
	beating  bool       // the run is made of that
	voters   []string
	patience time.Duration // of nodes between two promises, at most

	drng   *rand.Rand    // for moves that let connections finish, and for their clients
	crowds []*crowd      // by key; nil: nobody
	moving bool          // the run is made of such moves
	gentle bool          // and nothing fails: every connection is judged
	shaken time.Duration // but for those from before then: a leader was elected, and an owner may have lost its lease meanwhile
}

// truth is one committed entry.
type truth struct {
	entry *entry
	term  uint64 // in which it was committed, or a later one
	state placement.State
}

// actor is something that runs on a machine: a process, or the kernel. What is due while it cannot run happens when it runs
// again, a little out of order.
type actor struct {
	m      *machine
	dead   bool
	kernel bool          // it does not mind that user space is frozen
	frozen time.Duration // until then
}

// stopped is until when the actor cannot run.
func (a *actor) stopped() time.Duration {
	if a.kernel {
		return a.m.asleep
	}
	return max(a.frozen, a.m.frozen, a.m.asleep)
}

// runs says that the actor is alive and nothing stops it.
func (a *actor) runs() bool { return !a.dead && a.stopped() <= a.m.w.now }

// maxEvents is far more than any run has.
const maxEvents = 2_000_000

// bootTime marks an event that comes from outside, or is set on the clock that counts on in suspend.
const bootTime = -1

// event is something that happens at an instant, to an actor if on is set.
type event struct {
	at    time.Duration
	seq   uint64
	slept time.Duration // of the machine when it was set, for what counts only the time awake; bootTime: counts all
	on    *actor
	fn    func()
}

func (e *event) before(o *event) bool { return e.at < o.at || e.at == o.at && e.seq < o.seq }

// events is a heap, by hand: half of the time of a run went into container/heap's interfaces and swaps.
type events []event

func (q *events) push(e event) {
	h := append(*q, e)
	i := len(h) - 1
	for i > 0 {
		up := (i - 1) / 4
		if !e.before(&h[up]) {
			break
		}
		h[i] = h[up]
		i = up
	}
	h[i] = e
	*q = h
}

func (q *events) pop() event {
	h := *q
	top := h[0]
	n := len(h) - 1
	e := h[n]
	h[n] = event{}
	h = h[:n]
	*q = h
	if n == 0 {
		return top
	}
	i := 0
	for {
		least, first := i, 4*i+1
		if first >= n {
			break
		}
		least = first
		for c := first + 1; c < min(first+4, n); c++ {
			if h[c].before(&h[least]) {
				least = c
			}
		}
		if !h[least].before(&e) {
			break
		}
		h[i] = h[least]
		i = least
	}
	h[i] = e
	return top
}

// after runs fn on an actor (nil: on nobody in particular) once d has passed, suspended or not.
func (w *World) after(d time.Duration, on *actor, fn func()) {
	w.seq++
	w.queue.push(event{at: w.now + max(0, d), seq: w.seq, slept: bootTime, on: on, fn: fn})
}

// timer runs fn on an actor once its machine has been awake for d: timers of the kernel and of the Go runtime.
func (w *World) timer(d time.Duration, on *actor, fn func()) {
	w.seq++
	w.queue.push(event{at: w.now + max(0, d), seq: w.seq, slept: on.m.slept, on: on, fn: fn})
}

// later says that an event cannot happen yet, and moves it.
func (w *World) later(e *event) bool {
	m := e.on.m
	if e.slept >= 0 && e.slept < m.slept { // what counts only the time awake is due later by what was slept meanwhile
		e.at, e.slept = max(w.now, e.at+m.slept-e.slept), m.slept
		return true
	}
	if until := e.on.stopped(); until > w.now {
		e.at = until + w.upTo(2*time.Millisecond)
		return true
	}
	return false
}

// run lets time pass until an instant or the first broken guarantee.
func (w *World) run(until time.Duration) {
	for len(w.queue) > 0 && w.fail == nil && w.queue[0].at <= until {
		e := w.queue.pop()
		w.now = e.at
		if e.on != nil {
			if e.on.dead {
				continue
			}
			if w.later(&e) {
				w.seq++
				e.seq = w.seq
				w.queue.push(e)
				continue
			}
		}
		if w.Stats.Events++; w.Stats.Events > maxEvents {
			w.broken("the simulator turns in circles: %d events", maxEvents)
		}
		e.fn()
	}
	if w.fail == nil {
		w.now = until
	}
}

// log keeps the newest events for the report.
func (w *World) log(format string, args ...any) {
	if w.opt.Trace == 0 {
		return
	}
	line := fmt.Sprintf("%9.3fs ", w.now.Seconds()) + fmt.Sprintf(format, args...)
	if len(w.trace) < w.opt.Trace {
		w.trace = append(w.trace, line)
	} else {
		w.trace[w.traced%w.opt.Trace] = line
	}
	w.traced++
}

// broken ends the run.
func (w *World) broken(format string, args ...any) {
	if w.fail == nil {
		w.log("BROKEN: "+format, args...)
		w.fail = fmt.Errorf(format, args...)
	}
}

// Trace is the newest events, oldest first.
func (w *World) Trace() string {
	if w.traced <= len(w.trace) {
		return strings.Join(w.trace, "\n")
	}
	at := w.traced % w.opt.Trace
	return strings.Join(append(append([]string{}, w.trace[at:]...), w.trace[:at]...), "\n")
}

func (w *World) chance(p float64) bool { return p > 0 && w.rng.Float64() < p }

func (w *World) upTo(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(w.rng.Int64N(int64(d)))
}

func (w *World) between(a, b time.Duration) time.Duration { return a + w.upTo(b-a) }

func (w *World) node() *machine { return w.nodes[w.rng.IntN(len(w.nodes))] }

// latest is the newest committed state.
func (w *World) latest() *placement.State { return &w.truth[len(w.truth)-1].state }

var (
	wallBase = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	bootBase = time.Unix(1_000_000, 0).UTC()
)
