package boottime

import (
	"testing"
	"time"
)

func TestASuspendIsNoticedOnce(t *testing.T) {
	asleep := 3 * time.Hour // before this process began
	s := NewSuspend(func() time.Duration { return asleep })
	if d := s.Noticed(); d != 0 {
		t.Errorf("noticed %v of what was before", d)
	}
	asleep += 300 * time.Millisecond
	if d := s.Noticed(); d != 300*time.Millisecond {
		t.Errorf("noticed %v, want 300ms", d)
	}
	if d := s.Noticed(); d != 0 {
		t.Errorf("noticed %v a second time", d)
	}
	for range 100 { // what is too short to tell adds up
		asleep += leastJump / 10
		if d := s.Noticed(); d != 0 {
			asleep = 0
			break
		}
	}
	if asleep != 0 {
		t.Error("many short suspends were never noticed")
	}
}

func TestTheClocksOfThisMachineStandStill(t *testing.T) {
	s := NewSuspend(nil)
	for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end); {
		if d := s.Noticed(); d != 0 {
			t.Fatalf("noticed a suspend of %v while running", d)
		}
	}
}
