package vip

import (
	"runtime"
	"sync"
)

// shared has one answer of the kernel serve all who asked before the question was put. Each gets what was true after it
// asked; with a hundred addresses that look after themselves at the same moment the kernel lists them twice, not a hundred
// times, and who renews them does not queue behind that. The zero value is ready.
type shared[T any] struct {
	mu      sync.Mutex
	running *question[T] // put last
	next    *question[T] // not put yet; who comes joins it
}

type question[T any] struct {
	done chan struct{}
	v    T
	err  error
}

// get asks, or waits for another who is about to. The value is shared: it is to be read only.
func (s *shared[T]) get(ask func() (T, error)) (T, error) {
	s.mu.Lock()
	mine, before := s.next, s.running
	if mine != nil {
		s.mu.Unlock()
		<-mine.done
		return mine.v, mine.err
	}
	mine = &question[T]{done: make(chan struct{})}
	s.next = mine
	s.mu.Unlock()
	defer close(mine.done)
	if before != nil {
		<-before.done
	}
	runtime.Gosched() // the kernel answers before another goroutine gets a turn: who is about to ask joins now
	s.mu.Lock()
	s.running, s.next = mine, nil // whoever comes from here on may know of something newer
	s.mu.Unlock()
	mine.v, mine.err = ask()
	return mine.v, mine.err
}
