package boottime

import (
	"sync"
	"time"
)

// leastJump is the least that counts as a suspend. The two clocks are read one after the other, so their distance is known
// to a microsecond or so; they are steered alike and part for nothing but a suspend, which takes far longer.
const leastJump = 5 * time.Millisecond

// Suspend notices that this machine was suspended, by the time that only one of two clocks counted. What counts in ticks of
// the kernel (timeouts of nf_tables, lifetimes of addresses) stood still meanwhile: it does not end when the lease does.
// Safe for concurrent use. A paused virtual machine whose clocks all stand still is not noticed by anybody inside.
type Suspend struct {
	asleep func() time.Duration // spent in suspend since boot

	mu   sync.Mutex
	last time.Duration
}

// NewSuspend counts from now on. asleep tells how long this machine was suspended since its boot; nil: Asleep.
func NewSuspend(asleep func() time.Duration) *Suspend {
	if asleep == nil {
		asleep = Asleep
	}
	return &Suspend{asleep: asleep, last: asleep()}
}

// Noticed is how long the machine was suspended since the last call, or since NewSuspend; 0: it was not. Each suspend is
// reported once.
func (s *Suspend) Noticed() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.asleep()
	jump := now - s.last
	if jump < 0 { // the reading before was taken by a thread that was stopped in between
		s.last = now
	}
	if jump < leastJump {
		return 0
	}
	s.last = now
	return jump
}
