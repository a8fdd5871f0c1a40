package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// ProcOptions describes a process to start in a node.
type ProcOptions struct {
	Name  string   // required: names its log, NAME.log in the node's log directory
	Args  []string // required: program and arguments
	Env   []string // optional: added to this process's environment
	Dir   string   // optional: working directory; the node's root without it
	Stdin *os.File // optional
}

// Proc is a started process, tracked until it ends.
type Proc struct {
	Name string
	Log  string // path of its log: stdout and stderr, appended over restarts

	node  *Node
	cmd   *exec.Cmd
	done  chan struct{}
	ended time.Time // valid when done is closed
}

// Start runs a process in the node, in a process group of its own.
func (n *Node) Start(o ProcOptions) (*Proc, error) {
	return n.start(o, func(ctx context.Context) *exec.Cmd { return n.Command(ctx, o.Args[0], o.Args[1:]...) })
}

// start runs what command prepares.
func (n *Node) start(o ProcOptions, command func(context.Context) *exec.Cmd) (*Proc, error) {
	if o.Name == "" || len(o.Args) == 0 {
		return nil, errors.New("starting a process: a name and a program are required")
	}
	p := &Proc{Name: o.Name, Log: n.Path("log", filepath.Base(o.Name)+".log"), node: n, done: make(chan struct{})}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the log of %s: %w", o.Name, err)
	}
	defer log.Close()
	p.cmd = command(context.Background())
	p.cmd.Env = append(os.Environ(), o.Env...)
	p.cmd.Dir = o.Dir
	if o.Dir == "" {
		p.cmd.Dir = n.Root
	}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if o.Stdin != nil {
		p.cmd.Stdin = o.Stdin
	}
	p.cmd.SysProcAttr.Setpgid = true
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s on node %s: %w", o.Name, n.Name, err)
	}
	n.procs = append(n.procs, p)
	go func() {
		p.cmd.Wait() // the state is kept in cmd
		p.ended = time.Now()
		n.forget(p)
		close(p.done)
	}()
	return p, nil
}

func (n *Node) forget(p *Proc) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, q := range n.procs {
		if q == p {
			n.procs = append(n.procs[:i], n.procs[i+1:]...)
			return
		}
	}
}

// joinProcs waits for the waiters of processes that were killed.
func (n *Node) joinProcs() {
	n.mu.Lock()
	procs := append([]*Proc(nil), n.procs...)
	n.mu.Unlock()
	for _, p := range procs {
		<-p.done
	}
}

// PID is the process id, the same inside and outside of the node.
func (p *Proc) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended and was reaped.
func (p *Proc) Done() <-chan struct{} { return p.done }

// State describes the end ("exit status 1", "signal: killed") and tells when it was seen; "" while the process runs.
func (p *Proc) State() (string, time.Time) {
	select {
	case <-p.done:
		return p.cmd.ProcessState.String(), p.ended
	default:
		return "", time.Time{}
	}
}

// Signal sends a signal to the process alone, not to its children.
func (p *Proc) Signal(sig unix.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("signalling %s on node %s: %w", p.Name, p.node.Name, err)
	}
	return nil
}

// Kill9 kills the process, not its children, and waits for its end.
func (p *Proc) Kill9() error {
	if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.done
	return nil
}

// Freeze stops the process (SIGSTOP) as a hang does: its sockets stay open.
func (p *Proc) Freeze() error { return p.Signal(unix.SIGSTOP) }

// Thaw resumes a frozen process.
func (p *Proc) Thaw() error { return p.Signal(unix.SIGCONT) }

// Stop asks politely (SIGTERM) and kills after the limit. It returns when the process has ended; an error says that it had
// to be killed.
func (p *Proc) Stop(limit time.Duration) error {
	if err := p.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(limit):
		return errors.Join(fmt.Errorf("stopping %s on node %s: still there after %s, killed", p.Name, p.node.Name, limit), p.Kill9())
	}
}

// PIDs lists every living process in the node, whoever started it.
func (n *Node) PIDs() []int { return pidsIn(n.ns.link) }

// Signal sends a signal to any one process of the node; a process elsewhere is refused.
func (n *Node) Signal(pid int, sig unix.Signal) error { return signalIn(n.ns.link, pid, sig) }

// Kill9 kills any one process of the node.
func (n *Node) Kill9(pid int) error { return n.Signal(pid, unix.SIGKILL) }

// Freeze stops any one process of the node (SIGSTOP).
func (n *Node) Freeze(pid int) error { return n.Signal(pid, unix.SIGSTOP) }

// Thaw resumes a frozen process.
func (n *Node) Thaw(pid int) error { return n.Signal(pid, unix.SIGCONT) }

// KillAll kills every process of the node and returns when none is left.
func (n *Node) KillAll() error {
	cg := ""
	if n.cg != nil {
		cg = n.cg.path
	}
	n.mu.Lock()
	for _, p := range n.procs {
		p.cmd.Process.Kill() // also one that is only just entering the namespace; already ended is the goal
	}
	n.mu.Unlock()
	if err := killAllIn(n.ns.link, cg, 10*time.Second); err != nil {
		return fmt.Errorf("node %s: %w", n.Name, err)
	}
	return nil
}

// FreezeAll stops all user space of the node while its kernel keeps answering ARP and pings, as a machine does that swaps
// itself to death. It returns when all are stopped. Starving ends.
func (n *Node) FreezeAll() error { return errors.Join(n.Feed(), n.freezeAll(true)) }

// ThawAll undoes FreezeAll.
func (n *Node) ThawAll() error { return n.freezeAll(false) }

func (n *Node) freezeAll(on bool) error {
	var errs []error
	sig := unix.SIGCONT
	if on {
		sig = unix.SIGSTOP
	}
	n.frozen.Store(on)
	if n.cg != nil {
		errs = append(errs, n.cg.freeze(on))
	}
	for _, pid := range n.PIDs() {
		if n.cg == nil || !n.cg.has(pid) { // left the node's group, or there is none
			if err := n.Signal(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}
