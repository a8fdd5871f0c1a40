package health

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// Probe asks one question of one service.
type Probe interface {
	// Check asks once. It returns by the probe's timeout plus Epsilon, also when ctx carries no deadline and whatever
	// the peer or the operating system does. When ctx ends first the answer is Skip: an interrupted check is no evidence.
	Check(ctx context.Context) Result
}

// Epsilon is how long after its timeout a check may still tidy up (kill a script, close a connection) before it is
// abandoned.
const Epsilon = 100 * time.Millisecond

// stall is how much later than its hard timeout a check may be noticed before the delay is taken to be this agent's own
// (SIGSTOP, a starved machine) and not the service's.
const stall = 250 * time.Millisecond

// maxDetail bounds Result.Detail, in bytes.
const maxDetail = 200

// Faults that New reports.
var (
	ErrKind    = errors.New("unknown kind of probe")
	ErrMissing = errors.New("a needed field is empty")
)

// answer is what one question brought, before it is timed.
type answer struct {
	outcome Outcome
	detail  string
}

func say(o Outcome, format string, args ...any) answer {
	return answer{outcome: o, detail: fmt.Sprintf(format, args...)}
}

// asker asks one question and should, but need not, return when ctx ends.
type asker func(ctx context.Context) answer

// New builds the probe that s describes. Kinds that this operating system does not have give an error that wraps
// errors.ErrUnsupported. Nothing is asked yet, and no file is opened: what can change later is read at each check.
func New(s Spec) (Probe, error) {
	if s.Timeout <= 0 {
		return nil, fmt.Errorf("building probe %q: timeout: %w", s.Name, ErrMissing)
	}
	ask, err := newAsker(s)
	if err != nil {
		return nil, fmt.Errorf("building probe %q: %w", s.Name, err)
	}
	return newGuard(s, ask), nil
}

func newAsker(s Spec) (asker, error) {
	switch s.Kind {
	case KindTCP:
		return newTCP(s)
	case KindHTTP:
		return newHTTP(s)
	case KindAJP:
		return newAJP(s)
	case KindProcess:
		return newProcess(s)
	case KindScript:
		return newScript(s)
	case KindSystemd:
		return newSystemd(s)
	case KindPing:
		return newPing(s)
	}
	return nil, fmt.Errorf("%w %q", ErrKind, s.Kind)
}

// lateOutcome is what silence means: mostly that the service hangs. A systemd probe talks to the D-Bus and not to the
// service, so that a silent bus says nothing about the service.
func lateOutcome(k Kind) Outcome {
	if k == KindSystemd {
		return Skip
	}
	return Timeout
}

func newGuard(s Spec, ask asker) *guard {
	return &guard{spec: s, ask: ask, late: lateOutcome(s.Kind), patience: patience{floor: s.TimeoutMin, ceiling: s.Timeout}}
}

// guard keeps the promise of Check around an asker that may get stuck. At most one stuck call exists per probe: while it
// does, further checks say so at once and start nothing.
type guard struct {
	spec Spec
	ask  asker
	late Outcome

	mu        sync.Mutex
	busy      bool // a call is under way
	stuck     bool // and was abandoned
	abandoned int  // calls ever abandoned
	stalled   bool // the last check was excused because the agent stood still
	patience  patience
}

// Check implements Probe.
func (g *guard) Check(ctx context.Context) Result {
	begin := time.Now()
	a, ok := g.enter()
	if ok {
		a = g.timed(ctx, begin, g.limit(begin))
	}
	if ctx.Err() != nil && a.outcome != Pass && a.outcome != Warn {
		a = say(Skip, "interrupted: %v", ctx.Err())
	}
	end := time.Now()
	latency := end.Sub(begin)
	g.learn(a.outcome, begin, end)
	if limit := g.spec.MaxLatency; a.outcome == Pass && limit > 0 && latency > limit {
		a = say(Warn, "slow: %v, limit %v; %s", latency.Round(time.Millisecond), limit, a.detail)
	}
	return Result{Probe: g.spec.Name, Outcome: a.outcome, Latency: latency, Detail: oneLine(a.detail), At: end}
}

// enter claims the only call; without it the answer says why.
func (g *guard) enter() (answer, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.stuck:
		return say(g.late, "previous check still stuck"), false
	case g.busy:
		return say(Skip, "another check of this probe is running"), false
	}
	g.busy = true
	return answer{}, true
}

// timed runs the question in its own goroutine and leaves it behind when it overruns.
func (g *guard) timed(ctx context.Context, begin time.Time, limit time.Duration) answer {
	limited, cancel := context.WithTimeout(ctx, limit)
	done := make(chan answer, 1)
	go func() {
		defer cancel()
		a := g.ask(limited)
		g.mu.Lock()
		g.busy, g.stuck = false, false
		g.mu.Unlock()
		done <- a
	}()

	select {
	case a := <-done:
		return g.excuse(a, begin, limit)
	case <-limited.Done():
	}
	timer := time.NewTimer(Epsilon)
	defer timer.Stop()
	select {
	case a := <-done:
		return g.excuse(a, begin, limit)
	case <-timer.C:
	}

	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.busy { // it ended at the very last moment; its answer is in the channel or about to be
		select {
		case a := <-done:
			return a
		default:
			return say(g.late, "no answer within %v", limit)
		}
	}
	g.stuck = true
	g.abandoned++
	return say(g.late, "no answer within %v, and the check itself is stuck", limit)
}

func (g *guard) limit(now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.patience.limit(now)
}

func (g *guard) learn(o Outcome, begin, end time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.patience = g.patience.after(o, begin, end)
}

// excuse turns a timeout into Skip when this process evidently did not run meanwhile, so that a frozen agent does not
// wake up and condemn what it did not watch. Never twice in a row: on a machine that is always late a hang must still
// be found.
func (g *guard) excuse(a answer, begin time.Time, limit time.Duration) answer {
	over := time.Since(begin) - limit - Epsilon
	g.mu.Lock()
	defer g.mu.Unlock()
	if a.outcome != Timeout || over < stall || g.stalled {
		g.stalled = false
		return a
	}
	g.stalled = true
	return say(Skip, "this agent stood still for %v during the check", over.Round(time.Millisecond))
}

// Abandoned says how many calls were ever left behind.
func (g *guard) Abandoned() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.abandoned
}

// oneLine makes foreign text fit for a log line: the first line, printable, valid UTF-8, at most maxDetail bytes.
func oneLine(s string) string {
	s = strings.TrimSpace(s)
	if i := strings.IndexAny(s, "\r\n"); i >= 0 {
		s = s[:i]
	}
	s = strings.ToValidUTF8(s, "?")
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > maxDetail {
		cut := maxDetail - len("...")
		for !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "..."
	}
	return strings.TrimSpace(s)
}
