package resources

import (
	"bytes"
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

	"hacluster/internal/boottime"
)

// procStat is the part of /proc/PID/stat (proc_pid_stat(5)) that tells one process from another.
type procStat struct {
	PID     int
	State   byte
	Parent  int
	Session int
	Threads int
	Start   uint64 // field 22: clock ticks after boot
}

// dead says that the process has ended, even if nobody has reaped it yet. A first thread that has ended before the others
// shows as Z too, with the number of threads that go on.
func (p procStat) dead() bool {
	return (p.State == 'Z' || p.State == 'X' || p.State == 'x') && p.Threads <= 1
}

// parseStat reads one line of /proc/PID/stat. The name in parentheses is chosen by the program and may hold spaces and
// parentheses itself, so the fields are counted from the last closing one.
func parseStat(b []byte) (procStat, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return procStat{}, errors.New("no process name in parentheses")
	}
	f := strings.Fields(string(b[end+1:]))
	if len(f) < 20 {
		return procStat{}, fmt.Errorf("%d fields after the name, want 20 or more", len(f))
	}
	if len(f[0]) != 1 {
		return procStat{}, fmt.Errorf("state %q is not one letter", f[0])
	}
	pid, err1 := strconv.Atoi(strings.TrimSpace(string(b[:open])))
	parent, err2 := strconv.Atoi(f[1])
	session, err3 := strconv.Atoi(f[3])
	threads, err4 := strconv.Atoi(f[17])
	start, err5 := strconv.ParseUint(f[19], 10, 64)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return procStat{}, err
	}
	if pid < 1 {
		return procStat{}, fmt.Errorf("process id %d", pid)
	}
	return procStat{PID: pid, State: f[0][0], Parent: parent, Session: session, Threads: threads, Start: start}, nil
}

// readStat asks for one process. The error is fs.ErrNotExist when there is none with this id.
func readStat(pid int) (procStat, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if errors.Is(err, unix.ESRCH) { // it ended between open and read
		return procStat{}, fs.ErrNotExist
	}
	if err != nil {
		return procStat{}, err
	}
	st, err := parseStat(b)
	if err != nil {
		return procStat{}, fmt.Errorf("reading /proc/%d/stat: %w", pid, err)
	}
	return st, nil
}

// proc names one process for good: an id alone is used again by the kernel.
type proc struct {
	PID   int
	Start uint64
}

// userHZ is the unit of what the kernel tells of time in clock ticks (USER_HZ, 100 on every platform that Go knows).
const userHZ = 100

// since is when the process was started.
func (p proc) since() time.Time { return boottime.At(time.Duration(p.Start) * (time.Second / userHZ)) }

// alive asks whether exactly this process still runs.
func (p proc) alive() (bool, error) {
	st, err := readStat(p.PID)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return st.Start == p.Start && !st.dead(), nil
}

// open gives a pidfd of exactly this process, or unix.ESRCH. The identity is checked after the open, when the descriptor
// already pins the process.
func (p proc) open() (int, error) {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.EINVAL) { // no leader of a thread group has this id any more
		return -1, unix.ESRCH
	}
	if errors.Is(err, unix.ENOSYS) {
		return -1, fmt.Errorf("opening a pidfd needs Linux 5.3: %w", errors.ErrUnsupported)
	}
	if err != nil {
		return -1, err
	}
	if st, err := readStat(p.PID); err != nil || st.Start != p.Start {
		unix.Close(fd)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return -1, err
		}
		return -1, unix.ESRCH
	}
	return fd, nil
}

// signal sends sig to exactly this process; a process that is gone is no error.
func (p proc) signal(sig unix.Signal) error {
	fd, err := p.open()
	if errors.Is(err, errors.ErrUnsupported) { // an old kernel: as exact as it can be
		if alive, err := p.alive(); err != nil || !alive {
			return err
		}
		if err := unix.Kill(p.PID, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("sending %s to process %d: %w", unix.SignalName(sig), p.PID, err)
		}
		return nil
	}
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("sending %s to process %d: %w", unix.SignalName(sig), p.PID, err)
	}
	return nil
}

// allStats lists every process that can be read. Processes come and go meanwhile; those are left out.
func allStats() ([]procStat, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var all []procStat
	for _, n := range names {
		pid, err := strconv.Atoi(n)
		if err != nil {
			continue
		}
		if st, err := readStat(pid); err == nil && !st.dead() {
			all = append(all, st)
		}
	}
	return all, nil
}

// kin finds the processes that belong to a start without a cgroup: those whose environment carries the start's own
// random mark, and, while main is known to be alive, its session and descendants. Once main is gone its id may stand for
// a stranger's session, so only the mark counts then.
func kin(main proc, mark string) ([]proc, error) {
	all, err := allStats()
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	mainAlive := slices.ContainsFunc(all, func(s procStat) bool { return s.PID == main.PID && s.Start == main.Start })
	ours := map[int]bool{}
	if mainAlive {
		ours[main.PID] = true
	}
	for _, s := range all {
		if mainAlive && s.Session == main.PID || hasMark(s.PID, mark) {
			ours[s.PID] = true
		}
	}
	for grown := true; grown; {
		grown = false
		for _, s := range all {
			if !ours[s.PID] && ours[s.Parent] {
				ours[s.PID], grown = true, true
			}
		}
	}
	var found []proc
	for _, s := range all {
		if ours[s.PID] {
			found = append(found, proc{s.PID, s.Start})
		}
	}
	return found, nil
}

// hasMark looks for one NAME=VALUE in the environment a process was started with.
func hasMark(pid int, mark string) bool {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
	if err != nil || mark == "" {
		return false
	}
	for v := range bytes.SplitSeq(b, []byte{0}) {
		if string(v) == mark {
			return true
		}
	}
	return false
}

// bootID names this boot of the machine; a process id means nothing in another one.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("reading the boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
