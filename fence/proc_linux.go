package fence

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// runVar marks everything an agent starts: agents that talk through a terminal (pexpect) put their ssh or telnet into a
// session of its own, outside the process group.
const runVar = "HAD_FENCE_RUN"

// group is the process group of one agent and what escaped from it.
type group struct {
	cmd  *exec.Cmd
	mark []byte
}

// newGroup gives the program a minimal environment, which keeps the agent's own (tokens, proxies) out.
func newGroup(cmd *exec.Cmd, env []string) *group {
	id := rand.Text()
	g := &group{cmd: cmd, mark: []byte(runVar + "=" + id)}
	cmd.Dir = "/"
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=/", runVar + "=" + id}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = g.kill
	return g
}

func (g *group) started() {}

// close kills what left the group. The environment of a process is what it was started with; one that changed its
// user or cleared its environment escapes.
func (g *group) close() {
	if g.cmd.Process == nil {
		return
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() || !g.marked(pid) {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		if g.marked(pid) { // still: the number was not reused before the descriptor held it
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		}
		_ = unix.Close(fd)
	}
}

func (g *group) marked(pid int) bool {
	env, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	return err == nil && bytes.Contains(env, g.mark)
}

// kill ends the whole group. It is called only while the program's process is not yet reaped, so that the group's number
// cannot belong to anybody else.
func (g *group) kill() error { return unix.Kill(-g.cmd.Process.Pid, unix.SIGKILL) }

// reap waits for the program to end without reaping it, then kills what it left in its group.
func (g *group) reap() {
	for {
		err := unix.Waitid(unix.P_PID, g.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = g.kill() // ESRCH cannot be: the zombie is still in the group
}
