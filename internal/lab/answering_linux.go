package lab

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// Kinds of answers to a probe.
const (
	answeredARP   uint8 = 1 << iota // the node answers for the address: ARP, or neighbour discovery
	answeredEcho                    // packets to the address reach the node, and its answers come out
	answeredAsked                   // it answers a broadcast request, as clients send them
)

// answer is one probe that one node answered: at some moment between sent and got it answered for the address.
type answer struct {
	sent, got time.Duration // since the prober's start; of the first answer to this probe
	kinds     uint8
}

// run is a time in which a node answered. What is known for sure is [got, sent]: it answered before got and again after sent.
// A run of one answer has sent before got and proves a moment only.
type run struct {
	node      string
	got, sent time.Duration // smallest got and greatest sent of its answers
	answers   []answer
}

func (r run) sure() bool { return r.got <= r.sent }

// runs joins answers, in order of sent, to runs. A node that answers two probes no more than bridge apart, both in sending
// and in answering, answered in between: nobody gives an address away and gets it back that fast, but single answers get
// lost. Answers that come in one go after a queue was held up are thus not joined with those from before.
func runs(node string, answers []answer, bridge time.Duration) (out []run) {
	for i, a := range answers {
		if i > 0 {
			last, before := &out[len(out)-1], answers[i-1]
			if a.sent-before.sent <= bridge && (a.got-before.got).Abs() <= bridge {
				last.got, last.sent, last.answers = min(last.got, a.got), a.sent, answers[i-len(last.answers):i+1]
				continue
			}
		}
		out = append(out, run{node: node, got: a.got, sent: a.sent, answers: answers[i : i+1]})
	}
	return out
}

// span is a time since the prober's start.
type span struct{ from, to time.Duration }

// both returns the times in which two nodes certainly answered. Either their sure times have a common part, or single answers
// of one fall wholly into the sure time of the other: these count from being sent to being answered.
func both(x, y run) (out []span) {
	if x.sure() && y.sure() {
		if s := (span{max(x.got, y.got), min(x.sent, y.sent)}); s.from < s.to {
			return []span{s}
		}
	}
	within := func(outer, inner run) {
		for _, a := range inner.answers {
			if outer.sure() && outer.got <= a.sent && a.got <= outer.sent {
				out = append(out, span{a.sent, a.got})
			}
		}
	}
	within(x, y)
	within(y, x)
	return out
}

// AnswerRun is a time in which a node answered for an address, from the first answer to the sending of the last answered
// probe.
type AnswerRun struct {
	Addr               netip.Addr
	Node               string
	From, To           time.Time
	ARP, Echo, Clients int // probes answered: for the address, by packets, and broadcast ones
}

// AnswerReport says who answered for the probed addresses since an instant.
type AnswerReport struct {
	From, To time.Time
	Double   time.Duration        // total time in which two or more nodes certainly answered for one address: guarantee S1
	Overlaps []Overlap            // its parts, by pair of nodes
	Runs     []AnswerRun          // by address, then by time
	Silent   time.Duration        // longest time without an answer by anybody for the worst address, ends of the report included
	Blind    time.Duration        // longest time between two probes; an overlap shorter than that may be missed
	Strange  map[string][]string  // answers by machines that are no nodes: address to hardware addresses
	Answers  map[string]int       // probes answered, by node
	Delay    map[string]Quantiles // from probe to answer, by node
}

// Quantiles of a set of durations.
type Quantiles struct{ Median, P99, Max time.Duration }

// answers are all answers, by address and node.
type answers map[holdKey][]answer

// add notes an answer of a kind to the probe sent at that time; of several answers to one probe the first counts.
func (as answers) add(k holdKey, sent, got time.Duration, kind uint8) {
	list := as[k]
	i, found := slices.BinarySearchFunc(list, sent, func(a answer, t time.Duration) int { return cmp.Compare(a.sent, t) })
	if found {
		list[i].kinds |= kind
		return
	}
	if len(list) >= maxAnswers { // the older half is forgotten
		list = slices.Delete(list, 0, len(list)/2)
		i = max(0, i-maxAnswers/2)
	}
	as[k] = slices.Insert(list, i, answer{sent, got, kind})
}

// maxAnswers bounds the memory of a prober: an hour at 4 ms, by node and address.
const maxAnswers = 900_000

// report folds what was answered to probes sent from since on.
func (as answers) report(addrs []netip.Addr, base time.Time, since, now, bridge time.Duration) AnswerReport {
	at := func(d time.Duration) time.Time { return base.Add(d) }
	r := AnswerReport{From: at(since), To: at(now), Answers: map[string]int{}, Delay: map[string]Quantiles{}}
	delays := map[string][]time.Duration{}
	for _, a := range addrs {
		var all []run
		for k, list := range as {
			if k.addr != a {
				continue
			}
			i, _ := slices.BinarySearchFunc(list, since, func(a answer, t time.Duration) int { return cmp.Compare(a.sent, t) })
			all = append(all, runs(k.node, list[i:], bridge)...)
			r.Answers[k.node] += len(list) - i
			for _, a := range list[i:] {
				delays[k.node] = append(delays[k.node], a.got-a.sent)
			}
		}
		slices.SortFunc(all, func(x, y run) int { return cmp.Or(cmp.Compare(x.got, y.got), cmp.Compare(x.node, y.node)) })
		var double []span
		last := since
		for i, x := range all {
			r.Runs = append(r.Runs, x.describe(a, at))
			r.Silent = max(r.Silent, x.got-last)
			last = max(last, x.sent, x.got)
			for _, y := range all[i+1:] {
				if x.node == y.node {
					continue
				}
				for _, s := range both(x, y) {
					double = append(double, s)
					nodes := []string{x.node, y.node}
					slices.Sort(nodes)
					r.Overlaps = append(r.Overlaps, Overlap{Addr: a, From: at(s.from), To: at(s.to), Nodes: nodes})
				}
			}
		}
		r.Silent = max(r.Silent, now-last)
		r.Double += union(double)
	}
	for node, d := range delays {
		slices.Sort(d)
		r.Delay[node] = Quantiles{d[len(d)/2], d[len(d)*99/100], d[len(d)-1]}
	}
	return r
}

func (x run) describe(addr netip.Addr, at func(time.Duration) time.Time) AnswerRun {
	out := AnswerRun{Addr: addr, Node: x.node, From: at(x.got), To: at(max(x.sent, x.got))}
	for _, a := range x.answers {
		for kind, n := range map[uint8]*int{answeredARP: &out.ARP, answeredEcho: &out.Echo, answeredAsked: &out.Clients} {
			if a.kinds&kind != 0 {
				*n++
			}
		}
	}
	return out
}

// union is the total length of spans that may overlap each other.
func union(list []span) (total time.Duration) {
	slices.SortFunc(list, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	end := time.Duration(-1 << 62)
	for _, s := range list {
		if s.to > end {
			total += s.to - max(s.from, end)
			end = s.to
		}
	}
	return total
}
