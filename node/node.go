// Package node is one node of the cluster: it observes what runs here, leads when elected, acts on what was decided, and
// wires the other packages together. It is the only package with our loops; each is gather, decide, act, wait, and the
// deciding is package placement's.
package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"hacluster/config"
	"hacluster/fence"
	"hacluster/internal/boottime"
	"hacluster/internal/identity"
	"hacluster/internal/pki"
	"hacluster/internal/wire"
	"hacluster/lease"
	"hacluster/membership"
	"hacluster/placement"
	"hacluster/raft"
	"hacluster/resources"
	"hacluster/vip"
)

// DeadMan is told until when what this node holds may live. It stands behind the agent: at the deadline it takes everything
// away, whatever the agent does. It must not block.
type DeadMan interface {
	Deadline(until time.Time)         // boot-time clock; replaces the former deadline; zero: nothing is held
	Exclusive(specs []resources.Spec) // what to kill at the deadline, beside removing the addresses
	Alive()                           // the act loop turns
	Told() []fence.Told               // what it did since the last call
}

type noDeadMan struct{}

func (noDeadMan) Deadline(time.Time)         {}
func (noDeadMan) Exclusive([]resources.Spec) {}
func (noDeadMan) Alive()                     {}
func (noDeadMan) Told() []fence.Told         { return nil }

// Options of a node. Config and Version are required.
type Options struct {
	Config  config.Node
	Version string
	Log     *slog.Logger // nil: discard
	DeadMan DeadMan      // nil: none stands behind this agent

	Watchdog *fence.WatchdogInfo // that the dead man feeds; nil: none

	asleep func() time.Duration                     // tests only: spent in suspend since boot; nil: asked of the clocks
	vips   func(*slog.Logger) (*vip.Manager, error) // tests only: of another network namespace; nil: vip.Open
}

// Node is a running agent.
type Node struct {
	name    string
	version string
	cfg     config.Node
	id      identity.Identity
	log     *slog.Logger
	clock   boottime.Clock
	deadMan DeadMan
	layers  string // by which the end of a lease is enforced, in words

	watchdog *fence.WatchdogInfo
	ladder   *ladder

	ca       authority
	peers    identity.Peers
	dialer   *wire.Dialer
	mux      *wire.Mux
	links    *links
	raft     *raft.Raft
	opened   atomic.Pointer[raft.Raft]             // raft, for callbacks that may come before Open returns
	members  atomic.Pointer[membership.Membership] // set last; callbacks come before
	vips     *vip.Manager
	gate     *gatekeeper
	slots    *slots
	renewer  *renewer
	pulser   *pulser
	listener *pulseListener
	voting   func() []string // tests only: who votes; nil: as Raft says
	leader   *leader
	fences   *devices
	tickles  *tickles
	cabling  *cabling

	actWake    chan struct{}
	grantWake  chan struct{} // the lease was renewed
	last       atomic.Pointer[lastRound]
	released   map[string]uint64 // promises of this process; only the act loop uses it
	deadline   time.Time         // as told to the dead man; only the act loop uses it
	spoken     bool              // a deadline has been told; only the act loop uses it
	readied    map[string]uint64 // group -> epoch whose connections this node will forward; only the act loop uses it
	kernelEnd  time.Time         // when the kernel removes the addresses, as armed last; only the act loop uses it
	coarse     bool              // that is behind the end of the lease; only the act loop uses it
	asleep     *boottime.Suspend // only the act loop uses it
	resumes    atomic.Int64      // suspends that the act loop noticed
	leaving    atomic.Bool
	guarded    bool                             // a dead man stands behind this agent and starts it again
	unsettled  atomic.Bool                      // part of the timing takes effect at the next start only
	restarting atomic.Bool                      // this agent ends to be started again
	progress   atomic.Int64                     // boot time of the newest round of the act loop, ns since the clock's base
	removed    atomic.Int64                     // nodes whose certificates are revoked
	alarm      *boottime.Alarm                  // wakes the act loop at the end of the lease, also when the machine was asleep then
	abandoned  atomic.Bool                      // its dead man has died: it begins nothing any more
	exclusive  atomic.Pointer[[]resources.Spec] // of the configuration in force
	askVIPs    atomic.Bool                      // the kernel told of a change of addresses or links
	now        atomic.Pointer[lease.Timing]

	changeMu sync.Mutex
	change   chan struct{} // closed and replaced when the state changes

	ctx    context.Context
	cancel context.CancelCauseFunc
	loops  sync.WaitGroup
}

// Open starts everything but the loops. The error says what to do.
func Open(o Options) (_ *Node, err error) {
	begun := boottime.Now()
	n := &Node{name: o.Config.Name, version: o.Version, cfg: o.Config, log: o.Log, clock: boottime.Now, deadMan: o.DeadMan,
		actWake: make(chan struct{}, 1), grantWake: make(chan struct{}, 1), released: map[string]uint64{}, readied: map[string]uint64{}, change: make(chan struct{}), layers: "agent, address lifetime"}
	n.guarded = o.DeadMan != nil
	if o.DeadMan != nil {
		n.layers = "agent, dead man, address lifetime"
	}
	if o.Watchdog != nil {
		n.layers += fmt.Sprintf(", watchdog (%s, %s)", o.Watchdog.Identity, o.Watchdog.Timeout)
		n.watchdog = o.Watchdog
	}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	if n.deadMan == nil {
		n.deadMan = noDeadMan{}
	}
	n.ladder = &ladder{wake: n.wakeAct}
	n.ctx, n.cancel = context.WithCancelCause(context.Background())
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	if n.id, err = identity.Open(n.cfg.DataDir, n.name, n.cfg.TLS.Cert); err != nil {
		return nil, err
	}
	timing, err := n.loadTiming()
	if err != nil {
		return nil, err
	}
	n.now.Store(&timing)
	if err := n.openNetwork(); err != nil {
		return nil, err
	}
	if o.vips == nil {
		o.vips = vip.Open
	}
	if n.vips, err = o.vips(n.log); err != nil {
		return nil, fmt.Errorf("opening the kernel's address table: %w", err)
	}
	n.gate = newGatekeeper(n.vips, n.clock, n.log)
	n.asleep = boottime.NewSuspend(o.asleep)
	if n.alarm, err = boottime.NewAlarm(n.wakeAct); err != nil {
		return nil, err
	}
	n.renewer, n.leader = newRenewer(n, boottime.NewSuspend(o.asleep)), newLeader(n)
	n.renewer.start.begun = begun
	if n.pulser, err = newPulser(n, n.renewer.boot); err != nil {
		return nil, err
	}
	n.listener = newListener(n, n.renewer.boot)
	n.fences, n.tickles = &devices{n: n}, newTickles(n, n.renewer.boot)
	n.slots = &slots{log: n.log, node: n.name, stateDir: filepath.Join(n.cfg.DataDir, "resources"), clock: n.clock, vips: n.vips, gate: n.gate, leases: n.renewer, turns: newTurns(),
		wake: n.wakeAct, rounds: map[string]uint64{}, live: map[key]*slot{}, ladder: n.ladder, plans: drainPlans{n}, tickles: n.tickles}
	if err := os.MkdirAll(n.slots.stateDir, 0o750); err != nil {
		return nil, err
	}
	if err := n.openRaft(); err != nil {
		return nil, err
	}
	return n, n.openMembership()
}

func (n *Node) openNetwork() error {
	creds, err := pki.LoadCredentials(n.cfg.TLS.CA, n.cfg.TLS.Cert, n.cfg.TLS.Key)
	if err != nil {
		return err
	}
	if n.ca, err = loadAuthority(n.cfg.TLS.CA, filepath.Join(filepath.Dir(n.cfg.TLS.CA), "ca.key"), n.cfg.TLS.GossipKey); err != nil {
		return err
	}
	if n.peers, err = identity.LoadPeers(n.cfg.DataDir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	paths := &wire.Paths{Resolve: n.resolve}
	n.cabling = newCabling(n, paths)
	n.dialer = &wire.Dialer{Credentials: creds, Resolve: n.resolve, Allow: n.allow, Timeout: n.timing().Duration, DeadAfter: 2 * n.timing().Heartbeat, Paths: paths}
	n.links = &links{dial: func(ctx context.Context, peer string) (net.Conn, error) {
		return n.dialer.Dial(ctx, peer, wire.ALPNLease)
	}}
	n.mux, err = wire.Listen(n.addresses(n.cfg.Port), wire.Config{Credentials: creds, Allow: n.allow, Log: n.log, DeadAfter: 2 * n.timing().Heartbeat, Paths: paths})
	return err
}

// addresses are this node's own, with a port.
func (n *Node) addresses(port int) []string {
	var out []string
	for _, a := range n.cfg.Addresses {
		out = append(out, net.JoinHostPort(a, strconv.Itoa(port)))
	}
	return out
}

const startedFile = "started"

func (n *Node) openRaft() error {
	_, founder, err := identity.LoadBootstrap(n.cfg.DataDir)
	if err != nil {
		return err
	}
	_, err = os.Stat(filepath.Join(n.cfg.DataDir, startedFile))
	fresh := errors.Is(err, fs.ErrNotExist)
	rc := raft.Config{Name: n.name, DataDir: n.cfg.DataDir, Fresh: fresh, Dialer: n.dialer, Listener: n.mux.Listener(wire.ALPNRaft), Timing: n.timing(),
		Incarnation: n.id.Incarnation, Log: n.log, Apply: func(s placement.State, c placement.Command) (placement.State, placement.Result) { return s.Apply(c) },
		Changed: n.changed}
	if founder && fresh {
		if err := raft.Bootstrap(n.cfg.DataDir, n.name, n.log); err != nil && !errors.Is(err, raft.ErrExists) {
			return err
		}
	}
	if n.raft, err = raft.Open(rc); err != nil {
		return err
	}
	n.opened.Store(n.raft)
	n.listener.settle(fresh)
	if st := n.raft.State(); st.Index > 0 && st.Incarnation != n.id.Incarnation {
		return identity.ErrIncarnation
	}
	if fresh {
		return pki.WriteFile(filepath.Join(n.cfg.DataDir, startedFile), []byte(time.Now().Format(time.RFC3339)+"\n"))
	}
	return nil
}

func (n *Node) openMembership() error {
	m, err := membership.Open(membership.Config{Name: n.name, Role: n.cfg.Role, Version: n.version, Port: n.cfg.GossipPort, Key: n.ca.gossip,
		Advertise: n.cfg.Addresses, Addresses: n.addresses(n.cfg.Port), Join: n.gossipPeers, Changed: n.leader.kick, Log: n.log})
	if err == nil {
		n.members.Store(m)
	}
	return err
}

// gossip is who is there as gossip has it: hints only.
func (n *Node) gossip() []membership.Member {
	if m := n.members.Load(); m != nil {
		return m.Members()
	}
	return nil
}

// gossipPeers are the addresses at which other nodes gossip.
func (n *Node) gossipPeers() []string {
	var out []string
	for name, node := range n.raftState().Nodes {
		if name != n.name {
			out = append(out, node.Gossip...)
		}
	}
	if len(out) == 0 {
		for _, node := range n.peers {
			out = append(out, node.Gossip...)
		}
	}
	return out
}

// resolve finds a node's addresses: what the cluster decided, what gossip says, what was known at the join.
func (n *Node) resolve(node string) []string {
	out := slices.Clone(n.raftState().Nodes[node].Addresses)
	for _, m := range n.gossip() {
		if m.Name == node {
			out = append(out, m.Addresses...)
		}
	}
	out = append(out, n.peers[node].Addresses...)
	var unique []string
	for _, a := range out {
		if !slices.Contains(unique, a) {
			unique = append(unique, a)
		}
	}
	return unique
}

// raftState is the newest state, the zero State before Raft is open.
func (n *Node) raftState() placement.State {
	if r := n.opened.Load(); r != nil {
		return r.State()
	}
	return placement.State{}
}

// changed is called by Raft after every entry.
func (n *Node) changed(st placement.State) {
	if removed := int64(len(st.Revoked)); n.removed.Swap(removed) != removed && n.mux != nil {
		n.mux.Recheck() // a removed node loses the connections it has, too
	}
	n.seenEntry(st)
	n.wakeAct()
	if n.leader != nil {
		n.leader.kick()
	}
	n.changeMu.Lock()
	close(n.change)
	n.change = make(chan struct{})
	n.changeMu.Unlock()
}

// stateChanged is closed at the next change of the state. Take it before reading the state.
func (n *Node) stateChanged() <-chan struct{} {
	n.changeMu.Lock()
	defer n.changeMu.Unlock()
	return n.change
}

func (n *Node) wakeAct() {
	select {
	case n.actWake <- struct{}{}:
	default:
	}
}

// timing is the timing in force.
func (n *Node) timing() lease.Timing { return *n.now.Load() }

// Run leads, acts and serves until ctx ends or the node cannot go on; the error is then why.
func (n *Node) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		n.goodbye()
		n.cancel(context.Cause(ctx))
	})
	defer stop()
	defer n.close()
	servers, err := n.listen()
	if err != nil {
		return err
	}
	for _, serve := range servers {
		n.loops.Go(serve)
	}
	for _, loop := range []func(context.Context){n.actLoop, n.renewer.loop, n.leader.loop, n.leader.verifyLoop, n.found, n.watchAddresses, n.keepPeers, n.tickles.loop, n.cabling.loop, n.pulser.loop, n.listener.loop} {
		n.loops.Go(func() { loop(n.ctx) })
	}
	n.renewer.start.reach(&n.renewer.start.running, n.clock())
	n.log.Info("had is running", "node", n.name, "role", n.cfg.Role, "cluster", n.id.Cluster, "version", n.version)
	select {
	case <-n.ctx.Done():
	case <-n.raft.Done():
		// Without its store this node can decide nothing: it gives up what it holds, the others go on.
		n.fail(fmt.Errorf("raft has stopped: %w", n.raft.Err()))
		n.dropAddresses()
	}
	if err := context.Cause(n.ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func (n *Node) fail(err error) { n.cancel(err) }

func (n *Node) logError(what string, err error) {
	if err != nil && n.ctx.Err() == nil {
		n.log.Warn(what, "err", err)
	}
}

// found writes the first entries of a new cluster, and keeps at it until they are there.
func (n *Node) found(ctx context.Context) {
	boot, founder, err := identity.LoadBootstrap(n.cfg.DataDir)
	if err != nil || !founder {
		return
	}
	for ctx.Err() == nil {
		changed := n.stateChanged()
		st := n.raft.State()
		if _, known := st.Nodes[n.name]; known {
			n.logError("removing the bootstrap marker", identity.ClearBootstrap(n.cfg.DataDir))
			return
		}
		if n.raft.IsLeader() {
			for _, c := range []placement.Command{
				{Kind: placement.CmdInit, Cluster: n.id.Cluster, ID: n.id.ClusterID, Reason: placement.Reason{Rule: placement.RuleNode, Text: "cluster " + n.id.Cluster + " is founded"}},
				{Kind: placement.CmdNode, Node: n.name, NodeInfo: &placement.NodeState{ID: n.id.NodeID, Role: n.id.Role, Addresses: boot.Addresses, Gossip: boot.Gossip, Version: n.version},
					Reason: placement.Reason{Rule: placement.RuleNode, Text: fmt.Sprintf("node %s is a %s now", n.name, n.id.Role)}},
			} {
				c.At, c.By = time.Now(), n.name
				_, err := n.leader.propose(ctx, c)
				n.logError("founding the cluster", err)
			}
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Leave hands over what this node owns and returns when it owns nothing, or ctx ends.
func (n *Node) Leave(ctx context.Context) error {
	n.leaving.Store(true)
	n.wakeAct()
	// An agent that has just been started does not know yet what its predecessor held. It waits for that, but no longer than
	// such a lease can last.
	lapsed := time.After(n.timing().Duration)
	for lapse := false; ; {
		changed := n.stateChanged()
		st, owns := n.raft.State(), ""
		for name, gs := range st.Groups {
			if gs.Owner == n.name {
				owns = cmp.Or(owns, name)
			}
		}
		known, granted := n.renewer.caughtUp(st.Index)
		if owns == "" && (known || lapse) {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("group %s is still here: %w", owns, ctx.Err())
		case <-changed:
		case <-granted:
		case <-lapsed:
			lapse = true
		}
	}
	if n.raft.IsLeader() {
		n.logError("handing leadership over", n.raft.TransferLeadership(ctx, ""))
	}
	return nil
}

// Abandon is the end of an agent whose dead man has died: nobody would take away what it holds if it were frozen now. It
// kills what is exclusive and ends; the addresses live on for what is left of their lifetime, for the next agent to take up.
func (n *Node) Abandon(err error) {
	n.abandoned.Store(true) // a kill may take long: nothing starts meanwhile, and the lease gets no longer
	n.pulser.kick()
	if specs := n.exclusive.Load(); specs != nil {
		fence.KillAll(*specs, n.log)
	}
	ctx, cancel := context.WithTimeout(n.ctx, n.timing().Renew)
	defer cancel()
	n.pulser.end(ctx)
	n.fail(err)
}

// Progress is how long ago the act loop finished a round.
func (n *Node) Progress() time.Duration { return n.clock().Sub(time.Unix(0, n.progress.Load())) }

// close ends everything that Open and Run started. What runs on this node goes on running, under the lease it has.
func (n *Node) close() {
	n.cancel(context.Canceled)
	if m := n.members.Load(); m != nil {
		n.logError("closing gossip", m.Close(false)) // nothing if goodbye has been said
	}
	if n.raft != nil {
		n.logError("closing raft", n.raft.Close())
	}
	if n.links != nil {
		n.links.close()
	}
	if n.mux != nil {
		n.logError("closing the cluster port", n.mux.Close())
	}
	n.loops.Wait()
	n.logError("closing the alarm", n.alarm.Close())
	n.pulser.close()
	if n.renewer != nil {
		n.renewer.will.Close()
	}
	if n.slots != nil {
		n.slots.close()
	}
	if n.vips != nil {
		n.logError("closing the address table", n.vips.Close())
	}
}
