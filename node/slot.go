package node

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"hacluster/config"
	"hacluster/health"
	"hacluster/internal/boottime"
	"hacluster/placement"
	"hacluster/resources"
)

const (
	statusEvery     = 5 * time.Second // safety net under the events of the operating system
	startingEvery   = 250 * time.Millisecond
	statusTimeout   = 10 * time.Second // one question to the OS
	deadlockTimeout = 30 * time.Second // WSFC DeadlockTimeout, where the resource has none of its own: see deadlock
	killRetry       = time.Second      // between two attempts at a kill that could not be proven
)

var errNoLease = errors.New("the lease ended before the start")

var errStuck = errors.New("the call does not return; abandoned")

// slot is one resource on this node: its driver, its probes, the action under way, and what is known of it. Everything
// that may block runs in goroutines of the slot, so that a hung driver stalls nothing but its own resource.
type slot struct {
	res    config.Resource
	group  string
	drv    resources.Driver
	log    *slog.Logger
	clock  boottime.Clock
	wake   func()      // of the act loop
	leased func() bool // what runs on the owner only: the lease is alive now; nil: needs none
	ladder *ladder     // where steps after a failed stop are noted; nil: nowhere

	kick    chan struct{} // ask the OS again
	ctx     context.Context
	cancel  context.CancelFunc
	workers sync.WaitGroup

	mu       sync.Mutex
	status   resources.Status
	known    bool   // the OS has been asked successfully
	asked    uint64 // questions for the status that were begun
	believed uint64 // the newest of them whose answer counts, or which an action made obsolete
	trouble  string
	expected bool // it was seen running here and was not told to stop
	fold     health.Fold
	adopted  bool // what runs was started by somebody else: another process of this agent, or systemd
	runner   *health.Runner
	stopRun  context.CancelFunc
	failure  string
	failedAt time.Time
	sign     time.Time // the first of what may come to a failure; zero: nothing does
	forgiven bool      // the OS still shows the failure of before, and nobody minds any more
	restarts []time.Time
	blocked  string
	doing    placement.ActionKind
	abort    context.CancelFunc // of the action under way
	done     chan struct{}      // closed when it has ended
	changed  time.Time          // wall clock of the last change of state
	gathered picture            // what the act loop took up last
	warnings []string           // about settings of this node, for people
	last     placement.ResourceState
}

// newSlot starts to observe a resource; possible says that this node may own its group.
func newSlot(group string, res config.Resource, drv resources.Driver, possible bool, log *slog.Logger, clock boottime.Clock, wake func()) *slot {
	s := &slot{group: group, res: res, drv: drv, log: log.With("group", group, "resource", res.Name), clock: clock, wake: wake,
		kick: make(chan struct{}, 1), fold: health.NewFold(res.Probes, res.PendingTimeout), changed: time.Now()}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.workers.Go(s.observe)
	if w, ok := drv.(resources.Watcher); ok {
		s.workers.Go(func() { s.watch(w) })
	}
	if possible {
		s.workers.Go(s.guard)
	}
	return s
}

// close ends the slot's goroutines; what runs goes on running.
func (s *slot) close() {
	s.cancel()
	s.workers.Wait()
}

// ask has the OS asked again soon.
func (s *slot) ask() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// watch keeps the driver's event stream open.
func (s *slot) watch(w resources.Watcher) {
	for wait := 100 * time.Millisecond; s.ctx.Err() == nil; wait = min(2*wait, 10*time.Second) {
		err := w.Watch(s.ctx, s.event)
		if s.ctx.Err() != nil {
			return
		}
		s.log.Warn("watching resource ended; asking at intervals until it works again", "err", err)
		select {
		case <-s.ctx.Done():
		case <-time.After(wait):
		}
	}
}

func (s *slot) event() {
	s.ask()
	s.mu.Lock()
	runner := s.runner
	s.suspect(s.clock())
	s.mu.Unlock()
	if runner != nil {
		runner.Kick()
	}
}

// observe asks the OS at each event and, slowly, without.
func (s *slot) observe() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-s.ctx.Done():
			s.probe(false)
			return
		case <-s.kick:
		case <-timer.C:
		}
		s.refresh()
		timer.Reset(s.pace())
	}
}

// pace is when to ask next. While the resource starts its probes are asked now, whatever their interval: clients wait.
func (s *slot) pace() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if verdict, _ := s.fold.Verdict(s.clock()); s.runner == nil || verdict != health.Starting || s.adopted && !s.fold.Refuses() {
		return s.nextRound()
	}
	s.runner.Kick()
	return startingEvery
}

// question asks the OS. The number orders questions by when they were begun: an answer that comes late speaks of what was.
func (s *slot) question() (number uint64, st resources.Status, err error) {
	s.mu.Lock()
	s.asked++
	number = s.asked
	s.mu.Unlock()
	answered := make(chan resources.Status, 1) // an abandoned call may still answer
	err = bounded(s.ctx, statusTimeout, func(ctx context.Context) error {
		st, err := s.drv.Status(ctx)
		answered <- st
		return err
	})
	if err == nil {
		st = <-answered
	}
	return number, st, err
}

// saw notes what the OS says. The caller holds mu.
func (s *slot) saw(st resources.Status) {
	s.forgiven = s.forgiven && st.Failed
	st.Failed = st.Failed && !s.forgiven
	s.status, s.known = st, true
	// A start that this slot did not make has its grace from when it was made: it may be in the middle of it.
	if st.Running && st.Since.Sub(s.fold.Since()) > 0 && s.doing == "" {
		s.fold, s.adopted = s.fold.Started(st.Since), true
	}
}

// refresh asks the OS once and draws the conclusions.
func (s *slot) refresh() {
	number, st, err := s.question()
	if s.ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	switch {
	case err != nil:
		// No answer is no evidence: what was known stays, and the trouble shows in the status.
		s.trouble = "status unknown: " + err.Error()
	case number > s.believed:
		s.believed = number
		s.saw(st)
		s.trouble = ""
	}
	s.judge()
	running := s.known && s.status.Running
	s.mu.Unlock()
	s.probe(running)
	s.wakeForNews()
}

// probe starts or ends the probes with the resource.
func (s *slot) probe(run bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if run == (s.stopRun != nil) || len(s.res.Probes) == 0 {
		return
	}
	if !run {
		s.stopRun()
		s.stopRun, s.runner = nil, nil
		return
	}
	ctx, cancel := context.WithCancel(s.ctx)
	runner := health.NewRunner(s.res.Probes, s.result, s.clock)
	s.runner, s.stopRun = runner, cancel
	s.workers.Go(func() { runner.Run(ctx) })
}

func (s *slot) result(r health.Result) {
	s.mu.Lock()
	before, _ := s.fold.Verdict(s.clock())
	s.fold = s.fold.Add(r)
	if r.Outcome == health.Fail || r.Outcome == health.Timeout {
		s.suspect(r.At.Add(-r.Latency))
	}
	after, why := s.fold.Verdict(s.clock())
	s.judge()
	s.mu.Unlock()
	if before != after {
		s.log.Info("health changed", "verdict", after, "reason", why)
	}
	s.wakeForNews()
}

// judge turns what the OS and the probes say into a failure. The caller holds mu.
func (s *slot) judge() {
	if !s.known || s.doing != "" || s.failure != "" {
		return
	}
	now := s.clock()
	switch verdict, why := s.fold.Verdict(now); {
	case s.status.Failed:
		s.fail("ended by itself: " + s.status.Detail)
	case !s.status.Running && !s.status.Pending && s.expected && !s.res.ResourcePolicy.Address:
		s.fail("is not running any more: " + s.status.Detail)
	case !s.status.Running:
		if !s.status.Pending {
			s.expected = false
		}
	case verdict == health.Hung || verdict == health.Dead:
		s.fail(string(verdict) + ": " + why)
	default:
		s.expected = true
		if verdict == health.Healthy || len(s.res.Probes) == 0 {
			s.sign = time.Time{}
		}
	}
}

func (s *slot) fail(why string) {
	s.failure, s.failedAt, s.expected = why, s.clock(), false
	s.log.Error("resource failed", "reason", why)
}

// forget drops a failure that no longer matters, and with all its restarts too.
func (s *slot) forget(all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if all {
		s.restarts = nil
	}
	if s.failure != "" && s.known && !s.status.Running && !s.status.Pending && s.doing == "" {
		s.failure, s.status.Failed, s.forgiven = "", false, true
	}
}

// local is the slot's part of the node's picture.
func (s *slot) local() placement.LocalResource {
	s.mu.Lock()
	defer s.mu.Unlock()
	verdict, why := health.Unknown, ""
	if len(s.res.Probes) > 0 { // else it needs no clock, which is a system call
		verdict, why = s.fold.Verdict(s.clock())
	}
	lr := placement.LocalResource{Failure: s.failure, Restarts: s.restarts, FailedAt: s.failedAt, Blocked: s.blocked, Doing: s.doing,
		Running: !s.known || s.status.Running || s.status.Pending, Detail: s.status.Detail}
	a, isAddress := s.drv.(*address)
	if isAddress {
		lr.Unfit = a.unfit()
	}
	switch {
	case s.doing == placement.ActStart:
		lr.State = placement.StateOnlinePending
	case s.doing != "":
		lr.State = placement.StateOfflinePending
	case !s.known:
		lr.State = placement.StateInitializing
	case s.failure != "":
		lr.State, lr.Detail = placement.StateFailed, s.failure
		if isAddress {
			lr.Cause = a.cause()
		}
	case s.status.Running && verdict == health.Starting && s.adopted && !s.fold.Refuses():
		// It may have been serving for long. What depends on it may stay, and must not come before this is known.
		lr.State = placement.StateUnknown
	case s.status.Running && verdict == health.Starting, s.status.Pending:
		lr.State = placement.StateOnlinePending
	case s.status.Running:
		lr.State = placement.StateOnline
	default:
		lr.State = placement.StateOffline
	}
	if s.status.Running && len(s.res.Probes) > 0 {
		lr.Verdict = string(verdict)
		if verdict != health.Healthy && s.failure == "" {
			lr.Detail = why
		}
	}
	lr.Healthy = lr.State == placement.StateOnline && (len(s.res.Probes) == 0 || verdict == health.Healthy)
	lr.Ready = lr.Healthy || lr.State == placement.StateOnline && verdict == health.Degraded
	if s.trouble != "" {
		lr.Detail = s.trouble
	}
	if s.blocked != "" {
		lr.Detail = "blocked: a human is needed: " + s.blocked
	}
	if lr.State != s.last {
		s.last, s.changed = lr.State, time.Now()
	}
	lr.Wall = s.changed
	return lr
}

// graceEnds is when the verdict may change by time alone.
func (s *slot) graceEnds() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fold.GraceEnds()
}

// recheck judges again when time alone may have changed the verdict.
func (s *slot) recheck() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.judge()
}

// perform starts an action unless it is already under way. A stop ends a start, a kill ends both.
func (s *slot) perform(a placement.Action) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.doing == placement.ActKill || s.doing == a.Kind || s.doing == placement.ActStop && a.Kind == placement.ActStart || s.ctx.Err() != nil {
		return
	}
	before := s.done
	if s.abort != nil {
		s.abort()
	}
	ctx, cancel := context.WithCancel(s.ctx)
	done := make(chan struct{})
	s.doing, s.abort, s.done = a.Kind, cancel, done
	if a.Kind == placement.ActStart {
		s.failure, s.blocked, s.forgiven, s.sign = "", "", false, time.Time{}
		if a.Restart {
			s.restarts = append(s.restarts, s.clock())
		}
	}
	s.log.Info("acting", "action", a.Kind, "epoch", a.Epoch, "reason", a.Why)
	if a.Rung != "" {
		s.climb(a.Rung, a.Why)
	}
	s.workers.Go(func() {
		defer cancel()
		err := s.work(ctx, a, before)
		s.finish(a, err, done)
	})
}

// work runs an action; before is closed when the one it replaced has ended.
func (s *slot) work(ctx context.Context, a placement.Action, before chan struct{}) error {
	switch a.Kind {
	case placement.ActStart:
		s.await(ctx, before)
		if s.leased != nil && !s.leased() { // this process may have stood still since the decision
			return errNoLease
		}
		return s.bounded(ctx, s.startLimit(), func(ctx context.Context) error { return s.drv.Start(ctx, a.Epoch) })
	case placement.ActStop:
		s.await(ctx, before)
		err := s.bounded(ctx, s.res.PendingTimeout, func(ctx context.Context) error { return s.drv.Stop(ctx, a.Epoch) })
		if err == nil || ctx.Err() != nil {
			return err
		}
		s.climb(placement.RungKill, err.Error())
		return s.kill(ctx)
	}
	// At once, and once more when the action it ended is gone: a start under way might have finished in between.
	err := s.kill(ctx)
	if before != nil {
		s.await(ctx, before)
		err = s.kill(ctx)
	}
	return err
}

func (s *slot) kill(ctx context.Context) error {
	budget := max(s.res.StopBudget, time.Second)
	err := s.bounded(ctx, budget, s.drv.Kill)
	if err != nil && ctx.Err() == nil {
		s.mu.Lock()
		first := s.blocked == ""
		s.blocked = "cannot be proven stopped: " + err.Error()
		s.mu.Unlock()
		s.log.Error("kill could not be proven", "err", err)
		if first { // the attempts that follow are the same rung
			s.climb(placement.RungBlocked, err.Error())
		}
		s.wake()
		select {
		case <-ctx.Done():
		case <-time.After(killRetry):
		}
	}
	return err
}

// finish notes the outcome of an action unless another has replaced it, and has the OS asked.
func (s *slot) finish(a placement.Action, err error, done chan struct{}) {
	number, st, serr := s.question()
	s.mu.Lock()
	close(done)
	if s.done == done {
		s.doing, s.abort, s.done = "", nil, nil
		switch {
		case serr == nil && number > s.believed:
			s.saw(st)
		case serr != nil && err == nil: // the driver has confirmed the goal; nobody says otherwise
			s.saw(resources.Status{Running: a.Kind == placement.ActStart})
		case serr != nil && a.Kind == placement.ActStart: // it may have happened all the same: what was known before is worth nothing
			s.known = false
		}
		s.believed = max(s.believed, number)
		switch {
		case a.Kind == placement.ActStart && err == nil:
			s.expected, s.adopted = true, false
			s.fold = s.fold.Started(s.clock())
		case a.Kind == placement.ActStart:
			s.fail("start: " + err.Error())
		case err == nil:
			if s.blocked != "" {
				s.climb(placement.RungCleared, "a later attempt succeeded")
			}
			s.expected, s.blocked = false, ""
			if a.Kind == placement.ActStop {
				s.failure = ""
			}
			s.status.Failed, s.forgiven = false, true
		}
		s.judge()
	}
	running := s.known && s.status.Running
	s.mu.Unlock()
	if err != nil {
		s.log.Warn("action did not succeed", "action", a.Kind, "err", err)
	}
	s.probe(running)
	s.ask()
	s.wake()
}
