package raft

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	hraft "github.com/hashicorp/raft"
	"golang.org/x/sys/unix"
)

// tinyDisk is a file system of half a megabyte.
func tinyDisk(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a small file system")
	}
	dir := t.TempDir()
	if err := unix.Mount("had-raft", dir, "tmpfs", 0, "size=512k"); err != nil {
		t.Skip("needs leave to mount: ", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestFullDiskStopsTheNodeOnly(t *testing.T) { // S4
	c := newCluster(t)
	n1 := c.add("n1")
	n1.dir = tinyDisk(t)
	c.must(Bootstrap(n1.dir, "n1", nil))
	c.must(n1.start(true))
	for _, name := range []string{"n2", "n3"} {
		c.must(c.add(name).start(true))
		c.must(c.leader().raft.AddVoter(t.Context(), name))
	}
	c.until("n1 leads", func() bool {
		l := c.leader()
		return l == n1 || l.raft.TransferLeadership(t.Context(), "n1") == nil && n1.raft.IsLeader()
	})
	ballast := filepath.Join(n1.dir, "ballast")
	full := fill(t, ballast)
	confirmed := ""
	var err error
	for i := range 2000 {
		text := fmt.Sprintf("event %d %s", i, strings.Repeat("x", 2000))
		if _, err = n1.raft.Propose(t.Context(), note(text)); err != nil {
			break
		}
		confirmed = text
	}
	if !errors.Is(err, ErrStorage) || !strings.Contains(err.Error(), "disk is full") {
		t.Fatalf("proposing on a full disk (%d bytes of ballast): %v", full, err)
	}
	select {
	case <-n1.raft.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the node goes on")
	}
	if err := n1.raft.Err(); !errors.Is(err, ErrStorage) || !strings.Contains(err.Error(), "disk is full") || n1.raft.IsLeader() {
		t.Errorf("why: %v", err)
	}
	n1.stop()
	c.leader().propose("the others go on")
	c.everyoneHas("the others go on")

	// With room again nothing is lost.
	c.must(os.Remove(ballast))
	c.must(n1.start(false))
	c.everyoneHas("the others go on")
	if confirmed != "" {
		c.everyoneHas(confirmed)
	}
}

// fill leaves room for a few pages.
func fill(t *testing.T, path string) int {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n, chunk := 0, make([]byte, 4096)
	for {
		w, err := f.Write(chunk)
		n += w
		if err != nil {
			break
		}
	}
	n = max(0, n-6*4096)
	if err := f.Truncate(int64(n)); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestFullDiskAtTheVote: a term that cannot be written must not be acted on, and must not crash the process.
func TestFullDiskAtTheVote(t *testing.T) {
	dir := tinyDisk(t)
	faults := make(chan error, 100)
	s, err := openStore(filepath.Join(dir, storeFile), true, func(err error) { faults <- err })
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.live.Store(true)
	fill(t, filepath.Join(dir, "ballast"))
	done, went := make(chan struct{}), make(chan int, 1)
	go func() {
		defer close(done)
		for i := range 10000 { // values that grow until they do not fit
			if err := s.Set([]byte("LastVoteCand"), make([]byte, i*64)); err != nil {
				panic(err)
			}
		}
		went <- 1
	}()
	<-done
	select {
	case err := <-faults:
		if !errors.Is(err, ErrStorage) || !strings.Contains(err.Error(), "disk is full") {
			t.Error(err)
		}
	default:
		t.Error("no fault was reported")
	}
	if len(went) > 0 {
		t.Error("the caller went on")
	}
}

// TestKilledWriterLosesNothing kills a process at any instruction while it writes; what it confirmed is there.
func TestKilledWriterLosesNothing(t *testing.T) { // S4
	if path := os.Getenv("HAD_RAFT_WRITER"); path != "" {
		writeForever(t, path)
		return
	}
	path := filepath.Join(t.TempDir(), storeFile)
	if err := mustOpen(t, path, true).Close(); err != nil {
		t.Fatal(err)
	}
	for round := range 12 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledWriterLosesNothing$", "-test.v=false")
		cmd.Env = append(os.Environ(), "HAD_RAFT_WRITER="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		confirmed, lines := uint64(0), bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			if i, err := strconv.ParseUint(lines.Text(), 10, 64); err == nil {
				confirmed = i
			}
			if n == 5+round*7 {
				time.AfterFunc(time.Duration(round*137)*time.Microsecond, func() { cmd.Process.Kill() })
			}
		}
		io.Copy(io.Discard, out)
		cmd.Wait() // killed
		s := mustOpen(t, path, false)
		got := read(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if confirmed == 0 || got.Last < confirmed || got.Term < confirmed-1 {
			t.Fatalf("round %d: %d was confirmed, the log ends at %d, term %d", round, confirmed, got.Last, got.Term)
		}
	}
}

func writeForever(t *testing.T, path string) {
	s := mustOpen(t, path, false)
	for i := s.last.Load() + 1; ; i++ {
		if err := errors.Join(s.StoreLogs([]*hraft.Log{{Index: i, Term: i, Data: make([]byte, 300)}}), s.SetUint64([]byte("CurrentTerm"), i)); err != nil {
			t.Fatal(err)
		}
		if i%50 == 0 {
			if err := s.DeleteRange(1, i-20); err != nil {
				t.Fatal(err)
			}
		}
		fmt.Println(i)
	}
}

func TestWritableAsksTheDisk(t *testing.T) {
	dir := tinyDisk(t)
	left := fill(t, filepath.Join(dir, "ballast"))
	if err := Writable(dir); !errors.Is(err, ErrStorage) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a full disk (%d bytes of ballast): %v", left, err)
	}
	if err := os.Remove(filepath.Join(dir, "ballast")); err != nil {
		t.Fatal(err)
	}
	if err := Writable(dir); err != nil {
		t.Errorf("a disk with room: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".writable-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := Writable(filepath.Join(dir, "no")); !errors.Is(err, ErrStorage) {
		t.Errorf("no such directory: %v", err)
	}
}
