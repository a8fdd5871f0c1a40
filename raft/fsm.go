package raft

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"

	hraft "github.com/hashicorp/raft"

	"hacluster/placement"
)

// snapshotFormat is the version of the snapshot's encoding. A newer one is refused: half understood state is worse than
// a node that asks to be upgraded.
const snapshotFormat = 1

type snapshotFile struct {
	Format int             `json:"format"`
	State  placement.State `json:"state"`
}

// applied is what the state machine answers for one entry.
type applied struct {
	result placement.Result
	term   uint64 // of the entry
}

// fsm adapts placement's pure state machine to the library. Only the library's one goroutine writes.
type fsm struct {
	apply   func(placement.State, placement.Command) (placement.State, placement.Result)
	changed func(placement.State)
	log     *slog.Logger
	state   atomic.Pointer[placement.State]
}

func newFSM(apply func(placement.State, placement.Command) (placement.State, placement.Result), changed func(placement.State), log *slog.Logger) *fsm {
	f := &fsm{apply: apply, changed: changed, log: log}
	f.state.Store(&placement.State{})
	return f
}

func (f *fsm) current() placement.State { return *f.state.Load() }

// Apply implements hraft.FSM. It is total: an entry that cannot be understood changes nothing, the same on every node,
// and its proposer is told why.
func (f *fsm) Apply(l *hraft.Log) any {
	s := f.current()
	s.Index = l.Index
	next, res := f.step(s, l)
	next.Index = l.Index
	f.state.Store(&next)
	f.changed(next)
	return applied{result: res, term: l.Term}
}

func (f *fsm) step(s placement.State, l *hraft.Log) (next placement.State, res placement.Result) {
	c, err := decodeCommand(l.Data)
	if err != nil {
		f.log.Error("skipping a log entry that cannot be understood; do all nodes run one version?", "index", l.Index, "err", err)
		return s, placement.Result{Why: err.Error()}
	}
	if c.Term != 0 && c.Term != l.Term {
		return s, placement.Result{Stale: true, Why: fmt.Sprintf("decided in term %d, logged in term %d", c.Term, l.Term)}
	}
	defer func() {
		// A panic would come again at every start of every node. The state is copied on write, so nothing is half done.
		if p := recover(); p != nil {
			f.log.Error("applying a log entry panicked; it is skipped on every node", "index", l.Index, "kind", c.Kind, "err", p)
			next, res = s, placement.Result{Why: fmt.Sprintf("applying %s: %v", c.Kind, p)}
		}
	}()
	return f.apply(s, c)
}

func decodeCommand(b []byte) (placement.Command, error) {
	var c placement.Command
	if err := json.Unmarshal(b, &c); err != nil {
		return placement.Command{}, fmt.Errorf("decoding a command: %w", err)
	}
	return c, nil
}

// Snapshot implements hraft.FSM; the state is immutable, so a pointer is a snapshot.
func (f *fsm) Snapshot() (hraft.FSMSnapshot, error) { return &snapshot{state: f.state.Load()}, nil }

// Restore implements hraft.FSM.
func (f *fsm) Restore(r io.ReadCloser) error {
	s, err := decodeSnapshot(r)
	if err != nil {
		return err
	}
	f.state.Store(&s)
	f.changed(s)
	return nil
}

func decodeSnapshot(r io.Reader) (placement.State, error) {
	var file snapshotFile
	if err := json.NewDecoder(r).Decode(&file); err != nil {
		return placement.State{}, fmt.Errorf("decoding a snapshot: %w", err)
	}
	if file.Format != snapshotFormat {
		return placement.State{}, fmt.Errorf("the snapshot has format %d, this version reads %d: install the version of had that the other nodes run",
			file.Format, snapshotFormat)
	}
	return file.State, nil
}

type snapshot struct{ state *placement.State }

// Persist implements hraft.FSMSnapshot.
func (s *snapshot) Persist(sink hraft.SnapshotSink) error {
	if err := json.NewEncoder(sink).Encode(snapshotFile{Format: snapshotFormat, State: *s.state}); err != nil {
		sink.Cancel()
		return fmt.Errorf("writing a snapshot: %w", err)
	}
	return sink.Close()
}

// Release implements hraft.FSMSnapshot.
func (s *snapshot) Release() {}
