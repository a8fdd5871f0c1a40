package raft

import (
	"errors"
	"reflect"
	"testing"
	"time"

	hraft "github.com/hashicorp/raft"

	"hacluster/placement"
)

// A new leader writes its first entry before it takes up anything else, and on a slow disk that can take longer than an
// election. It leads all the same.
func TestALeaderWhoseDiskIsSlowLeads(t *testing.T) {
	c := newCluster(t)
	n := c.add("n1")
	c.must(Bootstrap(n.dir, "n1", nil))
	c.must(n.start(true))
	n.propose("it leads")

	write, err := n.raft.store.db.Begin(true) // nobody else can write until it has ended
	c.must(err)
	answers := make(chan error, 2)
	go func() { answers <- n.raft.Barrier(t.Context()) }()
	go func() {
		_, err := n.raft.Propose(t.Context(), note("late"))
		answers <- err
	}()
	select { // whichever came second is not even taken up yet
	case err = <-answers:
		t.Error("while the disk stands still: ", err)
		answers <- err
	case <-time.After(4 * c.timing.Election):
	}
	c.must(write.Rollback())
	for range 2 {
		c.must(<-answers)
	}
	if !has(n.raft.State(), "late") {
		t.Error("the command is lost")
	}
}

// A fault ends the library's part without anybody waiting for it. Close still waits before it takes the store away.
func TestCloseWaitsForWhatAFaultHasEnded(t *testing.T) {
	c := newCluster(t)
	n := c.add("n1")
	c.must(Bootstrap(n.dir, "n1", nil))
	c.must(n.start(true))
	n.propose("in the log")
	n.stop()

	n.mu.Lock() // the first entry of the log is being applied for as long as this is held
	c.must(n.start(false))
	r := n.raft
	c.until("an entry is being applied", func() bool { return r.State().Index > 0 })
	r.fault(errors.New("a fault"))
	c.until("the library has been told", func() bool { return r.raft.State() == hraft.Shutdown })

	closed := make(chan error, 1)
	go func() { closed <- r.Close() }()
	select {
	case err := <-closed:
		t.Error("closed while an entry is being applied: ", err)
		closed <- err
	case <-time.After(100 * time.Millisecond): // that it waits cannot be waited for
	}
	n.mu.Unlock()
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// A leader that removes itself ends its part, and is waited for: it is this package that ends the library's part, whose later
// calls do not wait. The others go on.
func TestALeaderThatRemovesItself(t *testing.T) {
	c, leader := three(t)
	leader.propose("before")
	r := leader.raft
	c.must(r.Remove(t.Context(), leader.name))
	<-r.Done()
	if err := r.Err(); !errors.Is(err, ErrRemoved) {
		t.Errorf("it ended with %v, want %v", err, ErrRemoved)
	}
	if reflect.ValueOf(r.shutdown()).Elem().FieldByName("raft").IsNil() {
		t.Error("the library ended its part by itself: Close does not wait for it")
	}
	if _, err := r.Propose(t.Context(), placement.Command{Kind: placement.CmdNote}); !errors.Is(err, ErrRemoved) {
		t.Errorf("a proposal: %v, want %v", err, ErrRemoved)
	}
	leader.stop()
	delete(c.nodes, leader.name)
	c.leader().propose("after")
	c.everyoneHas("after")
}
