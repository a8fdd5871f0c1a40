package boottime

import (
	"testing"
	"time"
)

func TestAlarm(t *testing.T) {
	rung := make(chan time.Time, 10)
	a, err := NewAlarm(func() { rung <- Now() })
	if err != nil {
		t.Fatal(err)
	}
	set := func(at time.Time) {
		t.Helper()
		if err := a.Set(at); err != nil {
			t.Fatal(err)
		}
	}
	begin := Now()
	set(begin.Add(time.Hour))
	set(begin.Add(20 * time.Millisecond)) // the newest counts
	if at := <-rung; at.Sub(begin) < 20*time.Millisecond {
		t.Errorf("rung after %v, want 20ms", at.Sub(begin))
	}
	set(begin) // passed
	select {
	case <-rung:
	case <-time.After(10 * time.Second):
		t.Fatal("an instant that has passed does not ring")
	}
	set(Now().Add(time.Hour))
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if n := len(rung); n != 0 {
		t.Errorf("rung %d times more", n)
	}
	var none *Alarm
	if none.Set(begin) != nil || none.Close() != nil {
		t.Error("no alarm is no fault")
	}
}
