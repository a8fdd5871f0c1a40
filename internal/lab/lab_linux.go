package lab

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
)

// ErrNotPermitted says that this process may not make network namespaces. Reexec may help.
var ErrNotPermitted = errors.New("network namespaces are not permitted here")

// ClientName is the name of the client's namespace, for faults that take a node name.
const ClientName = "client"

// Options describes a lab.
type Options struct {
	Name     string   // optional: for humans, shown in the registry
	Nodes    []string // required: 1 to 80 names of [a-z0-9-], at most 11 characters each
	Client   bool     // optional: one more namespace, on the first network only, for clients
	IPv6     bool     // optional: addresses of both families
	Networks int      // optional: 1 (default) or 2; the second network joins the nodes only
	Dir      string   // optional: where the nodes' directories go; without it a temporary one that Close removes
	Log      *slog.Logger
}

// Lab is a running topology. Methods may be called from any goroutine.
type Lab struct {
	o      Options
	prefix string
	dir    string
	log    *slog.Logger
	rec    record
	lock   *os.File
	sw     *netNS // the switch: one bridge per network
	nodes  []*Node
	client *Node

	mu      sync.Mutex // guards the rest; held while a fault is applied, so that faults have an order
	faults  faultSet
	relay   *relay // while frames are disturbed
	closers []func() error
	watch   []func(node string, answering bool, at time.Time)
	closed  bool
}

var validName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,10}$`)

func (o *Options) validate() error {
	var errs []error
	if len(o.Nodes) == 0 || len(o.Nodes) > 80 {
		errs = append(errs, fmt.Errorf("a lab has 1 to 80 nodes, not %d", len(o.Nodes)))
	}
	for i, n := range o.Nodes {
		if !validName.MatchString(n) || n == ClientName || n == "sw" {
			errs = append(errs, fmt.Errorf("node name %q: use up to 11 characters of a-z, 0-9 and -, not %q or \"sw\"", n, ClientName))
		}
		if slices.Contains(o.Nodes[:i], n) {
			errs = append(errs, fmt.Errorf("node name %q is given twice", n))
		}
	}
	if o.Networks == 0 {
		o.Networks = 1
	}
	if o.Networks < 1 || o.Networks > 2 {
		errs = append(errs, fmt.Errorf("a lab has 1 or 2 networks, not %d", o.Networks))
	}
	return errors.Join(errs...)
}

// New builds the topology; ctx bounds the building only. Close must be called. It sweeps stale labs first.
func New(ctx context.Context, o Options) (_ *Lab, err error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := permitted(); err != nil {
		return nil, err
	}
	if swept, err := SweepStale(); err != nil {
		o.Log.Warn("sweeping stale labs", "err", err) // another lab's remains do not stand in our way
	} else if len(swept) > 0 {
		o.Log.Info("swept stale labs", "labs", strings.Join(swept, " "))
	}
	l := &Lab{o: o, prefix: "had-" + strings.ToLower(rand.Text()[:4]), dir: o.Dir, log: o.Log}
	if err := l.register(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	if err := os.MkdirAll(l.dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the lab's directory: %w", err)
	}
	if l.sw, err = newNetNS(l.prefix + "-sw"); err != nil {
		return nil, err
	}
	for n := range o.Networks {
		if err := l.addBridge(n); err != nil {
			return nil, err
		}
	}
	for i, name := range o.Nodes {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("building the lab: %w", err)
		}
		n, err := l.addNode(name, 11+i, o.Networks)
		if n != nil {
			l.nodes = append(l.nodes, n)
		}
		if err != nil {
			return nil, err
		}
	}
	if o.Client {
		if l.client, err = l.addNode(ClientName, 200, 1); err != nil {
			return nil, err
		}
	}
	l.log.Info("lab is up", "lab", l.prefix, "nodes", strings.Join(o.Nodes, " "), "dir", l.dir)
	return l, nil
}

func (l *Lab) register() (err error) {
	l.rec = record{Prefix: l.prefix, Name: l.o.Name, PID: os.Getpid(), Started: time.Now(), Dir: l.dir, NetNS: []string{l.prefix + "-sw"}}
	if l.dir == "" {
		l.dir = filepath.Join(os.TempDir(), l.prefix)
		l.rec.Dir, l.rec.OwnDir = l.dir, true
	}
	for _, n := range l.o.Nodes {
		l.rec.NetNS = append(l.rec.NetNS, l.prefix+"-"+n)
	}
	if l.o.Client {
		l.rec.NetNS = append(l.rec.NetNS, l.prefix+"-"+ClientName)
	}
	// Tried before it is written down: in a user namespace or a container the hierarchy may be there but not ours.
	if root := cgroup2Root(); root != "" {
		path := filepath.Join(root, l.prefix)
		if c, err := newCgroup(path); err == nil {
			c.close()
			l.rec.Cgroup = path
		}
	}
	l.lock, err = register(l.rec)
	return err
}

func bridgeName(network int) string { return fmt.Sprintf("br%d", network) }

func (l *Lab) addBridge(network int) error {
	off := false
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName(network)}, MulticastSnooping: &off}
	if err := l.sw.h.LinkAdd(br); err != nil {
		return fmt.Errorf("adding bridge %s: %w", br.Name, err)
	}
	if err := l.sw.h.LinkSetUp(br); err != nil {
		return fmt.Errorf("starting bridge %s: %w", br.Name, err)
	}
	// The switch answers pings: the nodes' gateway.
	return setAddr(l.sw.h, br, netip.PrefixFrom(hostAddr(network, 1), 24))
}

func hostAddr(network, host int) netip.Addr {
	return netip.AddrFrom4([4]byte{198, 18, byte(network), byte(host)})
}

func hostAddr6(network, host int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfd, 3: 0x18, 5: byte(network), 14: byte(host / 256), 15: byte(host)})
}

// VIP is the i-th address kept free for floating use on the first network, with its prefix; i is 0 to 89.
func (l *Lab) VIP(i int) netip.Prefix { return netip.PrefixFrom(hostAddr(0, 100+i), 24) }

// VIP6 is VIP in IPv6.
func (l *Lab) VIP6(i int) netip.Prefix { return netip.PrefixFrom(hostAddr6(0, 0x100+i), 64) }

// Gateway is the switch's own address on the first network; it answers pings.
func (l *Lab) Gateway() netip.Addr { return hostAddr(0, 1) }

// Prefix is what the names of everything this lab made begin with.
func (l *Lab) Prefix() string { return l.prefix }

// Dir holds the nodes' directories and logs.
func (l *Lab) Dir() string { return l.dir }

// Nodes lists the nodes in the order given, the client excepted.
func (l *Lab) Nodes() []*Node { return slices.Clone(l.nodes) }

// Node finds a node by name, "client" included; nil when there is none.
func (l *Lab) Node(name string) *Node {
	if l.client != nil && name == ClientName {
		return l.client
	}
	for _, n := range l.nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Client is the client's namespace, nil without Options.Client.
func (l *Lab) Client() *Node { return l.client }

// onClose has f called by Close before the namespaces go, last registered first.
func (l *Lab) onClose(f func() error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closers = append(l.closers, f)
}

// Close ends every process in the nodes and removes all that the lab made, the directories included unless Options.Dir was
// given. It may be called twice.
func (l *Lab) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	closers := l.closers
	l.mu.Unlock()
	var errs []error
	for _, f := range slices.Backward(closers) {
		errs = append(errs, f())
	}
	for _, n := range append(l.Nodes(), l.client) {
		if n != nil {
			errs = append(errs, n.close())
		}
	}
	if l.sw != nil {
		l.sw.close()
	}
	errs = append(errs, l.rec.destroy())
	if l.lock != nil {
		l.lock.Close()
	}
	return errors.Join(errs...)
}

// Detach leaves the lab running after this process has ended, until SweepAll. The Lab must not be used afterwards.
func (l *Lab) Detach() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.rec.Kept = true
	if err := writeRecord(l.lock, l.rec); err != nil {
		return fmt.Errorf("detaching the lab: %w", err)
	}
	return l.lock.Close()
}
