package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"hacluster/api"
	"hacluster/config"
	"hacluster/fence"
	"hacluster/internal/boottime"
	"hacluster/internal/identity"
	"hacluster/internal/pki"
	"hacluster/internal/wire"
	"hacluster/placement"
	"hacluster/raft"
	"hacluster/resources"
	"hacluster/vip"
)

// patience bounds every wait for a condition; nothing here takes nearly as long.
const patience = 20 * time.Second

// cluster is whole nodes in one process, over loopback TLS, each with an address of its own.
type cluster struct {
	t     *testing.T
	dir   string
	net   int // 127.0.net.0/24, and its gossip ports: clusters of parallel tests do not meet
	nodes map[string]*member
	order []string
}

// member is one node of a cluster, running or not.
type member struct {
	c      *cluster
	name   string
	cfg    config.Node
	client *api.Client
	cable  *breaker
	vips   func(*slog.Logger) (*vip.Manager, error) // nil: this process's
	alone  bool                                     // without a dead man
	slept  atomic.Int64                             // time that this node spent in suspend, ns

	n   *Node
	end context.CancelFunc
	ran chan error
	man *undertaker
}

// undertaker is a dead man in the same process: the real one is a process of its own, package fence tests that.
type undertaker struct {
	log   *slog.Logger
	mu    sync.Mutex
	specs []resources.Spec
	timer *time.Timer
	kills sync.WaitGroup
}

// later is how long after the deadline the undertaker acts: what a living agent should have done is then done, and a test
// sees it if not.
const later = 200 * time.Millisecond

func (u *undertaker) Alive() {}

func (u *undertaker) Told() []fence.Told { return nil }

func (u *undertaker) Exclusive(specs []resources.Spec) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.specs = specs
}

func (u *undertaker) Deadline(until time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.disarm()
	if until.IsZero() {
		return
	}
	u.kills.Add(1)
	u.timer = time.AfterFunc(max(0, until.Sub(boottime.Now()))+later, func() {
		defer u.kills.Done()
		u.mu.Lock()
		specs := u.specs
		u.mu.Unlock()
		fence.KillAll(specs, u.log)
	})
}

// disarm ends the former deadline. The caller holds mu.
func (u *undertaker) disarm() {
	if u.timer != nil && u.timer.Stop() {
		u.kills.Done()
	}
	u.timer = nil
}

// close kills at once and waits for what is under way.
func (u *undertaker) close() {
	u.mu.Lock()
	u.disarm()
	specs := u.specs
	u.mu.Unlock()
	fence.KillAll(specs, u.log)
	u.kills.Wait()
}

var clusters atomic.Int32

func newCluster(t *testing.T) *cluster {
	t.Helper()
	return &cluster{t: t, dir: t.TempDir(), net: int(clusters.Add(1)) % 250, nodes: map[string]*member{}}
}

// form makes a cluster: the first name founds it, the others join in order. A name that begins with w is a witness.
func form(t *testing.T, names ...string) *cluster {
	t.Helper()
	return formWith(t, nil, names...)
}

// formWith is form; each member goes through prepare before it starts.
func formWith(t *testing.T, prepare func(*member), names ...string) *cluster {
	t.Helper()
	needNetwork(t)
	c := newCluster(t)
	t.Cleanup(c.close)
	for i, name := range names {
		m := c.add(name)
		if prepare != nil {
			prepare(m)
		}
		if i == 0 {
			m.found()
		} else {
			token := c.token(m.cfg.Role)
			joined, key, id, err := m.ask(token, name)
			if err != nil {
				t.Fatalf("%s joins: %v", name, err)
			}
			m.keep(joined, key, id)
		}
		m.start()
	}
	voters := len(names) // as package raft deals out the votes
	if voters > 2 {
		voters = min((voters-1)|1, raft.MaxVoters)
	}
	c.until("every node is up, and as many vote as are to", func() error {
		st, err := c.nodes[names[0]].client.Status(t.Context())
		if err != nil {
			return err
		}
		for _, n := range st.Nodes {
			if n.State != "up" {
				return fmt.Errorf("node %s: %s", n.Name, n.State)
			}
		}
		if len(st.Nodes) != len(names) || st.Quorum.Voters != voters {
			return fmt.Errorf("%d nodes, %d voters", len(st.Nodes), st.Quorum.Voters)
		}
		return nil
	})
	return c
}

// add makes the settings of a node without making it a member.
func (c *cluster) add(name string) *member {
	dir := filepath.Join(c.dir, name)
	cfg := config.DefaultNode()
	cfg.Name, cfg.Addresses = name, []string{fmt.Sprintf("127.0.%d.%d", c.net, len(c.order)+1)}
	cfg.GossipPort = 7500 + 10*c.net + len(c.order) // gossip listens on every address
	cfg.DataDir, cfg.Socket = filepath.Join(dir, "data"), filepath.Join(dir, "run", "had.sock")
	if strings.HasPrefix(name, "w") {
		cfg.Role = placement.RoleWitness
	}
	tls := func(file string) string { return filepath.Join(dir, "tls", file) }
	cfg.TLS = config.TLSFiles{CA: tls("ca.crt"), Cert: tls("node.crt"), Key: tls("node.key"), GossipKey: tls("gossip.key")}
	m := &member{c: c, name: name, cfg: cfg, client: api.NewSocketClient(cfg.Socket), cable: &breaker{}}
	m.man = &undertaker{log: m.log()}
	c.nodes[name] = m
	c.order = append(c.order, name)
	return m
}

func (m *member) log() *slog.Logger {
	return slog.New(slog.NewTextHandler(testLog{m.c.t}, nil)).With("on", m.name)
}

func (m *member) must(err error) {
	m.c.t.Helper()
	if err != nil {
		m.c.t.Fatalf("%s: %v", m.name, err)
	}
}

func (m *member) peers(port int) []string {
	return []string{net.JoinHostPort(m.cfg.Addresses[0], strconv.Itoa(port))}
}

// found does what hactl init does.
func (m *member) found() {
	m.c.t.Helper()
	id := identity.Identity{Cluster: "lab", ClusterID: pki.NewID(), Name: m.name, NodeID: pki.NewID(), Role: m.cfg.Role}
	ca, err := pki.NewCA(id.Cluster, id.ClusterID, time.Now())
	m.must(err)
	caKey, err := ca.KeyPEM()
	m.must(err)
	key, csr, err := pki.NewCSR(m.name)
	m.must(err)
	cert, err := ca.Issue(csr, pki.Identity{Cluster: id.Cluster, ClusterID: id.ClusterID, Name: m.name, NodeID: id.NodeID}, time.Now())
	m.must(err)
	m.store(id, ca.CertPEM(), caKey, cert, key, pki.NewGossipKey())
	m.must(identity.SaveBootstrap(m.cfg.DataDir, identity.Bootstrap{Addresses: m.peers(m.cfg.Port), Gossip: m.peers(m.cfg.GossipPort)}))
}

// ask does the asking half of hactl join, under any name.
func (m *member) ask(token, name string) (joined api.Joined, key []byte, id identity.Identity, err error) {
	m.c.t.Helper()
	key, csr, err := pki.NewCSR(m.name)
	m.must(err)
	parsed, err := pki.ParseToken(token)
	m.must(err)
	id = identity.Identity{Cluster: "lab", Name: name, NodeID: pki.NewID(), Role: m.cfg.Role}
	via := m.c.nodes[m.c.order[0]]
	client := api.NewClient("the cluster", func(ctx context.Context) (net.Conn, error) {
		return wire.DialJoin(ctx, via.peers(via.cfg.Port), parsed.Fingerprint)
	})
	defer client.Close()
	joined, err = client.PostJoin(m.c.t.Context(), api.Join{Token: token, Name: name, ID: id.NodeID, Role: m.cfg.Role, CSR: csr, Version: "test",
		Addresses: m.peers(m.cfg.Port), Gossip: m.peers(m.cfg.GossipPort)})
	id.ClusterID = joined.ClusterID
	return joined, key, id, err
}

// keep does the writing half of hactl join.
func (m *member) keep(j api.Joined, key []byte, id identity.Identity) {
	m.c.t.Helper()
	m.store(id, j.CA, j.CAKey, j.Cert, key, j.Gossip)
	m.must(identity.SavePeers(m.cfg.DataDir, j.Nodes))
}

func (m *member) store(id identity.Identity, ca, caKey, cert, key, gossip []byte) {
	m.c.t.Helper()
	t := m.cfg.TLS
	m.must(os.MkdirAll(filepath.Dir(t.CA), 0o700))
	m.must(pki.WriteFile(t.CA, ca))
	m.must(pki.WriteFile(filepath.Join(filepath.Dir(t.CA), "ca.key"), caKey))
	m.must(pki.WriteFile(t.Cert, cert))
	m.must(pki.WriteFile(t.Key, key))
	m.must(identity.SaveGossipKey(t.GossipKey, gossip))
	m.must(identity.Save(m.cfg.DataDir, id))
}

// start runs the agent.
func (m *member) start() {
	m.c.t.Helper()
	o := Options{Config: m.cfg, Version: "test", Log: m.log(), DeadMan: m.man, vips: m.vips, asleep: func() time.Duration { return time.Duration(m.slept.Load()) }}
	if m.alone {
		o.DeadMan = nil
	}
	n, err := Open(o)
	m.must(err)
	m.cable.insert(n)
	ctx, end := context.WithCancel(context.Background())
	m.n, m.end, m.ran = n, end, make(chan error, 1)
	go func() { m.ran <- n.Run(ctx) }()
	m.c.until(m.name+" answers", func() error {
		_, err := m.client.Version(m.c.t.Context())
		return err
	})
}

// stop ends the agent without handing anything over; what runs goes on running.
func (m *member) stop() {
	m.c.t.Helper()
	if m.n == nil {
		return
	}
	m.end()
	if err := <-m.ran; err != nil {
		m.c.t.Errorf("%s ended: %v", m.name, err)
	}
	m.n = nil
}

// close ends the nodes one after the other: while others still hear its goodbye, none takes the second that one takes at most.
func (c *cluster) close() {
	for _, name := range c.order {
		m := c.nodes[name]
		m.client.Close()
		m.stop()
		m.man.close()
	}
}

// until waits for a condition.
func (c *cluster) until(what string, ok func() error) {
	c.t.Helper()
	waitFor(c.t, what, ok)
}

func waitFor(t *testing.T, what string, ok func() error) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(patience)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain until %s: %v", patience, what, err)
		}
		<-tick.C
	}
}

// running is the nodes whose agents run, in order.
func (c *cluster) running() (out []*member) {
	for _, name := range c.order {
		if c.nodes[name].n != nil {
			out = append(out, c.nodes[name])
		}
	}
	return out
}

// write sends a write to a running node that does not lead, so that every one of them is forwarded.
func (c *cluster) write(w api.Write) (api.Reply, error) {
	c.t.Helper()
	all := c.running()
	via := all[0]
	for _, m := range all {
		if leader := m.n.raft.Leader(); leader != "" && leader != m.name {
			via = m
		}
	}
	return via.client.Write(c.t.Context(), w)
}

// do is write for a write that must be accepted. While leadership moves it says so, and is repeated.
func (c *cluster) do(w api.Write) (r api.Reply) {
	c.t.Helper()
	c.until(string(w.Verb)+" is accepted", func() (err error) {
		r, err = c.write(w)
		var e *api.Error
		if err != nil && (!errors.As(err, &e) || e.Code != api.CodeNoQuorum) {
			c.t.Fatalf("%+v: %v", w, err)
		}
		return err
	})
	return r
}

func (c *cluster) token(role placement.Role) string {
	c.t.Helper()
	return c.do(api.Write{Verb: api.VerbToken, Role: role}).Token
}

// state is the newest state that any node has applied.
func (c *cluster) state() (st placement.State) {
	for _, m := range c.running() {
		if s := m.n.raft.State(); s.Index > st.Index {
			st = s
		}
	}
	return st
}

func (c *cluster) leader() *member {
	c.t.Helper()
	var leader *member
	c.until("there is a leader", func() error {
		for _, m := range c.running() {
			if m.n.raft.IsLeader() {
				leader = m
				return nil
			}
		}
		return errors.New("nobody leads")
	})
	return leader
}

// service is one start of the test service: who started it, for which epoch, and its process.
type serviceStart struct {
	node  string
	epoch uint64
	pid   int
}

// webConfig is a cluster with one group, whose service runs once at most: a second instance at the same time finds the
// lock taken and says so.
func (c *cluster) webConfig(more string) string {
	script := fmt.Sprintf(`cd %s; exec 9>>lock; flock -n 9 || { echo "$HAD_NODE" >>double; exit 1; }; echo "$HAD_NODE $HAD_EPOCH $$" >>starts; exec sleep 1000`, c.dir)
	return fmt.Sprintf(`name = "lab"
timing = "lan"

[[group]]
name = "web"
%s
[[group.resource]]
name = "svc"
type = "process"
restart_delay = "10ms"
command = ["/bin/sh", "-c", '''%s''']
`, more, script)
}

// starts are the starts of the service so far; it fails the test if two ever ran at once (S2).
func (c *cluster) starts() (out []serviceStart) {
	c.t.Helper()
	if text, err := os.ReadFile(filepath.Join(c.dir, "double")); err == nil {
		c.t.Fatalf("a second instance was started while one ran, by %s", strings.TrimSpace(string(text)))
	}
	text, err := os.ReadFile(filepath.Join(c.dir, "starts"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		c.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var s serviceStart
		if _, err := fmt.Sscan(line, &s.node, &s.epoch, &s.pid); err != nil {
			c.t.Fatalf("line %q of the service: %v", line, err)
		}
		out = append(out, s)
	}
	return out
}

// serving waits until the group is online on the node (empty: anywhere) for an epoch that was not seen before, or any if after
// is 0, and returns the start that serves.
func (c *cluster) serving(node string, after uint64) serviceStart {
	c.t.Helper()
	var last serviceStart
	c.until(fmt.Sprintf("web serves on %q after epoch %d", node, after), func() error {
		starts := c.starts()
		if len(starts) == 0 {
			return errors.New("never started")
		}
		last = starts[len(starts)-1]
		gs := c.state().Groups["web"]
		switch {
		case gs.Phase != placement.PhaseOwned || gs.Owner != last.node || node != "" && last.node != node || gs.Epoch <= after:
			return fmt.Errorf("owner %q, epoch %d, phase %s, last start %+v", gs.Owner, gs.Epoch, gs.Phase, last)
		case !alive(last.pid):
			return fmt.Errorf("process %d is gone", last.pid)
		}
		st, err := c.running()[0].client.Status(c.t.Context())
		if err != nil {
			return err
		}
		if g := group(st); g.State != "online" || g.Owner != last.node {
			return fmt.Errorf("the status says %s on %q (%+v)", g.State, g.Owner, g.Resources)
		}
		return nil
	})
	return last
}

func group(st api.Status) api.GroupStatus {
	for _, g := range st.Groups {
		if g.Name == "web" {
			return g
		}
	}
	return api.GroupStatus{}
}

func node(st api.Status, name string) api.NodeStatus {
	for _, n := range st.Nodes {
		if n.Name == name {
			return n
		}
	}
	return api.NodeStatus{}
}

func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(text), ") Z ")
}

func (c *cluster) kill(pid int) {
	c.t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
}

// refused checks the code of an error and that it says what to do.
func refused(t *testing.T, err error, code api.Code, text, hint string) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Message, text) || !strings.Contains(e.Hint, hint) {
		b, _ := json.Marshal(e)
		t.Errorf("got %v (%s), want code %s, %q, and to do: %q", err, b, code, text, hint)
	}
}
