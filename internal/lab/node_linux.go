package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Node is one machine of the lab: a network namespace with its interfaces, a directory and, where permitted, a cgroup.
type Node struct {
	Name string
	Root string // the node's own directory, with etc, var, run and log in it

	lab   *Lab
	host  int // last part of its addresses
	ns    *netNS
	cg    *cgroup // nil where this machine permits none
	ports []port

	frozen   atomic.Bool // by FreezeAll
	mu       sync.Mutex
	procs    []*Proc
	systemd  *System
	starving *starving // by Starve
	disk     string    // by SmallDisk
}

// port is one cable: the node's end and the switch's end.
type port struct {
	network     int
	eth, swPort string // interface names in the node and in the switch
	ethIndex    int
	swIndex     int
	mac         net.HardwareAddr // of the node's end
}

// portName is the switch's end of a node's cable.
func portName(node string, network int) string {
	if network == 0 {
		return node
	}
	return fmt.Sprintf("%s-%d", node, network)
}

// addNode makes a node with one cable per network. It returns the node as far as it got, for Close.
func (l *Lab) addNode(name string, host, networks int) (*Node, error) {
	n := &Node{Name: name, Root: filepath.Join(l.dir, name), lab: l, host: host}
	for _, d := range []string{"etc", "var", "run", "log"} {
		if err := os.MkdirAll(filepath.Join(n.Root, d), 0o755); err != nil {
			return nil, fmt.Errorf("making the directories of node %s: %w", name, err)
		}
	}
	var err error
	if l.rec.Cgroup != "" {
		if n.cg, err = newCgroup(filepath.Join(l.rec.Cgroup, name)); err != nil {
			return nil, fmt.Errorf("adding node %s: %w", name, err)
		}
	}
	if n.ns, err = newNetNS(l.prefix + "-" + name); err != nil {
		return n, fmt.Errorf("adding node %s: %w", name, err)
	}
	for i := range networks {
		if err := n.addPort(i); err != nil {
			return n, fmt.Errorf("adding node %s: %w", name, err)
		}
	}
	return n, n.resetAddrs()
}

// addPort lays a cable from the node to a network's bridge.
func (n *Node) addPort(network int) error {
	p := port{network: network, eth: fmt.Sprintf("eth%d", network), swPort: portName(n.Name, network)}
	h := n.lab.sw.h
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: p.swPort}, PeerName: p.eth, PeerNamespace: netlink.NsFd(n.ns.file.Fd())}
	if err := h.LinkAdd(veth); err != nil {
		return fmt.Errorf("adding cable %s: %w", p.swPort, err)
	}
	outer, err := h.LinkByName(p.swPort)
	if err != nil {
		return fmt.Errorf("finding port %s: %w", p.swPort, err)
	}
	br, err := h.LinkByName(bridgeName(network))
	if err != nil {
		return fmt.Errorf("finding bridge %s: %w", bridgeName(network), err)
	}
	inner, err := n.ns.h.LinkByName(p.eth)
	if err != nil {
		return fmt.Errorf("finding %s: %w", p.eth, err)
	}
	p.swIndex, p.ethIndex, p.mac = outer.Attrs().Index, inner.Attrs().Index, inner.Attrs().HardwareAddr
	n.ports = append(n.ports, p)
	if err := h.LinkSetMaster(outer, br); err != nil {
		return fmt.Errorf("plugging %s into %s: %w", p.swPort, bridgeName(network), err)
	}
	return errors.Join(h.LinkSetUp(outer), n.ns.h.LinkSetUp(inner))
}

// Addr is the node's own address on a network (0 or 1).
func (n *Node) Addr(network int) netip.Addr { return hostAddr(network, n.host) }

// Addr6 is Addr in IPv6; set only with Options.IPv6.
func (n *Node) Addr6(network int) netip.Addr { return hostAddr6(network, n.host) }

// MAC is the hardware address of the node's interface on a network.
func (n *Node) MAC(network int) net.HardwareAddr { return n.ports[network].mac }

// NetNS is the file of the node's network namespace; its base name is what "ip netns exec" takes.
func (n *Node) NetNS() string { return n.ns.path }

// Path joins parts to the node's root directory.
func (n *Node) Path(parts ...string) string {
	return filepath.Join(append([]string{n.Root}, parts...)...)
}

// Do calls f on a thread inside the node's network namespace: sockets made by f belong to the node.
func (n *Node) Do(f func() error) error { return n.ns.do(f) }

// Command prepares a command inside the node: its network namespace and its cgroup, so that PowerCut and FreezeAll reach it.
// A relative program name is looked up inside. SysProcAttr may be extended but not replaced. In a frozen node (FreezeAll) it
// does not start: the new process would freeze before it is the command, with this process's files and locks open.
func (n *Node) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	full := append([]string{"--net=" + n.ns.path, "--", name}, args...)
	cmd := exec.CommandContext(ctx, "nsenter", full...) // nsenter(1) execs: the process id stays
	n.place(cmd)
	return cmd
}

// place has a command start in the node's cgroup.
func (n *Node) place(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if n.cg != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(n.cg.dir.Fd())
	}
	if n.frozen.Load() {
		cmd.Err = fmt.Errorf("node %s is frozen: thaw it first", n.Name)
	}
	cmd.WaitDelay = 2 * time.Second // a grandchild that holds the pipes must not hold Wait
}

// AddAddr puts an address on the node's interface of that subnet, as "ip addr add" by hand would. IPv6 skips duplicate
// address detection.
func (n *Node) AddAddr(p netip.Prefix) error {
	link, err := n.linkFor(p)
	if err != nil {
		return err
	}
	return setAddr(n.ns.h, link, p)
}

// DelAddr removes an address; one that is not there is an error (EADDRNOTAVAIL).
func (n *Node) DelAddr(p netip.Prefix) error {
	link, err := n.linkFor(p)
	if err != nil {
		return err
	}
	if err := n.ns.h.AddrDel(link, netlinkAddr(p)); err != nil {
		return fmt.Errorf("removing %s from node %s: %w", p, n.Name, err)
	}
	return nil
}

// Addrs lists the addresses on the node's interfaces, loopback and link-local ones excepted.
func (n *Node) Addrs() ([]netip.Prefix, error) {
	list, err := n.ns.h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("listing addresses of node %s: %w", n.Name, err)
	}
	var out []netip.Prefix
	for _, a := range list {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && !ip.Unmap().IsLoopback() && !ip.IsLinkLocalUnicast() {
			ones, _ := a.Mask.Size()
			out = append(out, netip.PrefixFrom(ip.Unmap(), ones))
		}
	}
	return out, nil
}

func (n *Node) linkFor(p netip.Prefix) (netlink.Link, error) {
	for _, port := range n.ports {
		if netip.PrefixFrom(hostAddr(port.network, 0), 24).Contains(p.Addr()) || netip.PrefixFrom(hostAddr6(port.network, 0), 64).Contains(p.Addr()) {
			return n.link(port), nil
		}
	}
	return nil, fmt.Errorf("address %s is on none of node %s's networks", p, n.Name)
}

// link names an interface by index, which saves asking the kernel for it.
func (n *Node) link(p port) netlink.Link {
	return &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: p.ethIndex, Name: p.eth}}
}

func netlinkAddr(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

func setAddr(h *netlink.Handle, link netlink.Link, p netip.Prefix) error {
	if err := h.AddrReplace(link, netlinkAddr(p)); err != nil {
		return fmt.Errorf("adding %s to %s: %w", p, link.Attrs().Name, err)
	}
	return nil
}

// resetAddrs leaves the node with its own addresses only.
func (n *Node) resetAddrs() error {
	var errs []error
	for _, p := range n.ports {
		link := n.link(p)
		own := []netip.Prefix{netip.PrefixFrom(n.Addr(p.network), 24)}
		if n.lab.o.IPv6 {
			own = append(own, netip.PrefixFrom(n.Addr6(p.network), 64))
		}
		list, err := n.ns.h.AddrList(link, netlink.FAMILY_ALL)
		errs = append(errs, err)
		for _, a := range list {
			ip, _ := netip.AddrFromSlice(a.IP)
			if ip.IsLinkLocalUnicast() || slices.ContainsFunc(own, func(o netip.Prefix) bool { return o.Addr() == ip.Unmap() }) {
				continue
			}
			// Gone in between (a secondary goes with its primary) is the goal.
			if err := n.ns.h.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				errs = append(errs, fmt.Errorf("flushing %s: %w", a.IP, err))
			}
		}
		for _, o := range own {
			errs = append(errs, setAddr(n.ns.h, link, o))
		}
	}
	return errors.Join(errs...)
}

// close ends the node's processes and gives up its descriptors; the lab's record removes the rest.
func (n *Node) close() error {
	var err error
	if n.ns != nil {
		err = n.endAll()
		n.ns.close()
	}
	n.cg.close()
	return err
}
