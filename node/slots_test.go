package node

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"hacluster/config"
	"hacluster/placement"
	"hacluster/resources"
)

// changed is a node on which the exclusive service of the group web was changed by a new configuration while it ran: the old
// slot is retiring, its successor waits.
func changed(t *testing.T, m *machine) (*slots, key) {
	k := key{"web", "svc"}
	old := newSlot(k.group, service(), m, true, discard(), time.Now, func() {})
	next := service()
	next.Spec = resources.Spec{Kind: resources.KindProcess, Command: []string{"/bin/true"}}
	s := &slots{log: discard(), node: "n1", stateDir: t.TempDir(), clock: time.Now, leases: noLeases{}, wake: func() {}, rounds: map[string]uint64{},
		live: map[key]*slot{}, waiting: map[key]opening{k: {res: next}}, retiring: []*slot{old}}
	synctest.Wait()
	return s, k
}

type noLeases struct{}

func (noLeases) until(string) (time.Time, bool) { return time.Time{}, false }
func (noLeases) fresh(context.Context, string) (time.Time, error) {
	return time.Time{}, errors.New("none")
}
func (noLeases) proven(string) bool { return true }

// S2: of a resource whose settings changed two must never run, the old one and the new.
func TestTheSuccessorOfAChangedResourceBeginsWhenTheFormerIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.running, m.stop = true, untilCancelled // it does not stop in order
		s, k := changed(t, m)
		defer s.close()
		st := placement.State{Groups: map[string]placement.GroupState{"web": {Owner: "n1", Phase: placement.PhaseOwned, Epoch: 1}}}
		for range 59 {
			s.retire()
			settle(time.Second)
			local, _ := s.local(st, "n1")
			if lr := local["web"]["svc"]; s.live[k] != nil || lr.State != placement.StateOfflinePending || !lr.Running {
				t.Fatalf("the successor has begun while the former runs: %+v", lr)
			}
			if specs := s.exclusive(); len(specs) != 1 || len(specs[0].Command) != 0 {
				t.Fatalf("the dead man does not know of what still runs: %+v", specs)
			}
		}
		s.turned = false
		settle(2 * time.Second) // the stop has overrun, and it is killed
		s.retire()
		if s.live[k] == nil || len(s.retiring) != 0 {
			t.Fatal("the successor does not begin although nothing of the former is left")
		}
		if specs := s.exclusive(); !s.turned || len(specs) != 1 || !slices.Equal(specs[0].Command, []string{"/bin/true"}) {
			t.Errorf("the dead man does not learn of the successor: turned %v, %+v", s.turned, specs)
		}
		synctest.Wait()
	})
}

// S2: the end of the lease kills also what a former configuration left, whatever its orderly stop is at.
func TestTheEndOfTheLeaseKillsWhatAFormerConfigurationLeft(t *testing.T) {
	for name, c := range map[string]struct {
		set    func(r *config.Resource)
		leased time.Duration // from now
		legacy time.Duration
		want   string
	}{
		"with a lease it stops in order":                  {func(*config.Resource) {}, time.Second, 0, "0s stop 0"},
		"without one it is killed":                        {func(*config.Resource) {}, 0, 0, "0s stop 0, 0s kill, 0s kill"},
		"not while the lease of the process before lasts": {func(*config.Resource) {}, 0, time.Second, "0s stop 0"},
		"what may run twice stops in order":               {func(r *config.Resource) { r.Exclusive = false }, 0, 0, "0s stop 0"},
		"what runs on every node too":                     {func(r *config.Resource) { r.RunOn = placement.RunOnEveryNode }, 0, 0, "0s stop 0"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMachine()
				m.running, m.stop = true, untilCancelled
				s, _ := changed(t, m)
				defer s.close()
				c.set(&s.retiring[0].res)
				m.mu.Lock()
				m.calls = nil
				m.mu.Unlock()
				s.retire() // begins the orderly stop
				synctest.Wait()
				now := time.Now()
				s.sever(map[string]time.Time{"web": now.Add(c.leased)}, now.Add(c.legacy))
				synctest.Wait()
				wantLog(t, m, c.want)
			})
		})
	}
}

// S2: an agent that stood still between the decision and the act must not start anything: its lease may be over.
func TestNothingStartsAfterTheLease(t *testing.T) {
	for name, alive := range map[string]bool{"while it lives": true, "after its end": false} {
		t.Run(name, func(t *testing.T) {
			inSlot(t, service(), func(m *machine) { m.running = true }, func(t *testing.T, m *machine, s *slot) {
				end := time.Now().Add(5 * time.Second)
				s.leased = func() bool { return time.Now().Before(end) }
				took := 2 * time.Second
				if !alive {
					took = 6 * time.Second
				}
				m.kill = hang(took, nil) // the start has to wait for it
				do(s, placement.ActKill)
				s.mu.Lock()
				before := s.done
				s.mu.Unlock()
				err := make(chan error, 1)
				go func() {
					err <- s.work(t.Context(), placement.Action{Kind: placement.ActStart, Epoch: 7}, before)
				}()
				settle(10 * time.Second)
				if got := <-err; alive != (got == nil) || !alive && !errors.Is(got, errNoLease) {
					t.Errorf("the start ended with %v", got)
				}
				if m.isRunning() != alive {
					t.Errorf("running: %v", m.isRunning())
				}
			})
		})
	}
}

// A start that failed may have happened all the same. Where the OS then gives no answer nobody may believe that nothing runs.
func TestAFailedStartWithoutAnAnswerMayRun(t *testing.T) {
	inSlot(t, service(), nil, func(t *testing.T, m *machine, s *slot) {
		wantState(t, s, placement.StateOffline)
		m.start = func(context.Context) error {
			m.answer(func(context.Context) (resources.Status, error) { return resources.Status{}, errors.New("bus is gone") })
			return errors.New("timed out")
		}
		do(s, placement.ActStart)
		if lr := s.local(); !lr.Running || lr.State == placement.StateOffline {
			t.Errorf("taken for stopped: %+v", lr)
		}
		m.answer(nil)
		settle(statusEvery)
		if lr := s.local(); lr.Running {
			t.Errorf("the OS says that nothing runs, and it is not believed: %+v", lr)
		}
	})
}
