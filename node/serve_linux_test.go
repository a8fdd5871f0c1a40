package node

import (
	"context"
	"sync"
	"testing"
	"time"
)

// What waits for proposals under way, the first grant of a process, holds up nothing that comes after it on the same connection.
func TestAQuestionThatWaitsHoldsUpNoOther(t *testing.T) {
	c := form(t, "a", "b", "w")
	leader, asker := c.leader(), c.follower()
	leader.n.leader.proposing.RLock()
	through := sync.OnceFunc(leader.n.leader.proposing.RUnlock)
	defer through() // nothing ends before
	waited := make(chan error, 1)
	link := asker.n.links.to(leader.name)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		_, err := link.call(ctx, message{Renew: &renewal{Seq: 1, Boot: "another process", Term: leader.n.raft.Term()}})
		waited <- err
	}()
	c.until("the renewal has come", func() error {
		l := leader.n.leader
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.reports[asker.name].boot != "another process" {
			return errNotOwner
		}
		return nil
	})
	for range 3 {
		if _, err := asker.n.links.call(t.Context(), leader.name, message{AskTerm: true}, patience); err != nil {
			t.Errorf("a question behind it: %v", err)
		}
	}
	select {
	case err := <-waited:
		t.Errorf("the renewal did not wait: %v: this test shows nothing", err)
	case <-time.After(0):
	}
	through()
	if t.Failed() {
		cancel()
	}
	if err := <-waited; err != nil {
		t.Error(err)
	}
}
