package lab

import (
	"net/netip"
	"slices"
	"time"
)

// HoldEvent is one change of who holds an address, or of who can be heard.
type HoldEvent struct {
	At        time.Time
	Node      string
	Addr      netip.Addr // zero when the node's reachability changed, not an address
	Held      bool       // of Addr: the node has it
	Answering bool       // clients can hear the node (power, cable, silence)
	Sampled   bool       // seen by a sample although no event had told of it
}

// Overlap is a time in which several nodes held one address.
type Overlap struct {
	Addr     netip.Addr
	From, To time.Time // To is the report's time while it lasts
	Nodes    []string
}

// Duration of the overlap.
func (o Overlap) Duration() time.Duration { return o.To.Sub(o.From) }

// OwnershipReport says who held the observed addresses since an instant.
type OwnershipReport struct {
	From, To time.Time
	Double   time.Duration // total time in which two or more nodes that clients can hear held an address: guarantee S1
	Overlaps []Overlap     // its parts
	Held     time.Duration // the same over all nodes, heard or not: an address left on a node that was cut off
	HeldBy   []Overlap     // its parts
	None     time.Duration // total time in which no node that clients can hear held an address, summed over addresses
	Timeline []HoldEvent   // everything seen in the interval
	Blind    time.Duration // longest time between two looks, 0 when all were on time; an overlap shorter than that may be missed
	Missed   int           // changes that only a sample found
}

type holdKey struct {
	node string
	addr netip.Addr
}

// ownership folds events into reports. It is a plain value for one goroutine.
type ownership struct {
	addrs  []netip.Addr
	events []HoldEvent // in order of time
}

// report walks all events: what held before since is part of what holds after.
func (o *ownership) report(since, now time.Time) OwnershipReport {
	r := OwnershipReport{From: since, To: now}
	held, answering := map[holdKey]bool{}, map[string]bool{}
	at := since
	// Open overlaps by address; two sets, for heard nodes and for all.
	heard, all := newSpans(&r.Overlaps, &r.Double), newSpans(&r.HeldBy, &r.Held)
	account := func(to time.Time) {
		if !to.After(at) {
			return
		}
		for _, a := range o.addrs {
			var h, every []string
			for k, v := range held {
				if v && k.addr == a {
					every = append(every, k.node)
					if answering[k.node] {
						h = append(h, k.node)
					}
				}
			}
			heard.add(a, h, at, to)
			all.add(a, every, at, to)
			if len(h) == 0 {
				r.None += to.Sub(at)
			}
		}
		at = to
	}
	for _, e := range o.events {
		if e.At.After(now) {
			break
		}
		account(e.At)
		if e.Addr.IsValid() {
			held[holdKey{e.Node, e.Addr}] = e.Held
		} else {
			answering[e.Node] = e.Answering
		}
		if !e.At.Before(since) {
			r.Timeline = append(r.Timeline, e)
			if e.Sampled {
				r.Missed++
			}
		}
	}
	account(now)
	return r
}

// spans joins adjoining pieces of overlap with the same nodes.
type spans struct {
	out   *[]Overlap
	total *time.Duration
}

func newSpans(out *[]Overlap, total *time.Duration) spans { return spans{out, total} }

func (s spans) add(a netip.Addr, nodes []string, from, to time.Time) {
	if len(nodes) < 2 {
		return
	}
	slices.Sort(nodes)
	*s.total += to.Sub(from)
	for i := range slices.Backward(*s.out) {
		if last := &(*s.out)[i]; last.Addr == a {
			if last.To.Equal(from) && slices.Equal(last.Nodes, nodes) {
				last.To = to
				return
			}
			break
		}
	}
	*s.out = append(*s.out, Overlap{Addr: a, From: from, To: to, Nodes: nodes})
}
