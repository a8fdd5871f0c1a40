package node

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/api"
	"hacluster/config"
	"hacluster/internal/boottime"
	"hacluster/vip"
)

// gated is a cluster a, b, w whose members hold addresses in network namespaces of their own, with a client on the same
// bridge. The nodes talk to each other over this process's loopback. Member a may run in a process of its own.
type gated struct {
	*cluster
	client string // namespace
	child  *exec.Cmd
}

var theVIP = netip.MustParsePrefix("198.18.0.100/24")

// ttl tells in an answer which node gave it.
var ttl = map[string]int{"a": 101, "b": 102}

func nsOf(t *testing.T, name string) string { return fmt.Sprintf("had-node%d-%s", os.Getpid(), name) }

func sh(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// newGated makes the namespaces and the cluster, and brings the address online on a.
func newGated(t *testing.T, keys string) *gated {
	t.Helper()
	needNetwork(t)
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs " + tool)
		}
	}
	g := &gated{client: nsOf(t, "client")}
	sw := nsOf(t, "sw")
	for _, ns := range []string{sw, g.client, nsOf(t, "a"), nsOf(t, "b")} {
		sh(t, "ip", "netns", "add", ns)
		t.Cleanup(func() { sh(t, "ip", "netns", "del", ns) })
		sh(t, "ip", "-n", ns, "link", "set", "lo", "up")
	}
	sh(t, "ip", "-n", sw, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
	sh(t, "ip", "-n", sw, "link", "set", "br0", "up")
	for i, ns := range []string{nsOf(t, "a"), nsOf(t, "b"), g.client} {
		port := fmt.Sprintf("p%d", i)
		sh(t, "ip", "-n", sw, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", ns)
		sh(t, "ip", "-n", sw, "link", "set", port, "master", "br0", "up")
		sh(t, "ip", "-n", ns, "addr", "add", fmt.Sprintf("198.18.0.%d/24", i+1), "dev", "eth0")
		sh(t, "ip", "-n", ns, "link", "set", "eth0", "up")
	}
	for node, hops := range ttl {
		sh(t, "ip", "netns", "exec", nsOf(t, node), "sh", "-c", fmt.Sprintf("echo %d >/proc/sys/net/ipv4/ip_default_ttl", hops))
	}
	g.cluster = formGated(t)
	t.Cleanup(g.endChild)
	g.apply(keys)
	g.online("a")
	return g
}

// often is how many times something is done in the full run; once shows it.
func often(times int) int {
	if testing.Short() {
		return 1
	}
	return times
}

// formGated is form with addresses in namespaces: a witness has none.
func formGated(t *testing.T) *cluster {
	c := formWith(t, func(m *member) {
		m.alone = true // nothing but the kernel ends a lease, and nobody starts an agent again for another timing
		if m.name != "w" {
			m.vips = func(log *slog.Logger) (*vip.Manager, error) { return openIn(nsOf(t, m.name), log) }
		}
	}, "a", "b", "w")
	return c
}

// openIn is a Manager in a namespace.
func openIn(ns string, log *slog.Logger) (m *vip.Manager, err error) {
	err = within(ns, func() (err error) {
		m, err = vip.Open(log)
		return err
	})
	return m, err
}

// within runs f on a thread in the namespace; the thread ends with it.
func within(ns string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		fd, err := unix.Open("/run/netns/"+ns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// apply makes the address a group that prefers a. keys are of the cluster.
func (g *gated) apply(keys string) {
	g.t.Helper()
	g.do(api.Write{Verb: api.VerbApply, Config: fmt.Sprintf("name = \"lab\"\n%s\n\n[[group]]\nname = \"web\"\npreferred_owners = [\"a\", \"b\"]\n\n"+
		"[[group.resource]]\nname = \"ip\"\ntype = \"address\"\naddress = %q\n", keys, theVIP)})
}

// online waits until the node holds the address and the client gets an answer from it.
func (g *gated) online(node string) {
	g.t.Helper()
	p := g.ping(time.Millisecond)
	defer p.close()
	g.until("the client is answered by "+node, func() error {
		if _, n := p.newest(node); n == 0 {
			gs := g.state().Groups["web"]
			return fmt.Errorf("no answer; owner %q, phase %s, why %s", gs.Owner, gs.Phase, gs.Why.Text)
		}
		return nil
	})
}

// nft runs the command-line tool in a node's namespace.
func (g *gated) nft(node string, args ...string) string {
	g.t.Helper()
	return sh(g.t, "ip", append([]string{"netns", "exec", nsOf(g.t, node), "nft"}, args...)...)
}

// resolves says whether anybody answers for the address at the link layer.
func (g *gated) resolves() bool {
	g.t.Helper()
	m, err := openIn(g.client, discard())
	if err != nil {
		g.t.Fatal(err)
	}
	defer m.Close()
	_, found, err := m.Conflict(g.t.Context(), vip.Spec{Address: theVIP}, 60*time.Millisecond)
	if err != nil {
		g.t.Fatal(err)
	}
	return found
}

var pingers atomic.Int32

// pinger is a client that sends an echo request at a steady pace and notes who answers.
type pinger struct {
	id      uint16 // in its requests: a raw socket gets everybody's answers
	fd      int
	stop    chan struct{}
	enough  chan struct{} // nothing more is sent
	workers sync.WaitGroup

	mu   sync.Mutex
	sent int
	last map[int]time.Time // TTL of the answers -> boot time of the newest
	got  map[int]int
	gap  time.Duration // longest between two answers
	prev time.Time
}

func (g *gated) ping(pace time.Duration) *pinger {
	g.t.Helper()
	p := &pinger{id: uint16(pingers.Add(1)), stop: make(chan struct{}), enough: make(chan struct{}), last: map[int]time.Time{}, got: map[int]int{}}
	err := within(g.client, func() (err error) {
		p.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
		if err != nil {
			return err
		}
		_ = unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20) // a receiver that waits for the CPU loses nothing
		return unix.SetsockoptTimeval(p.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000})
	})
	if err != nil {
		g.t.Fatal(err)
	}
	p.workers.Go(func() { p.send(pace) })
	p.workers.Go(p.receive)
	return p
}

func (p *pinger) send(pace time.Duration) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	b := []byte{8, 0, 0, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint16(b[4:], p.id)
	for seq := uint16(1); ; seq++ {
		select {
		case <-p.stop:
			return
		case <-p.enough:
			return
		case <-tick.C:
		}
		binary.BigEndian.PutUint16(b[6:], seq)
		sum := uint32(8)<<8 + uint32(p.id) + uint32(seq)
		binary.BigEndian.PutUint16(b[2:], ^uint16(sum+sum>>16))
		p.count(1) // before the answer can be there
		if unix.Sendto(p.fd, b, 0, &unix.SockaddrInet4{Addr: theVIP.Addr().As4()}) != nil {
			p.count(-1)
		}
	}
}

func (p *pinger) count(sent int) {
	p.mu.Lock()
	p.sent += sent
	p.mu.Unlock()
}

func (p *pinger) receive() {
	b := make([]byte, 256)
	for {
		n, _, err := unix.Recvfrom(p.fd, b, 0)
		select {
		case <-p.stop:
			return
		default:
		}
		if err != nil || n < 28 || b[20] != 0 || binary.BigEndian.Uint16(b[24:]) != p.id || netip.AddrFrom4([4]byte(b[12:16])) != theVIP.Addr() {
			continue
		}
		now := boottime.Now()
		p.mu.Lock()
		if !p.prev.IsZero() {
			p.gap = max(p.gap, now.Sub(p.prev))
		}
		p.prev, p.last[int(b[8])] = now, now
		p.got[int(b[8])]++
		p.mu.Unlock()
	}
}

// newest is when the node answered last, and how often it has.
func (p *pinger) newest(node string) (time.Time, int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last[ttl[node]], p.got[ttl[node]]
}

// longest is the longest time between two answers, until now.
func (p *pinger) longest() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(p.gap, boottime.Now().Sub(p.prev))
}

// allFrom ends the requests and checks that the node answered every one.
func (g *gated) allFrom(p *pinger, node string) {
	g.t.Helper()
	close(p.enough)
	_, before := p.newest(node)
	since, missing := time.Now(), 0
	g.until("the last answers have come", func() error {
		if _, n := p.newest(node); n != before {
			before, since = n, time.Now()
		}
		p.mu.Lock()
		missing = p.sent - p.got[ttl[node]]
		p.mu.Unlock()
		if missing > 0 && time.Since(since) < time.Second {
			return fmt.Errorf("%d are missing", missing)
		}
		return nil
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	g.t.Logf("%d requests, %d not answered by %s, longest without an answer %v", p.sent, missing, node, p.gap)
	if missing != 0 {
		g.t.Errorf("%d of %d requests were not answered by %s", missing, p.sent, node)
	}
}

func (p *pinger) close() {
	close(p.stop)
	p.workers.Wait()
	unix.Close(p.fd)
}

const childVariable = "HAD_TEST_NODE_PROCESS"

// order is what a node in a process of its own is to be.
type childOrder struct {
	Config config.Node
	NetNS  string
}

// TestNodeProcess is no test: it is the agent that other tests start, stop, kill and thaw.
func TestNodeProcess(t *testing.T) {
	text := os.Getenv(childVariable)
	if text == "" {
		return
	}
	var o childOrder
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	n, err := Open(Options{Config: o.Config, Version: "test", Log: slog.New(slog.NewTextHandler(os.Stderr, nil)).With("on", o.Config.Name),
		vips: func(log *slog.Logger) (*vip.Manager, error) { return openIn(o.NetNS, log) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(n.Run(context.Background()))
}

// apart runs a in a process of its own from now on.
func (g *gated) apart() {
	g.t.Helper()
	g.nodes["a"].stop()
	g.spawn()
}

// spawn starts the process.
func (g *gated) spawn() {
	g.t.Helper()
	m := g.nodes["a"]
	text, err := json.Marshal(childOrder{Config: m.cfg, NetNS: nsOf(g.t, "a")})
	if err != nil {
		g.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		g.t.Fatal(err)
	}
	g.child = exec.Command(self, "-test.run=^TestNodeProcess$")
	g.child.Env = append(os.Environ(), childVariable+"="+string(text))
	g.child.Stdout, g.child.Stderr = testLog{g.t}, testLog{g.t}
	if err := g.child.Start(); err != nil {
		g.t.Fatal(err)
	}
}

func (g *gated) endChild() {
	if g.child != nil {
		_ = g.child.Process.Kill()
		_ = g.child.Wait()
		g.child = nil
	}
}
