package health

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// service is the fake world of these tests: each probe of it takes a time and gives an outcome, which a test may change.
type service struct {
	mu      sync.Mutex
	takes   map[string]time.Duration
	outcome map[string]Outcome
	begun   map[string][]time.Time
	results []Result
}

func newService() *service {
	return &service{takes: map[string]time.Duration{}, outcome: map[string]Outcome{}, begun: map[string][]time.Time{}}
}

// build makes guarded probes of the service: the fake is behind the same guard as a real question.
func (w *service) build(s Spec) (Probe, error) {
	if s.Kind == "broken" {
		return nil, errors.New("cannot be built")
	}
	s.Timeout = max(s.Timeout, time.Second)
	return newGuard(s, func(ctx context.Context) answer {
		w.mu.Lock()
		w.begun[s.Name] = append(w.begun[s.Name], time.Now())
		takes, outcome := w.takes[s.Name], w.outcome[s.Name]
		w.mu.Unlock()
		sleep(ctx, takes)
		return say(outcome, "seen")
	}), nil
}

// set changes what a probe of the service sees from now on.
func (w *service) set(name string, takes time.Duration, o Outcome) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.takes[name], w.outcome[name] = takes, o
}

// start runs the probes in a bubble. Read results only after stop.
func (w *service) start(t *testing.T, specs ...Spec) (r *Runner, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r = newRunner(specs, w.build, func(res Result) { w.results = append(w.results, res) }, func() time.Time { return t0 })
	done := make(chan bool)
	go func() { r.Run(ctx); close(done) }()
	return r, func() { cancel(); <-done }
}

func (w *service) count(name string) int { return len(w.begins(name)) }

func (w *service) begins(name string) []time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.begun[name])
}

func every(name string, interval time.Duration, level Level) Spec {
	return Spec{Name: name, Kind: KindTCP, Interval: interval, Level: level}
}

func TestChecksKeepTheirGridHoweverLongTheyTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newService()
		w.outcome["a"], w.takes["a"] = Pass, 37*time.Millisecond
		_, stop := w.start(t, every("a", time.Second, IsAlive))
		begin := time.Now()
		time.Sleep(100 * time.Second)
		stop()
		if first := w.begins("a")[0].Sub(begin); first < 0 || first >= spread {
			t.Errorf("the first check came after %v, want less than %v", first, spread)
		}
		if n := w.count("a"); n != 100 {
			t.Errorf("got %d checks in 100 intervals", n)
		}
		for i := 1; i < w.count("a"); i++ {
			if got := w.begins("a")[i].Sub(w.begins("a")[i-1]); got != time.Second {
				t.Fatalf("check %d came %v after the one before", i, got)
			}
		}
		if len(w.results) != 100 || !w.results[0].At.Equal(t0) {
			t.Errorf("got %d results, the first at %v, want the caller's clock %v", len(w.results), w.results[0].At, t0)
		}
	})
}

func TestAnOverlongCheckLeavesOutPointsOfTheGrid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newService()
		w.outcome["a"], w.takes["a"] = Pass, 2500*time.Millisecond
		s := every("a", time.Second, IsAlive)
		s.Timeout = 5 * time.Second
		_, stop := w.start(t, s)
		time.Sleep(30 * time.Second)
		stop()
		if n := w.count("a"); n != 10 {
			t.Errorf("got %d checks, want one each 3 seconds", n)
		}
	})
}

// TestAHangIsKnownAfterFallTimeouts: the timeout is the interval by default, so that each check of what hangs ends on the next point of
// the grid, or a hair behind it.
func TestAHangIsKnownAfterFallTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newService()
		w.outcome["a"], w.takes["a"] = Timeout, time.Hour
		_, stop := w.start(t, every("a", time.Second, IsAlive))
		begin := time.Now()
		time.Sleep(20*time.Second + spread)
		hung := w.count("a")
		if hung < 20 || hung > 21 {
			t.Errorf("%d checks of a second each in 20 seconds", hung)
		}
		w.set("a", 0, Pass)
		first := w.begins("a")[0]
		time.Sleep(5 * time.Second)
		stop()
		for _, at := range w.begins("a")[hung:] {
			if at.Sub(first)%time.Second != 0 {
				t.Errorf("the check %s after the first is not on the grid", at.Sub(first))
			}
		}
		if n := w.count("a"); n < 24 || n > 26 {
			t.Errorf("%d checks in %s", n, time.Since(begin))
		}
	})
}

func TestFollowing(t *testing.T) {
	const sec = time.Second
	at := func(d time.Duration) time.Time { return t0.Add(d) }
	for name, c := range map[string]struct {
		next, begun, now time.Duration
		o                Outcome
		want             time.Duration
	}{
		"in time":                        {0, 0, sec / 10, Pass, sec},
		"kicked, before its point":       {sec, sec / 2, sec * 6 / 10, Timeout, sec},
		"begun late, in time":            {0, sec / 5, sec / 2, Timeout, sec},
		"a hair too late":                {0, 0, sec + 1, Pass, 2 * sec},
		"a hair too late, and no answer": {0, 0, sec + 1, Timeout, sec},
		"refused is not silent":          {0, 0, sec + 1, Fail, 2 * sec},
		"several left out":               {0, 0, 3*sec + sec/2, Timeout, 3 * sec},
		"made up for, in time again":     {sec, sec + 1, sec + sec/2, Timeout, 2 * sec},
		"kicked, beyond its point":       {sec, sec / 2, sec + sec/4, Timeout, sec},
	} {
		if got := following(at(c.next), at(c.begun), at(c.now), sec, c.o); !got.Equal(at(c.want)) {
			t.Errorf("%s: %s, want %s", name, got.Sub(t0), c.want)
		}
	}
}

func TestProbesDoNotAllFireAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		firsts := map[time.Duration]bool{}
		for range 20 {
			w := newService()
			w.outcome["a"] = Pass
			begin := time.Now()
			_, stop := w.start(t, every("a", time.Second, IsAlive))
			time.Sleep(spread)
			stop()
			firsts[w.begins("a")[0].Sub(begin)] = true
		}
		if len(firsts) < 10 {
			t.Errorf("20 first checks fell on %d instants", len(firsts))
		}
	})
}

func TestAFailureOfLooksAliveAsksIsAliveAtOnce(t *testing.T) {
	for _, bad := range []Outcome{Fail, Timeout} {
		t.Run(string(bad), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newService()
				w.outcome["cheap"], w.outcome["deep"] = Pass, Pass
				_, stop := w.start(t, every("cheap", time.Second, LooksAlive), every("deep", time.Hour, IsAlive))
				defer stop()
				time.Sleep(10 * time.Second)
				synctest.Wait()
				before := w.count("deep")
				w.set("cheap", 0, bad)
				time.Sleep(time.Second)
				synctest.Wait()
				if got := w.count("deep") - before; got != 1 {
					t.Fatalf("got %d deep checks after the failure, want 1", got)
				}
				cheap, deep := w.begins("cheap"), w.begins("deep")
				if lag := deep[len(deep)-1].Sub(cheap[len(cheap)-1]); lag != 0 {
					t.Errorf("the deep check came %v later, want at once", lag)
				}
				w.set("cheap", 0, Pass)
				time.Sleep(5 * time.Second)
				synctest.Wait()
				if got := w.count("deep") - before; got != 2 {
					t.Errorf("got %d deep checks, want one more at the recovery and then none", got)
				}
			})
		})
	}
}

func TestASkippedLooksAliveAsksForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newService()
		w.outcome["cheap"], w.outcome["deep"] = Skip, Pass
		_, stop := w.start(t, every("cheap", time.Second, LooksAlive), every("deep", time.Hour, IsAlive))
		time.Sleep(time.Minute)
		stop()
		if got := w.count("deep"); got != 1 {
			t.Errorf("got %d deep checks, want the first only", got)
		}
	})
}

func TestSilentAJPAsksHTTPAtOnceAndTheyDoNotChaseEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newService()
		w.outcome["ajp"], w.outcome["web"] = Timeout, Timeout
		ajp, web := every("ajp", 10*time.Second, IsAlive), every("web", time.Hour, LooksAlive)
		ajp.Kind, web.Kind = KindAJP, KindHTTP
		_, stop := w.start(t, ajp, web)
		time.Sleep(95 * time.Second)
		stop()
		if got := w.count("ajp"); got < 10 || got > 11 {
			t.Errorf("got %d AJP checks, want its 10 and at most one for the first of HTTP", got)
		}
		if got := w.count("web"); got < 10 || got > 11 {
			t.Errorf("got %d HTTP checks, want one for each of AJP", got)
		}
	})
}

func TestAKickChecksEverythingAtOnceAndAStormOfKicksIsOneEachMinGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newService()
		w.outcome["a"], w.outcome["b"] = Fail, Fail
		r, stop := w.start(t, every("a", time.Hour, IsAlive), every("b", time.Hour, LooksAlive))
		defer stop()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		a, b := w.count("a"), w.count("b")
		r.Kick()
		synctest.Wait()
		if w.count("a") == a || w.count("b") == b {
			t.Fatal("a kick must check at once")
		}
		a = w.count("a")
		for range 1000 {
			r.Kick()
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		if got := w.count("a") - a; got < 5 || got > 10 {
			t.Errorf("got %d checks in a second of kicks, want about one each %v", got, minGap)
		}
	})
}

func TestAProbeThatCannotBeBuiltSkipsAndTheOthersRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newService()
		w.outcome["good"] = Pass
		bad := every("bad", time.Second, IsAlive)
		bad.Kind = "broken"
		_, stop := w.start(t, bad, every("good", time.Second, IsAlive))
		time.Sleep(10 * time.Second)
		stop()
		n := 0
		for _, r := range w.results {
			if r.Probe == "bad" {
				n++
				expect(t, r, Skip, "cannot be built")
			}
		}
		if n != 10 || w.count("good") != 10 {
			t.Errorf("got %d and %d results, want 10 each", n, w.count("good"))
		}
	})
}

func TestRunEndsSoonAlsoWithAStuckCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan bool)
		build := func(s Spec) (Probe, error) {
			return guarded(time.Minute, func(context.Context) answer { <-release; return answer{} }), nil
		}
		var got []Result
		ctx, cancel := context.WithCancel(t.Context())
		r := newRunner([]Spec{every("a", time.Second, IsAlive)}, build, func(r Result) { got = append(got, r) }, time.Now)
		done := make(chan bool)
		go func() { r.Run(ctx); close(done) }()
		time.Sleep(2 * time.Second)
		begin := time.Now()
		cancel()
		<-done
		if took := time.Since(begin); took > Epsilon {
			t.Errorf("took %v, want at most %v", took, Epsilon)
		}
		if r.Abandoned() != 1 || len(got) != 0 {
			t.Errorf("got %d abandoned and results %v, want 1 and none", r.Abandoned(), got)
		}
		close(release)
	})
}

// A stuck or silent probe must not keep another from its grid.
func TestOneStuckProbeDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan bool)
		w := newService()
		w.outcome["good"] = Pass
		build := func(s Spec) (Probe, error) {
			if s.Name == "stuck" {
				return guarded(time.Second, func(context.Context) answer { <-release; return answer{} }), nil
			}
			return w.build(s)
		}
		ctx, cancel := context.WithCancel(t.Context())
		specs := []Spec{every("stuck", time.Second, IsAlive), every("good", time.Second, IsAlive)}
		r := newRunner(specs, build, func(r Result) { w.results = append(w.results, r) }, time.Now)
		done := make(chan bool)
		go func() { r.Run(ctx); close(done) }()
		time.Sleep(20 * time.Second)
		cancel()
		<-done
		if w.count("good") != 20 || r.Abandoned() != 1 {
			t.Errorf("got %d checks and %d abandoned, want 20 and 1", w.count("good"), r.Abandoned())
		}
		close(release)
	})
}

// From outcomes to verdict: how long a hang takes to be called one.
func TestAHangIsKnownAfterFallIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newService()
		s := Spec{Name: "web", Kind: KindHTTP, Level: IsAlive, Interval: time.Second, Timeout: time.Second, Fall: 3, Rise: 2}
		fold := NewFold([]Spec{s}, 0)
		var hungAt time.Time
		w.outcome["web"] = Pass
		ctx, cancel := context.WithCancel(t.Context())
		r := newRunner([]Spec{s}, w.build, func(res Result) {
			fold = fold.Add(res)
			if v, _ := fold.Verdict(res.At); v == Hung && hungAt.IsZero() {
				hungAt = res.At
			}
		}, time.Now)
		done := make(chan bool)
		go func() { r.Run(ctx); close(done) }()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		w.set("web", 400*time.Millisecond, Timeout)
		hang := time.Now()
		time.Sleep(10 * time.Second)
		cancel()
		<-done
		if took := hungAt.Sub(hang); took <= 0 || took > 3*time.Second+400*time.Millisecond {
			t.Errorf("known after %v, want within 3 intervals and the length of a check", took)
		}
	})
}

func TestRunWithRealPeersLeavesNothingBehind(t *testing.T) {
	specs := []Spec{
		{Name: "silent", Kind: KindAJP, Host: "127.0.0.1", Port: peer(t, silent), Interval: 20 * time.Millisecond, Timeout: 30 * time.Millisecond},
		{Name: "open", Kind: KindTCP, Host: "127.0.0.1", Port: peer(t, silent), Interval: 20 * time.Millisecond, Timeout: time.Second},
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var seen []string
	Run(ctx, specs, func(r Result) {
		if s := r.Probe + " " + string(r.Outcome); !slices.Contains(seen, s) {
			seen = append(seen, s)
		}
		if len(seen) == 2 {
			cancel()
		}
	})
	slices.Sort(seen)
	if want := []string{"open pass", "silent timeout"}; !slices.Equal(seen, want) {
		t.Errorf("got %v, want %v", seen, want)
	}
}
