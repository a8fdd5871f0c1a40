package resources

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"hacluster/internal/boottime"
)

// An agent that finds what another one started must know how long ago that was, to within a tick of the kernel's clock.
func TestProcessSaysWhenItWasStarted(t *testing.T) {
	d := newTestProcess(t, "polite", nil)
	if st := wantStatus(t, d, false, false); !st.Since.IsZero() {
		t.Errorf("not started: since %v", st.Since)
	}
	before := boottime.Now()
	mustStart(t, d)
	after := boottime.Now()
	first := wantStatus(t, d, true, false)
	if tick := time.Second / userHZ; first.Since.Before(before.Add(-tick)) || first.Since.After(after) {
		t.Errorf("since %v before now, want between %v and %v", boottime.Now().Sub(first.Since), after.Sub(before), time.Duration(0))
	}
	next, err := newProcess(d.spec, d.log)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := next.Status(context.Background()); err != nil || !st.Since.Equal(first.Since) || st.PID != first.PID {
		t.Errorf("asked by the next agent: %+v, %v, want %+v", st, err, first)
	}
}

func TestUnitSaysWhenItWasStarted(t *testing.T) {
	micros := func(d time.Duration) uint64 { return uint64(d.Microseconds()) }
	unit := map[string]any{"ActiveState": "active", "ActiveEnterTimestampMonotonic": micros(90 * time.Second)}
	service := map[string]any{"ExecMainStartTimestampMonotonic": micros(60 * time.Second)}
	d := newSystemd(Spec{Unit: "tomcat"}, slog.New(slog.DiscardHandler))
	since := func() time.Time { return d.since(parseProps(unit, service)) }

	first := since() // Type=notify: its start lasted 30 s, and counts as one by this agent would
	if want := boottime.At(90*time.Second + boottime.Asleep()); first.Sub(want).Abs() > 5*time.Millisecond {
		t.Errorf("got %v off", first.Sub(want))
	}
	for range 100 {
		if again := since(); !again.Equal(first) {
			t.Fatalf("the same start is %v later when asked again", again.Sub(first))
		}
	}
	service["ExecMainStartTimestampMonotonic"] = micros(120 * time.Second)
	if next := since(); next.Sub(first) < 29*time.Second {
		t.Errorf("another main process: %v later, want 30s", next.Sub(first))
	}
	if none := d.since(parseProps(map[string]any{"ActiveState": "active"}, nil)); !none.IsZero() {
		t.Errorf("a systemd that does not tell: %v", none)
	}
}
