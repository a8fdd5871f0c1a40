package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// set is a set of names; the zero value is empty.
type set map[string]bool

func (s *set) set(name string, on bool) {
	if *s == nil {
		*s = set{}
	}
	if on {
		(*s)[name] = true
	} else {
		delete(*s, name)
	}
}

// faultSet is everything that is broken on purpose. The switch's packet filter is always written anew from all of it.
type faultSet struct {
	off       set                    // nodes without power
	unplugged set                    // switch ports whose cable is out
	silent    set                    // switch ports that pass nothing, with the link up
	cut       set                    // "from to": frames not passed between two switch ports
	loss      map[string]int         // switch port: percent of frames lost, each way
	disturbed map[string]Disturbance // "from to": frames that the relay carries instead of the switch
}

// script renders the filters for nft(8). The table is replaced in one transaction: there is no moment without faults.
func (f faultSet) script() string {
	var b strings.Builder
	b.WriteString("add table bridge had\ndelete table bridge had\ntable bridge had {\n")
	b.WriteString("chain pre {\ntype filter hook prerouting priority -300\n")
	ports := slices.Sorted(maps.Keys(f.silent))
	for _, p := range ports {
		fmt.Fprintf(&b, "iifname %q drop\n", p)
	}
	lossy := slices.Sorted(maps.Keys(f.loss))
	for _, p := range lossy {
		fmt.Fprintf(&b, "iifname %q numgen random mod 100 < %d drop\n", p, f.loss[p])
	}
	b.WriteString("}\nchain between {\ntype filter hook forward priority 0\n")
	for _, c := range slices.Sorted(maps.Keys(f.cut)) {
		from, to, _ := strings.Cut(c, " ")
		fmt.Fprintf(&b, "iifname %q oifname %q drop\n", from, to)
	}
	for _, c := range slices.Sorted(maps.Keys(f.disturbed)) {
		from, to, _ := strings.Cut(c, " ")
		fmt.Fprintf(&b, "iifname %q oifname %q drop comment \"the relay carries it\"\n", from, to)
	}
	b.WriteString("}\nchain post {\ntype filter hook postrouting priority 300\n")
	for _, p := range ports {
		fmt.Fprintf(&b, "oifname %q drop\n", p)
	}
	for _, p := range lossy {
		fmt.Fprintf(&b, "oifname %q numgen random mod 100 < %d drop\n", p, f.loss[p])
	}
	b.WriteString("}\n}\n")
	return b.String()
}

// change alters the faults and applies them; it returns when the kernel has taken the filters.
func (l *Lab) change(f func(*faultSet)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changeLocked(f)
}

func (l *Lab) changeLocked(f func(*faultSet)) error {
	before := maps.Clone(l.faults.silent)
	f(&l.faults)
	l.tellSilence(before, true)
	if err := l.relayLocked(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", "--net="+l.sw.path, "--", "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(l.faults.script())
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("applying faults: %w: %s", err, out.String())
	}
	l.tellRelayLocked()
	l.tellSilence(before, false)
	return nil
}

// tellSilence reports the nodes whose silence ended (before the filters change) or began (after).
func (l *Lab) tellSilence(before set, ended bool) {
	for _, n := range l.nodes {
		if p := n.ports[0].swPort; before[p] == ended && l.faults.silent[p] == !ended {
			l.tellLocked(n)
		}
	}
}

// pairs calls f with the switch ports of two nodes on each network both are on, of the given ones (all without any).
func (l *Lab) pairs(a, b string, networks []int, f func(a, b string)) error {
	na, nb := l.Node(a), l.Node(b)
	if na == nil || nb == nil {
		return fmt.Errorf("no such pair of nodes in the lab: %q, %q", a, b)
	}
	for _, pa := range na.portsOn(networks) {
		for _, pb := range nb.portsOn(networks) {
			if pa.network == pb.network {
				f(pa.swPort, pb.swPort)
			}
		}
	}
	return nil
}

// Partition stops all frames between two nodes (or a node and ClientName), on the given networks or on all.
func (l *Lab) Partition(a, b string, networks ...int) error {
	return errors.Join(l.PartitionOneWay(a, b, networks...), l.PartitionOneWay(b, a, networks...))
}

// PartitionOneWay stops frames of one node towards another; the other way still passes.
func (l *Lab) PartitionOneWay(from, to string, networks ...int) error {
	var cuts []string
	if err := l.pairs(from, to, networks, func(a, b string) { cuts = append(cuts, a+" "+b) }); err != nil {
		return err
	}
	return l.change(func(f *faultSet) {
		for _, c := range cuts {
			f.cut.set(c, true)
		}
	})
}

// IsolateFromPeers cuts a node from all other nodes at one moment, but not from the client and the gateway.
func (l *Lab) IsolateFromPeers(node string, networks ...int) error {
	return l.isolate(node, true, true, networks)
}

// IsolateOutgoing stops all that a node sends to the other nodes at one moment; what they send still reaches it, and so does
// the client both ways.
func (l *Lab) IsolateOutgoing(node string, networks ...int) error {
	return l.isolate(node, true, false, networks)
}

// IsolateIncoming stops all that the other nodes send to a node at one moment; they still hear it, and the client reaches it
// both ways.
func (l *Lab) IsolateIncoming(node string, networks ...int) error {
	return l.isolate(node, false, true, networks)
}

func (l *Lab) isolate(node string, outgoing, incoming bool, networks []int) error {
	var cuts []string
	for _, n := range l.nodes {
		if n.Name == node {
			continue
		}
		if err := l.pairs(node, n.Name, networks, func(a, b string) {
			if outgoing {
				cuts = append(cuts, a+" "+b)
			}
			if incoming {
				cuts = append(cuts, b+" "+a)
			}
		}); err != nil {
			return err
		}
	}
	return l.change(func(f *faultSet) {
		for _, c := range cuts {
			f.cut.set(c, true)
		}
	})
}

// Reconnect ends all partitions of a node, whole and one-way, and leaves all other faults as they are.
func (l *Lab) Reconnect(node string) error {
	n := l.Node(node)
	if n == nil {
		return fmt.Errorf("reconnecting node %q: no such node", node)
	}
	return l.change(func(f *faultSet) {
		for c := range f.cut {
			from, to, _ := strings.Cut(c, " ")
			for _, p := range n.ports {
				if p.swPort == from || p.swPort == to {
					delete(f.cut, c)
				}
			}
		}
	})
}

// Loss drops that percentage of a node's frames at random, each way; 0 ends it.
func (l *Lab) Loss(node string, percent int, networks ...int) error {
	n := l.Node(node)
	if n == nil || percent < 0 || percent > 100 {
		return fmt.Errorf("loss of %d %% at node %q: no such node, or not a percentage", percent, node)
	}
	return l.change(func(f *faultSet) {
		if f.loss == nil {
			f.loss = map[string]int{}
		}
		for _, p := range n.portsOn(networks) {
			f.loss[p.swPort] = percent
			if percent == 0 {
				delete(f.loss, p.swPort)
			}
		}
	})
}

// Silence has the switch drop everything from and to the node while its links stay up.
func (n *Node) Silence(networks ...int) error { return n.silence(true, networks) }

// Unsilence undoes Silence.
func (n *Node) Unsilence(networks ...int) error { return n.silence(false, networks) }

func (n *Node) silence(on bool, networks []int) error {
	return n.lab.change(func(f *faultSet) {
		for _, p := range n.portsOn(networks) {
			f.silent.set(p.swPort, on)
		}
	})
}

// Heal ends all partitions, losses, silences and disturbances, all starvation, and frees filled disks. Power, cables and frozen
// nodes have their own ways back.
func (l *Lab) Heal() error {
	errs := []error{l.change(func(f *faultSet) { f.cut, f.loss, f.silent, f.disturbed = nil, nil, nil, nil })}
	for _, n := range l.nodes {
		errs = append(errs, n.Feed(), n.FreeDisk())
	}
	return errors.Join(errs...)
}
