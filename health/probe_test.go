package health

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"
)

func guarded(timeout time.Duration, ask asker) *guard {
	return newGuard(Spec{Name: "probe", Timeout: timeout}, ask)
}

func TestAStuckCheckIsLeftBehindAndOnlyOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan bool)
		var calls atomic.Int32
		g := guarded(time.Second, func(context.Context) answer {
			calls.Add(1)
			<-release // deaf to its context
			return say(Pass, "at last")
		})
		begin := time.Now()
		expect(t, g.Check(context.Background()), Timeout, "itself is stuck")
		if took := time.Since(begin); took != time.Second+Epsilon {
			t.Errorf("took %v, want timeout plus Epsilon", took)
		}
		begin = time.Now()
		for range 3 {
			expect(t, g.Check(context.Background()), Timeout, "previous check still stuck")
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("took %v, want none", took)
		}
		if calls.Load() != 1 || g.Abandoned() != 1 {
			t.Errorf("got %d calls, %d abandoned, want 1 and 1", calls.Load(), g.Abandoned())
		}
		close(release)
		synctest.Wait()
		expect(t, g.Check(context.Background()), Pass, "at last")
		if calls.Load() != 2 || g.Abandoned() != 1 {
			t.Errorf("got %d calls, %d abandoned, want 2 and 1", calls.Load(), g.Abandoned())
		}
	})
}

func TestAStuckBusIsNoEvidence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan bool)
		g := guarded(time.Second, func(context.Context) answer { <-release; return answer{} })
		g.late = lateOutcome(KindSystemd)
		expect(t, g.Check(context.Background()), Skip, "stuck")
		expect(t, g.Check(context.Background()), Skip, "still stuck")
		close(release)
	})
}

func TestAnInterruptedCheckIsNoEvidence(t *testing.T) {
	for _, own := range []Outcome{Fail, Timeout, Skip} {
		t.Run(string(own), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				g := guarded(time.Second, func(ctx context.Context) answer { <-ctx.Done(); return answer{own, "x"} })
				expect(t, g.Check(ctx), Skip, "interrupted")
			})
		})
	}
}

func TestASecondCheckAtTheSameTimeIsNotStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := guarded(time.Second, func(ctx context.Context) answer { <-ctx.Done(); return say(Timeout, "late") })
		first := make(chan Result)
		go func() { first <- g.Check(context.Background()) }()
		synctest.Wait()
		expect(t, g.Check(context.Background()), Skip, "another check")
		expect(t, <-first, Timeout, "late")
	})
}

// The asker sleeps past its time without having been abandoned, as it does when the whole process was frozen.
func TestAFrozenAgentCondemnsNobodyButNotTwiceInARow(t *testing.T) {
	g := guarded(time.Second, nil)
	late := time.Now().Add(-10 * time.Second)
	for i, want := range []Outcome{Skip, Timeout, Skip, Timeout} {
		if got := g.excuse(say(Timeout, "late"), late, time.Second); got.outcome != want {
			t.Errorf("check %d: got %s, want %s", i, got.outcome, want)
		}
	}
	if got := g.excuse(say(Fail, "refused"), late, time.Second); got.outcome != Fail {
		t.Errorf("an answer is an answer: got %s, want fail", got.outcome)
	}
}

func TestBadSpecsAreRefused(t *testing.T) {
	tests := []struct {
		name string
		spec Spec
		want string
		is   error
	}{
		{"an unknown kind", Spec{Kind: "smtp", Timeout: 1}, `unknown kind of probe "smtp"`, ErrKind},
		{"no timeout", Spec{Kind: KindTCP, Host: "a", Port: 1}, "timeout", ErrMissing},
		{"a port without a host", Spec{Kind: KindTCP, Port: 80, Timeout: 1}, "host", ErrMissing},
		{"a port out of range", Spec{Kind: KindAJP, Host: "a", Port: 70000, Timeout: 1}, "port 70000", nil},
		{"a URL of another scheme", Spec{Kind: KindHTTP, URL: "ftp://a/", Timeout: 1}, "want http://", nil},
		{"a URL without a host", Spec{Kind: KindHTTP, URL: "http:///x", Timeout: 1}, "want http://", nil},
		{"a broken URL", Spec{Kind: KindHTTP, URL: "http://a:b:c/%zz", Timeout: 1}, "url", nil},
		{"a broken expression", Spec{Kind: KindHTTP, URL: "http://a", Body: "(", Timeout: 1}, "body", nil},
		{"a broken header expression", Spec{Kind: KindHTTP, URL: "http://a", WantHeader: map[string]string{"X": "("}, Timeout: 1}, "header X", nil},
		{"a script without a command", Spec{Kind: KindScript, Timeout: 1}, "command", ErrMissing},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.spec.Name = "p1"
			_, err := New(tt.spec)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), `"p1"`) {
				t.Fatalf("got %v, want ...%s...", err, tt.want)
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("got %v, want it to wrap %v", err, tt.is)
			}
		})
	}
}

func TestWhatAnErrorProves(t *testing.T) {
	tests := []struct {
		err     error
		connect Outcome // before the connection stands
		talk    Outcome // after
	}{
		{syscall.ECONNREFUSED, Fail, Fail},
		{syscall.ECONNRESET, Fail, Fail},
		{syscall.EHOSTUNREACH, Fail, Fail},
		{syscall.ETIMEDOUT, Timeout, Timeout},
		{context.DeadlineExceeded, Timeout, Timeout},
		{os.ErrDeadlineExceeded, Timeout, Timeout},
		{syscall.ENETUNREACH, Skip, Skip},
		{syscall.EMFILE, Skip, Skip},
		{syscall.EADDRNOTAVAIL, Skip, Skip},
		{syscall.EPERM, Skip, Skip},
		{context.Canceled, Skip, Skip},
		{errors.New("something new"), Skip, Fail},
	}
	for _, tt := range tests {
		t.Run(tt.err.Error(), func(t *testing.T) {
			err := fmt.Errorf("wrapped: %w", tt.err)
			if got := connectFault(err).outcome; got != tt.connect {
				t.Errorf("connecting: got %s, want %s", got, tt.connect)
			}
			if got := judge(err).outcome; got != tt.talk {
				t.Errorf("talking: got %s, want %s", got, tt.talk)
			}
		})
	}
}

func FuzzOneLine(f *testing.F) {
	for _, s := range []string{"", "ok", "a\nb", "\r\n x", "\xff\xfe", strings.Repeat("ä", 300), "a\x1b[31m"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := oneLine(s)
		if len(got) > maxDetail || !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q became %q", s, got)
		}
	})
}

func TestACheckWaitsAsLongAsTheServiceWasSeenToNeed(t *testing.T) {
	const ms = time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		needs := 80 * ms
		g := newGuard(Spec{Name: "probe", Timeout: time.Second, TimeoutMin: 100 * ms}, func(ctx context.Context) answer {
			if !sleep(ctx, needs) {
				return say(Timeout, "no answer")
			}
			return say(Pass, "answered")
		})
		for _, step := range []struct {
			needs, waits time.Duration
			want         Outcome
		}{
			{80 * ms, 80 * ms, Pass},
			{time.Hour, 240 * ms, Timeout}, // three times what it needed before
			{10 * ms, 10 * ms, Pass},       // it had stood still for 250 ms in all
			{600 * ms, 600 * ms, Pass},     // which is now no hang
			{time.Hour, time.Second, Timeout},
		} {
			needs = step.needs
			if got := g.Check(t.Context()); got.Outcome != step.want || got.Latency.Round(5*ms) != step.waits {
				t.Errorf("a service that needs %v: %s after %v, want %s after %v", step.needs, got.Outcome, got.Latency, step.want, step.waits)
			}
		}
	})
}
