package vip

import (
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

// against runs what must be read back beside somebody who undoes it all the time, until it has said so: a word that was not
// read back would never notice.
func against(t *testing.T, undo func() error, do func() error, want string) {
	t.Helper()
	over := make(chan struct{})
	var other sync.WaitGroup
	other.Go(func() {
		for {
			select {
			case <-over:
				return
			default:
				_ = undo() // may be refused: the two are in each other's way
			}
		}
	})
	defer other.Wait()
	defer close(over)
	tries := 0
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); tries++ {
		if err := do(); err != nil && strings.Contains(err.Error(), want) {
			t.Logf("noticed in try %d: %v", tries+1, err)
			return
		}
	}
	t.Errorf("%d times it said done, and what it did was undone at once", tries)
}

func TestARemovalIsReadBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := w.open(w.n1)
	add := func() error { return other.Add(w.v4, time.Minute) }
	against(t, add, func() error { return w.m1.Remove(w.v4) }, "still there")
	against(t, add, func() error {
		_, err := w.m1.Sweep(func(netip.Prefix) bool { return false })
		return err
	}, "still there")
}

func TestShuttingIsReadBack(t *testing.T) {
	t.Parallel()
	w := newGated(t)
	other := w.open(w.n1)
	open := func() error { return other.OpenUntil(w.addrs(), soon(10*time.Second)) }
	against(t, open, func() error { return w.m1.Shut(w.addrs()...) }, "open again")
}
