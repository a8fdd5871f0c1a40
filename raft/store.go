package raft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	hraft "github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

const storeFile = "raft.db"

var (
	logBucket  = []byte("log")
	confBucket = []byte("conf")
	tailKey    = []byte("tail") // first and last index; in another page than the entries, so that both cannot vanish together
	kvPrefix   = []byte("kv:")
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	// The library compares with the text of this error.
	errNotFound = errors.New("not found")
)

// store keeps the log, the term and the vote in one bbolt file. bbolt has no checksum over its data; here every value
// carries one, over its key too, so that a flipped bit is an error and never another history.
type store struct {
	db    *bbolt.DB
	path  string
	fault func(error)
	live  atomic.Bool // the library runs; before, errors are returned to Open

	readOnly bool

	first, last atomic.Uint64 // 0: empty
}

var (
	_ hraft.LogStore          = (*store)(nil)
	_ hraft.StableStore       = (*store)(nil)
	_ hraft.MonotonicLogStore = (*store)(nil)
)

// damage is a file or directory that cannot be trusted, and what to do about it.
type damage struct {
	path string
	err  error
}

func damaged(path string, err error) error { return &damage{path, err} }

func (d *damage) Error() string {
	return fmt.Sprintf("%v: %s is damaged: %v. Nothing was changed. With it this node has lost its votes, so it must come back under a new "+
		"identity: run `hactl node rejoin` on it (it keeps the old files)", ErrStorage, d.path, d.err)
}

func (d *damage) Unwrap() []error { return []error{ErrStorage, ErrDamaged, d.err} }

// openStore opens the file, made only when fresh, and reads all of it once.
func openStore(path string, fresh bool, fault func(error)) (*store, error) {
	return (&store{path: path, fault: fault}).openChecked(fresh)
}

// openReadOnly opens the file to look at it; nothing is ever changed.
func openReadOnly(path string) (*store, error) {
	return (&store{path: path, fault: func(error) {}, readOnly: true}).openChecked(false)
}

func (s *store) openChecked(fresh bool) (*store, error) {
	path := s.path
	fi, err := os.Stat(path)
	switch {
	case err == nil && fi.Size() == 0 && !fresh:
		return nil, damaged(path, errors.New("it is empty"))
	case errors.Is(err, os.ErrNotExist) && !fresh:
		return nil, fmt.Errorf("%w: %s does not exist, but this node has been a member. If the disk was replaced, run "+
			"`hactl node rejoin` on this node: it comes back under a new identity; starting empty could undo what the cluster has decided", ErrWiped, path)
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("%w: opening %s: %w", ErrStorage, path, err)
	}
	if err == nil && fi.Size() > 0 {
		if err := inspect(path); err != nil {
			return nil, damaged(path, err)
		}
	}
	if err := s.open(fresh); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *store) open(fresh bool) error {
	var err error
	s.db, err = bbolt.Open(s.path, 0o600, &bbolt.Options{Timeout: time.Second, ReadOnly: s.readOnly})
	if errors.Is(err, berrors.ErrTimeout) {
		return fmt.Errorf("%w: %s: %w: is another had running on this machine?", ErrStorage, s.path, ErrInUse)
	}
	if err != nil {
		return s.explain("opening", err)
	}
	if err := s.prepare(fresh); err != nil {
		return errors.Join(err, s.db.Close())
	}
	if err := s.verify(); err != nil {
		return errors.Join(damaged(s.path, err), s.db.Close())
	}
	return nil
}

// prepare makes the buckets of a new file.
func (s *store) prepare(fresh bool) error {
	there := 0
	if err := s.guard(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			return tx.ForEach(func([]byte, *bbolt.Bucket) error { there++; return nil })
		})
	}); err != nil {
		return damaged(s.path, err)
	}
	switch {
	case there == 2:
		return nil // verify says whether they are the right ones
	case there != 0 || !fresh:
		return damaged(s.path, errors.New("its buckets are missing"))
	}
	return s.write("preparing", func(tx *bbolt.Tx) error {
		if _, err := tx.CreateBucket(logBucket); err != nil {
			return err
		}
		b, err := tx.CreateBucket(confBucket)
		if err != nil {
			return err
		}
		return b.Put(tailKey, seal(tailKey, tail(0, 0)))
	})
}

// verify reads every value once.
func (s *store) verify() error {
	return s.guard(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			conf, entries := tx.Bucket(confBucket), tx.Bucket(logBucket)
			if conf == nil || entries == nil {
				return errors.New("its buckets have other names")
			}
			b, err := unseal(tailKey, conf.Get(tailKey))
			if err == nil && len(b) != 16 {
				err = errNotSealed
			}
			if err != nil {
				return fmt.Errorf("reading the bounds of the log: %w", err)
			}
			first, last := binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
			if err := conf.ForEach(func(k, v []byte) error {
				_, err := unseal(k, v)
				return err
			}); err != nil {
				return err
			}
			next := first
			if err := entries.ForEach(func(k, v []byte) error {
				if len(k) != 8 || binary.BigEndian.Uint64(k) != next {
					return fmt.Errorf("entry %x found where %d was expected", k, next)
				}
				next++
				var l hraft.Log
				return decodeEntry(k, v, &l)
			}); err != nil {
				return err
			}
			if first == 0 && next != 0 || first != 0 && next != last+1 {
				return fmt.Errorf("the log ends at %d, its end is recorded as %d", next-1, last)
			}
			s.first.Store(first)
			s.last.Store(last)
			return nil
		})
	})
}

// Close closes the file.
func (s *store) Close() error { return s.db.Close() }

// IsMonotonic implements hraft.MonotonicLogStore: the library clears the log before it leaves a gap.
func (s *store) IsMonotonic() bool { return true }

// FirstIndex implements hraft.LogStore.
func (s *store) FirstIndex() (uint64, error) { return s.first.Load(), nil }

// LastIndex implements hraft.LogStore.
func (s *store) LastIndex() (uint64, error) { return s.last.Load(), nil }

// GetLog implements hraft.LogStore.
func (s *store) GetLog(index uint64, l *hraft.Log) error {
	found := false
	err := s.guard(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			k := key(index)
			v := tx.Bucket(logBucket).Get(k)
			if found = v != nil; !found {
				return nil
			}
			return decodeEntry(k, v, l)
		})
	})
	if err != nil {
		return s.fatal(damaged(s.path, fmt.Errorf("reading entry %d: %w", index, err)))
	}
	if !found {
		return hraft.ErrLogNotFound
	}
	return nil
}

// StoreLog implements hraft.LogStore.
func (s *store) StoreLog(l *hraft.Log) error { return s.StoreLogs([]*hraft.Log{l}) }

// StoreLogs implements hraft.LogStore. All entries and the new end are one transaction, on disk when it returns.
func (s *store) StoreLogs(logs []*hraft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	first, last := s.first.Load(), s.last.Load()
	err := s.write("writing the log", func(tx *bbolt.Tx) error {
		b := tx.Bucket(logBucket)
		b.FillPercent = 0.9 // keys only grow
		for _, l := range logs {
			if first != 0 && (l.Index < first || l.Index > last+1) {
				return fmt.Errorf("entry %d does not continue the log %d-%d", l.Index, first, last)
			}
			k := key(l.Index)
			if err := b.Put(k, encodeEntry(k, l)); err != nil {
				return err
			}
			if first == 0 {
				first = l.Index
			}
			last = max(last, l.Index)
		}
		return tx.Bucket(confBucket).Put(tailKey, seal(tailKey, tail(first, last)))
	})
	if err != nil {
		s.report(err)
		return err
	}
	s.first.Store(first)
	s.last.Store(last)
	return nil
}

// DeleteRange implements hraft.LogStore; bounds are inclusive. The library deletes at one end only.
func (s *store) DeleteRange(lo, hi uint64) error {
	first, last := s.first.Load(), s.last.Load()
	lo, hi = max(lo, first), min(hi, last)
	if first == 0 || lo > hi {
		return nil
	}
	switch {
	case lo == first && hi == last:
		first, last = 0, 0
	case lo == first:
		first = hi + 1
	case hi == last:
		last = lo - 1
	default:
		return fmt.Errorf("deleting %d-%d would leave a hole in the log %d-%d", lo, hi, first, last)
	}
	err := s.write("shortening the log", func(tx *bbolt.Tx) error {
		b := tx.Bucket(logBucket)
		for i := lo; i <= hi; i++ {
			if err := b.Delete(key(i)); err != nil {
				return err
			}
		}
		return tx.Bucket(confBucket).Put(tailKey, seal(tailKey, tail(first, last)))
	})
	if err != nil {
		s.report(err)
		return err
	}
	s.first.Store(first)
	s.last.Store(last)
	return nil
}

// Set implements hraft.StableStore.
func (s *store) Set(k, v []byte) error {
	k = append(bytes.Clone(kvPrefix), k...)
	err := s.write("writing the term and vote", func(tx *bbolt.Tx) error { return tx.Bucket(confBucket).Put(k, seal(k, v)) })
	if err != nil {
		return s.fatal(err)
	}
	return nil
}

// Get implements hraft.StableStore.
func (s *store) Get(k []byte) ([]byte, error) {
	k = append(bytes.Clone(kvPrefix), k...)
	var out []byte
	err := s.guard(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			v := tx.Bucket(confBucket).Get(k)
			if v == nil {
				return nil
			}
			b, err := unseal(k, v)
			out = append([]byte{}, b...)
			return err
		})
	})
	if err != nil {
		return nil, s.fatal(damaged(s.path, err))
	}
	if out == nil {
		return nil, errNotFound
	}
	return out, nil
}

// SetUint64 implements hraft.StableStore.
func (s *store) SetUint64(k []byte, v uint64) error { return s.Set(k, key(v)) }

// GetUint64 implements hraft.StableStore.
func (s *store) GetUint64(k []byte) (uint64, error) {
	b, err := s.Get(k)
	if err != nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, damaged(s.path, fmt.Errorf("value %q has %d bytes", k, len(b)))
	}
	return binary.BigEndian.Uint64(b), nil
}

func (s *store) write(what string, f func(*bbolt.Tx) error) error {
	if err := s.guard(func() error { return s.db.Update(f) }); err != nil {
		return s.explain(what, err)
	}
	return nil
}

func (s *store) explain(what string, err error) error {
	hint := "check the disk and start had again"
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		hint = "the disk is full: free some space and start had again"
	}
	return fmt.Errorf("%w: %s in %s: %w (%s)", ErrStorage, what, s.path, err, hint)
}

// guard turns a panic of bbolt, and a fault in its mapped file, into an error.
func (s *store) guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("bbolt: %v", p)
		}
	}()
	return f()
}

// report tells the owner about a fault that the library survives by itself.
func (s *store) report(err error) {
	if s.live.Load() {
		s.fault(err)
	}
}

// fatal is for faults on which the library would panic, and with it all of had, VIPs and services. The owner is told,
// and the library's goroutine ends here with its deferred calls; it must not go on with a term or vote that is not on disk.
func (s *store) fatal(err error) error {
	if s.live.Load() {
		s.fault(err)
		runtime.Goexit()
	}
	return err
}

func key(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func tail(first, last uint64) []byte { return append(key(first), key(last)...) }

var errNotSealed = errors.New("checksum does not match")

// seal prepends the CRC-32C of key and value.
func seal(k, v []byte) []byte {
	sum := crc32.Update(crc32.Checksum(k, castagnoli), castagnoli, v)
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(v)), sum), v...)
}

func unseal(k, b []byte) ([]byte, error) {
	if len(b) < 4 || binary.BigEndian.Uint32(b) != crc32.Update(crc32.Checksum(k, castagnoli), castagnoli, b[4:]) {
		return nil, fmt.Errorf("value %q: %w", k, errNotSealed)
	}
	return b[4:], nil
}

// encodeEntry: term, type, time, length of the extensions, extensions, data; sealed.
func encodeEntry(k []byte, l *hraft.Log) []byte {
	b := make([]byte, 0, 21+len(l.Extensions)+len(l.Data))
	b = binary.BigEndian.AppendUint64(b, l.Term)
	b = append(b, byte(l.Type))
	var at uint64
	if !l.AppendedAt.IsZero() {
		at = uint64(l.AppendedAt.UnixNano())
	}
	b = binary.BigEndian.AppendUint64(b, at)
	b = binary.BigEndian.AppendUint32(b, uint32(len(l.Extensions)))
	b = append(append(b, l.Extensions...), l.Data...)
	return seal(k, b)
}

func decodeEntry(k, v []byte, l *hraft.Log) error {
	b, err := unseal(k, v)
	if err != nil {
		return fmt.Errorf("entry %d: %w", binary.BigEndian.Uint64(k), errNotSealed)
	}
	if len(b) < 21 || uint64(len(b)-21) < uint64(binary.BigEndian.Uint32(b[17:])) {
		return fmt.Errorf("entry %d is too short", binary.BigEndian.Uint64(k))
	}
	ext := int(binary.BigEndian.Uint32(b[17:]))
	*l = hraft.Log{Index: binary.BigEndian.Uint64(k), Term: binary.BigEndian.Uint64(b), Type: hraft.LogType(b[8])}
	if at := binary.BigEndian.Uint64(b[9:]); at != 0 {
		l.AppendedAt = time.Unix(0, int64(at))
	}
	if ext > 0 {
		l.Extensions = bytes.Clone(b[21 : 21+ext])
	}
	l.Data = bytes.Clone(b[21+ext:])
	return nil
}

func openSnapshots(dir string, logger hclog.Logger) (hraft.SnapshotStore, error) {
	s, err := hraft.NewFileSnapshotStoreWithLogger(dir, snapshotsKept, logger)
	if err != nil {
		return nil, fmt.Errorf("%w: opening the snapshots in %s: %w", ErrStorage, filepath.Join(dir, "snapshots"), err)
	}
	return s, nil
}
