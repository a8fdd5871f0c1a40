package boottime

import "time"

// Timer rings after a while, suspend included, for a loop that waits again and again. A time.Timer wakes a process at rest about four
// times for each wait: twice in the poller, which waits in whole milliseconds, and about as often in the runtime's monitor thread. This
// one wakes it once, when it is due (Linux; elsewhere they are the same).
type Timer struct {
	C <-chan struct{} // a ring that was under way at a Reset may still come after it, too early

	rings chan struct{}
	alarm *Alarm // nil where the system has none left
}

// NewTimer makes a timer that is not set.
func NewTimer() *Timer {
	rings := make(chan struct{}, 1)
	t := &Timer{C: rings, rings: rings}
	if a, err := NewAlarm(t.ring); err == nil {
		t.alarm = a
	}
	return t
}

func (t *Timer) ring() {
	select {
	case t.rings <- struct{}{}:
	default:
	}
}

// Reset has the timer ring after d and no longer at the time before. It is for one goroutine.
func (t *Timer) Reset(d time.Duration) {
	select {
	case <-t.rings:
	default:
	}
	if t.alarm == nil || t.alarm.Set(Now().Add(d)) != nil {
		time.AfterFunc(d, t.ring)
	}
}

// Close ends the timer.
func (t *Timer) Close() error { return t.alarm.Close() }
