package lab

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed boot.sh
var bootScript []byte

// System is a systemd running as process 1 of a node, over a base tree that is only read and an upper layer of the node's
// own that outlives reboots and power cuts.
type System struct {
	node *Node
	base string
	dir  string        // upper layer, work directory and mount point
	cut  chan struct{} // closed by abandon

	// Firmware is how long the machine is dark between a reboot from inside and its next process 1. Zero, as at first, is
	// faster than any real machine, and than most takeovers. Set it before the reboot.
	Firmware time.Duration

	mu      sync.Mutex // guards the rest
	cmd     *exec.Cmd  // the unshare(1) that waits for process 1
	pid     int        // of process 1, as the host sees it
	boots   int
	off     bool // no boot follows
	ended   chan struct{}
	problem error // why it is off, when nobody asked for it
}

// BootSystemd boots the node from a base tree (SystemdBase) and returns when systemd has finished booting. After PowerCut
// and PowerOn it boots the same upper layer again. A reboot from inside ("reboot -ff") is followed by a boot, as on a real
// machine: the node loses its links and addresses meanwhile. Needs real root and cgroup2.
func (n *Node) BootSystemd(ctx context.Context, base string) (*System, error) {
	if n.cg == nil {
		return nil, fmt.Errorf("booting node %s: %w: no writable cgroup2 hierarchy", n.Name, ErrNotPermitted)
	}
	s := &System{node: n, base: base, dir: n.Path("os"), cut: make(chan struct{})}
	if err := s.prepare(); err != nil {
		return nil, fmt.Errorf("booting node %s: %w", n.Name, err)
	}
	n.mu.Lock()
	if n.systemd != nil {
		n.mu.Unlock()
		return nil, fmt.Errorf("booting node %s: it runs already", n.Name)
	}
	n.systemd = s
	n.mu.Unlock()
	if err := s.boot(); err != nil {
		return nil, errors.Join(err, s.halt())
	}
	if err := s.WaitBooted(ctx, 1); err != nil {
		return nil, errors.Join(err, s.halt())
	}
	return s, nil
}

// prepare makes the upper layer with what differs between machines.
func (s *System) prepare() error {
	for _, d := range []string{"upper/etc", "work", "root"} {
		if err := os.MkdirAll(filepath.Join(s.dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(s.dir, "boot.sh"), bootScript, 0o644); err != nil {
		return err
	}
	var hosts strings.Builder
	hosts.WriteString("127.0.0.1 localhost\n::1 localhost\n")
	for _, n := range s.node.lab.Nodes() {
		fmt.Fprintf(&hosts, "%s %s\n", n.Addr(0), n.Name)
	}
	id := make([]byte, 16)
	rand.Read(id)
	for name, text := range map[string]string{
		"hostname": s.node.Name + "\n", "hosts": hosts.String(), "machine-id": hex.EncodeToString(id) + "\n",
	} {
		path := filepath.Join(s.dir, "upper/etc", name)
		if _, err := os.Stat(path); err == nil {
			continue // of an earlier boot
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// boot starts process 1 and a goroutine that waits for its end.
func (s *System) boot() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.off {
		return errors.New("the node is off")
	}
	// A group of a former boot may hold sub-groups of systemd's.
	cg := filepath.Join(s.node.cg.path, "os")
	if err := removeCgroup(cg); err != nil {
		return err
	}
	if err := os.Mkdir(cg, 0o755); err != nil {
		return fmt.Errorf("making cgroup: %w", err)
	}
	log, err := os.OpenFile(s.node.Path("log", "boot.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("opening the boot log: %w", err)
	}
	defer log.Close()
	cmd := s.node.Command(context.Background(), "unshare", "--pid", "--fork", "--mount", "--uts", "--ipc",
		"/bin/sh", filepath.Join(s.dir, "boot.sh"), "1", cg, s.base, s.dir, s.node.Name)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr.Setpgid = true
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("booting node %s: %w", s.node.Name, err)
	}
	s.cmd, s.pid, s.ended = cmd, 0, make(chan struct{})
	s.boots++
	go s.wait(cmd, s.ended)
	return nil
}

// wait does what a machine's firmware does when the kernel is done.
func (s *System) wait(cmd *exec.Cmd, ended chan struct{}) {
	cmd.Wait() // the state is kept in cmd
	s.mu.Lock()
	off := s.off
	ws, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	// pid_namespaces(7): reboot(2) for a restart ends process 1 by SIGHUP, for a halt by SIGINT; unshare ends alike.
	restart := !off && ws.Signaled() && ws.Signal() == unix.SIGHUP
	if !restart && !off {
		s.off = true
		if !ws.Signaled() || ws.Signal() != unix.SIGINT {
			s.problem = fmt.Errorf("process 1 of node %s ended: %s; see %s", s.node.Name, cmd.ProcessState, s.node.Path("log", "boot.log"))
		}
	}
	s.mu.Unlock()
	defer close(ended)
	if off {
		return
	}
	log := s.node.lab.log.With("lab", s.node.lab.prefix, "node", s.node.Name)
	if err := s.node.reset(); err != nil {
		log.Error("resetting the node", "err", err)
	}
	if !restart {
		log.Info("node has shut down", "state", cmd.ProcessState.String())
		s.node.forgetSystem(s)
		return
	}
	log.Info("node reboots")
	select {
	case <-s.cut:
	case <-time.After(s.Firmware):
	}
	s.mu.Lock()
	off = s.off // a power cut came in between
	s.mu.Unlock()
	if off {
		return
	}
	if err := errors.Join(s.node.PowerOn(), s.boot()); err != nil {
		s.mu.Lock()
		s.off, s.problem = true, err
		s.mu.Unlock()
		s.node.forgetSystem(s)
	}
}

func (n *Node) forgetSystem(s *System) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.systemd == s {
		n.systemd = nil
	}
}

// reset is the part of PowerCut that a reboot or a shutdown does too.
func (n *Node) reset() error {
	n.lab.mu.Lock()
	errs := n.setPorts(false)
	n.lab.faults.off.set(n.Name, true)
	n.lab.tellLocked(n)
	n.lab.mu.Unlock()
	return errors.Join(append(errs, n.KillAll(), n.wipeKernel())...)
}

// abandon makes the end that follows the last one.
func (s *System) abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.off {
		close(s.cut)
	}
	s.off = true
}

// halt ends the system without ceremony.
func (s *System) halt() error {
	s.abandon()
	s.node.forgetSystem(s)
	err := s.node.KillAll()
	s.join()
	return err
}

// join waits for the goroutine that waits for process 1.
func (s *System) join() {
	s.mu.Lock()
	ended := s.ended
	s.mu.Unlock()
	if ended != nil {
		<-ended
	}
}

// PID is the process id of process 1 as the host sees it, 0 while there is none.
func (s *System) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pid == 0 && s.cmd != nil && !s.off {
		s.pid = childOf(s.cmd.Process.Pid, s.node.ns.link)
	}
	return s.pid
}

// childOf finds the child of a process among a namespace's processes.
func childOf(parent int, link string) int {
	for _, pid := range pidsIn(link) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		if _, rest, ok := strings.Cut(string(b), "\nPPid:\t"); ok {
			line, _, _ := strings.Cut(rest, "\n")
			if n, _ := strconv.Atoi(line); n == parent {
				return pid
			}
		}
	}
	return 0
}

// Boots counts the boots so far, the first one included.
func (s *System) Boots() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.boots
}

// WaitBooted waits until the boot of that number (from 1) has finished; a degraded system counts, see FailedUnits.
func (s *System) WaitBooted(ctx context.Context, boot int) error {
	for {
		s.mu.Lock()
		n, off, problem := s.boots, s.off, s.problem
		s.mu.Unlock()
		if off {
			return fmt.Errorf("waiting for node %s: it is off: %w", s.node.Name, errors.Join(errors.New("no boot follows"), problem))
		}
		if n >= boot && s.PID() != 0 {
			out, _ := s.Exec(ctx, "systemctl", "is-system-running").Output() // exits 1 unless "running"
			if state := strings.TrimSpace(string(out)); state == "running" || state == "degraded" {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for node %s to boot: %w", s.node.Name, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// FailedUnits lists the units that failed.
func (s *System) FailedUnits(ctx context.Context) ([]string, error) {
	out, err := s.Exec(ctx, "systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager").Output()
	if err != nil {
		return nil, fmt.Errorf("listing failed units of node %s: %w", s.node.Name, err)
	}
	var units []string
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 0 {
			units = append(units, f[0])
		}
	}
	return units, nil
}

// Exec prepares a command inside the system: its files, processes and network.
func (s *System) Exec(ctx context.Context, name string, args ...string) *exec.Cmd {
	pid := strconv.Itoa(s.PID()) // 0 while it is down: nsenter then fails
	full := append([]string{"--target", pid, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup",
		"--root=/proc/" + pid + "/root", "--wd=/proc/" + pid + "/root", "--", name}, args...)
	cmd := exec.CommandContext(ctx, "nsenter", full...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"}
	s.node.place(cmd)
	return cmd
}

// WriteFile puts a file into the system, which may be running or not; missing directories are made.
func (s *System) WriteFile(path string, content []byte, mode os.FileMode) error {
	root := filepath.Join(s.dir, "upper")
	if pid := s.PID(); pid != 0 {
		root = fmt.Sprintf("/proc/%d/root", pid) // the upper layer must not be touched while it is mounted
	}
	full := filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		return fmt.Errorf("writing %s on node %s: %w", path, s.node.Name, err)
	}
	// A new file each time: a running program cannot be overwritten.
	if err := os.Remove(full); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("writing %s on node %s: %w", path, s.node.Name, err)
	}
	if err := os.WriteFile(full, content, mode); err != nil {
		return fmt.Errorf("writing %s on node %s: %w", path, s.node.Name, err)
	}
	return os.Chmod(full, mode) // whatever the umask
}

// CopyIn copies a file of the host into the system.
func (s *System) CopyIn(src, dst string) error {
	f, err := os.Open(src)
	if err != nil {
		return fmt.Errorf("copying to node %s: %w", s.node.Name, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("copying to node %s: %w", s.node.Name, err)
	}
	b, err := io.ReadAll(f)
	if err != nil {
		return fmt.Errorf("copying to node %s: %w", s.node.Name, err)
	}
	return s.WriteFile(dst, b, st.Mode().Perm())
}
