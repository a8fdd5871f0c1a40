package resources

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// newCgroup makes a cgroup of its own for one start, below the cgroup this process is in (the one systemd delegates to
// the agent's unit). An error means that this machine gives none, which is not fatal: process group and marks remain.
func newCgroup(name string) (string, error) {
	root, err := cgroup2Mount()
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	own := ""
	for line := range strings.Lines(string(b)) {
		if p, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			own = filepath.Clean("/" + p) // "/.." is a cgroup outside of our cgroup namespace: then the root we see
		}
	}
	dir := filepath.Join(root, own, cgroupPrefix+name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", fmt.Errorf("making a cgroup: %w", err)
	}
	return dir, nil
}

// cgroup2Mount finds where the unified hierarchy is: /sys/fs/cgroup, or /sys/fs/cgroup/unified beside version 1.
func cgroup2Mount() (string, error) {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if isCgroup2(dir) {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no cgroup version 2 hierarchy is mounted: %w", errors.ErrUnsupported)
}

func isCgroup2(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// cgroupProcs lists the processes of a cgroup and of those below it. A cgroup that is gone has none.
func cgroupProcs(dir string) ([]proc, error) {
	var procs []proc
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !e.IsDir() {
			return err
		}
		pids, err := readPIDs(filepath.Join(p, "cgroup.procs"))
		if err != nil {
			return err
		}
		for _, pid := range pids {
			if st, err := readStat(pid); err == nil && !st.dead() {
				procs = append(procs, proc{pid, st.Start})
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing cgroup %s: %w", dir, err)
	}
	return procs, nil
}

// cgroupEmpty asks the kernel whether the cgroup and those below it hold no process. The list of processes does not tell:
// it leaves out one that has begun to exit and still has its files and sockets open.
func cgroupEmpty(dir string) (bool, error) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("asking whether cgroup %s is empty: %w", dir, err)
	}
	return strings.Contains(string(b), "populated 0\n"), nil
}

func readPIDs(file string) ([]int, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var pids []int
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		// 0 is a process outside of our pid namespace; it cannot be one of ours.
		if pid, err := strconv.Atoi(sc.Text()); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	if err := sc.Err(); err != nil && !errors.Is(err, unix.ENODEV) { // ENODEV: removed while reading
		return nil, err
	}
	return pids, nil
}

// killCgroup kills all that is in dir and below at once (cgroup.kill, Linux 5.14), also what forks meanwhile. It reports
// whether the kernel took the order.
func killCgroup(dir string) bool {
	return strings.HasPrefix(filepath.Base(dir), cgroupPrefix) && orderKill(dir)
}

// orderKill writes to cgroup.kill, where the kernel has it.
func orderKill(dir string) bool {
	if !isCgroup2(dir) {
		return false
	}
	f, err := os.OpenFile(filepath.Join(dir, "cgroup.kill"), os.O_WRONLY, 0) // no O_CREATE: 0 on an older kernel
	if err != nil {
		return false
	}
	_, err = f.WriteString("1")
	return errors.Join(err, f.Close()) == nil
}

// removeCgroup removes an empty cgroup, those below it first.
func removeCgroup(dir string) error {
	if !strings.HasPrefix(filepath.Base(dir), cgroupPrefix) {
		return fmt.Errorf("cgroup %q is not one of this program", dir)
	}
	var dirs []string
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			dirs = append(dirs, p)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	for i := len(dirs) - 1; i >= 0; i-- {
		if e := unix.Rmdir(dirs[i]); e != nil && !errors.Is(e, unix.ENOENT) {
			err = errors.Join(err, fmt.Errorf("removing cgroup %s: %w", dirs[i], e))
		}
	}
	return err
}
