package sim

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"hacluster/lease"
	"hacluster/placement"
)

// Weak names a way to break the code on purpose.
type Weak string

const (
	Sound        Weak = ""
	WeakWait     Weak = "takeover wait too short"
	WeakGrants   Weak = "grants ignore Held and Index"
	WeakWithhold Weak = "no Withhold"
	WeakT0       Weak = "t0 taken after the answer"
	WeakKernel   Weak = "kernel lifetime rounded up"
	WeakReleased Weak = "Released promised without reading back"
	WeakVerify   Weak = "leader confirms without asking a quorum"
	WeakGate     Weak = "new process acts on an old copy of the state"
	WeakSince    Weak = "new leader does not wait for its predecessor's leases"
	WeakBoots    Weak = "late words of a former process count"
	WeakFloor    Weak = "a shortened timing counts at once"
)

// Options of one run.
type Options struct {
	Seed  uint64
	Weak  Weak
	Storm Storm // forced; else drawn
	Trace int   // newest events kept for the report; 0: 60
}

// World is one cluster in simulated time.
type World struct {
	opt    Options
	rng    *rand.Rand
	now    time.Duration
	queue  events
	seq    uint64
	timing lease.Timing
	nodes  []*machine
	byName map[string]*machine
	net    network
	truth  []truth // by Raft index: what was committed and what it made; index 0 is the empty state
	acted  map[string]uint64
	quiet  bool // the faults have ended
	keys   []key
	faults regime
	shape  placement.Policy // the configuration of the beginning
	trace  []string
	traced int
	fail   error
	Stats  Stats
}

// Stats say what a run did.
type Stats struct {
	Simulated                             time.Duration
	Events, Applied, Takeovers, Moves     int
	Kills, Freezes, Cuts, Powers, Elected int
}

// truth is one committed entry.
type truth struct {
	entry *entry
	state placement.State
	res   placement.Result
}

// event is something that happens at an instant, to a process if on is set: not at all when that has died, later while it
// is frozen.
type event struct {
	at  time.Duration
	seq uint64
	on  *proc
	fn  func()
}

type events []event

func (q events) Len() int { return len(q) }
func (q events) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *events) Push(x any)   { *q = append(*q, x.(event)) }
func (q *events) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*q = old[:len(old)-1]
	return e
}

// after runs fn on a process (nil: on nobody in particular) once d has passed.
func (w *World) after(d time.Duration, on *proc, fn func()) {
	w.seq++
	heap.Push(&w.queue, event{at: w.now + max(0, d), seq: w.seq, on: on, fn: fn})
}

// run lets time pass until an instant or the first broken guarantee.
func (w *World) run(until time.Duration) {
	for len(w.queue) > 0 && w.fail == nil {
		if w.queue[0].at > until {
			break
		}
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		if p := e.on; p != nil {
			if p.dead {
				continue
			}
			if p.m.frozen > w.now { // it happens when the process runs again, a little out of order
				w.after(p.m.frozen-w.now+w.upTo(2*time.Millisecond), p, e.fn)
				continue
			}
		}
		w.Stats.Events++
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

func (w *World) chance(p float64) bool { return w.rng.Float64() < p }

func (w *World) upTo(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(w.rng.Int64N(int64(d)))
}

func (w *World) between(a, b time.Duration) time.Duration { return a + w.upTo(b-a) }

func (w *World) node() *machine { return w.nodes[w.rng.IntN(len(w.nodes))] }

// wall is a machine's wall clock; wrong by a little, and only good for windows.
func (m *machine) wall() time.Time { return wallBase.Add(m.w.now + m.skew) }

var (
	wallBase = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	bootBase = time.Unix(1_000_000, 0).UTC()
)

// network is who can send to whom, and how well.
type network struct {
	cut  [][]bool // [from][to]
	loss float64
	slow time.Duration   // added at random to every message
	lag  []time.Duration // added to every message to that node
}

// send delivers fn at another node's process, if the link is up at both ends of the way.
func (w *World) send(from, to *machine, fn func(p *proc)) {
	if from == to {
		p := from.proc
		w.after(w.upTo(50*time.Microsecond), p, func() { fn(p) })
		return
	}
	if w.net.cut[from.i][to.i] || w.net.loss > 0 && w.chance(w.net.loss) {
		return
	}
	delay := 100*time.Microsecond + w.upTo(400*time.Microsecond) + w.net.lag[to.i]
	if w.net.slow > 0 {
		delay += w.upTo(w.net.slow)
	}
	p := to.proc
	if p == nil {
		return
	}
	w.after(delay, p, func() {
		if !w.net.cut[from.i][to.i] && to.up {
			fn(p)
		}
	})
}
