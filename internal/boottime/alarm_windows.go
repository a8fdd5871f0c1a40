package boottime

import (
	"sync"
	"time"
)

// Alarm rings at an instant. The waits of Windows count suspend or do not, by version; whoever is rung looks at Now.
type Alarm struct {
	mu    sync.Mutex
	ring  func()
	timer *time.Timer
}

// NewAlarm makes an alarm that calls ring, which must not block, each time it is due.
func NewAlarm(ring func()) (*Alarm, error) { return &Alarm{ring: ring}, nil }

// Set moves the alarm to an instant of Now's clock; one that has passed rings at once. nil does nothing.
func (a *Alarm) Set(at time.Time) error {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.timer != nil {
		a.timer.Stop()
	}
	a.timer = time.AfterFunc(at.Sub(Now()), a.ring)
	return nil
}

// Close ends the alarm. nil does nothing.
func (a *Alarm) Close() error {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.timer != nil {
		a.timer.Stop()
	}
	return nil
}
