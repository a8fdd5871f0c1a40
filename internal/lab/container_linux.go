package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// Ways to run in a node what was not made for nodes that share a machine: a program that must be started outside of the node's
// network namespace and enters it by itself, and daemons that need files, processes and a host name of their own.

// StartOutside is Start without entering the node's network namespace: keepalived hears of processes in the machine's own
// namespace only, and enters the one of its configuration by itself. Faults reach the process as they reach all others of
// the node, once it has entered.
func (n *Node) StartOutside(o ProcOptions) (*Proc, error) {
	return n.start(o, func(ctx context.Context) *exec.Cmd {
		cmd := exec.CommandContext(ctx, o.Args[0], o.Args[1:]...)
		n.place(cmd)
		return cmd
	})
}

// Container is a set of processes in a node with mounts, process ids, IPC and a host name of their own.
type Container struct {
	Proc *Proc // unshare(1), which waits for the first process
	node *Node
	init int // process id of the first process, as seen outside
}

// StartContainer starts a program as process 1 of new namespaces in the node; /proc is mounted anew. What else it wants to
// hide it must mount over. When process 1 ends, the kernel ends all others. It needs real root.
func (n *Node) StartContainer(ctx context.Context, o ProcOptions) (*Container, error) {
	o.Args = append([]string{"unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc", "--kill-child", "--"}, o.Args...)
	p, err := n.Start(o)
	if err != nil {
		return nil, err
	}
	c := &Container{Proc: p, node: n}
	for {
		// Its one child is process 1. It may still be the same program then, about to become the one asked for.
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.PID(), p.PID())); err == nil {
			if f := strings.Fields(string(b)); len(f) > 0 {
				c.init, err = strconv.Atoi(f[0])
				return c, err
			}
		}
		select {
		case <-p.Done():
			end, _ := p.State()
			return nil, fmt.Errorf("starting %s on node %s: it ended: %s; see %s", o.Name, n.Name, end, p.Log)
		case <-ctx.Done():
			return nil, fmt.Errorf("starting %s on node %s: %w", o.Name, n.Name, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}

// Command prepares a command inside of the container.
func (c *Container) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	enter := []string{"--target", strconv.Itoa(c.init), "--mount", "--uts", "--ipc", "--pid", "--", name}
	return c.node.Command(ctx, "nsenter", append(enter, args...)...)
}
