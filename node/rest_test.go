package node

import (
	"testing"
	"time"
)

// Rounds that take long leave half of the time to others, and no round is put off for long.
func TestALongRoundIsFollowedByARest(t *testing.T) {
	for took, want := range map[time.Duration]time.Duration{
		time.Millisecond:      0,
		restAfter:             0,
		restAfter + 1:         restAfter + 1,
		30 * time.Millisecond: 30 * time.Millisecond,
		time.Second:           restMost,
	} {
		if got := restFor(took); got != want {
			t.Errorf("after %v: %v, want %v", took, got, want)
		}
	}
}
