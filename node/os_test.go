package node

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hacluster/config"
	"hacluster/placement"
	"hacluster/resources"
)

// machine is a small operating system with one service on it. Its hooks make the service behave badly; without a hook an
// operation succeeds at once. It is used in synctest bubbles: time is the bubble's.
type machine struct {
	mu      sync.Mutex
	running bool
	failed  bool
	calls   []string // what was asked of it and when, without the questions for the status
	since   time.Time
	changed func() // of the watch

	start, stop, kill func(ctx context.Context) error // optional; called without the lock
	status            func(ctx context.Context) (resources.Status, error)
	watch             func(ctx context.Context) error // optional: how a stream of events ends
}

func newMachine() *machine { return &machine{since: time.Now()} }

func (m *machine) note(what string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, fmt.Sprintf("%v %s", time.Since(m.since), what))
}

// log is what was asked of the machine, one "time call" for each.
func (m *machine) log() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(m.calls, ", ")
}

// set changes what runs and raises an event.
func (m *machine) set(running, failed bool) {
	m.mu.Lock()
	m.running, m.failed = running, failed
	changed := m.changed
	m.mu.Unlock()
	if changed != nil {
		changed()
	}
}

func (m *machine) isRunning() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.running
}

func (m *machine) Start(ctx context.Context, epoch uint64) error {
	m.note(fmt.Sprintf("start %d", epoch))
	if m.start != nil {
		if err := m.start(ctx); err != nil {
			m.note("start ends")
			return err
		}
	}
	m.set(true, false)
	return nil
}

func (m *machine) Stop(ctx context.Context, epoch uint64) error {
	m.note(fmt.Sprintf("stop %d", epoch))
	if m.stop != nil {
		if err := m.stop(ctx); err != nil {
			return err
		}
	}
	m.set(false, false)
	return nil
}

func (m *machine) Kill(ctx context.Context) error {
	m.note("kill")
	if m.kill != nil {
		if err := m.kill(ctx); err != nil {
			return err
		}
	}
	m.set(false, false)
	return nil
}

func (m *machine) Status(ctx context.Context) (resources.Status, error) {
	m.mu.Lock()
	status := m.status
	st := resources.Status{Running: m.running, Failed: m.failed}
	m.mu.Unlock()
	if status != nil {
		return status(ctx)
	}
	return st, nil
}

// answer changes how the machine answers questions for the status; nil: truthfully.
func (m *machine) answer(status func(context.Context) (resources.Status, error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status = status
}

func (m *machine) Watch(ctx context.Context, wake func()) error {
	m.note("watch")
	if m.watch != nil {
		return m.watch(ctx)
	}
	m.mu.Lock()
	m.changed = wake
	m.mu.Unlock()
	<-ctx.Done()
	return ctx.Err()
}

// hang ignores its context and ends after d.
func hang(d time.Duration, err error) func(context.Context) error {
	return func(context.Context) error {
		time.Sleep(d) // of the bubble: no time passes outside
		return err
	}
}

// untilCancelled ends with its context.
func untilCancelled(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// service is the settings that most of the slot tests use.
func service() config.Resource {
	var r config.Resource
	r.Name, r.RunOn, r.Exclusive = "svc", placement.RunOnOwner, true
	r.PendingTimeout, r.StopBudget = time.Minute, 2*time.Second
	return r
}

// inSlot runs a test in a bubble with a slot over a machine. That nothing of the slot is left behind is synctest's to say.
func inSlot(t *testing.T, res config.Resource, setup func(*machine), test func(t *testing.T, m *machine, s *slot)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		if setup != nil {
			setup(m)
		}
		s := newSlot("web", res, m, true, slog.New(slog.NewTextHandler(testLog{t}, nil)), time.Now, func() {})
		defer s.close()
		synctest.Wait()
		m.mu.Lock()
		m.calls = nil
		m.mu.Unlock()
		test(t, m, s)
	})
}

// do performs an action and returns when all that can happen without time passing has.
func do(s *slot, kind placement.ActionKind) {
	s.perform(placement.Action{Kind: kind, Group: "web", Resource: s.res.Name, Epoch: 7, Why: "test"})
	synctest.Wait()
}

// settle lets time pass, and then all that it caused happen.
func settle(d time.Duration) {
	time.Sleep(d) // of the bubble
	synctest.Wait()
}

func wantState(t *testing.T, s *slot, want placement.ResourceState) placement.LocalResource {
	t.Helper()
	lr := s.local()
	if lr.State != want {
		t.Errorf("state is %s (failure %q, detail %q, doing %q), want %s", lr.State, lr.Failure, lr.Detail, lr.Doing, want)
	}
	return lr
}

func wantLog(t *testing.T, m *machine, want string) {
	t.Helper()
	if got := m.log(); got != want {
		t.Errorf("the machine was asked %q, want %q", got, want)
	}
}

// testLog writes to the test's log, and to nowhere once the test is over.
type testLog struct{ t testing.TB }

func (l testLog) Write(b []byte) (int, error) {
	if l.t.Context().Err() == nil || os.Getenv("HAD_TEST_LOG") != "" {
		l.t.Log(strings.TrimSuffix(string(b), "\n"))
	}
	return len(b), nil
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, file string) {
	t.Helper()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
}
