package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hacluster/fence"
	"hacluster/health"
	"hacluster/placement"
	"hacluster/resources"
)

func TestStartAndStopFollowTheMachine(t *testing.T) {
	inSlot(t, service(), nil, func(t *testing.T, m *machine, s *slot) {
		wantState(t, s, placement.StateOffline)
		m.start = hang(3*time.Second, nil)
		do(s, placement.ActStart)
		wantState(t, s, placement.StateOnlinePending)
		do(s, placement.ActStart) // asked again while it is under way: one start
		settle(3 * time.Second)
		if lr := wantState(t, s, placement.StateOnline); !lr.Healthy || !lr.Running {
			t.Errorf("online without probes must be healthy: %+v", lr)
		}
		m.stop = hang(2*time.Second, nil)
		do(s, placement.ActStop)
		wantState(t, s, placement.StateOfflinePending)
		settle(2 * time.Second)
		if lr := wantState(t, s, placement.StateOffline); lr.Running {
			t.Error("still said to be running")
		}
		wantLog(t, m, "0s start 7, 3s stop 7")
	})
}

func TestAStopWaitsForTheStartThatItEnds(t *testing.T) {
	inSlot(t, service(), nil, func(t *testing.T, m *machine, s *slot) {
		m.start = func(ctx context.Context) error {
			<-ctx.Done()
			time.Sleep(4 * time.Second) // it takes the driver that long to undo it
			return ctx.Err()
		}
		do(s, placement.ActStart)
		settle(time.Second)
		do(s, placement.ActStop)
		wantState(t, s, placement.StateOfflinePending)
		settle(10 * time.Second)
		wantState(t, s, placement.StateOffline)
		wantLog(t, m, "0s start 7, 5s start ends, 5s stop 7")
	})
}

// The start ignores that it was ended and brings the service up after the first kill. Only the second kill proves that
// nothing runs (S2).
func TestAKillDuringAHungStartKillsAtOnceAndAgainWhenTheStartIsGone(t *testing.T) {
	inSlot(t, service(), nil, func(t *testing.T, m *machine, s *slot) {
		m.start = hang(5*time.Second, nil)
		do(s, placement.ActStart)
		settle(time.Second)
		do(s, placement.ActKill)
		do(s, placement.ActStart) // a kill wins over whatever is asked meanwhile
		do(s, placement.ActStop)
		settle(2 * time.Second)
		if lr := wantState(t, s, placement.StateOfflinePending); lr.Doing != placement.ActKill {
			t.Errorf("doing %q before the start is gone: the kill is not proven yet", lr.Doing)
		}
		settle(10 * time.Second)
		wantState(t, s, placement.StateOffline)
		wantLog(t, m, "0s start 7, 1s kill, 5s kill")
		if m.isRunning() {
			t.Error("the service came up behind the kill")
		}
	})
}

func TestAKillEndsAStopThatIsUnderWay(t *testing.T) {
	inSlot(t, service(), func(m *machine) { m.running = true }, func(t *testing.T, m *machine, s *slot) {
		m.stop = untilCancelled
		do(s, placement.ActStop)
		settle(time.Second)
		do(s, placement.ActKill)
		settle(time.Second)
		wantState(t, s, placement.StateOffline)
		wantLog(t, m, "0s stop 7, 1s kill, 1s kill")
	})
}

func TestAStopThatOverrunsBecomesAKill(t *testing.T) {
	inSlot(t, service(), func(m *machine) { m.running = true }, func(t *testing.T, m *machine, s *slot) {
		m.stop = untilCancelled
		do(s, placement.ActStop)
		settle(time.Minute)
		wantState(t, s, placement.StateOffline)
		wantLog(t, m, "0s stop 7, 1m0s kill")
	})
}

func TestAStopThatFailsBecomesAKill(t *testing.T) {
	inSlot(t, service(), func(m *machine) { m.running = true }, func(t *testing.T, m *machine, s *slot) {
		m.stop = hang(0, errors.New("no such verb"))
		do(s, placement.ActStop)
		wantState(t, s, placement.StateOffline)
		wantLog(t, m, "0s stop 7, 0s kill")
	})
}

func TestADriverThatIgnoresItsBoundIsAbandonedAndKilled(t *testing.T) {
	inSlot(t, service(), func(m *machine) { m.running = true }, func(t *testing.T, m *machine, s *slot) {
		m.stop = hang(time.Hour, errors.New("at last"))
		do(s, placement.ActStop)
		settle(time.Minute + deadlockTimeout)
		wantState(t, s, placement.StateOffline)
		wantLog(t, m, "0s stop 7, 1m30s kill")
		settle(time.Hour) // the driver's own goroutine ends with its call
	})
}

func TestAStartThatHangsFailsAtItsBound(t *testing.T) {
	inSlot(t, service(), nil, func(t *testing.T, m *machine, s *slot) {
		m.start = hang(3*time.Minute, errors.New("at last"))
		do(s, placement.ActStart)
		settle(time.Minute + deadlockTimeout)
		lr := wantState(t, s, placement.StateFailed)
		if want := "start: the call does not return; abandoned after 1m30s"; lr.Failure != want {
			t.Errorf("failure %q, want %q", lr.Failure, want)
		}
		settle(3 * time.Minute)
	})
}

func TestAKillThatCannotBeProvenBlocksUntilOneCan(t *testing.T) {
	inSlot(t, service(), func(m *machine) { m.running = true }, func(t *testing.T, m *machine, s *slot) {
		m.kill = hang(0, errors.New("process 12 is in state D"))
		do(s, placement.ActKill)
		lr := wantState(t, s, placement.StateOfflinePending)
		if want := "cannot be proven stopped: process 12 is in state D"; lr.Blocked != want || !lr.Running {
			t.Errorf("blocked %q, running %v", lr.Blocked, lr.Running)
		}
		settle(killRetry) // before another attempt
		if lr := s.local(); lr.Blocked == "" || !lr.Running || lr.Doing != "" {
			t.Errorf("after the attempt: %+v", lr)
		}
		m.kill = nil
		do(s, placement.ActKill)
		if lr := wantState(t, s, placement.StateOffline); lr.Blocked != "" || lr.Running {
			t.Errorf("after a kill that was proven: %+v", lr)
		}
		wantLog(t, m, "0s kill, 1s kill")
	})
}

func TestAKillThatHangsBlocksAfterTheStopBudget(t *testing.T) {
	inSlot(t, service(), func(m *machine) { m.running = true }, func(t *testing.T, m *machine, s *slot) {
		m.kill = untilCancelled
		do(s, placement.ActKill)
		settle(s.res.StopBudget - time.Millisecond)
		if b := s.local().Blocked; b != "" {
			t.Errorf("blocked early: %s", b)
		}
		settle(time.Millisecond)
		if b := s.local().Blocked; b == "" {
			t.Error("not blocked although the stop budget is over")
		}
		settle(killRetry)
	})
}

func TestAServiceThatVanishesHasFailed(t *testing.T) {
	for name, c := range map[string]struct {
		failed bool
		want   string
	}{"silently": {false, "is not running any more: "}, "with an error": {true, "ended by itself: "}} {
		t.Run(name, func(t *testing.T) {
			inSlot(t, service(), nil, func(t *testing.T, m *machine, s *slot) {
				do(s, placement.ActStart)
				settle(time.Second)
				m.set(false, c.failed) // the event comes with it
				synctest.Wait()
				lr := wantState(t, s, placement.StateFailed)
				if lr.Failure != c.want || lr.Running || !lr.FailedAt.Equal(time.Now()) {
					t.Errorf("got %+v, want failure %q now", lr, c.want)
				}
				s.perform(placement.Action{Kind: placement.ActStart, Restart: true})
				synctest.Wait()
				if lr := wantState(t, s, placement.StateOnline); len(lr.Restarts) != 1 {
					t.Errorf("restarts: %v", lr.Restarts)
				}
				m.set(false, c.failed)
				synctest.Wait()
				s.forget(false)
				if lr := wantState(t, s, placement.StateOffline); len(lr.Restarts) != 1 {
					t.Error("the restarts were forgotten with the failure")
				}
				s.forget(true)
				if lr := s.local(); len(lr.Restarts) != 0 {
					t.Error("the restarts were kept over a new round")
				}
			})
		})
	}
}

// Somebody may take an address away without anything being ill: it is put back, not counted as a failure.
func TestAnAddressThatVanishesIsOfflineAndHasNotFailed(t *testing.T) {
	res := service()
	res.ResourcePolicy.Address = true
	inSlot(t, res, func(m *machine) { m.running = true }, func(t *testing.T, m *machine, s *slot) {
		m.set(false, false)
		synctest.Wait()
		wantState(t, s, placement.StateOffline)
	})
}

func TestWhatRunsWhenTheAgentStartsIsTakenAsExpected(t *testing.T) {
	inSlot(t, service(), func(m *machine) { m.running = true }, func(t *testing.T, m *machine, s *slot) {
		wantState(t, s, placement.StateOnline)
		wantLog(t, m, "")
		m.set(false, false)
		synctest.Wait()
		wantState(t, s, placement.StateFailed)
	})
}

func TestProbesBeginAndEndWithTheResourceAndSayWhenItIsHealthy(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid") // of a process that the probe looks for
	write(t, file, fmt.Sprint(os.Getpid()))
	res := service()
	res.Probes = []health.Spec{{Name: "proc", Kind: health.KindProcess, PIDFile: file, Interval: time.Second, Timeout: time.Second, Fall: 2, Rise: 1}}
	probing := func(s *slot) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.runner != nil
	}
	inSlot(t, res, func(m *machine) { m.running = true }, func(t *testing.T, m *machine, s *slot) {
		// Adopted: online, and healthy only when the probe has said so.
		if lr := wantState(t, s, placement.StateOnline); lr.Healthy || !probing(s) {
			t.Errorf("before the first probe: %+v", lr)
		}
		settle(2 * time.Second)
		if lr := wantState(t, s, placement.StateOnline); !lr.Healthy || lr.Verdict != string(health.Healthy) {
			t.Errorf("after the first probe: %+v", lr)
		}
		do(s, placement.ActStop)
		settle(time.Second)
		if lr := wantState(t, s, placement.StateOffline); probing(s) || lr.Verdict != "" {
			t.Errorf("stopped, and still probed: %+v", lr)
		}
		remove(t, file)
		do(s, placement.ActStart)
		settle(10 * time.Second)
		if lr := wantState(t, s, placement.StateOnlinePending); lr.Ready || lr.Verdict != string(health.Starting) {
			t.Errorf("started, and its probe does not pass yet: %+v", lr)
		}
		write(t, file, fmt.Sprint(os.Getpid()))
		settle(startingEvery)
		if lr := wantState(t, s, placement.StateOnline); !lr.Healthy {
			t.Errorf("its probe passes now: %+v", lr)
		}
		remove(t, file)
		settle(time.Second)
		if lr := wantState(t, s, placement.StateOnline); lr.Healthy || !lr.Ready || lr.Verdict != string(health.Degraded) {
			t.Errorf("one failure of two: %+v", lr)
		}
		settle(time.Second)
		if lr := wantState(t, s, placement.StateFailed); !strings.HasPrefix(lr.Failure, "dead: ") || !lr.Running {
			t.Errorf("condemned by its probe: %+v", lr)
		}
		s.forget(false)
		wantState(t, s, placement.StateFailed) // it still runs: nothing to forget
		do(s, placement.ActKill)
		s.forget(false)
		wantState(t, s, placement.StateOffline)
	})
}

func TestNoAnswerIsNoEvidence(t *testing.T) {
	unknown := func(context.Context) (resources.Status, error) { return resources.Status{}, errors.New("bus is gone") }
	inSlot(t, service(), func(m *machine) { m.running, m.status = true, unknown }, func(t *testing.T, m *machine, s *slot) {
		if lr := wantState(t, s, placement.StateInitializing); !lr.Running {
			t.Error("nobody has said yet that nothing runs")
		}
		m.answer(nil)
		settle(statusEvery)
		wantState(t, s, placement.StateOnline)
		m.answer(unknown)
		settle(statusEvery)
		if lr := wantState(t, s, placement.StateOnline); lr.Detail != "status unknown: bus is gone" {
			t.Errorf("the trouble does not show: %+v", lr)
		}
		m.answer(nil)
		settle(statusEvery)
		if lr := wantState(t, s, placement.StateOnline); lr.Detail != "" {
			t.Errorf("the trouble still shows: %+v", lr)
		}
	})
}

func TestAHungQuestionForTheStatusDoesNotHoldUpAKill(t *testing.T) {
	inSlot(t, service(), func(m *machine) { m.running = true }, func(t *testing.T, m *machine, s *slot) {
		hung := make(chan struct{})
		m.answer(func(context.Context) (resources.Status, error) { <-hung; return resources.Status{}, nil })
		s.ask()
		synctest.Wait()
		do(s, placement.ActKill)
		wantLog(t, m, "0s kill")
		if m.isRunning() {
			t.Error("the kill waits for the question")
		}
		settle(time.Minute)
		lr := s.local()
		if !strings.HasPrefix(lr.Detail, "status unknown: the call does not return") {
			t.Errorf("the hang does not show: %+v", lr)
		}
		if lr.Doing != "" {
			t.Error("the action never ends")
		}
		close(hung)
		m.answer(nil)
		settle(time.Minute)
		wantState(t, s, placement.StateOffline)
	})
}

// The question was asked before the action ended, and its answer comes after: it speaks of what was.
func TestAnAnswerFromBeforeAnActionIsNotTakenForTheStateAfterIt(t *testing.T) {
	for name, c := range map[string]struct {
		before bool
		act    placement.ActionKind
		want   placement.ResourceState
	}{
		"a start": {false, placement.ActStart, placement.StateOnline},
		"a stop":  {true, placement.ActStop, placement.StateOffline},
		"a kill":  {true, placement.ActKill, placement.StateOffline},
	} {
		t.Run(name, func(t *testing.T) {
			inSlot(t, service(), func(m *machine) { m.running = c.before }, func(t *testing.T, m *machine, s *slot) {
				slow := true
				m.answer(func(context.Context) (resources.Status, error) {
					st := resources.Status{Running: m.isRunning()}
					if slow {
						slow = false
						time.Sleep(3 * time.Second)
					}
					return st, nil
				})
				s.ask()
				synctest.Wait()
				do(s, c.act)
				wantState(t, s, c.want)
				settle(3 * time.Second)
				lr := wantState(t, s, c.want)
				if lr.Failure != "" || lr.Running != (c.want == placement.StateOnline) {
					t.Errorf("an old answer was believed: %+v", lr)
				}
			})
		})
	}
}

func TestAWatchThatEndsIsOpenedAgainWithGrowingPauses(t *testing.T) {
	inSlot(t, service(), func(m *machine) { m.watch = hang(0, errors.New("bus is gone")) }, func(t *testing.T, m *machine, s *slot) {
		settle(2 * time.Second)
		wantLog(t, m, "100ms watch, 300ms watch, 700ms watch, 1.5s watch")
	})
}

func TestCloseLeavesWhatRunsAloneAndEndsAStartUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.running = true
		s := newSlot("web", service(), m, true, discard(), time.Now, func() {})
		synctest.Wait()
		s.close()
		if !m.isRunning() {
			t.Error("the end of the agent ended the service")
		}
		m = newMachine()
		m.start = untilCancelled
		s = newSlot("web", service(), m, true, discard(), time.Now, func() {})
		synctest.Wait()
		do(s, placement.ActStart)
		before := time.Now()
		s.close()
		do(s, placement.ActKill) // too late for anything
		wantLog(t, m, "0s watch, 0s start 7, 0s start ends")
		if took := time.Since(before); took > 0 {
			t.Errorf("took %v", took)
		}
	})
}

func TestCloseWaitsForAHungDriverNoLongerThanItsBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.start = hang(time.Hour, nil)
		s := newSlot("web", service(), m, true, discard(), time.Now, func() {})
		do(s, placement.ActStart)
		before := time.Now()
		s.close()
		if took := time.Since(before); took > deadlockTimeout {
			t.Errorf("took %v, want at most %v", took, deadlockTimeout)
		}
		time.Sleep(time.Hour) // of the bubble: the driver's call ends
	})
}

// SEMANTICS 10: each rung after a stop that did not succeed is noted once, with its reason.
func TestTheLadderIsNoted(t *testing.T) {
	inSlot(t, service(), func(m *machine) { m.running = true }, func(t *testing.T, m *machine, s *slot) {
		s.ladder = &ladder{wake: func() {}}
		noted := func() (out []string) {
			for _, step := range s.ladder.pending(placement.State{}, "n1") {
				out = append(out, fmt.Sprintf("%s %s/%s: %s", step.Rung, step.Group, step.Resource, step.Why))
			}
			return out
		}
		m.stop, m.kill = untilCancelled, hang(0, errors.New("process 12 is in state D"))
		do(s, placement.ActStop)
		settle(time.Minute)
		if lr := s.local(); lr.Detail != "blocked: a human is needed: cannot be proven stopped: process 12 is in state D" {
			t.Errorf("detail %q", lr.Detail)
		}
		settle(killRetry)
		do(s, placement.ActKill)
		settle(killRetry)
		m.kill = nil
		do(s, placement.ActKill)
		settle(killRetry)
		want := []string{"kill web/svc: context deadline exceeded", "blocked web/svc: process 12 is in state D", "cleared web/svc: a later attempt succeeded"}
		if got := noted(); !slices.Equal(got, want) {
			t.Errorf("noted %q\nwant  %q", got, want)
		}
		do(s, placement.ActStart)
		m.stop = nil
		do(s, placement.ActStop)
		if n := len(noted()); n != 3 {
			t.Errorf("a stop that succeeded is noted: %q", noted())
		}
	})
}

func TestStepsAreForgottenWhenTheHistoryHasThem(t *testing.T) {
	l := &ladder{wake: func() {}}
	l.heard([]fence.Told{{Group: "web", Resource: "svc", Why: "cannot be proven", At: time.Unix(1, 0)}})
	steps := l.pending(placement.State{}, "n1")
	if len(steps) != 1 || steps[0].Rung != placement.RungDeadMan {
		t.Fatalf("the dead man's word is lost: %+v", steps)
	}
	sc, err := recorded("n1", steps[0])
	if err != nil {
		t.Fatal(err)
	}
	if left := l.pending(sc, "n1"); left != nil {
		t.Errorf("still reported: %+v", left)
	}
	for range 2 * placement.MaxSteps {
		l.climb(placement.Step{Rung: placement.RungKill, At: time.Now()})
	}
	if n := len(l.pending(sc, "n1")); n > placement.MaxSteps {
		t.Errorf("%d steps are kept", n)
	}
}

// recorded is a history with one step in it, as a leader records it.
func recorded(node string, step placement.Step) (placement.State, error) {
	st := placement.State{}
	v := placement.View{Nodes: map[string]placement.NodeView{node: {Report: placement.Report{Ladder: []placement.Step{step}}}}}
	d := placement.Decide(placement.Policy{}, st, v, time.Unix(2, 0))
	if len(d.Commands) != 1 {
		return st, fmt.Errorf("%d commands for one step", len(d.Commands))
	}
	st, _ = st.Apply(d.Commands[0])
	return st, nil
}

func TestTheDeadlockTimeoutIsTheResources(t *testing.T) {
	res := service()
	res.Deadlock = 5 * time.Second
	inSlot(t, res, nil, func(t *testing.T, m *machine, s *slot) {
		m.start = hang(3*time.Minute, errors.New("at last"))
		do(s, placement.ActStart)
		settle(time.Minute + 5*time.Second)
		if lr := wantState(t, s, placement.StateFailed); lr.Failure != "start: the call does not return; abandoned after 1m5s" {
			t.Errorf("failure %q", lr.Failure)
		}
		settle(3 * time.Minute)
	})
}
