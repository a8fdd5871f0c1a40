package health

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// Observer is handed each result, one at a time. It must not block.
type Observer func(Result)

const (
	// spread bounds the random wait before a probe's first check, so that not all fire at once.
	spread = 500 * time.Millisecond
	// minGap lies between the beginnings of two checks of one probe, however often it is kicked: otherwise a storm of
	// events could collect Fall failures within a few milliseconds.
	minGap = 100 * time.Millisecond
)

// Runner runs the probes of one resource. The only timers are those of the probes' intervals.
type Runner struct {
	slots   []*slot
	observe Observer
	clock   func() time.Time
	mu      sync.Mutex // one result at a time
}

// slot is one probe and the wish to run it at once.
type slot struct {
	spec  Spec
	probe Probe
	kick  chan bool // true: from outside; false: from another probe
}

// broken stands for a probe that cannot be built. It says so at each interval, so that the fault shows in the status and
// the other probes still run.
type broken struct {
	name string
	err  error
}

func (b broken) Check(context.Context) Result {
	return Result{Probe: b.name, Outcome: Skip, Detail: oneLine(b.err.Error()), At: time.Now()}
}

// Run runs the probes of specs until ctx ends and every goroutine of it is joined.
func Run(ctx context.Context, specs []Spec, o Observer) { NewRunner(specs, o, time.Now).Run(ctx) }

// NewRunner builds the probes. Result.At comes from clock. An Interval of 0 or less counts as one second.
func NewRunner(specs []Spec, o Observer, clock func() time.Time) *Runner {
	return newRunner(specs, New, o, clock)
}

func newRunner(specs []Spec, build func(Spec) (Probe, error), o Observer, clock func() time.Time) *Runner {
	r := &Runner{observe: o, clock: clock}
	for _, s := range specs {
		if s.Interval <= 0 {
			s.Interval = time.Second
		}
		p, err := build(s)
		if err != nil {
			p = broken{s.Name, err}
		}
		r.slots = append(r.slots, &slot{spec: s, probe: p, kick: make(chan bool, 1)})
	}
	return r
}

// Kick asks for a check of every probe at once, for an event that the operating system told of. Kicks while a check
// waits to begin are one; a kick during a check brings another after it.
func (r *Runner) Kick() { r.wake(func(Spec) bool { return true }, true) }

func (r *Runner) wake(which func(Spec) bool, outside bool) {
	for _, s := range r.slots {
		if !which(s.spec) {
			continue
		}
		select {
		case s.kick <- outside:
		default:
		}
	}
}

// Abandoned says how many checks were ever left behind because they were stuck beyond their timeout.
func (r *Runner) Abandoned() int {
	n := 0
	for _, s := range r.slots {
		if g, ok := s.probe.(*guard); ok {
			n += g.Abandoned()
		}
	}
	return n
}

// Run blocks until ctx ends and its goroutines are joined, at most Epsilon later. A check that was abandoned before
// lives on until its call returns. Run once only.
func (r *Runner) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, s := range r.slots {
		wg.Go(func() { r.watch(ctx, s) })
	}
	wg.Wait()
}

// watch checks on a fixed grid of intervals from the first check on; a kicked check is an extra one and a check that
// takes longer than the interval leaves points of the grid out. After a timeout only the newest of them is made up for, at once: where
// the timeout is the interval, as it is by default, each hang would else take twice as long to be known as Fall says.
func (r *Runner) watch(ctx context.Context, s *slot) {
	next := time.Now().Add(rand.N(min(s.spec.Interval, spread)))
	timer := time.NewTimer(time.Until(next))
	defer timer.Stop()
	var begun time.Time
	healthy := false
	for {
		spreads := true
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case spreads = <-s.kick:
			if !sleep(ctx, min(minGap, s.spec.Interval)-time.Since(begun)) {
				return
			}
		}
		begun = time.Now()
		res := s.probe.Check(ctx)
		if ctx.Err() != nil {
			return
		}
		res.At = r.clock()
		r.deliver(res)
		healthy = r.follow(s, res, healthy, spreads)
		next = following(next, begun, time.Now(), s.spec.Interval, res.Outcome)
		timer.Reset(time.Until(next))
	}
}

// following is the point of the grid of the next check, after one that began for the point next (or, kicked, before it) and ended now
// with an outcome.
func following(next, begun, now time.Time, interval time.Duration, o Outcome) time.Time {
	late := now.Sub(next)
	if late < 0 {
		return next
	}
	newest := next.Add(late / interval * interval)
	if o == Timeout && newest.After(begun) {
		return newest
	}
	return newest.Add(interval)
}

func (r *Runner) deliver(res Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.observe(res)
}

// follow asks the probes that can confirm or refute what one probe just saw. What it started itself is not followed
// again, so that two failing probes do not chase each other. It returns whether the probe passes now.
func (r *Runner) follow(s *slot, res Result, healthy, spreads bool) bool {
	if res.Outcome == Skip {
		return healthy
	}
	ok := res.Outcome == Pass || res.Outcome == Warn
	if !spreads {
		return ok
	}
	// A failure of the cheap probe, and its first pass after failures: the deep one says what it means.
	if s.spec.Level == LooksAlive && (!ok || !healthy) {
		r.wake(func(o Spec) bool { return o.Level == IsAlive }, false)
	}
	// AJP silent: whether HTTP answers tells a busy pool from a hang (Fold.busyAJP).
	if s.spec.Kind == KindAJP && res.Outcome == Timeout {
		r.wake(func(o Spec) bool { return o.Kind == KindHTTP }, false)
	}
	return ok
}

// sleep waits for d and says whether ctx still lives.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
