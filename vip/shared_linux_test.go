package vip

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// However many ask while a question is under way, one more answers them all, and nobody gets an answer to a question that
// was put before it asked.
func TestOneAnswerServesAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s shared[int]
		var questions int
		release := make(chan struct{})
		ask := func() (int, error) {
			questions++
			n := questions
			<-release
			return n, nil
		}
		var all sync.WaitGroup
		var late atomic.Int64
		all.Go(func() {
			if n, err := s.get(ask); n != 1 || err != nil {
				t.Errorf("the first got %d, %v", n, err)
			}
		})
		synctest.Wait()
		for range 100 { // the first question is under way: they must not have its answer
			all.Go(func() {
				n, err := s.get(ask)
				if n != 2 || err != nil {
					t.Errorf("got %d, %v", n, err)
				}
				late.Add(1)
			})
		}
		synctest.Wait()
		release <- struct{}{}
		synctest.Wait()
		if late.Load() != 0 {
			t.Error("answered by a question that was put before they asked")
		}
		release <- struct{}{}
		all.Wait()
		if questions != 2 {
			t.Errorf("%d questions for 101 who asked", questions)
		}
		close(release)
		if n, err := s.get(ask); n != 3 || err != nil {
			t.Errorf("afterwards: %d, %v", n, err)
		}
		fault := errors.New("no answer")
		if _, err := s.get(func() (int, error) { return 0, fault }); !errors.Is(err, fault) {
			t.Errorf("the error of the kernel: %v", err)
		}
	})
}

// In a process with one thread the kernel answers before another goroutine gets a turn. Who is ready to ask joins all the same.
func TestOneAnswerServesAllWhoAreAboutToAsk(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var s shared[int]
	var questions atomic.Int64
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			for range 6 { // as one address asks
				if _, err := s.get(func() (int, error) { return int(questions.Add(1)), nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if n := questions.Load(); n > 60 {
		t.Errorf("%d questions for 600 that were asked", n)
	}
	t.Logf("%d questions", questions.Load())
}
