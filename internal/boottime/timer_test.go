package boottime

import (
	"testing"
	"time"
)

// One that the system has an alarm for and one that it has none for do the same.
func TestTimer(t *testing.T) {
	without := NewTimer()
	if err := without.alarm.Close(); err != nil {
		t.Fatal(err)
	}
	without.alarm = nil
	for name, timer := range map[string]*Timer{"alarm": NewTimer(), "no alarm left": without} {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			timer.Reset(30 * time.Millisecond)
			<-timer.C
			if took := time.Since(begin); took < 30*time.Millisecond {
				t.Errorf("rang after %v", took)
			}
			for _, past := range []time.Duration{0, -time.Hour} {
				timer.Reset(past)
				select {
				case <-timer.C:
				case <-time.After(10 * time.Second):
					t.Fatal("what is due already does not ring")
				}
			}
			timer.Reset(time.Millisecond)
			for len(timer.rings) == 0 {
				time.Sleep(time.Millisecond)
			}
			timer.Reset(20 * time.Millisecond) // the ring before is not taken for this one
			begin = time.Now()
			<-timer.C
			if took := time.Since(begin); took < 15*time.Millisecond {
				t.Errorf("rang after %v: that was the time before", took)
			}
			if err := timer.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A later time takes the place of an earlier one.
func TestTimerIsMoved(t *testing.T) {
	timer := NewTimer()
	defer timer.Close()
	begin := time.Now()
	timer.Reset(50 * time.Millisecond)
	timer.Reset(150 * time.Millisecond)
	<-timer.C
	if took := time.Since(begin); took < 150*time.Millisecond {
		t.Errorf("rang after %v", took)
	}
}
