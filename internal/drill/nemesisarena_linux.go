package drill

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/api"
	"hacluster/internal/lab"
)

// Only is the group with the exclusive service, which starts on failover.
const Only = "only"

// nextVersion is what the second program of the agent calls itself.
const nextVersion = "nemesis-next"

// diskSize bounds the data directory of each node, so that a full disk costs nothing here.
const diskSize = 16 << 20

// arena is a drill cluster with a second group, that is kept over many rounds. Methods are for one goroutine but for write.
type arena struct {
	*Cluster
	text   string          // cluster.toml with holes for timing and kernel lease
	have   Plan            // whose timing and layer are in force
	wants  uint64          // version of the configuration that was applied last
	next   map[string]bool // nodes that run the next version
	off    map[string]bool // nodes without power
	runs   string          // where the exclusive service says when it runs
	rounds int
}

// BuildNemesis compiles what the nemesis needs into dir, from within the source tree.
func BuildNemesis(ctx context.Context, dir string) error {
	if err := lab.Build(ctx, dir, "hacluster/cmd/had", "hacluster/cmd/hactl", lab.TestService, "hacluster/internal/drill/nemesis"); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags", "-X main.version="+nextVersion, "-o", filepath.Join(dir, "had-next"), "hacluster/cmd/had")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the next version: %w\n%s", err, out)
	}
	return nil
}

// newArena forms a cluster in which the nemesis can do its rounds, with the profile and the kernel lease of the first.
func newArena(ctx context.Context, bin string, first Plan) (_ *arena, err error) {
	a := &arena{next: map[string]bool{}, off: map[string]bool{}}
	a.Cluster, err = Form(ctx, Options{Bin: bin, NoApply: true, Prepare: a.prepare})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	if a.text, err = a.config(); err != nil {
		return nil, err
	}
	if err = a.apply(ctx, first); err != nil {
		return nil, err
	}
	if err = a.WaitReady(ctx); err != nil {
		return nil, err
	}
	return a, a.watch()
}

// watch starts the instruments: observer and prober look at both groups' addresses, the client asks one.
func (a *arena) watch() (err error) {
	addrs := []netip.Addr{a.VIP.Addr(), a.Lab.VIP(1).Addr()}
	if a.Observer, err = a.Lab.Observe(lab.ObserveOptions{Addrs: addrs}); err != nil {
		return err
	}
	if a.Prober, err = a.Lab.Probe(lab.ProbeOptions{Addrs: addrs}); err != nil {
		return err
	}
	a.Client, err = a.Lab.StartClient(lab.ClientOptions{Target: netip.AddrPortFrom(a.VIP.Addr(), Port)})
	return err
}

// prepare gives every node a small disk of its own.
func (a *arena) prepare(l *lab.Lab) error {
	a.runs = filepath.Join(l.Dir(), "runs")
	if err := os.MkdirAll(a.runs, 0o755); err != nil {
		return err
	}
	for _, node := range Nodes {
		if err := l.Node(node).SmallDisk(diskSize, "var", "lib"); err != nil {
			return err
		}
	}
	return nil
}

// config is the drill's cluster.toml with a second group, whose service is exclusive. Groups that gave up try again soon: what
// fails everywhere here does so because everything is broken, and is mended in a moment.
func (a *arena) config() (string, error) {
	text, err := a.Config()
	if err != nil {
		return "", err
	}
	text = strings.ReplaceAll(text, "failover_threshold = 100000\n", "failover_threshold = 100000\nretry_period_on_failure = \"2s\"\n")
	text = strings.ReplaceAll(text, "restart_threshold = 100000\n", "restart_threshold = 100000\nrestart_period = \"2s\"\n")
	return text + fmt.Sprintf(`
[[group]]
name = %q
standby = "cold"
failover_threshold = 100000
retry_period_on_failure = "2s"

[[group.resource]]
name = "vip"
type = "address"
address = %q
restart_threshold = 100000
restart_period = "2s"

[[group.resource]]
name = "service"
type = "process"
exclusive = true
command = [%q, "exclusive", %q]
restart_threshold = 100000
restart_period = "2s"
restart_delay = "50ms"
pending_timeout = "2s"
`, Only, a.Lab.VIP(1), filepath.Join(a.Bin, "nemesis"), a.runs), nil
}

// render fills in what a round wants.
func (a *arena) render(p Plan) string {
	return fmt.Sprintf("kernel_lease = %q\n", p.Layer) + strings.Replace(a.text, `timing = "lan"`, fmt.Sprintf("timing = %q", p.Timing), 1)
}

// apply puts the configuration of a plan in force, if it is another one.
func (a *arena) apply(ctx context.Context, p Plan) error {
	if a.have.Timing == p.Timing && a.have.Layer == p.Layer {
		return nil
	}
	r, err := a.write(ctx, api.Write{Verb: api.VerbApply, Config: a.render(p), File: "cluster.toml"})
	if err == nil {
		a.have, a.wants = p, max(r.Version, a.wants)
	}
	return err
}

// write asks the nodes one after the other until one carries it out: hactl would have to be started in a node that may be frozen.
func (a *arena) write(ctx context.Context, w api.Write) (r api.Reply, err error) {
	err = errors.New("no agent answers")
	for _, node := range []string{"witness", Nodes[0], Nodes[1]} {
		one, cancel := context.WithTimeout(ctx, 1500*time.Millisecond)
		client := api.NewSocketClient(a.socket(node))
		r, err = client.Write(one, w)
		client.Close()
		cancel()
		if err == nil {
			return r, nil
		}
	}
	return r, err
}

// bin is the program of the agent that a node runs now.
func (a *arena) program(node string) string {
	if a.next[node] {
		return filepath.Join(a.Bin, "had-next")
	}
	return filepath.Join(a.Bin, "had")
}

// start starts had on a node, as systemd does; a frozen node starts nothing.
func (a *arena) start(node string) error {
	n := a.Lab.Node(node)
	p, err := n.Start(lab.ProcOptions{Name: "had", Args: []string{a.program(node), "run", "--config", n.Path("etc", "had", "had.toml")}})
	if err == nil {
		a.agents[node] = p
	}
	return err
}

// ended tells whether had on a node has ended, and how.
func (a *arena) ended(node string) (string, bool) {
	end, _ := a.agents[node].State()
	return end, end != ""
}

// revive does what systemd would: had is started again wherever it has ended, but for the exit code that says that no start
// mends it.
func (a *arena) revive() error {
	var errs []error
	for _, node := range Nodes {
		end, gone := a.ended(node)
		switch {
		case !gone:
		case strings.Contains(end, "78"):
			errs = append(errs, fmt.Errorf("had on %s refuses to start (exit code 78), see its log", node))
		default:
			errs = append(errs, a.start(node))
		}
	}
	return errors.Join(errs...)
}

// refusal is the file that has the exclusive service on a node ignore what asks it to stop.
func (a *arena) refusal(node string) string { return filepath.Join(a.runs, "refuse-"+node) }

// powerOn undoes a power cut, if there was one; the agent is started by revive.
func (a *arena) powerOn(node string) error {
	if !a.off[node] {
		return nil
	}
	delete(a.off, node)
	return a.Lab.Node(node).PowerOn()
}

// heal takes every fault back, whichever was there. It may be called at any time, also when nothing is broken.
func (a *arena) heal() error {
	errs := []error{a.Lab.Heal()}
	for _, node := range Nodes {
		n := a.Lab.Node(node)
		errs = append(errs, n.Feed(), n.ThawAll(), a.powerOn(node), n.CableIn(), n.FreeDisk())
		for _, pid := range n.PIDs() {
			if err := n.Thaw(pid); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, err)
			}
		}
		if err := os.Remove(a.refusal(node)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
