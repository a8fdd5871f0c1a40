package drill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"hacluster/api"
	"hacluster/internal/lab"

	"golang.org/x/sys/unix"
)

// Group is the group that every drill cluster has, Port where its service answers.
const (
	Group = "web"
	Port  = 8080
)

// Nodes of a drill cluster: two that own, one that votes.
var Nodes = []string{"tomcat1", "tomcat2", "witness"}

// Options of a drill cluster. All are optional.
type Options struct {
	Timing  string // profile, default lan
	Tight   bool   // with shorter pulses than those of the profile fast
	Service string // "test" (default) or "tomcat"
	Cold    bool   // start the service on failover only
	Groups  int    // further groups, each with an address of its own
	Bin     string // folder with had, hactl and testservice; default: built anew
	Dir     string // of the lab; default: a temporary one
	Log     func(format string, args ...any)
	NoApply bool // leave the cluster without configuration
	IPv6    bool // the address of the group is one of IPv6
	Net     int  // networks between the nodes, default 1

	Prepare func(*lab.Lab) error // called before the first node is set up
}

// Cluster is a running drill cluster. Methods are for one goroutine.
type Cluster struct {
	Lab      *lab.Lab
	Client   *lab.Client
	Observer *lab.Observer // who has the address, by the kernels' own events
	Prober   *lab.Prober   // who answers for it, by the client
	VIP      netip.Prefix
	Bin      string

	o       Options
	agents  map[string]*lab.Proc
	systems map[string]*lab.System // nodes with a systemd of their own (FormSystemd)
}

// Form builds the lab and the cluster in it, and returns when the group is online with a ready standby.
func Form(ctx context.Context, o Options) (_ *Cluster, err error) {
	if o.Timing == "" {
		o.Timing = "lan"
	}
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	c := &Cluster{o: o, agents: map[string]*lab.Proc{}, Bin: o.Bin}
	if c.Lab, err = lab.New(ctx, lab.Options{Name: "drill", Nodes: Nodes, Client: true, Dir: o.Dir, IPv6: o.IPv6, Networks: o.Net}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if o.Prepare != nil {
		if err := o.Prepare(c.Lab); err != nil {
			return nil, err
		}
	}
	if c.VIP = c.Lab.VIP(0); o.IPv6 {
		c.VIP = c.Lab.VIP6(0)
	}
	if c.Bin == "" {
		c.Bin = filepath.Join(c.Lab.Dir(), "bin")
		if err := lab.Build(ctx, c.Bin, "hacluster/cmd/had", "hacluster/cmd/hactl", lab.TestService); err != nil {
			return nil, err
		}
	}
	if err := c.join(ctx); err != nil {
		return nil, err
	}
	if o.NoApply {
		return c, nil
	}
	file := filepath.Join(c.Lab.Dir(), "cluster.toml")
	text, err := c.Config()
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return nil, err
	}
	o.Log("hactl apply %s", file)
	if _, err := c.Hactl(ctx, Nodes[0], "apply", file); err != nil {
		return nil, err
	}
	if err := c.WaitReady(ctx); err != nil {
		return nil, err
	}
	return c, c.instruments()
}

// join founds the cluster on the first node and lets the others in, as the README says.
func (c *Cluster) join(ctx context.Context) error {
	for i, name := range Nodes {
		n := c.Lab.Node(name)
		dirs := []string{"--name", name, "--dir", n.Path("etc", "had"), "--data-dir", n.Path("var", "lib", "had")}
		for net := range max(c.o.Net, 1) {
			dirs = append(dirs, "--address", n.Addr(net).String())
		}
		if i == 0 {
			c.o.Log("%s: hactl init --cluster drill", name)
			if _, err := c.Hactl(ctx, name, append([]string{"init", "--cluster", "drill"}, dirs...)...); err != nil {
				return err
			}
		} else {
			role := "member"
			if name == "witness" {
				role = "witness"
			}
			token, err := c.token(ctx, role)
			if err != nil {
				return err
			}
			c.o.Log("%s: hactl join %s --role %s --token ...", name, c.Lab.Node(Nodes[0]).Addr(0), role)
			args := append([]string{"join", c.Lab.Node(Nodes[0]).Addr(0).String(), "--token", token, "--role", role}, dirs...)
			if _, err := c.Hactl(ctx, name, args...); err != nil {
				return err
			}
		}
		if err := c.StartAgent(name); err != nil {
			return err
		}
	}
	return c.poll(ctx, "all nodes vote", func() (bool, string) {
		st, err := c.Status(ctx)
		if err != nil {
			return false, err.Error()
		}
		return st.Quorum.Alive == len(Nodes), fmt.Sprintf("%d of %d voters", st.Quorum.Alive, len(Nodes))
	})
}

func (c *Cluster) token(ctx context.Context, role string) (token string, err error) {
	err = c.poll(ctx, "token", func() (bool, string) {
		out, err := c.Hactl(ctx, Nodes[0], "-o", "json", "token", "--role", role)
		if err != nil {
			return false, err.Error()
		}
		for _, f := range strings.FieldsFunc(out, func(r rune) bool { return r == '"' || r == ' ' || r == '\n' }) {
			if strings.HasPrefix(f, "had1.") {
				token = f
			}
		}
		return token != "", "no token in: " + out
	})
	return token, err
}

// instruments starts the client and the two judges of S1.
func (c *Cluster) instruments() (err error) {
	addrs := []netip.Addr{c.VIP.Addr()}
	if c.Observer, err = c.Lab.Observe(lab.ObserveOptions{Addrs: addrs}); err != nil {
		return err
	}
	if c.Prober, err = c.Lab.Probe(lab.ProbeOptions{Addrs: addrs}); err != nil {
		return err
	}
	c.Client, err = c.Lab.StartClient(lab.ClientOptions{Target: netip.AddrPortFrom(c.VIP.Addr(), Port)})
	return err
}

// Close ends everything.
func (c *Cluster) Close() error {
	if c.Lab == nil {
		return nil
	}
	return c.Lab.Close()
}

// socket is the control socket of a node.
func (c *Cluster) socket(node string) string {
	if s := c.systems[node]; s != nil {
		return fmt.Sprintf("/proc/%d/root/run/had/had.sock", s.PID())
	}
	return c.Lab.Node(node).Path("run", "had.sock")
}

// Hactl runs hactl on a node, as an administrator would, and returns what it printed.
func (c *Cluster) Hactl(ctx context.Context, node string, args ...string) (string, error) {
	cmd := c.Lab.Node(node).Command(ctx, filepath.Join(c.Bin, "hactl"), append([]string{"--socket", c.socket(node)}, args...)...)
	if s := c.systems[node]; s != nil {
		cmd = s.Exec(ctx, "hactl", args...)
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("hactl %s on %s: %w: %s", strings.Join(args, " "), node, err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// StartAgent starts had on a node that has been joined.
func (c *Cluster) StartAgent(node string) error {
	n := c.Lab.Node(node)
	p, err := n.Start(lab.ProcOptions{Name: "had", Args: []string{filepath.Join(c.Bin, "had"), "run", "--config", n.Path("etc", "had", "had.toml")}})
	if err != nil {
		return err
	}
	c.agents[node] = p
	return nil
}

// withAgent does something to the agent itself, the child of the dead man.
func (c *Cluster) withAgent(node string, do func(*lab.Node, int) error) error {
	p := c.agents[node]
	if p == nil {
		return fmt.Errorf("no agent was started on %q", node)
	}
	parent := p.PID()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	if err != nil {
		return err
	}
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	for _, f := range threads { // whichever thread forked it
		more, _ := os.ReadFile(f)
		text = append(text, more...)
	}
	children := strings.Fields(string(text))
	if len(children) == 0 {
		return fmt.Errorf("the dead man on %s has no agent", node)
	}
	pid, err := strconv.Atoi(children[0])
	if err != nil {
		return err
	}
	return do(c.Lab.Node(node), pid)
}

// Agent is the process of "had run" on a node: the dead man.
func (c *Cluster) Agent(node string) *lab.Proc { return c.agents[node] }

// RestartAgent ends the agent as an upgrade does and starts it again at once.
func (c *Cluster) RestartAgent(node string) error {
	p := c.agents[node]
	if err := p.Signal(unix.SIGUSR1); err != nil {
		return err
	}
	select {
	case <-p.Done():
	case <-time.After(10 * time.Second):
		return fmt.Errorf("the agent on %s does not end", node)
	}
	return c.StartAgent(node)
}

// PowerOn brings a node back after a power cut, agent included.
func (c *Cluster) PowerOn(node string) error {
	if err := c.Lab.Node(node).PowerOn(); err != nil {
		return err
	}
	return c.StartAgent(node)
}

// Status asks the nodes one after the other until one answers with the leader's view.
func (c *Cluster) Status(ctx context.Context) (st api.Status, err error) {
	err = errors.New("no agent answers")
	for _, node := range Nodes {
		if !c.answers(node) {
			continue
		}
		one, cancel := context.WithTimeout(ctx, 3*time.Second)
		client := api.NewSocketClient(c.socket(node))
		got, e := client.Status(one)
		client.Close()
		cancel()
		switch {
		case e != nil:
			err = e
		case !got.Stale:
			return got, nil
		default:
			st, err = got, nil
		}
	}
	return st, err
}

// answers says that it is worth asking the agent of a node.
func (c *Cluster) answers(node string) bool {
	if s := c.systems[node]; s != nil {
		return s.PID() != 0
	}
	p := c.agents[node]
	if p == nil {
		return false
	}
	end, _ := p.State()
	return end == ""
}

// Web is the drill's group in a status.
func Web(st api.Status) api.GroupStatus {
	for _, g := range st.Groups {
		if g.Name == Group {
			return g
		}
	}
	return api.GroupStatus{}
}

// Owner is the node that owns the drill's group.
func (c *Cluster) Owner(ctx context.Context) (string, error) {
	st, err := c.Status(ctx)
	if err != nil {
		return "", err
	}
	if g := Web(st); g.Owner != "" {
		return g.Owner, nil
	}
	return "", errors.New("nobody owns the group")
}

// Other is the member that is not the given one.
func Other(node string) string {
	if node == Nodes[0] {
		return Nodes[1]
	}
	return Nodes[0]
}

// WaitReady waits until every group is online, every standby is ready, all nodes are up and follow the configuration with all
// of its timing, and somebody else than the owner leads.
func (c *Cluster) WaitReady(ctx context.Context) error {
	return c.poll(ctx, "the cluster is ready", func() (bool, string) {
		st, err := c.Status(ctx)
		if err != nil {
			return false, err.Error()
		}
		if st.Stale || len(st.Groups) == 0 || st.Quorum.Alive != len(Nodes) {
			return false, fmt.Sprintf("stale %v, %d groups, %d voters alive", st.Stale, len(st.Groups), st.Quorum.Alive)
		}
		for _, n := range st.Nodes {
			if n.Config != st.Config || slices.Contains(n.Flags, "retiming") {
				return false, fmt.Sprintf("%s follows configuration %d, flags %v", n.Name, n.Config, n.Flags)
			}
		}
		for _, g := range st.Groups {
			if g.State != "online" || g.Owner == st.Leader {
				return false, fmt.Sprintf("group %s is %s on %s, %s leads", g.Name, g.State, g.Owner, st.Leader)
			}
			for _, s := range g.Standbys {
				if !s.Ready {
					return false, fmt.Sprintf("standby %s of %s: %s", s.Node, g.Name, s.Why)
				}
			}
		}
		return true, ""
	})
}

// poll waits for a condition, at most a minute.
func (c *Cluster) poll(ctx context.Context, what string, ok func() (bool, string)) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	last := ""
	for {
		done, why := ok()
		if done {
			return nil
		}
		last = why
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %s: %w", what, last, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
