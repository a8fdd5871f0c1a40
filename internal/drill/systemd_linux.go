package drill

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"hacluster/internal/lab"

	"golang.org/x/sys/unix"
)

// unit of the service and of the agent on a node with systemd.
const (
	Unit      = "tomcat10.service"
	AgentUnit = "had.service"
)

// FormSystemd is Form on nodes that run a systemd of their own and Debian's tomcat10, from a base tree (lab.SystemdBase).
// It does what the README of examples/tomcat-two-nodes-witness tells an administrator to do, and applies that example's
// cluster.toml. Of the options it knows Timing, Cold, Bin, Dir and Log.
func FormSystemd(ctx context.Context, base string, o Options) (_ *Cluster, err error) {
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	o.Service = "tomcat"
	c := &Cluster{o: o, agents: map[string]*lab.Proc{}, systems: map[string]*lab.System{}, Bin: o.Bin}
	if c.Lab, err = lab.New(ctx, lab.Options{Name: "sysd", Nodes: Nodes, Client: true, Dir: o.Dir}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	c.VIP = c.Lab.VIP(0)
	if c.Bin == "" {
		c.Bin = filepath.Join(c.Lab.Dir(), "bin")
		if err := lab.Build(ctx, c.Bin, "hacluster/cmd/had", "hacluster/cmd/hactl"); err != nil {
			return nil, err
		}
	}
	for i, name := range Nodes {
		s, err := c.Lab.Node(name).BootSystemd(ctx, base)
		if err != nil {
			return nil, err
		}
		c.systems[name] = s
		if err := c.setUp(ctx, name, i); err != nil {
			return nil, err
		}
	}
	text, err := c.example()
	if err != nil {
		return nil, err
	}
	if err := c.systems[Nodes[0]].WriteFile("/root/cluster.toml", []byte(text), 0o644); err != nil {
		return nil, err
	}
	o.Log("%s: hactl apply cluster.toml", Nodes[0])
	if _, err := c.Hactl(ctx, Nodes[0], "apply", "/root/cluster.toml"); err != nil {
		return nil, err
	}
	if err := c.WaitReady(ctx); err != nil {
		return nil, err
	}
	return c, c.instruments()
}

// System is the systemd of a node.
func (c *Cluster) System(node string) *lab.System { return c.systems[node] }

// Shell runs a command inside a node, as an administrator would, and returns what it printed.
func (c *Cluster) Shell(ctx context.Context, node string, args ...string) (string, error) {
	out, err := c.systems[node].Exec(ctx, args[0], args[1:]...).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return text, fmt.Errorf("%s on %s: %w: %s", strings.Join(args, " "), node, err, text)
	}
	return text, nil
}

// setUp installs one node: binaries, service, membership, agent.
func (c *Cluster) setUp(ctx context.Context, name string, i int) error {
	s, addr := c.systems[name], c.Lab.Node(name).Addr(0).String()
	for _, b := range []string{"had", "hactl"} {
		if err := s.CopyIn(filepath.Join(c.Bin, b), "/usr/local/bin/"+b); err != nil {
			return err
		}
	}
	if name != "witness" {
		if err := c.configureTomcat(name); err != nil {
			return err
		}
		if i == 0 && !c.o.Cold { // it serves already, and goes on serving when the cluster takes it over
			if _, err := c.Shell(ctx, name, "systemctl", "start", Unit); err != nil {
				return err
			}
			if err := c.servesWell(ctx, name); err != nil {
				return err
			}
		}
	}
	args := []string{"init", "--cluster", Group, "--address", addr}
	if i > 0 {
		role := "member"
		if name == "witness" {
			role = "witness"
		}
		token, err := c.token(ctx, role)
		if err != nil {
			return err
		}
		args = []string{"join", c.Lab.Node(Nodes[0]).Addr(0).String(), "--token", token, "--role", role, "--address", addr}
	}
	c.o.Log("%s: hactl %s, had install --now", name, args[0])
	if _, err := c.Hactl(ctx, name, args...); err != nil {
		return err
	}
	_, err := c.Shell(ctx, name, "had", "install", "--now")
	return err
}

// servesWell waits until a Tomcat that was started outside of the cluster has warmed up: ten answers in a row within the time
// that the probes of the example give it. Whoever is taken over in the middle of its start is judged as what runs.
func (c *Cluster) servesWell(ctx context.Context, node string) error {
	row := 0
	return c.poll(ctx, "Tomcat on "+node+" serves", func() (bool, string) {
		_, err := c.Shell(ctx, node, "curl", "-fsS", "-m", "0.1", "-o", "/dev/null", "http://127.0.0.1:8080/")
		if row++; err != nil {
			row = 0
		}
		return row >= 10, fmt.Sprint(err)
	})
}

// Debian's server.xml has the AJP connector in a comment. The flags make the JVM start fast, they change nothing else.
const (
	engineLine   = `<Engine name="Catalina" defaultHost="localhost">`
	ajpConnector = `<Connector protocol="AJP/1.3" address="127.0.0.1" port="8009" secretRequired="false"/>`
	tomcatOpts   = "JAVA_OPTS=\"-Djava.awt.headless=true -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xshare:auto -Xmx128m\"\n"
)

// configureTomcat is what an administrator does to Debian's tomcat10: the AJP connector and a web application.
func (c *Cluster) configureTomcat(name string) error {
	s := c.systems[name]
	const file = "/etc/tomcat10/server.xml"
	xml, err := os.ReadFile(fmt.Sprintf("/proc/%d/root%s", s.PID(), file))
	if err != nil {
		return err
	}
	if !strings.Contains(string(xml), engineLine) {
		return fmt.Errorf("%s of node %s has no line %s", file, name, engineLine)
	}
	text := strings.Replace(string(xml), engineLine, ajpConnector+"\n    "+
		fmt.Sprintf(`<Engine name="Catalina" defaultHost="localhost" jvmRoute="%s">`, name), 1)
	return errors.Join(
		s.WriteFile(file, []byte(text), 0o644),
		s.WriteFile("/etc/default/tomcat10", []byte(tomcatOpts), 0o644),
		s.WriteFile("/var/lib/tomcat10/webapps/ROOT/index.html", []byte("node="+name+"\n"), 0o644))
}

// example is the cluster.toml of examples/tomcat-two-nodes-witness with the lab's address and page. Limits on restarts and
// failovers are out of the way: a drill repeats faults. Everything else is what a user has.
func (c *Cluster) example() (string, error) {
	text, err := os.ReadFile(filepath.Join(moduleRoot(), "examples/tomcat-two-nodes-witness/cluster.toml"))
	if err != nil {
		return "", err
	}
	edits := []struct{ old, new string }{
		{`name = "idm"`, fmt.Sprintf("name = %q", Group)},
		{`"10.0.0.5/24"`, fmt.Sprintf("%q", c.VIP)},
		{`http://127.0.0.1:8080/idm/health`, `http://127.0.0.1:8080/`},
		{`standby = "hot"`, "failover_threshold = 100000\nstandby = \"hot\""},
		{`restart_threshold = 3`, `restart_threshold = 100000`},
	}
	if c.o.Timing != "" {
		edits = append(edits, struct{ old, new string }{`timing = "lan"`, fmt.Sprintf("timing = %q", c.o.Timing)})
	}
	if c.o.Cold {
		edits = append(edits, struct{ old, new string }{`standby = "hot"`, `standby = "cold"`},
			struct{ old, new string }{`run_on = "every-node"` + "\n", ""}, struct{ old, new string }{`restart_threshold = 100000`, `restart_threshold = 1`})
	}
	out := string(text)
	for _, e := range edits {
		if !strings.Contains(out, e.old) {
			return "", fmt.Errorf("the example has no %q any more", e.old)
		}
		out = strings.ReplaceAll(out, e.old, e.new)
	}
	return out, nil
}

// moduleRoot is the nearest folder upwards that has a go.mod.
func moduleRoot() string {
	dir, err := os.Getwd()
	if err != nil {
		return "."
	}
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			return d
		}
		if d == filepath.Dir(d) {
			return dir
		}
	}
}

// onAgent runs a systemctl verb on the agent's unit of the owner.
func onAgent(args ...string) func(context.Context, *Cluster, string) error {
	return func(ctx context.Context, c *Cluster, owner string) error {
		_, err := c.Shell(ctx, owner, append(append([]string{"systemctl"}, args...), AgentUnit)...)
		return err
	}
}

// SystemdDrills are the faults of Drills in the words of an administrator, and those that need a systemd.
var SystemdDrills = []Drill{
	{Name: "planned move", Moves: true, Fault: Drills[0].Fault},
	{Name: "service killed", Moves: true, Fault: func(_ context.Context, c *Cluster, owner string) error {
		return c.signalService(owner, (*lab.Node).Kill9)
	}},
	{Name: "service frozen", Moves: true, Fault: func(_ context.Context, c *Cluster, owner string) error {
		return c.signalService(owner, (*lab.Node).Freeze)
	}},
	{Name: "reboot -ff", Moves: true, Fault: func(ctx context.Context, c *Cluster, owner string) error {
		return c.reboot(ctx, owner, firmware, "reboot", "-ff")
	}},
	{Name: "systemctl reboot", Moves: true, Fault: func(ctx context.Context, c *Cluster, owner string) error {
		return c.reboot(ctx, owner, firmware, "systemctl", "reboot")
	}},
	{Name: "agent restarted", Fault: onAgent("restart")},
	{Name: "agent killed", Fault: onAgent("kill", "--kill-whom=main", "--signal=KILL")},
	{Name: "agent told to end", Fault: onAgent("kill", "--kill-whom=main", "--signal=USR1")},
	{Name: "agent cannot start", Moves: true, Fault: func(ctx context.Context, c *Cluster, owner string) error {
		_, err := c.Shell(ctx, owner, "mv", "/etc/had/had.toml", "/etc/had/had.toml.away")
		onAgent("restart")(ctx, c, owner) // refused, that is the point
		return err
	}, Mend: func(ctx context.Context, c *Cluster, owner string) error {
		if err := c.without(owner); err != nil {
			return err
		}
		if _, err := c.Shell(ctx, owner, "mv", "/etc/had/had.toml.away", "/etc/had/had.toml"); err != nil {
			return err
		}
		return onAgent("start")(ctx, c, owner)
	}},
	{Name: "agent stopped", Moves: true, Fault: onAgent("stop"), Mend: func(ctx context.Context, c *Cluster, owner string) error {
		if err := c.without(owner); err != nil {
			return err
		}
		return onAgent("start")(ctx, c, owner)
	}},
}

// firmware is how long a machine is dark in a reboot; few real ones are as fast.
const firmware = 4 * time.Second

// reboot ends a node from inside and waits until the next boot has finished.
func (c *Cluster) reboot(ctx context.Context, node string, dark time.Duration, command ...string) error {
	s := c.systems[node]
	s.Firmware = dark
	boots := s.Boots()
	s.Exec(ctx, command[0], command[1:]...).Run() // dies with the node
	return s.WaitBooted(ctx, boots+1)
}

// without checks that the node has no address but its own.
func (c *Cluster) without(node string) error {
	have, err := c.Lab.Node(node).Addrs()
	if err != nil {
		return err
	}
	for _, a := range have {
		if a.Addr() != c.Lab.Node(node).Addr(0) {
			return fmt.Errorf("node %s still has %s", node, a)
		}
	}
	return nil
}

// ColdDrills are those of a service that runs on one node only: one restart in place, then a failover.
var ColdDrills = []Drill{
	{Name: "planned move", Moves: true, Fault: Drills[0].Fault},
	{Name: "agent restarted", Fault: onAgent("restart")},
	{Name: "agent stopped", Moves: true, Fault: onAgent("stop"), Mend: onAgent("start")},
	{Name: "agent stopped anew", Moves: true, Fault: func(ctx context.Context, c *Cluster, owner string) error { // before it knows what it owns
		return errors.Join(onAgent("restart")(ctx, c, owner), onAgent("stop")(ctx, c, owner))
	}, Mend: onAgent("start")},
	{Name: "service killed", Fault: SystemdDrills[1].Fault},
	{Name: "service killed again", Moves: true, Fault: SystemdDrills[1].Fault},
}

// RunsAt says that a process of the service's unit exists on a node.
func (c *Cluster) RunsAt(node string) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/sys/fs/cgroup/system.slice/%s/cgroup.events", c.systems[node].PID(), Unit))
	return err == nil && strings.Contains(string(text), "populated 1")
}

// Journal is what the agent of a node logged since its first boot.
func (c *Cluster) Journal(ctx context.Context, node string) (string, error) {
	return c.Shell(ctx, node, "journalctl", "--no-pager", "--output=short-precise", "--unit="+AgentUnit)
}

// denied are the words of an agent that is not allowed to do its work.
var denied = regexp.MustCompile(`(?i)operation not permitted|permission denied|read-only file system|address family not supported`)

// Denied lists the lines of the agent's journal that tell of something forbidden. What this machine may not do itself, as
// in a container without CAP_SYS_RESOURCE, says nothing about the unit.
func (c *Cluster) Denied(ctx context.Context, node string) ([]string, error) {
	text, err := c.Journal(ctx, node)
	var out []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, "oom_score_adj") && !mayProtectFromOOM() {
			continue
		}
		if strings.Contains(line, "SCHED_RR") && sharesRealTime() {
			continue
		}
		if denied.MatchString(line) {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out, err
}

// sharesRealTime says that this kernel gives services no real-time policy, whatever they may: it shares real time out to control
// groups (CONFIG_RT_GROUP_SCHED), and systemd gives none to the groups that it makes. Kernels of distributions do not.
func sharesRealTime() bool {
	_, err := os.Stat("/sys/fs/cgroup/cpu/cpu.rt_runtime_us")
	return err == nil
}

// mayProtectFromOOM says that this process has CAP_SYS_RESOURCE, so that root on the nodes has it too.
func mayProtectFromOOM() bool {
	var data [2]unix.CapUserData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}
