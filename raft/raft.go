// Package raft replicates placement.State: the log, the vote, the snapshots, who leads, and the transport for it.
//
// It decides nothing about groups. It applies commands in the order of the log through Config.Apply, keeps them on disk,
// and says who leads. DESIGN.md has why it is shaped so, and why the commit hint is safe.
package raft

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	hraft "github.com/hashicorp/raft"

	"hacluster/lease"
	"hacluster/placement"
)

// Sentinels; ErrNotLeader is a type because it carries who leads.
var (
	// ErrUnknownOutcome: leadership was lost while a command was under way. It may still be applied, or never.
	ErrUnknownOutcome = errors.New("leadership was lost while the command was under way: it may still take effect, look at the state before repeating it")
	// ErrStorage: the data directory cannot be read or written as it must be.
	ErrStorage = errors.New("raft storage")
	// ErrDamaged: what is on disk cannot be trusted; no restart mends that. Always with ErrStorage.
	ErrDamaged = errors.New("the raft state is damaged")
	// ErrInUse: a running agent has the directory. Always with ErrStorage.
	ErrInUse = errors.New("it is in use")
	// ErrWiped: the directory holds no Raft state although this node has been a member.
	ErrWiped = errors.New("the raft state is gone")
	// ErrExists: Bootstrap on a directory that has Raft state.
	ErrExists = errors.New("raft state exists already")
	// ErrRemoved: the group has removed this node.
	ErrRemoved = errors.New("this node was removed from the cluster")
	// ErrClosed: Close was called.
	ErrClosed = errors.New("raft is closed")
)

// ErrNotLeader refuses what only the leader can do; nothing was done.
type ErrNotLeader struct {
	Leader string // empty: none known
}

func (e ErrNotLeader) Error() string {
	if e.Leader == "" {
		return "this node does not lead and knows no leader"
	}
	return "this node does not lead, " + e.Leader + " does"
}

// Dialer calls nodes by name; wire.Dialer is one. Its DeadAfter bounds how long a cut connection is waited on: twice
// Timing.Heartbeat suits.
type Dialer interface {
	Dial(ctx context.Context, node, alpn string) (net.Conn, error)
}

// Config is what Open needs; all fields are required unless marked.
type Config struct {
	Name    string // of this node; also its Raft id and address
	DataDir string // exists; raft.db and snapshots/ are kept in it
	Fresh   bool   // optional: first start after init or join, an empty DataDir is expected
	// Incarnation of the cluster, as this node's identity has it; peers of another one are refused. Optional: as founded.
	Incarnation string
	Dialer      Dialer
	Listener    net.Listener // delivers wire.ALPNRaft; Close closes it
	Timing      lease.Timing
	Log         *slog.Logger // optional

	// Apply is the body of the state machine: total, deterministic, without side effect, and returning a new value
	// (copy on write). The state it gets has Index set to the entry's index already.
	Apply func(placement.State, placement.Command) (placement.State, placement.Result)
	// Changed is called after every entry and every restore with the new state. It must not block. Optional.
	Changed func(placement.State)

	noHint bool // tests measure without it
}

const (
	maxConns          = 3    // pooled per peer: heartbeat, replication, hint
	snapshotThreshold = 1024 // entries
	trailingLogs      = 1024 // entries kept for followers that are a little behind
	snapshotInterval  = 30 * time.Second
	snapshotsKept     = 2
	rpcTimeout        = 10 * time.Second // an answer may wait for a slow disk; dead peers are found by the Dialer's DeadAfter
	commitTimeout     = time.Second      // followers hear of a commit by hints; what the library tells them is for a hint that was lost

	// enqueueTimeout bounds the wait for the library's only goroutine to take a command up. It stands still while it writes
	// its log, so a slow disk, best the write of a new leader's first entry, is no sign that this node does not lead: one
	// that does not says so at once. Callers that must know what became of a command have to wait longer than this.
	enqueueTimeout = 2 * time.Second
)

// Raft is this node's part in the group.
type Raft struct {
	cfg    Config
	raft   *hraft.Raft
	fsm    *fsm
	store  *store
	stream *stream
	trans  *transport
	hints  *hinter
	log    *slog.Logger

	ctx    context.Context // ends with Close or a fault
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	mu   sync.Mutex
	wake chan struct{} // closed at the next change of leadership

	shutdown  func() hraft.Future // the library's, of which only the first call's future waits
	hasten    sync.Once           // hastenBeats
	renew     atomic.Int64        // between two renewals of a lease, by the timing in force; ns
	closeOnce sync.Once
	closeErr  error
}

// Server is one member of the Raft group.
type Server struct {
	Name  string
	Voter bool
}

// Open starts this node's part from what is on disk. Errors about the data directory wrap ErrStorage or ErrWiped and say
// what to do; nothing is repaired or emptied silently.
func Open(cfg Config) (_ *Raft, err error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Changed == nil {
		cfg.Changed = func(placement.State) {}
	}
	if err := cfg.Timing.Validate(); err != nil {
		return nil, fmt.Errorf("opening raft: %w", err)
	}
	r := &Raft{cfg: cfg, log: cfg.Log, wake: make(chan struct{})}
	r.renew.Store(int64(cfg.Timing.Renew))
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	defer func() {
		if err != nil {
			r.cancel(err)
			cfg.Listener.Close()
		}
	}()
	if r.store, err = openStore(filepath.Join(cfg.DataDir, storeFile), cfg.Fresh, r.fault); err != nil {
		return nil, err
	}
	logger := newLogger(cfg.Log)
	snaps, err := openSnapshots(cfg.DataDir, logger)
	if err != nil {
		return nil, errors.Join(err, r.store.Close())
	}
	r.fsm = newFSM(cfg.Apply, cfg.Changed, cfg.Log)
	r.stream = newStream(cfg)
	r.trans = newTransport(r, logger)
	r.hints = newHinter(r)
	if r.raft, err = r.start(snaps); err != nil {
		r.trans.Close()
		r.stream.closeConns()
		return nil, errors.Join(err, r.store.Close())
	}
	r.shutdown = sync.OnceValue(r.raft.Shutdown)
	r.store.live.Store(true)
	close(r.trans.ready)
	r.watch()
	return r, nil
}

// start runs the library's constructor, which panics on a log with holes.
func (r *Raft) start(snaps hraft.SnapshotStore) (hr *hraft.Raft, err error) {
	defer func() {
		if p := recover(); p != nil {
			hr, err = nil, damaged(r.cfg.DataDir, fmt.Errorf("the log does not continue the snapshot: %v", p))
		}
	}()
	cache, err := hraft.NewLogCache(512, r.store)
	if err != nil {
		return nil, err
	}
	hr, err = hraft.NewRaft(r.libraryConfig(), r.fsm, cache, r.store, snaps, r.trans)
	if err != nil {
		return nil, damaged(r.cfg.DataDir, err)
	}
	return hr, nil
}

func (r *Raft) libraryConfig() *hraft.Config {
	c := hraft.DefaultConfig()
	c.LocalID = hraft.ServerID(r.cfg.Name)
	c.HeartbeatTimeout = r.cfg.Timing.Heartbeat
	c.ElectionTimeout = max(r.cfg.Timing.Election, r.cfg.Timing.Heartbeat)
	c.LeaderLeaseTimeout = r.cfg.Timing.LeaderLease
	c.CommitTimeout = commitTimeout
	c.SnapshotThreshold = snapshotThreshold
	c.SnapshotInterval = snapshotInterval
	c.TrailingLogs = trailingLogs
	c.PreVoteDisabled = false  // an isolated node that comes back must not depose the leader
	c.ShutdownOnRemove = false // nobody could wait for the end that the library began: Remove does
	c.NoLegacyTelemetry = true
	c.Logger = newLogger(r.cfg.Log)
	return c
}

// watch turns the library's observations into wakes.
func (r *Raft) watch() {
	ch := make(chan hraft.Observation, 16) // what does not fit is no loss: a wake is pending then
	obs := hraft.NewObserver(ch, false, func(o *hraft.Observation) bool {
		switch o.Data.(type) {
		case hraft.LeaderObservation, hraft.RaftState:
			return true
		}
		return false
	})
	r.raft.RegisterObserver(obs)
	r.wg.Go(func() {
		defer r.raft.DeregisterObserver(obs)
		for {
			select {
			case <-ch:
				r.wakeAll()
			case <-r.ctx.Done():
				r.wakeAll()
				r.shutdown()
				return
			}
		}
	})
}

func (r *Raft) wakeAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.wake)
	r.wake = make(chan struct{})
}

// fault stops this node's part for good; what is on disk is left as it is.
func (r *Raft) fault(err error) {
	if r.ctx.Err() == nil {
		r.log.Error("raft stops on this node", "err", err)
	}
	r.cancel(err)
}

// Done is closed when this node's part has ended; Err says why.
func (r *Raft) Done() <-chan struct{} { return r.ctx.Done() }

// Err is why Done is closed: ErrClosed, ErrRemoved, or a fault that wraps ErrStorage. nil before.
func (r *Raft) Err() error { return context.Cause(r.ctx) }

// Leadership is closed when the leader, or this node's role in the group, may have changed. Take the channel, ask, then
// wait: nothing is missed, whatever happened in between.
func (r *Raft) Leadership() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.wake
}

// Leader is the name of the leader as far as this node knows; empty: none.
func (r *Raft) Leader() string {
	_, id := r.raft.LeaderWithID()
	return string(id)
}

// IsLeader reports whether this node leads, as far as it knows: another may have been elected since. Barrier proves it.
func (r *Raft) IsLeader() bool { return r.raft.State() == hraft.Leader && r.ctx.Err() == nil }

// Term is the current term.
func (r *Raft) Term() uint64 { return r.raft.CurrentTerm() }

// Position is how far the log of this node goes, committed or not.
func (r *Raft) Position() Position {
	last := r.raft.LastIndex()
	p := Position{Index: last, Applied: r.State().Index}
	var l hraft.Log
	if last > 0 && r.store.GetLog(last, &l) == nil {
		p.Term = l.Term
	} else if term, err := strconv.ParseUint(r.raft.Stats()["last_log_term"], 10, 64); err == nil {
		p.Term = term
	}
	return p
}

// LastContact is how long ago this node heard of the leader; 0 on the leader itself, negative: never since Open.
func (r *Raft) LastContact() time.Duration {
	if r.IsLeader() {
		return 0
	}
	t := r.raft.LastContact()
	if t.IsZero() {
		return -1
	}
	return time.Since(t)
}

// State is the newest applied state; treat it as immutable.
func (r *Raft) State() placement.State { return r.fsm.current() }

// Propose replicates a command and returns what the state machine said of it. Leader only: ErrNotLeader means nothing
// was done; ErrUnknownOutcome, or an ended ctx, that it may still be.
func (r *Raft) Propose(ctx context.Context, c placement.Command) (placement.Result, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return placement.Result{}, fmt.Errorf("encoding command %s: %w", c.Kind, err)
	}
	var f hraft.ApplyFuture
	if err := r.wait(ctx, func() hraft.Future {
		f = r.raft.Apply(b, enqueueTimeout)
		return f
	}); err != nil {
		return placement.Result{}, fmt.Errorf("proposing %s: %w", c.Kind, err)
	}
	a, ok := f.Response().(applied)
	if !ok {
		return placement.Result{}, fmt.Errorf("proposing %s: the state machine answered %T", c.Kind, f.Response())
	}
	if !r.cfg.noHint {
		r.hints.committed(f.Index(), a.term)
	}
	return a.result, nil
}

// Barrier waits until every entry of earlier terms is applied here, and proves that a quorum still follows. Leader only.
func (r *Raft) Barrier(ctx context.Context) error {
	return r.wait(ctx, func() hraft.Future { return r.raft.Barrier(enqueueTimeout) })
}

// TransferLeadership hands leadership to the named voter, or when to is empty to one that answers and has the most of
// the log. A voter that does not answer is refused at once. Leader only.
func (r *Raft) TransferLeadership(ctx context.Context, to string) error {
	if !r.IsLeader() {
		return fmt.Errorf("handing over leadership: %w", ErrNotLeader{Leader: r.Leader()})
	}
	to, err := r.successor(to)
	if err != nil {
		return fmt.Errorf("handing over leadership: %w", err)
	}
	r.trans.handingOver()
	if err := r.wait(ctx, func() hraft.Future {
		return r.raft.LeadershipTransferToServer(hraft.ServerID(to), hraft.ServerAddress(to))
	}); err != nil {
		return fmt.Errorf("handing leadership to %s: %w", to, err)
	}
	return nil
}

func (r *Raft) successor(to string) (string, error) {
	servers, err := r.Servers()
	if err != nil {
		return "", err
	}
	best, most := "", uint64(0)
	patience := max(2*r.cfg.Timing.Heartbeat, time.Second) // heartbeats come beatsPerTimeout times in one Heartbeat
	for _, s := range servers {
		silent := r.trans.silence(hraft.ServerID(s.Name)) > patience
		switch {
		case s.Name == r.cfg.Name || !s.Voter:
		case s.Name == to && silent:
			return "", fmt.Errorf("%s does not answer", to)
		case s.Name == to:
			return to, nil
		case to == "" && !silent:
			if has := r.hints.acknowledged(hraft.ServerID(s.Name)); best == "" || has > most {
				best, most = s.Name, has
			}
		}
	}
	if best == "" && to == "" {
		return "", errors.New("no other voter answers")
	}
	if best == "" {
		return "", fmt.Errorf("%s is not another voter", to)
	}
	return best, nil
}

// AddNonvoter lets a node receive the log without a vote: the first step of a join.
func (r *Raft) AddNonvoter(ctx context.Context, name string) error {
	return r.change(ctx, "adding "+name+" without a vote", func() hraft.IndexFuture {
		return r.raft.AddNonvoter(hraft.ServerID(name), hraft.ServerAddress(name), 0, r.cfg.Timing.Election)
	})
}

// AddVoter gives a node a vote, whether it was a member or not.
func (r *Raft) AddVoter(ctx context.Context, name string) error {
	return r.change(ctx, "giving "+name+" a vote", func() hraft.IndexFuture {
		return r.raft.AddVoter(hraft.ServerID(name), hraft.ServerAddress(name), 0, r.cfg.Timing.Election)
	})
}

// Remove takes a node out of the group; removing one that is not in it does nothing. A leader that removes itself ends its
// part with ErrRemoved.
func (r *Raft) Remove(ctx context.Context, name string) error {
	defer r.hints.forget(hraft.ServerID(name)) // it may come back with an empty log
	err := r.change(ctx, "removing "+name, func() hraft.IndexFuture {
		return r.raft.RemoveServer(hraft.ServerID(name), 0, r.cfg.Timing.Election)
	})
	if err == nil && name == r.cfg.Name {
		r.cancel(ErrRemoved)
	}
	return err
}

func (r *Raft) change(ctx context.Context, what string, f func() hraft.IndexFuture) error {
	if err := r.wait(ctx, func() hraft.Future { return f() }); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// Servers are the members of the Raft group as this node knows them; the newest entry counts, committed or not.
func (r *Raft) Servers() ([]Server, error) {
	f := r.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return nil, r.explain(err)
	}
	var out []Server
	for _, s := range f.Configuration().Servers {
		out = append(out, Server{Name: string(s.ID), Voter: s.Suffrage == hraft.Voter})
	}
	return out, nil
}

// wait runs a call of the library, which cannot be interrupted, and gives up on it when ctx ends. The library bounds its
// calls itself (a leader without quorum steps down), Close joins what is left.
func (r *Raft) wait(ctx context.Context, call func() hraft.Future) error {
	if r.ctx.Err() != nil {
		return r.Err()
	}
	done := make(chan error, 1)
	r.mu.Lock() // Close must not begin to wait while a call begins
	if r.ctx.Err() != nil {
		r.mu.Unlock()
		return r.Err()
	}
	r.wg.Go(func() { done <- call().Error() })
	r.mu.Unlock()
	select {
	case err := <-done:
		return r.explain(err)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// explain puts the library's errors into this package's words.
func (r *Raft) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, hraft.ErrLeadershipLost), errors.Is(err, hraft.ErrAbortedByRestore):
		return ErrUnknownOutcome
	case errors.Is(err, hraft.ErrNotLeader), errors.Is(err, hraft.ErrLeadershipTransferInProgress), errors.Is(err, hraft.ErrEnqueueTimeout):
		leader := r.Leader()
		if leader == r.cfg.Name {
			leader = "" // about to hand over, or stalled
		}
		return ErrNotLeader{Leader: leader}
	case r.Err() != nil: // the library does not wrap
		return r.Err()
	}
	return err
}

// Close ends this node's part and waits for every goroutine. It does not leave the group.
func (r *Raft) Close() error {
	r.closeOnce.Do(func() {
		r.mu.Lock()
		r.cancel(ErrClosed)
		r.mu.Unlock()
		f := r.shutdown()
		r.stream.closeConns() // ends calls that wait for an answer
		err := f.Error()
		r.trans.Close()
		r.trans.CloseStreams()
		r.stream.closeConns()
		r.hints.close()
		r.wg.Wait()
		r.stream.wait()
		r.closeErr = errors.Join(err, r.store.Close())
	})
	return r.closeErr
}
