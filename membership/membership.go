// Package membership tells which nodes are around, at which addresses, and what they run: hints for status, discovery and
// joining. Nothing is ever decided on it; DESIGN.md has why.
package membership

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"hacluster/placement"
)

const (
	keySize      = 32 // AES-256
	joinFirst    = time.Second
	joinMax      = 30 * time.Second
	callTimeout  = 2 * time.Second // of one TCP exchange with a peer
	leaveTimeout = time.Second
	maxMembers   = 1024 // remembered; more than any cluster has
)

// How often the gossip does something while nothing happens: DESIGN.md has what each of them is for.
const (
	gossipEvery = time.Second     // what is to be said and was not sent at once, nor with a probe
	probeEvery  = 2 * time.Second // of one node
	suspectFor  = 2               // times probeEvery, until a node that answers nobody counts as gone; grows with the logarithm of the cluster
	spreadTo    = 3               // nodes that are told at once
	leaveEvery  = 50 * time.Millisecond
)

// Config is what Open needs; all fields are required unless marked.
type Config struct {
	Name      string
	Role      placement.Role
	Version   string
	Bind      string          // optional: one IP to listen on; empty: every address of the machine
	Port      int             // UDP and TCP; 0: any, for tests
	Key       []byte          // 32 bytes; who has another hears and says nothing
	Advertise []string        // IPs or host names of this node in order of preference; the first that resolves is told to others
	Addresses []string        // host:port of the cluster port, told to others
	Join      func() []string // optional: host:port (gossip) of known peers, asked before every attempt
	Changed   func()          // optional: the list has changed; called from one goroutine, may call Members
	Log       *slog.Logger    // optional

	over transport // optional, for tests: instead of the network
}

// Member is what is known of a node.
type Member struct {
	Name      string
	Role      placement.Role // empty: it sent metadata that this version cannot read
	Version   string
	Addresses []string // host:port of its cluster port
	Alive     bool     // as gossip has it; false: it was here and is gone
}

// Membership is this node's part in the gossip.
type Membership struct {
	cfg  Config
	list *memberlist.Memberlist
	log  *slog.Logger
	meta []byte

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	wake   chan struct{} // room for one

	mu      sync.Mutex
	members map[string]Member
	gossip  map[string]string // alive members' gossip address -> name

	closeOnce sync.Once
	closeErr  error
}

// Open starts to gossip. It does not wait for peers: they are looked for until Close.
func Open(cfg Config) (*Membership, error) {
	if len(cfg.Key) != keySize {
		return nil, fmt.Errorf("the gossip key has %d bytes, wanted %d: use the key file that `hactl init` or `hactl join` wrote", len(cfg.Key), keySize)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	m := &Membership{cfg: cfg, log: cfg.Log, wake: make(chan struct{}, 1), members: map[string]Member{}, gossip: map[string]string{}}
	var err error
	if m.meta, err = encodeMeta(metadata{Role: cfg.Role, Version: cfg.Version, Addresses: cfg.Addresses}); err != nil {
		return nil, err
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	advertise, err := firstIP(m.ctx, cfg.Advertise)
	if err != nil {
		m.cancel()
		return nil, err
	}
	if err := m.create(advertise); err != nil {
		m.cancel()
		return nil, fmt.Errorf("opening the gossip port %d (UDP and TCP) on %q: %w", cfg.Port, cfg.Bind, err)
	}
	m.wg.Go(m.tell)
	if cfg.Join != nil {
		m.wg.Go(m.seek)
	}
	return m, nil
}

// create opens the port and starts the library.
func (m *Membership) create(advertise netip.Addr) (err error) {
	c := memberlist.DefaultLANConfig()
	c.Name = m.cfg.Name
	c.SecretKey = slices.Clone(m.cfg.Key)
	c.TCPTimeout = callTimeout
	c.GossipInterval, c.ProbeInterval, c.SuspicionMult = gossipEvery, probeEvery, suspectFor
	c.EnableCompression = false // messages are small; one decoder less that reads foreign bytes
	c.DeadNodeReclaimTime = 5 * time.Second
	c.Logger = log.New(newLogWriter(m.cfg.Log), "", 0)
	c.Delegate, c.Events, c.Conflict = (*delegate)(m), (*delegate)(m), (*delegate)(m)
	t := m.cfg.over
	if t == nil {
		if t, err = listen(m.cfg.Bind, m.cfg.Port, c.Logger); err != nil {
			return err
		}
	}
	c.Transport, c.BindPort = t, t.GetAutoBindPort()
	c.AdvertiseAddr, c.AdvertisePort = advertise.String(), c.BindPort
	if m.list, err = memberlist.Create(c); err != nil {
		return errors.Join(err, t.Shutdown())
	}
	return nil
}

// firstIP is the first address that is one, or resolves to one.
func firstIP(ctx context.Context, addrs []string) (netip.Addr, error) {
	if len(addrs) == 0 {
		return netip.Addr{}, errors.New("gossip: this node has no address to tell to others")
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var errs []error
	for _, a := range addrs {
		if ip, err := netip.ParseAddr(a); err == nil {
			return ip.Unmap(), nil
		}
		ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", a)
		if err == nil && len(ips) > 0 {
			return ips[0].Unmap(), nil
		}
		errs = append(errs, err)
	}
	return netip.Addr{}, fmt.Errorf("gossip: no address resolves: %w", errors.Join(errs...))
}

// Addr is the gossip address that others are told.
func (m *Membership) Addr() string {
	n := m.list.LocalNode()
	return net.JoinHostPort(n.Addr.String(), strconv.Itoa(int(n.Port)))
}

// Members are all nodes heard of since Open, this one among them, by name.
func (m *Membership) Members() []Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Member, 0, len(m.members))
	for _, x := range m.members {
		x.Addresses = slices.Clone(x.Addresses)
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Close ends the gossip and waits for it; with leave the others are told that this node goes on purpose.
func (m *Membership) Close(leave bool) error {
	m.closeOnce.Do(func() {
		m.cancel()
		var errs []error
		if leave {
			if err := m.leave(); err != nil {
				errs = append(errs, fmt.Errorf("leaving the gossip: %w", err))
			}
		}
		if err := m.list.Shutdown(); err != nil {
			errs = append(errs, fmt.Errorf("closing the gossip port: %w", err))
		}
		m.wg.Wait()
		m.closeErr = errors.Join(errs...)
	})
	return m.closeErr
}

// leave does not wait for the gossip, which is slow, to tell others.
func (m *Membership) leave() error {
	left := make(chan error, 1)
	m.wg.Go(func() { left <- m.list.Leave(leaveTimeout) })
	for {
		select {
		case err := <-left:
			time.Sleep(leaveEvery) // for the answers to the last pings, which Close would wait for in vain
			return err
		case <-time.After(leaveEvery):
			m.spread()
		}
	}
}

// spread sends what is to be said, to a few and now: memberlist adds it to any ping.
func (m *Membership) spread() {
	m.mu.Lock()
	defer m.mu.Unlock()
	left := spreadTo
	for addr, name := range m.gossip { // in any order
		to, err := netip.ParseAddrPort(addr)
		if name == m.cfg.Name || err != nil {
			continue
		}
		if left--; left < 0 {
			return
		}
		m.wg.Go(func() {
			if _, err := m.list.Ping(name, net.UDPAddrFromAddrPort(to)); err != nil {
				m.log.Debug("gossip: telling a node", "node", name, "err", err)
			}
		})
	}
}

// tell calls Changed outside of memberlist's locks, and passes the news on.
func (m *Membership) tell() {
	for {
		select {
		case <-m.wake:
			if m.cfg.Changed != nil {
				m.cfg.Changed()
			}
			m.spread()
		case <-m.ctx.Done():
			return
		}
	}
}

// seek calls known peers that are not in the list. It never ends: after a long partition each half has forgotten the
// other, and gossip alone would not bring them together again.
func (m *Membership) seek() {
	pause := joinFirst
	for {
		found := true
		for _, addr := range m.cfg.Join() {
			if m.ctx.Err() != nil {
				return
			}
			ip, err := m.locate(addr)
			if err == nil {
				if ip == m.Addr() || m.knows(ip) {
					continue
				}
				_, err = m.list.Join([]string{ip})
			}
			if err != nil {
				found = false
				m.log.Debug("gossip: peer does not answer", "addr", addr, "err", err)
			}
		}
		if pause = min(2*pause, joinMax); found {
			pause = joinMax
		}
		select {
		case <-time.After(pause):
		case <-m.ctx.Done():
			return
		}
	}
}

// locate turns a host name into an address.
func (m *Membership) locate(addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	ip, err := firstIP(m.ctx, []string{host})
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(ip.String(), port), nil
}

func (m *Membership) knows(addr string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.gossip[addr]
	return ok
}

// delegate is what memberlist calls; it holds its own lock then, so nothing here may call it back or block.
type delegate Membership

// NotifyJoin implements memberlist.EventDelegate.
func (d *delegate) NotifyJoin(n *memberlist.Node) { d.heard(n, true) }

// NotifyUpdate implements memberlist.EventDelegate.
func (d *delegate) NotifyUpdate(n *memberlist.Node) { d.heard(n, true) }

// NotifyLeave implements memberlist.EventDelegate.
func (d *delegate) NotifyLeave(n *memberlist.Node) { d.heard(n, false) }

func (d *delegate) heard(n *memberlist.Node, alive bool) {
	x := Member{Name: n.Name, Alive: alive}
	if md, err := decodeMeta(n.Meta); err == nil {
		x.Role, x.Version, x.Addresses = md.Role, md.Version, md.Addresses
	} else if len(n.Meta) > 0 {
		d.log.Debug("gossip: metadata cannot be read", "node", n.Name, "err", err)
	}
	d.mu.Lock()
	if _, known := d.members[n.Name]; known || len(d.members) < maxMembers {
		d.members[n.Name] = x
	}
	for addr, name := range d.gossip {
		if name == n.Name {
			delete(d.gossip, addr)
		}
	}
	if alive {
		d.gossip[n.Address()] = n.Name
	}
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// NotifyConflict implements memberlist.ConflictDelegate.
func (d *delegate) NotifyConflict(existing, other *memberlist.Node) {
	d.log.Warn("gossip: two nodes have one name; give one of them another", "node", existing.Name, "addr", existing.Address(), "other", other.Address())
}

// NodeMeta implements memberlist.Delegate.
func (d *delegate) NodeMeta(int) []byte { return d.meta }

// NotifyMsg implements memberlist.Delegate; nothing but membership is gossiped.
func (d *delegate) NotifyMsg([]byte) {}

// GetBroadcasts implements memberlist.Delegate.
func (d *delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements memberlist.Delegate.
func (d *delegate) LocalState(bool) []byte { return nil }

// MergeRemoteState implements memberlist.Delegate.
func (d *delegate) MergeRemoteState([]byte, bool) {}
