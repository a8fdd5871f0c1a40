package raft

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	hraft "github.com/hashicorp/raft"

	"hacluster/internal/wire"
)

// TestHintLatency measures how long after Propose has returned a follower applies the entry.
func TestHintLatency(t *testing.T) {
	median := func(noHint bool, times int) time.Duration {
		c := newCluster(t)
		c.noHint = noHint
		leader := c.form()
		leader.propose("warm up")
		c.everyoneHas("warm up")
		f := c.follower(leader)
		var all []time.Duration
		for i := range times {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			if _, err := leader.raft.Propose(ctx, note(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			index := leader.raft.State().Index
			if err := f.waitIndex(ctx, index); err != nil {
				t.Fatal(err)
			}
			cancel()
			all = append(all, time.Since(start))
			// Not in step with the library's own timer.
			time.Sleep(time.Duration(i*3) * time.Millisecond)
		}
		for _, n := range c.nodes {
			n.stop()
		}
		slices.Sort(all)
		t.Logf("hint %v: median %v, max %v", !noHint, all[len(all)/2], all[len(all)-1])
		return all[len(all)/2]
	}
	with, without := median(false, 31), median(true, 3)
	if with > without/2 {
		t.Errorf("the hint does not help: %v with, %v without", with, without)
	}
}

// TestHintIsSafe plays the leader n1 of term 3 against a follower that runs alone.
func TestHintIsSafe(t *testing.T) {
	c := newCluster(t)
	n2 := c.add("n2")
	s := mustOpen(t, filepath.Join(n2.dir, storeFile), true)
	var servers []hraft.Server
	for _, n := range []string{"n1", "n2", "n3"} {
		servers = append(servers, hraft.Server{ID: hraft.ServerID(n), Address: hraft.ServerAddress(n)})
	}
	data := func(text string) []byte {
		b, err := json.Marshal(note(text))
		c.must(err)
		return b
	}
	c.must(errors.Join(s.SetUint64([]byte("CurrentTerm"), 3), s.StoreLogs([]*hraft.Log{
		{Index: 1, Term: 1, Type: hraft.LogConfiguration, Data: hraft.EncodeConfiguration(hraft.Configuration{Servers: servers})},
		{Index: 2, Term: 3, Type: hraft.LogCommand, Data: data("two")},
		{Index: 3, Term: 3, Type: hraft.LogCommand, Data: data("three")},
	}), s.Close()))
	c.must(n2.start(false))

	mux, err := wire.Listen([]string{"127.0.0.1:0"}, wire.Config{Credentials: c.creds("n1")})
	c.must(err)
	defer mux.Close()
	st := newStream(Config{Name: "n1", Listener: mux.Listener(wire.ALPNRaft), Timing: c.timing,
		Dialer: &wire.Dialer{Credentials: c.creds("n1"), Resolve: c.resolve}})
	tr := hraft.NewNetworkTransportWithConfig(&hraft.NetworkTransportConfig{Logger: newLogger(slog.New(slog.DiscardHandler)), Stream: st, Timeout: time.Minute})
	t.Cleanup(func() { tr.Close(); tr.CloseStreams(); st.closeConns(); st.wait() })
	h := newHinter(&Raft{cfg: Config{Name: "n1"}, trans: &transport{r: &Raft{stream: st}, NetworkTransport: tr}})

	for _, tc := range []struct {
		name    string
		e       entry
		term    uint64 // of the message, 0: of the entry
		taken   bool
		applied uint64 // afterwards
		now     uint64 // term afterwards
	}{
		{"an entry it does not have", entry{4, 3}, 0, false, 0, 3},
		{"an entry it has from another term", entry{3, 4}, 3, false, 0, 3},
		{"a message of an old term", entry{2, 2}, 0, false, 0, 3},
		{"an entry it has, with more behind it", entry{2, 3}, 0, true, 2, 3},
		{"the same again", entry{2, 3}, 0, true, 2, 3},
		{"the next", entry{3, 3}, 0, true, 3, 3},
		{"an old one, late", entry{2, 3}, 0, true, 3, 3},
		{"a leader of a newer term about an entry it does not have", entry{9, 5}, 0, false, 3, 5},
		{"the old leader after that", entry{3, 3}, 0, false, 3, 5},
	} {
		t.Run(tc.name, func(t *testing.T) {
			req := h.request(tc.e)
			if tc.term != 0 {
				req.Term = tc.term
			}
			var resp hraft.AppendEntriesResponse
			c.must(tr.AppendEntries("n2", "n2", req, &resp))
			if resp.Success != tc.taken {
				t.Errorf("taken %v, want %v", resp.Success, tc.taken)
			}
			c.until("it is applied", func() bool { return n2.raft.State().Index >= tc.applied })
			if got := n2.raft.raft.AppliedIndex(); got != tc.applied {
				t.Errorf("applied up to %d, want %d", got, tc.applied)
			}
			if got := n2.raft.Term(); got != tc.now {
				t.Errorf("term %d, want %d", got, tc.now)
			}
			if last, _ := n2.raft.store.LastIndex(); last != 3 {
				t.Errorf("the log ends at %d", last)
			}
		})
	}
}

// A follower that has missed a hint is told by a reminder, long before the library tells it.
func TestAReminderTellsWhatIsCommitted(t *testing.T) {
	c := newCluster(t)
	c.noHint = true
	leader := c.form()
	f := c.follower(leader)
	soonest := time.Hour
	for i := range 5 { // the library's own message may come by chance
		leader.propose(fmt.Sprint(i))
		index, begun := leader.raft.State().Index, time.Now()
		for reminded := false; f.raft.State().Index < index; time.Sleep(time.Millisecond) {
			if !reminded && leader.raft.hints.acknowledged(hraft.ServerID(f.name)) >= index {
				begun, reminded = time.Now(), true
				leader.raft.Remind(f.name)
			}
			if time.Since(begun) > 10*time.Second {
				t.Fatal("the follower never hears of it")
			}
		}
		soonest = min(soonest, time.Since(begun))
	}
	if soonest > commitTimeout/4 {
		t.Errorf("the follower heard of it after %v at the soonest", soonest)
	}
}
