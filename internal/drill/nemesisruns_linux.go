package drill

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The exclusive service of the nemesis says itself when it runs: every tick it writes the time down. What a killed or frozen
// process does not write it did not run, to the tick. All nodes are on one kernel, so they share its clock.
const (
	tick = 2 * time.Millisecond
	// standstill is a pause after which the process counts as having stood still. A busy machine makes it pause shorter.
	standstill = 20 * time.Millisecond
)

// Exclusive is the exclusive service: it runs until SIGTERM, and ignores that while a file says so. It returns an exit code.
func Exclusive(dir string, stderr io.Writer) int {
	node := os.Getenv("HAD_NODE")
	term := make(chan os.Signal, 4)
	signal.Notify(term, unix.SIGTERM)
	f, err := os.Create(filepath.Join(dir, fmt.Sprintf("%s.%d.%s", node, os.Getpid(), os.Getenv("HAD_EPOCH"))))
	if err != nil {
		fmt.Fprintln(stderr, "exclusive:", err)
		return 1
	}
	defer f.Close()
	var at int64 // of the stretch that is going on, in f
	var buf [16]byte
	begun := monotonic()
	last := begun
	beat := time.NewTicker(tick)
	defer beat.Stop()
	for {
		now := monotonic()
		if now-last > standstill {
			at, begun = at+int64(len(buf)), now
		}
		last = now
		binary.LittleEndian.PutUint64(buf[:], uint64(begun))
		binary.LittleEndian.PutUint64(buf[8:], uint64(now))
		if _, err := f.WriteAt(buf[:], at); err != nil {
			fmt.Fprintln(stderr, "exclusive:", err)
			return 1
		}
		select {
		case <-beat.C:
		case <-term:
			if _, err := os.Stat(filepath.Join(dir, "refuse-"+node)); err != nil {
				return 0
			}
			fmt.Fprintln(stderr, "exclusive: it shall not stop")
		}
	}
}

func monotonic() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // cannot fail (clock_gettime(2))
	return time.Duration(t.Nano())
}

// stretch is a time in which one exclusive process ran.
type stretch struct {
	node     string
	pid      int
	from, to time.Duration
}

// stretches reads what the exclusive services wrote since an instant of the monotonic clock.
func stretches(dir string, since time.Duration) (out []stretch, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.*.*"))
	if err != nil {
		return nil, err
	}
	for _, path := range files {
		part := strings.Split(filepath.Base(path), ".")
		pid, err := strconv.Atoi(part[1])
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", path, err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		for ; len(b) >= 16; b = b[16:] {
			s := stretch{node: part[0], pid: pid, from: time.Duration(binary.LittleEndian.Uint64(b)), to: time.Duration(binary.LittleEndian.Uint64(b[8:]))}
			if s.to >= since {
				s.from = max(s.from, since)
				out = append(out, s)
			}
		}
	}
	return out, nil
}

// twice is the time in which two or more processes ran at once; on one node too, for one of them is not had's then.
func twice(list []stretch) (total time.Duration) {
	type edge struct {
		at time.Duration
		by int
	}
	var edges []edge
	for _, s := range list {
		edges = append(edges, edge{s.from, 1}, edge{s.to, -1})
	}
	slices.SortFunc(edges, func(a, b edge) int {
		if a.at != b.at {
			return int(a.at - b.at)
		}
		return a.by - b.by // ends first: one that begins the moment another ends is not beside it
	})
	running := 0
	for i, e := range edges {
		if running > 1 {
			total += e.at - edges[i-1].at
		}
		running += e.by
	}
	return total
}

// running lists the nodes on which an exclusive process is alive, frozen ones too.
func (a *arena) running() (out []string) {
	files, _ := filepath.Glob(filepath.Join(a.runs, "*.*.*"))
	for _, path := range files {
		part := strings.Split(filepath.Base(path), ".")
		line, err := os.ReadFile(filepath.Join("/proc", part[1], "cmdline"))
		if err == nil && strings.Contains(string(line), a.runs) {
			out = append(out, part[0])
		}
	}
	return out
}

// forgetRuns removes the records of processes that are gone.
func (a *arena) forgetRuns() error {
	files, err := filepath.Glob(filepath.Join(a.runs, "*.*.*"))
	errs := []error{err}
	for _, path := range files {
		if _, err := os.Stat(filepath.Join("/proc", strings.Split(filepath.Base(path), ".")[1])); err != nil {
			errs = append(errs, os.Remove(path))
		}
	}
	return errors.Join(errs...)
}
