package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hacluster/internal/lab"
)

// Nodes of every system, as in internal/drill: two that own, one that only votes where the system has votes.
var Nodes = []string{"tomcat1", "tomcat2", "witness"}

// members may own the address.
var members = Nodes[:2]

// servicePort is where the service answers.
const servicePort = 8080

func other(node string) string {
	if node == Nodes[0] {
		return Nodes[1]
	}
	return Nodes[0]
}

// System is a way to keep an address served. Methods are for one goroutine.
type System interface {
	Name() string
	// Can tells whether the system knows what a scenario asks for.
	Can(scenario string) bool
	// Form sets it up in a lab of its own, ready for a fault.
	Form(ctx context.Context) (*Arena, error)
	// Ready waits until a failover could succeed: everything runs everywhere, one node owns.
	Ready(ctx context.Context) error
	Owner(ctx context.Context) (string, error)
	// Patience is how long after a fault the system may still react to it.
	Patience() time.Duration
	// Fault does what the scenario says; it returns when it is done, not when the system has reacted.
	Fault(ctx context.Context, scenario, owner string) error
	// Mend undoes it, so that Ready will be true again.
	Mend(ctx context.Context, scenario, owner string) error
	Close() error
}

// Arena is the lab of a system with its instruments.
type Arena struct {
	Lab      *lab.Lab
	Client   *lab.Client
	Observer *lab.Observer
	Prober   *lab.Prober
	VIP      netip.Prefix
}

// network does the faults that are the same for all systems; known is false for the others.
func (a *Arena) network(scenario, owner string) (known bool, err error) {
	n := a.Lab.Node(owner)
	switch scenario {
	case NoFault:
	case PowerCut:
		err = n.PowerCut()
	case CablePulled:
		err = n.CableOut()
	case ServiceCable:
		err = n.CableOut(0)
	case SilentPort:
		err = n.Silence()
	case CutFromPeers:
		err = a.Lab.IsolateFromPeers(owner)
	case OutgoingCut:
		err = a.Lab.IsolateOutgoing(owner)
	case IncomingCut:
		err = a.Lab.IsolateIncoming(owner)
	default:
		return false, nil
	}
	return true, err
}

// mendNetwork undoes network, but for the power: what is to be started then is the system's affair.
func (a *Arena) mendNetwork(scenario, owner string) (known bool, err error) {
	switch scenario {
	case NoFault:
	case CablePulled:
		err = a.Lab.Node(owner).CableIn()
	case ServiceCable:
		err = a.Lab.Node(owner).CableIn(0)
	case SilentPort, CutFromPeers, OutgoingCut, IncomingCut:
		err = a.Lab.Heal()
	default:
		return false, nil
	}
	return true, err
}

// instruments starts the client and the two judges.
func (a *Arena) instruments() (err error) {
	addrs := []netip.Addr{a.VIP.Addr()}
	if a.Observer, err = a.Lab.Observe(lab.ObserveOptions{Addrs: addrs}); err != nil {
		return err
	}
	if a.Prober, err = a.Lab.Probe(lab.ProbeOptions{Addrs: addrs}); err != nil {
		return err
	}
	a.Client, err = a.Lab.StartClient(lab.ClientOptions{Target: netip.AddrPortFrom(a.VIP.Addr(), servicePort)})
	return err
}

// quiet is how long the client must have been answered without interruption before and after a fault.
const quiet = 700 * time.Millisecond

var errNotServed = errors.New("the client is not served steadily")

// steady waits until every request of a quiet interval from since on has been answered.
func (a *Arena) steady(ctx context.Context, since time.Time, limit time.Duration) error {
	last := ""
	err := poll(ctx, limit, func() bool {
		if time.Since(since) < quiet || !a.Client.Settled(since.Add(quiet)) {
			return false
		}
		r, err := a.Client.Report(since)
		if err == nil && r.Failed == 0 && r.OK > 0 {
			return true
		}
		since, last = time.Now(), r.String()
		return false
	})
	if err != nil {
		return fmt.Errorf("%w: %s: %w", errNotServed, last, err)
	}
	return nil
}

// answering is the node that gave the newest answer.
func (a *Arena) answering() string {
	rs := a.Client.Requests(time.Now().Add(-quiet))
	for i := len(rs) - 1; i >= 0; i-- {
		if rs[i].Err == "" {
			return rs[i].Node
		}
	}
	return ""
}

// poll waits for a condition.
func poll(ctx context.Context, limit time.Duration, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// Options of a system.
type Options struct {
	Bin      string // required: folder with had, hactl and testservice
	Networks int    // optional: 1 (default), or 2, of which clients are on the first only
}

// station is what the systems without had have in common: a lab in which the service runs on both members.
type station struct {
	name string
	o    Options
	a    *Arena
}

func (s *station) Name() string { return s.name }

// lay makes the lab.
func (s *station) lay(ctx context.Context) (err error) {
	s.a = &Arena{}
	if s.a.Lab, err = lab.New(ctx, lab.Options{Name: "bench", Nodes: Nodes, Client: true, Networks: s.o.Networks}); err != nil {
		return err
	}
	s.a.VIP = s.a.Lab.VIP(0)
	return nil
}

// tails are the ends of all logs, for the message of a failure.
func (s *station) tails() string {
	var b strings.Builder
	files, _ := filepath.Glob(filepath.Join(s.a.Lab.Dir(), "*", "log", "*.log"))
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil {
			lines := strings.Split(strings.TrimSpace(string(text)), "\n")
			fmt.Fprintf(&b, "\n--- %s\n%s", strings.TrimPrefix(f, s.a.Lab.Dir()), strings.Join(lines[max(0, len(lines)-12):], "\n"))
		}
	}
	return b.String()
}

// Close ends everything.
func (s *station) Close() error {
	if s.a == nil || s.a.Lab == nil {
		return nil
	}
	err := s.a.Lab.Close()
	s.a = nil
	return err
}

// program is the service of one node under a name that nothing else on the machine has: keepalived looks for processes by name, in all
// namespaces, and knows 15 characters of it.
func (s *station) program(node string) string {
	return filepath.Join(s.a.Lab.Dir(), s.a.Lab.Prefix()+"-"+node[len(node)-1:])
}

// installService makes the program of each member.
func (s *station) installService() error {
	text, err := os.ReadFile(filepath.Join(s.o.Bin, "testservice"))
	if err != nil {
		return err
	}
	for _, node := range members {
		if err := os.WriteFile(s.program(node), text, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// startService starts the service on a member unless it runs.
func (s *station) startService(node string) error {
	if _, err := s.service(node); err == nil {
		return nil
	}
	_, err := s.a.Lab.Node(node).Start(lab.ProcOptions{Name: "service", Args: []string{s.program(node), "-name", node, "-listen", fmt.Sprintf(":%d", servicePort)}})
	return err
}

// service is the process id of the service on a node.
func (s *station) service(node string) (int, error) {
	pids := s.running(node, s.program(node))
	if len(pids) == 0 {
		return 0, fmt.Errorf("the service does not run on %s", node)
	}
	return pids[0], nil
}

// running lists the living processes of a node that run one of these programs (whole path, or last part), oldest first.
func (s *station) running(node string, programs ...string) (pids []int) {
	for _, pid := range s.a.Lab.Node(node).PIDs() {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err != nil {
			continue
		}
		for _, p := range programs {
			if exe == p || filepath.Base(exe) == p {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// signalAll does something to processes of a node, the first first.
func (s *station) signalAll(node string, pids []int, do func(*lab.Node, int) error) error {
	if len(pids) == 0 {
		return fmt.Errorf("no such process on %s", node)
	}
	var errs []error
	for _, pid := range pids {
		errs = append(errs, do(s.a.Lab.Node(node), pid))
	}
	return errors.Join(errs...)
}

// Owner is the one member that has the address.
func (s *station) Owner(context.Context) (string, error) {
	owner := ""
	for _, node := range members {
		list, err := s.a.Lab.Node(node).Addrs()
		if err != nil {
			return "", err
		}
		for _, p := range list {
			if p.Addr() == s.a.VIP.Addr() {
				if owner != "" {
					return "", errors.New("two nodes have the address")
				}
				owner = node
			}
		}
	}
	if owner == "" {
		return "", errors.New("nobody has the address")
	}
	return owner, nil
}
