package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// newProcess asks the kernel whether a process is there. A zombie is not.
func newProcess(s Spec) (asker, error) {
	if s.PIDFile == "" && s.Process == "" {
		return nil, fmt.Errorf("pid_file or process: %w", ErrMissing)
	}
	if s.PIDFile == "" {
		return func(ctx context.Context) answer { return askComm(ctx, s.Process) }, nil
	}
	return func(context.Context) answer { return askPIDFile(s.PIDFile, s.Process) }, nil
}

// askPIDFile looks at the process that the file names. A name, when given, keeps a recycled pid from passing.
func askPIDFile(path, name string) answer {
	b, err := readSmall(path)
	if errors.Is(err, fs.ErrNotExist) {
		return say(Fail, "pid file %s is not there", path)
	}
	if err != nil {
		return say(Skip, "reading the pid file: %v", err)
	}
	pid, err := parsePID(b)
	if err != nil {
		return say(Fail, "pid file %s: %v", path, err)
	}
	st, err := readStat(pid)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESRCH):
		// With hidepid the folder of a foreign process is not shown although the process lives.
		if errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			return say(Fail, "process %d is gone", pid)
		}
		return say(Pass, "process %d lives", pid)
	case err != nil:
		return say(Skip, "looking at process %d: %v", pid, err)
	case name != "" && !sameComm(st.comm, name):
		return say(Fail, "process %d is %q and not %q", pid, st.comm, name)
	}
	return judgeStat(pid, st)
}

// askComm looks for any living process of that name.
func askComm(ctx context.Context, name string) answer {
	dir, err := os.Open("/proc")
	if err != nil {
		return say(Skip, "listing processes: %v", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return say(Skip, "listing processes: %v", err)
	}
	found := say(Fail, "no process %q", name)
	for _, n := range names {
		pid, err := strconv.Atoi(n)
		if err != nil {
			continue
		}
		if ctx.Err() != nil {
			return say(Timeout, "listing %d processes took too long", len(names))
		}
		st, err := readStat(pid)
		if err != nil || !sameComm(st.comm, name) {
			continue // a process that ended meanwhile is not the one
		}
		a := judgeStat(pid, st)
		if a.outcome == Pass {
			return a
		}
		if found.outcome == Fail {
			found = a
		}
	}
	return found
}

func judgeStat(pid int, st procStat) answer {
	switch {
	case st.gone():
		return say(Fail, "process %d (%s) is a zombie", pid, st.comm)
	case st.stopped():
		return say(Warn, "process %d (%s) is stopped by a signal or a debugger", pid, st.comm)
	}
	return say(Pass, "process %d (%s) lives", pid, st.comm)
}

func readStat(pid int) (procStat, error) {
	b, err := readSmall("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return procStat{}, err
	}
	return parseStat(b)
}

// readSmall reads at most 4 KiB. A named pipe in place of the file does not block the open.
func readSmall(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 4<<10))
}
