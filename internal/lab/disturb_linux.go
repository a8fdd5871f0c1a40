package lab

import (
	"errors"
	"fmt"
	"maps"
	"time"
)

// Disturbance is what happens to frames on their way between two nodes. Clients and the gateway are not touched.
type Disturbance struct {
	Delay     time.Duration // each frame is held this long
	Jitter    time.Duration // and up to this much longer, at random; frames stay in order
	Loss      int           // percent of frames that vanish
	Duplicate int           // percent of frames that arrive twice
	Reorder   int           // percent of frames that are held for Late more and overtaken by those that follow
	Late      time.Duration // optional: 10ms
}

// lateDefault is how far a reordered frame falls back.
const lateDefault = 10 * time.Millisecond

func (d *Disturbance) validate() error {
	for _, p := range []int{d.Loss, d.Duplicate, d.Reorder} {
		if p < 0 || p > 100 {
			return fmt.Errorf("disturbing the network: %d is not a percentage", p)
		}
	}
	if d.Delay < 0 || d.Jitter < 0 || d.Late < 0 || d.Delay+d.Jitter+d.Late > 10*time.Second {
		return errors.New("disturbing the network: delays are 0 to 10s")
	}
	if d.Late == 0 && d.Reorder > 0 {
		d.Late = lateDefault
	}
	return nil
}

// Disturb spoils the frames that one node sends to another, on the given networks or on all; the other direction is not
// touched. The zero Disturbance ends it, as Heal does.
//
// The kernels of most machines can do this by tc-netem(8), but not all: here the switch drops the frames and a small switch in
// user space takes their place, from the first disturbance until the last one has ended. It adds 0.1 to 0.3 ms.
func (l *Lab) Disturb(from, to string, d Disturbance, networks ...int) error {
	var pairs []string
	if err := l.pairs(from, to, networks, func(a, b string) { pairs = append(pairs, a+" "+b) }); err != nil {
		return err
	}
	return l.disturb(pairs, d)
}

// DisturbNode spoils everything between a node and the other nodes, in both directions.
func (l *Lab) DisturbNode(node string, d Disturbance, networks ...int) error {
	var pairs []string
	for _, n := range l.nodes {
		if n.Name == node {
			continue
		}
		if err := l.pairs(node, n.Name, networks, func(a, b string) { pairs = append(pairs, a+" "+b, b+" "+a) }); err != nil {
			return err
		}
	}
	return l.disturb(pairs, d)
}

func (l *Lab) disturb(pairs []string, d Disturbance) error {
	if len(pairs) == 0 {
		return errors.New("disturbing the network: the client's cable cannot be disturbed, and a node not from itself")
	}
	if err := d.validate(); err != nil {
		return err
	}
	return l.change(func(f *faultSet) {
		f.disturbed = maps.Clone(f.disturbed)
		if f.disturbed == nil {
			f.disturbed = map[string]Disturbance{}
		}
		for _, p := range pairs {
			f.disturbed[p] = d
			if d == (Disturbance{}) {
				delete(f.disturbed, p)
			}
		}
	})
}

// relayLocked starts the user-space switch when it is needed. Called with the lab's lock held, before the filters change.
func (l *Lab) relayLocked() error {
	if len(l.faults.disturbed) == 0 || l.relay != nil {
		return nil
	}
	r, err := newRelay(l)
	if err != nil {
		return err
	}
	l.relay = r
	return nil
}

// tellRelayLocked hands the faults to the user-space switch, and ends it when nothing is left for it. Called with the lab's
// lock held, after the filters have changed.
func (l *Lab) tellRelayLocked() {
	if l.relay == nil {
		return
	}
	if len(l.faults.disturbed) == 0 {
		l.relay.Close()
		l.relay = nil
		return
	}
	l.relay.rules.Store(&relayRules{disturbed: maps.Clone(l.faults.disturbed), cut: maps.Clone(l.faults.cut), silent: maps.Clone(l.faults.silent), loss: maps.Clone(l.faults.loss)})
}
