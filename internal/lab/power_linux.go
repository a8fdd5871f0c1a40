package lab

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"github.com/vishvananda/netlink"
)

// Power and cables. A node answers clients while it has power, its first cable is in and its port is not silenced; the
// observers are told of every change. To stay on the safe side a loss counts from the moment it is complete, a return from
// the moment before it begins.

// PowerCut is a power cut: the switch ports go down first, so that nothing the node does from then on is heard, then every
// process is killed, then what only lived in memory goes (addresses, routes, packet filters). Files stay. PowerOn undoes it.
func (n *Node) PowerCut() error {
	n.lab.mu.Lock()
	errs := n.setPorts(false)
	n.lab.faults.off.set(n.Name, true)
	n.lab.tellLocked(n)
	n.lab.mu.Unlock()
	errs = append(errs, n.endAll(), n.wipeKernel())
	n.lab.log.Info("power cut", "lab", n.lab.prefix, "node", n.Name)
	return errors.Join(errs...)
}

// PowerOn restores power after PowerCut: links up, the node's own addresses, no process. Cables taken out stay out.
func (n *Node) PowerOn() error {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	n.lab.faults.off.set(n.Name, false)
	n.lab.tellLocked(n)
	errs := append(n.setPorts(true), n.resetAddrs())
	n.lab.log.Info("power on", "lab", n.lab.prefix, "node", n.Name)
	return errors.Join(errs...)
}

// endAll kills everything in the node for good and waits for the goroutines that watch it.
func (n *Node) endAll() error {
	n.mu.Lock()
	sys := n.systemd
	n.systemd = nil
	n.mu.Unlock()
	if sys != nil {
		sys.abandon() // what ends now is not a reboot
	}
	err := errors.Join(n.Feed(), n.KillAll())
	if sys != nil {
		sys.join()
	}
	n.joinProcs()
	if n.cg != nil {
		err = errors.Join(err, n.cg.freeze(false)) // what is started after PowerOn must run
	}
	n.frozen.Store(false)
	return err
}

// wipeKernel removes what a machine's kernel loses with its power.
func (n *Node) wipeKernel() error {
	var errs []error
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "nsenter", "--net="+n.ns.path, "--", "nft", "flush", "ruleset").CombinedOutput(); err != nil {
		errs = append(errs, fmt.Errorf("flushing packet filters of node %s: %w: %s", n.Name, err, out))
	}
	for _, p := range n.ports {
		link := n.link(p)
		// Down and up again forgets neighbours and routes.
		errs = append(errs, n.ns.h.LinkSetDown(link))
		list, err := n.ns.h.AddrList(link, netlink.FAMILY_ALL)
		errs = append(errs, err)
		for _, a := range list {
			n.ns.h.AddrDel(link, &a) // a secondary goes with its primary; what stays is caught by resetAddrs
		}
		errs = append(errs, n.ns.h.LinkSetUp(link))
	}
	return errors.Join(errs...)
}

// setPorts brings the switch's ends up or down, down for good where a cable is out. Called with the lab's lock held.
func (n *Node) setPorts(up bool, networks ...int) (errs []error) {
	for _, p := range n.portsOn(networks) {
		link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: p.swIndex, Name: p.swPort}}
		var err error
		if up && !n.lab.faults.unplugged[p.swPort] && !n.lab.faults.off[n.Name] {
			err = n.lab.sw.h.LinkSetUp(link)
		} else {
			err = n.lab.sw.h.LinkSetDown(link)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("setting port %s: %w", p.swPort, err))
		}
	}
	return errs
}

// portsOn picks the ports of those networks, all without any.
func (n *Node) portsOn(networks []int) []port {
	if len(networks) == 0 {
		return n.ports
	}
	var out []port
	for _, w := range networks {
		if w >= 0 && w < len(n.ports) {
			out = append(out, n.ports[w])
		}
	}
	return out
}

// CableOut pulls the cables of the given networks (all without any): the node loses the carrier.
func (n *Node) CableOut(networks ...int) error { return n.setCable(false, networks) }

// CableIn plugs them in again.
func (n *Node) CableIn(networks ...int) error { return n.setCable(true, networks) }

func (n *Node) setCable(in bool, networks []int) error {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	for _, p := range n.portsOn(networks) {
		n.lab.faults.unplugged.set(p.swPort, !in)
	}
	if in {
		n.lab.tellLocked(n)
	}
	errs := n.setPorts(in, networks...)
	if !in {
		n.lab.tellLocked(n)
	}
	return errors.Join(errs...)
}

// answering tells whether clients can hear the node. Called with the lab's lock held.
func (l *Lab) answering(n *Node) bool {
	first := n.ports[0].swPort
	return !l.faults.off[n.Name] && !l.faults.unplugged[first] && !l.faults.silent[first]
}

// tellLocked reports to the observers what is true of a node from now on.
func (l *Lab) tellLocked(n *Node) {
	now, ok := time.Now(), l.answering(n)
	for _, f := range l.watch {
		f(n.Name, ok, now)
	}
}

// onAnswering registers f and calls it with the present state of every node.
func (l *Lab) onAnswering(f func(node string, answering bool, at time.Time)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for _, n := range l.nodes {
		f(n.Name, l.answering(n), now)
	}
	l.watch = append(l.watch, f)
}
