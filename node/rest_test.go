package node

import (
	"testing"
	"time"
)

// Rounds that take long leave half of the time to others, with many resources most of it, and no round is put off for long.
func TestALongRoundIsFollowedByARest(t *testing.T) {
	for took, want := range map[time.Duration]struct{ few, many time.Duration }{
		time.Millisecond:      {},
		restAfter:             {},
		restAfter + 1:         {restAfter + 1, manyTimes * (restAfter + 1)},
		30 * time.Millisecond: {30 * time.Millisecond, manyTimes * 30 * time.Millisecond},
		time.Second:           {restMost, manyMost},
	} {
		if got := restFor(took, many-1); got != want.few {
			t.Errorf("after %v: %v, want %v", took, got, want.few)
		}
		if got := restFor(took, many); got != want.many {
			t.Errorf("after %v with many resources: %v, want %v", took, got, want.many)
		}
	}
}
