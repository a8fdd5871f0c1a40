package health

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// procStat is what a probe needs of /proc/PID/stat, see proc_pid_stat(5).
type procStat struct {
	comm  string
	state byte // R S D T t Z X ...
}

// parseStat reads the first three fields. The name is the process's own choice and may hold spaces, brackets and line
// ends: it goes to the last closing bracket.
func parseStat(b []byte) (procStat, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return procStat{}, fmt.Errorf("no process name in %q", clip(b))
	}
	rest := bytes.TrimLeft(b[end+1:], " ")
	if len(rest) == 0 {
		return procStat{}, fmt.Errorf("no state in %q", clip(b))
	}
	return procStat{comm: string(b[open+1 : end]), state: rest[0]}, nil
}

func (s procStat) gone() bool    { return s.state == 'Z' || s.state == 'X' || s.state == 'x' }
func (s procStat) stopped() bool { return s.state == 'T' || s.state == 't' }

// maxComm is TASK_COMM_LEN without its final zero: the kernel cuts longer names.
const maxComm = 15

func sameComm(comm, want string) bool {
	return comm == want[:min(len(want), maxComm)]
}

// parsePID reads a pid file: the first line, a number above 0.
func parsePID(b []byte) (int, error) {
	line, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.ParseInt(strings.TrimSpace(line), 10, 32)
	if err != nil || pid < 1 {
		return 0, fmt.Errorf("no process id in %q", clip(b))
	}
	return int(pid), nil
}

func clip(b []byte) []byte { return b[:min(len(b), 40)] }
