package lab

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// StarveOptions describes how a node is starved of the processor.
type StarveOptions struct {
	Percent int           // required: share of the time in which nothing runs, 1 to 99
	Period  time.Duration // optional: of one stop and one go, 50ms
	PIDs    func() []int  // optional: asked in each period which processes starve; all of the node without it
}

// starving is the goroutine that starves a node.
type starving struct {
	quit, done chan struct{}
	once       sync.Once
	err        error // valid when done is closed
}

// Starve stops and resumes a node's user space in quick turns, so that it gets only a share of the processor and each step
// may be delayed at any place, as on an overcommitted machine. Feed ends it, and so do Lab.Heal, PowerCut and Close.
// Commands started in the node meanwhile starve with it.
func (n *Node) Starve(o StarveOptions) error {
	if o.Period == 0 {
		o.Period = 50 * time.Millisecond
	}
	if o.Percent < 1 || o.Percent > 99 || o.Period < time.Millisecond || o.Period > 10*time.Second {
		return fmt.Errorf("starving node %s: %d %% of %s: take 1 to 99 %% of 1ms to 10s", n.Name, o.Percent, o.Period)
	}
	if n.frozen.Load() {
		return fmt.Errorf("starving node %s: it is frozen", n.Name)
	}
	if err := n.Feed(); err != nil {
		return err
	}
	s := &starving{quit: make(chan struct{}), done: make(chan struct{})}
	n.mu.Lock()
	n.starving = s
	n.mu.Unlock()
	go func() {
		defer close(s.done)
		stop := o.Period * time.Duration(o.Percent) / 100
		for hungry := true; hungry; {
			resume, err := n.pause(o.PIDs)
			if err == nil {
				hungry = s.sleep(stop)
			}
			if err = errors.Join(err, resume()); err != nil {
				s.err = fmt.Errorf("starving node %s: %w", n.Name, err)
				return
			}
			hungry = hungry && s.sleep(o.Period-stop)
		}
	}()
	return nil
}

// sleep returns false when the starving is to end.
func (s *starving) sleep(d time.Duration) bool {
	select {
	case <-s.quit:
		return false
	case <-time.After(d):
		return true
	}
}

// pause stops processes, all of the node's when pids is nil, and returns what resumes them. Processes that are gone are no fault.
func (n *Node) pause(pids func() []int) (resume func() error, err error) {
	if pids == nil && n.cg != nil {
		resume = func() error { return n.cg.write("cgroup.freeze", "0") }
		return resume, n.cg.write("cgroup.freeze", "1")
	}
	if pids == nil {
		pids = n.PIDs
	}
	list := pids()
	signal := func(sig unix.Signal) error {
		var errs []error
		for _, pid := range list {
			if err := n.Signal(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	}
	return func() error { return signal(unix.SIGCONT) }, signal(unix.SIGSTOP)
}

// Feed ends Starve; an error says that starving did not work.
func (n *Node) Feed() error {
	n.mu.Lock()
	s := n.starving
	n.starving = nil
	n.mu.Unlock()
	if s == nil {
		return nil
	}
	s.once.Do(func() { close(s.quit) })
	<-s.done
	return s.err
}
