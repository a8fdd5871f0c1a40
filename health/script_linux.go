package health

import (
	"errors"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// group is the process group of one script.
type group struct{ cmd *exec.Cmd }

func newGroup(cmd *exec.Cmd) *group {
	g := &group{cmd: cmd}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = g.kill
	return g
}

func (g *group) started() {}
func (g *group) close()   {}

// kill ends the whole group. It is called only while the script's process is not yet reaped, so that the group's number
// cannot belong to anybody else.
func (g *group) kill() error { return unix.Kill(-g.cmd.Process.Pid, unix.SIGKILL) }

// reap waits for the script to end without reaping it, then kills what it left in its group.
func (g *group) reap() {
	for {
		err := unix.Waitid(unix.P_PID, g.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = g.kill() // ESRCH cannot be: the zombie is still in the group
}

// scriptEnv keeps the agent's own environment (tokens, proxies) out of the scripts.
func scriptEnv() []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=/"}
}
