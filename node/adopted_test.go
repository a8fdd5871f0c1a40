package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"hacluster/config"
	"hacluster/health"
	"hacluster/placement"
	"hacluster/resources"
)

// probed is a service with a minute to start and a probe that passes while the file is there.
func probed(file string) config.Resource {
	res := service()
	res.Probes = []health.Spec{{Name: "proc", Kind: health.KindProcess, PIDFile: file, Interval: time.Second, Timeout: time.Second, Fall: 2, Rise: 1}}
	return res
}

// runsSince is how the system answers about what was started that long before the call.
func runsSince(age time.Duration) func(context.Context) (resources.Status, error) {
	since := time.Now().Add(-age)
	return func(context.Context) (resources.Status, error) {
		return resources.Status{Running: true, Since: since}, nil
	}
}

// The agent ended in the middle of a start, or an owner's agent came back. The probes cannot pass yet.
func TestWhatIsAdoptedInTheMiddleOfItsStartIsGivenTheRestOfItsTime(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	adopt := func(m *machine) { m.running, m.status = true, runsSince(20*time.Second) }
	inSlot(t, probed(file), adopt, func(t *testing.T, m *machine, s *slot) {
		settle(39 * time.Second)
		if lr := wantState(t, s, placement.StateOnlinePending); lr.Verdict != string(health.Starting) || lr.Ready || lr.Failure != "" {
			t.Errorf("59 s of 60 s after its start: %+v", lr)
		}
		if end := s.graceEnds(); !end.Equal(time.Now().Add(time.Second)) {
			t.Errorf("its grace ends in %v, want 1s", time.Until(end))
		}
		settle(2 * time.Second)
		s.recheck()
		wantState(t, s, placement.StateFailed)
		wantLog(t, m, "")
	})
	inSlot(t, probed(file), adopt, func(t *testing.T, m *machine, s *slot) {
		settle(30 * time.Second)
		wantState(t, s, placement.StateOnlinePending)
		write(t, file, fmt.Sprint(os.Getpid()))
		settle(startingEvery)
		if lr := wantState(t, s, placement.StateOnline); !lr.Healthy {
			t.Errorf("it is up: %+v", lr)
		}
	})
}

func TestWhatIsAdoptedAfterItsStartIsJudgedAtOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	adopt := func(m *machine) { m.running, m.status = true, runsSince(time.Hour) }
	inSlot(t, probed(file), adopt, func(t *testing.T, _ *machine, s *slot) {
		wantState(t, s, placement.StateOnline)
		settle(3 * time.Second)
		wantState(t, s, placement.StateFailed)
	})
}

// What depends on a service that has been serving since a moment after its start must not be stopped because the agent was
// started again, and what is down must not come before the service is known to be up.
func TestWhatIsAdoptedYoungIsUnknownUntilItsProbesSay(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	write(t, file, fmt.Sprint(os.Getpid()))
	adopt := func(m *machine) { m.running, m.status = true, runsSince(20*time.Second) }
	inSlot(t, probed(file), adopt, func(t *testing.T, _ *machine, s *slot) {
		if lr := wantState(t, s, placement.StateUnknown); !lr.Running || lr.Ready {
			t.Errorf("before the first probe: %+v", lr)
		}
		settle(time.Second)
		if lr := wantState(t, s, placement.StateOnline); !lr.Healthy {
			t.Errorf("after it: %+v", lr)
		}
		remove(t, file)
		settle(2 * time.Second)
		wantState(t, s, placement.StateFailed) // it has passed since its start: no more grace
	})
	inSlot(t, probed(file), adopt, func(t *testing.T, _ *machine, s *slot) { // the file is gone
		settle(time.Second) // one failure of two
		wantState(t, s, placement.StateUnknown)
	})
}

// A hot standby's service is started by its own systemd. When the group comes here in the middle of that, or the service is
// replaced while nobody looks, it has its time all the same.
func TestAServiceThatSomebodyElseStartedHasItsTime(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	write(t, file, fmt.Sprint(os.Getpid()))
	res := probed(file)
	res.RunOn, res.Exclusive = placement.RunOnEveryNode, false
	inSlot(t, res, func(m *machine) { m.running, m.status = true, runsSince(time.Hour) }, func(t *testing.T, m *machine, s *slot) {
		settle(time.Second)
		wantState(t, s, placement.StateOnline)
		remove(t, file)
		m.answer(runsSince(0))
		m.set(true, false)
		synctest.Wait()
		settle(50 * time.Second)
		if lr := wantState(t, s, placement.StateOnlinePending); lr.Verdict != string(health.Starting) || lr.Failure != "" {
			t.Errorf("50 s after its start: %+v", lr)
		}
		settle(11 * time.Second)
		s.recheck()
		wantState(t, s, placement.StateFailed)
	})
}

// What this agent started itself has its time from the end of the start, whatever the system says of its age.
func TestAStartOfOurOwnCountsFromItsEnd(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	inSlot(t, probed(file), nil, func(t *testing.T, m *machine, s *slot) {
		m.start = hang(30*time.Second, nil)
		do(s, placement.ActStart)
		m.answer(runsSince(0)) // the process is there at once, the start job ends later
		settle(30 * time.Second)
		wantState(t, s, placement.StateOnlinePending)
		settle(59 * time.Second)
		wantState(t, s, placement.StateOnlinePending)
		settle(2 * time.Second)
		s.recheck()
		wantState(t, s, placement.StateFailed)
	})
}
