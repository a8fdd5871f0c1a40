package node

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hacluster/placement"
)

// A slot that finds everything as before wakes nobody, however often it asks. Whatever changes does, and that once.
func TestASlotWakesTheActLoopForNewsOnly(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	write(t, file, fmt.Sprint(os.Getpid()))
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		var wakes atomic.Int64
		s := newSlot("web", probed(file), m, true, discard(), time.Now, func() { wakes.Add(1) })
		defer s.close()
		woken := func(what string) {
			t.Helper()
			synctest.Wait()
			if wakes.Swap(0) == 0 {
				t.Errorf("%s, and nobody is woken", what)
			}
			s.gather()
		}
		woken("it was looked at for the first time")
		do(s, placement.ActStart)
		woken("it was started")
		settle(5 * time.Second) // the probes pass
		s.gather()
		wakes.Store(0)
		s.mu.Lock()
		asked := s.asked
		s.mu.Unlock()
		settle(time.Minute)
		s.mu.Lock()
		asked = s.asked - asked
		s.mu.Unlock()
		if asked < 10 {
			t.Fatalf("the machine was asked %d times in a minute", asked)
		}
		if n := wakes.Swap(0); n != 0 {
			t.Errorf("%d wakes in a minute without news", n)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		settle(5 * time.Second)
		woken("its probe fails")
		m.set(false, false)
		woken("it ended")
	})
}

// What is seen before a round is over, and after it had looked, is news.
func TestWhatComesAfterALookIsNews(t *testing.T) {
	inSlot(t, service(), nil, func(t *testing.T, m *machine, s *slot) {
		woken := false
		s.wake = func() { woken = true }
		if s.gather(); woken {
			t.Fatal("a look wakes")
		}
		m.mu.Lock()
		m.running = true
		m.mu.Unlock()
		s.refresh()
		if !woken {
			t.Error("what was found after the look wakes nobody")
		}
	})
}

// All addresses of a node look after themselves at the same instants, so that one list of the kernel answers for all.
func TestAddressesAreDueTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // time begins at a whole second of a whole day here
		early, late := &slot{drv: &address{}}, &slot{drv: &address{}}
		if d := early.nextRound(); d != statusEvery {
			t.Errorf("at the instant itself the next one is due in %v", d)
		}
		settle(1234 * time.Millisecond)
		due := time.Now().Add(early.nextRound())
		settle(3 * time.Second)
		if again := time.Now().Add(late.nextRound()); !again.Equal(due) {
			t.Errorf("one is due at %v, the other at %v", due, again)
		}
		if d := (&slot{drv: newMachine()}).nextRound(); d != statusEvery {
			t.Errorf("what is no address is due in %v", d)
		}
	})
}
