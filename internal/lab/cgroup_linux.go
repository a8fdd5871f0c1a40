package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroup is one node's group in the cgroup2 hierarchy: it freezes and kills everything in the node at once.
// A nil *cgroup means that this machine lets us have none; callers fall back to single processes.
type cgroup struct {
	path string
	dir  *os.File
}

// cgroup2Root is the mount point of the cgroup2 hierarchy ("" when there is none). In hybrid setups that is not
// /sys/fs/cgroup itself.
func cgroup2Root() string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		before, after, ok := strings.Cut(s.Text(), " - ")
		fields := strings.Fields(before)
		if ok && strings.HasPrefix(after, "cgroup2 ") && len(fields) > 4 {
			return fields[4]
		}
	}
	return ""
}

func newCgroup(path string) (*cgroup, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("making cgroup: %w", err)
	}
	if _, err := os.Stat(filepath.Join(path, "cgroup.freeze")); err != nil {
		return nil, errors.Join(fmt.Errorf("using cgroup: %w", err), os.Remove(path))
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening cgroup: %w", err), os.Remove(path))
	}
	return &cgroup{path: path, dir: dir}, nil
}

func (c *cgroup) close() {
	if c != nil {
		c.dir.Close()
	}
}

func (c *cgroup) write(file, value string) error {
	if err := os.WriteFile(filepath.Join(c.path, file), []byte(value), 0); err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	return nil
}

// freeze stops or resumes every process in the group and below, and waits for the kernel to confirm.
func (c *cgroup) freeze(on bool) error {
	value := "0"
	if on {
		value = "1"
	}
	if err := c.write("cgroup.freeze", value); err != nil {
		return err
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(200 * time.Microsecond) {
		b, err := os.ReadFile(filepath.Join(c.path, "cgroup.events"))
		if err != nil {
			return fmt.Errorf("reading cgroup.events: %w", err)
		}
		if strings.Contains(string(b), "frozen "+value) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waiting for cgroup %s to be frozen=%s: not confirmed in 5s", c.path, value)
		}
	}
}

// has tells whether a process is in the group or below.
func (c *cgroup) has(pid int) bool { return inCgroup(c.path, pid) }

func inCgroup(path string, pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return false
	}
	root := cgroup2Root()
	for line := range strings.Lines(string(b)) {
		if p, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			p = filepath.Join(root, p)
			return p == path || strings.HasPrefix(p, path+"/")
		}
	}
	return false
}

// killCgroup sends SIGKILL to every process in the group and below; frozen ones die too. It does not use cgroup.kill: on
// Linux 6.18 every process that is later started into such a group by clone3 with CLONE_INTO_CGROUP is killed at birth.
func killCgroup(path string) {
	filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error { // a directory that vanished is the goal
		if err != nil || !d.IsDir() {
			return nil
		}
		b, _ := os.ReadFile(filepath.Join(p, "cgroup.procs"))
		for _, s := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(s); err == nil && pid > 0 {
				signalIf(pid, unix.SIGKILL, func() bool { return inCgroup(path, pid) }) // gone already, or in the next round
			}
		}
		return nil
	})
}

// populated tells whether any process lives in the group or below.
func populated(path string) bool {
	b, err := os.ReadFile(filepath.Join(path, "cgroup.events"))
	return err == nil && strings.Contains(string(b), "populated 1")
}

// removeCgroup kills what is in the group and below, and removes the directories.
func removeCgroup(path string) error {
	if path == "" {
		return nil
	}
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	deadline := time.Now().Add(5 * time.Second)
	for populated(path) && time.Now().Before(deadline) {
		killCgroup(path)
		time.Sleep(time.Millisecond)
	}
	var dirs []string
	filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error { // a directory that vanished is the goal
		if err == nil && d.IsDir() {
			dirs = append(dirs, p)
		}
		return nil
	})
	var errs []error
	for _, d := range slices.Backward(dirs) {
		err := os.Remove(d)
		for ; err != nil && !errors.Is(err, os.ErrNotExist) && time.Now().Before(deadline); err = os.Remove(d) {
			time.Sleep(time.Millisecond) // a dying process still holds its group for a moment
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("removing cgroup: %w", err))
		}
	}
	return errors.Join(errs...)
}
