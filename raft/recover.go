package raft

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	hraft "github.com/hashicorp/raft"

	"hacluster/placement"
)

// Position is how far a log goes.
type Position struct {
	Term    uint64 `json:"term"`    // of the last entry
	Index   uint64 `json:"index"`   // of the last entry
	Applied uint64 `json:"applied"` // newest entry in the state; below Index: not known to be decided
}

// Compare orders positions as Raft's elections do: of two survivors the greater one has everything that was decided.
func (p Position) Compare(q Position) int {
	return cmp.Or(cmp.Compare(p.Term, q.Term), cmp.Compare(p.Index, q.Index))
}

// Found is what Look found in a data directory.
type Found struct {
	Position
	State   placement.State // with every entry of the log applied, decided or not
	Servers []Server        // of the Raft group, by the newest entry
}

// Look reads a data directory without changing it. Errors are those of Open: they wrap ErrWiped or ErrStorage, and with it
// ErrDamaged or, when an agent runs on it, ErrInUse. A directory of a node that has not received anything yet is no error.
func Look(dir string, apply func(placement.State, placement.Command) (placement.State, placement.Result)) (_ Found, err error) {
	s, err := openReadOnly(filepath.Join(dir, storeFile))
	if err != nil {
		return Found{}, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	f := newFSM(apply, func(placement.State) {}, slog.New(slog.DiscardHandler))
	var out Found
	var conf hraft.Configuration
	var snaps hraft.SnapshotStore
	var list []*hraft.SnapshotMeta
	if _, err := os.Stat(filepath.Join(dir, "snapshots")); err == nil {
		if snaps, err = openSnapshots(dir, newLogger(f.log)); err != nil {
			return Found{}, err
		}
		if list, err = snaps.List(); err != nil {
			return Found{}, damaged(dir, err)
		}
	}
	for _, m := range list { // newest first
		_, source, err := snaps.Open(m.ID)
		if err == nil {
			err = errors.Join(f.Restore(source), source.Close())
		}
		if err == nil {
			out.Index, out.Term, conf = m.Index, m.Term, m.Configuration
			break
		}
	}
	first, last := s.first.Load(), s.last.Load()
	if len(list) > 0 && out.Index == 0 || last > 0 && first > out.Index+1 {
		return Found{}, damaged(dir, errors.New("the log does not continue a readable snapshot"))
	}
	for i := out.Index + 1; i <= last; i++ {
		var l hraft.Log
		if err := s.GetLog(i, &l); err != nil {
			return Found{}, err
		}
		switch l.Type {
		case hraft.LogCommand:
			f.Apply(&l)
		case hraft.LogConfiguration:
			conf = hraft.DecodeConfiguration(l.Data)
		}
		out.Index, out.Term = l.Index, l.Term
	}
	for _, sv := range conf.Servers {
		out.Servers = append(out.Servers, Server{Name: string(sv.ID), Voter: sv.Suffrage == hraft.Voter})
	}
	out.State = f.current()
	out.Applied = out.State.Index
	return out, nil
}

// Recover lets the named node go on alone from what is in its directory, whatever the majority knows: every entry of its
// log counts as decided, then last is applied as the end of the old history. For an administrator who vouches that the
// majority is gone for good; everyone else must come back empty. An interrupted Recover is repeated.
//
// What was there is copied to the directory keep first, which must not exist.
func Recover(dir, keep, name string, last placement.Command, apply func(placement.State, placement.Command) (placement.State, placement.Result), log *slog.Logger) (err error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s, err := openStore(filepath.Join(dir, storeFile), false, func(error) {})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	logger := newLogger(log)
	snaps, err := openSnapshots(dir, logger)
	if err != nil {
		return err
	}
	if err := preserve(dir, keep); err != nil {
		return fmt.Errorf("keeping a copy of the old state: %w (nothing was changed)", err)
	}
	f := &endFSM{fsm: newFSM(apply, func(placement.State) {}, log), last: last}
	_, trans := hraft.NewInmemTransport(hraft.ServerAddress(name))
	conf := hraft.DefaultConfig()
	conf.LocalID, conf.Logger = hraft.ServerID(name), logger
	if err := hraft.RecoverCluster(conf, f, s, s, snaps, trans, hraft.Configuration{Servers: []hraft.Server{
		{Suffrage: hraft.Voter, ID: hraft.ServerID(name), Address: hraft.ServerAddress(name)}}}); err != nil {
		return fmt.Errorf("%w: recovering %s: %w", ErrStorage, dir, err)
	}
	return forgetOlder(dir, snaps)
}

// endFSM adds the last command of a history to what becomes the snapshot.
type endFSM struct {
	*fsm
	last placement.Command
}

// Snapshot implements hraft.FSM.
func (f *endFSM) Snapshot() (hraft.FSMSnapshot, error) {
	next, res := f.apply(f.current(), f.last)
	if !res.Applied {
		return nil, errors.New(res.Why)
	}
	return &snapshot{state: &next}, nil
}

// forgetOlder removes the snapshots before the newest, of which there is a copy: the library falls back to an older one
// when the newest is damaged, and that would be the cluster from before.
func forgetOlder(dir string, snaps hraft.SnapshotStore) error {
	list, err := snaps.List()
	if err != nil {
		return err
	}
	for i, m := range list {
		if i > 0 {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, "snapshots", m.ID)))
		}
	}
	return err
}

// preserve copies the Raft files of dir.
func preserve(dir, keep string) error {
	if err := os.MkdirAll(filepath.Dir(keep), 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(keep, 0o700); err != nil {
		return err
	}
	return errors.Join(copyFile(filepath.Join(dir, storeFile), filepath.Join(keep, storeFile)), copyTree(filepath.Join(dir, "snapshots"), filepath.Join(keep, "snapshots")))
}

func copyTree(from, to string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	for _, e := range entries {
		a, b := filepath.Join(from, e.Name()), filepath.Join(to, e.Name())
		if e.IsDir() {
			err = errors.Join(err, copyTree(a, b))
		} else {
			err = errors.Join(err, copyFile(a, b))
		}
	}
	return err
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// Files are what this package keeps in a data directory, as far as it is there.
func Files(dir string) ([]string, error) {
	var out []string
	for _, name := range []string{storeFile, "snapshots"} {
		_, err := os.Lstat(filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err == nil {
			out = append(out, name)
		}
	}
	return slices.Clip(out), nil
}
