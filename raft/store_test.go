package raft

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	hraft "github.com/hashicorp/raft"
)

// contents is all that the library can ask a store.
type contents struct {
	First, Last uint64
	Logs        []hraft.Log
	Term        uint64
	Vote        []byte
}

func read(t testing.TB, s *store) contents {
	t.Helper()
	c := contents{First: s.first.Load(), Last: s.last.Load()}
	for i := c.First; i != 0 && i <= c.Last; i++ {
		var l hraft.Log
		if err := s.GetLog(i, &l); err != nil {
			t.Fatal(err)
		}
		c.Logs = append(c.Logs, l)
	}
	var err error
	if c.Term, err = s.GetUint64([]byte("CurrentTerm")); err != nil && !errors.Is(err, errNotFound) {
		t.Fatal(err)
	}
	if c.Vote, err = s.Get([]byte("LastVoteCand")); err != nil && !errors.Is(err, errNotFound) {
		t.Fatal(err)
	}
	return c
}

func entries(from, to, term uint64) []*hraft.Log {
	var out []*hraft.Log
	for i := from; i <= to; i++ {
		out = append(out, &hraft.Log{Index: i, Term: term, Type: hraft.LogCommand, Data: []byte(strings.Repeat(fmt.Sprint("entry ", i, " "), 20)),
			AppendedAt: time.Unix(0, 12345)})
	}
	return out
}

func mustOpen(t testing.TB, path string, fresh bool) *store {
	t.Helper()
	s, err := openStore(path, fresh, func(err error) { t.Error("fault: ", err) })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// used is the path of a closed store with some history.
func used(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), storeFile)
	s := mustOpen(t, path, true)
	for i := uint64(1); i <= 40; i += 4 {
		if err := s.StoreLogs(entries(i, i+3, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(s.DeleteRange(1, 7), s.DeleteRange(35, 40), s.StoreLogs(entries(35, 36, 2)),
		s.SetUint64([]byte("CurrentTerm"), 2), s.Set([]byte("LastVoteCand"), []byte("n2")), s.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestStoreKeepsWhatItWasGiven(t *testing.T) {
	path := used(t)
	s := mustOpen(t, path, false)
	defer s.Close()
	got := read(t, s)
	if got.First != 8 || got.Last != 36 || got.Term != 2 || string(got.Vote) != "n2" {
		t.Errorf("got %d-%d, term %d, vote %q", got.First, got.Last, got.Term, got.Vote)
	}
	for i, l := range got.Logs {
		term := uint64(1)
		if i+8 >= 35 {
			term = 2
		}
		if want := *entries(uint64(i+8), uint64(i+8), term)[0]; !reflect.DeepEqual(l, want) {
			t.Errorf("entry %d: got %+v, want %+v", i+8, l, want)
		}
	}
	var l hraft.Log
	if err := s.GetLog(7, &l); !errors.Is(err, hraft.ErrLogNotFound) {
		t.Errorf("a deleted entry: %v", err)
	}
	if err := s.StoreLogs(entries(40, 40, 2)); err == nil {
		t.Error("a hole was stored")
	}
	if err := s.DeleteRange(10, 12); err == nil {
		t.Error("a hole was cut")
	}
	if err := s.DeleteRange(1, 100); err != nil || s.last.Load() != 0 {
		t.Errorf("clearing: %v", err)
	}
	if err := s.StoreLogs(entries(1000, 1001, 3)); err != nil || s.first.Load() != 1000 {
		t.Errorf("beginning anew behind a snapshot: %v", err)
	}
}

func TestStoreRefuses(t *testing.T) {
	cut := func(path string, size int64) error { return os.Truncate(path, size) }
	for _, tc := range []struct {
		name, text string
		is         error
		break_     func(path string) error
	}{
		{"a file that is gone", "disk was replaced", ErrWiped, os.Remove},
		{"an empty file", "empty", ErrStorage, func(p string) error { return cut(p, 0) }},
		{"a file cut to one page", "meta page", ErrStorage, func(p string) error { return cut(p, int64(os.Getpagesize())) }},
		{"a file cut to three pages", "cut short", ErrStorage, func(p string) error { return cut(p, 3*int64(os.Getpagesize())) }},
		{"a file cut inside a page", "cut short", ErrStorage, func(p string) error { return cut(p, 3*int64(os.Getpagesize())+100) }},
		{"a text file", "meta page", ErrStorage, func(p string) error { return os.WriteFile(p, bytes.Repeat([]byte("hello "), 10000), 0o600) }},
		{"zeros", "meta page", ErrStorage, func(p string) error { return os.WriteFile(p, make([]byte, 65536), 0o600) }},
		{"a directory", "directory", ErrStorage, func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := used(t)
			if err := tc.break_(path); err != nil {
				t.Fatal(err)
			}
			before, _ := os.ReadFile(path)
			s, err := openStore(path, false, func(error) {})
			if err == nil {
				s.Close()
				t.Fatal("it was opened")
			}
			if !errors.Is(err, tc.is) || !strings.Contains(err.Error(), tc.text) || !strings.Contains(err.Error(), "hactl node rejoin") || !strings.Contains(err.Error(), path) {
				t.Errorf("got: %v", err)
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Error("the file was changed")
			}
		})
	}
	t.Run("a file in use", func(t *testing.T) {
		path := used(t)
		s := mustOpen(t, path, false)
		defer s.Close()
		if _, err := openStore(path, false, func(error) {}); err == nil || !strings.Contains(err.Error(), "another had") {
			t.Errorf("got %v", err)
		}
	})
}

// TestFlippedBits: whatever bit of the file is flipped, the store is either refused or says exactly what it said before.
func TestFlippedBits(t *testing.T) {
	path := used(t)
	s := mustOpen(t, path, false)
	want := read(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n := 3000
	if testing.Short() {
		n = 300
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, %d bytes", seed, len(good))
	rnd := rand.New(rand.NewPCG(seed, 1))
	refused := 0
	for i := range n {
		bad := bytes.Clone(good)
		at := rnd.IntN(len(bad))
		if i%2 == 0 { // half of them where the structure is
			at = at/4096*4096 + rnd.IntN(256)
		}
		bit := byte(1) << rnd.IntN(8)
		bad[at] ^= bit
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := openStore(path, false, func(error) {})
		if err != nil {
			refused++
			if !errors.Is(err, ErrStorage) || !strings.Contains(err.Error(), path) {
				t.Fatalf("byte %d bit %#x: %v", at, bit, err)
			}
			continue
		}
		got := read(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("byte %d bit %#x: silently another history: %d-%d term %d", at, bit, got.First, got.Last, got.Term)
		}
	}
	if refused < n/10 {
		t.Errorf("only %d of %d flips were noticed: is the test looking at used pages?", refused, n)
	}
	t.Logf("%d of %d refused, the others hit unused bytes", refused, n)
}

func FuzzInspect(f *testing.F) {
	b, err := os.ReadFile(used(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[:20480], 9000, byte(3))
	f.Add([]byte("x"), 0, byte(0))
	f.Fuzz(func(t *testing.T, data []byte, at int, x byte) {
		if at >= 0 && at < len(data) {
			data[at] ^= x
		}
		path := filepath.Join(t.TempDir(), storeFile)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_ = inspect(path) // must not panic
	})
}

// TestDamagedSnapshots: the log alone does not make up for a snapshot, so the node must not start without it.
func TestDamagedSnapshots(t *testing.T) {
	each := func(pattern string, do func(path string) error) func(dir string) error {
		return func(dir string) error {
			files, err := filepath.Glob(filepath.Join(dir, "snapshots", pattern))
			if err == nil && len(files) == 0 {
				err = errors.New("no such file")
			}
			for _, f := range files {
				err = errors.Join(err, do(f))
			}
			return err
		}
	}
	flip := func(path string) error {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		b[len(b)/2] ^= 4
		return os.WriteFile(path, b, 0o600)
	}
	for name, break_ := range map[string]func(dir string) error{
		"all gone":        each("", os.RemoveAll),
		"state flipped":   each("*/state.bin", flip),
		"state cut":       each("*/state.bin", func(p string) error { return os.Truncate(p, 10) }),
		"state gone":      each("*/state.bin", os.Remove),
		"description cut": each("*/meta.json", func(p string) error { return os.Truncate(p, 10) }),
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			n := c.add("n1")
			c.must(Bootstrap(n.dir, "n1", nil))
			c.must(n.start(true))
			r := c.leader().raft
			c.must(r.raft.ReloadConfig(reloadTrailing(r, 1)))
			for i := range 5 {
				n.propose(fmt.Sprint("event ", i))
			}
			c.must(r.raft.Snapshot().Error())
			n.propose("behind the snapshot")
			n.stop()
			c.must(break_(n.dir))
			err := n.start(false)
			if err == nil {
				t.Fatalf("it started with %d events", len(n.raft.State().Events))
			}
			if !errors.Is(err, ErrStorage) || !strings.Contains(err.Error(), n.dir) || !strings.Contains(err.Error(), "hactl node rejoin") {
				t.Errorf("got: %v", err)
			}
		})
	}
}
