package lease

import (
	"slices"
	"time"
)

// Pulse is what a node that holds addresses tells every voter, several times within the time that it names. A bound one is a
// promise: "my gates are shut Bound after I sent this, unless enough of you answer a later one". One that is not bound takes
// all promises back. DESIGN.md, "Takeover by pulse", says what follows from it.
type Pulse struct {
	Seq   uint64        `json:"seq"`
	Boot  string        `json:"boot"`               // random, one per process
	To    string        `json:"to,omitempty"`       // the voter's process that it is for, as its answers say; empty: none is known yet
	Bound time.Duration `json:"bound_ns,omitempty"` // 0: nothing is promised
}

// PulseHolder is a node's half: until when its gates may be open by what the voters answered. The zero value may open none. Not
// safe for concurrent use. Instants are the node's own boot-time clock.
type PulseHolder struct {
	Boot  string // of this process; required
	seq   uint64
	floor time.Time // no promise may end before this: so long a gate may be open by what was armed, or answered, before
	lines map[string]*pulseLine
}

// pulseLine is what a node knows of one voter.
type pulseLine struct {
	to      string    // its process
	open    bool      // it answered a pulse that was not bound, and was sent no bound one since
	until   time.Time // the latest promise that it answered
	bound   uint64    // newest bound pulse that it was sent
	pending map[uint64]time.Time
}

// Armed notes that a gate may be open until then by what was armed while nothing was promised, or by the process before this one.
func (h *PulseHolder) Armed(until time.Time) {
	if until.After(h.floor) {
		h.floor = until
	}
}

// Beat numbers one pulse, which is then sent at once to any number of voters (Send). A promise must be true when it is made, so one
// lasts at least as long as every one before it, and as long as what was armed without one: a voter that has forgotten those would
// say too soon that the last has ended.
func (h *PulseHolder) Beat(bound time.Duration, now time.Time) Pulse {
	h.seq++
	if bound > 0 {
		bound = max(bound, h.floor.Sub(now))
	}
	return Pulse{Seq: h.seq, Boot: h.Boot, Bound: bound}
}

// Send notes that a pulse is about to be sent to a voter, and gives it as it is to be sent; now must be read before the first byte
// leaves.
func (h *PulseHolder) Send(voter string, p Pulse, now time.Time) Pulse {
	l := h.line(voter)
	end := time.Time{}
	if p.Bound > 0 {
		end, l.open, l.bound = now.Add(p.Bound), false, max(l.bound, p.Seq)
		h.Armed(end)
	}
	l.pending[p.Seq] = end
	// order-free: deletes every one that is old enough
	for seq := range l.pending {
		if seq+maxPending < p.Seq {
			delete(l.pending, seq)
		}
	}
	p.To = l.to
	return p
}

// Met notes which process of a voter answers, as every answer of it says, also one that did not hear the pulse. True: it is another
// than before, and the newest pulse is to be sent to it again.
func (h *PulseHolder) Met(voter, by string) bool {
	l := h.line(voter)
	news := by != "" && by != l.to
	if news {
		l.to = by
	}
	return news
}

func (h *PulseHolder) line(voter string) *pulseLine {
	if h.lines == nil {
		h.lines = map[string]*pulseLine{}
	}
	l := h.lines[voter]
	if l == nil {
		l = &pulseLine{pending: map[uint64]time.Time{}}
		h.lines[voter] = l
	}
	return l
}

// Answered takes a voter's answer to a pulse; false when it changes nothing.
func (h *PulseHolder) Answered(voter string, seq uint64) bool {
	l := h.lines[voter]
	if l == nil {
		return false
	}
	end, ok := l.pending[seq]
	if !ok {
		return false
	}
	delete(l.pending, seq)
	switch {
	case end.IsZero() && seq > l.bound && !l.open:
		l.open = true
	case end.After(l.until):
		l.until = end
	default:
		return false
	}
	return true
}

// Until is until when the gates may be open: a quorum of the voters, the node itself among them if it votes, has answered promises
// that last until then. free says that nothing is promised to so many of them that no quorum of the rest can say that a promise has
// ended.
func (h *PulseHolder) Until(voters []string, self string) (until time.Time, free bool) {
	need := len(voters)/2 + 1
	var ends []time.Time
	for _, v := range voters {
		l := h.lines[v]
		switch {
		case v == self:
			need--
		case l == nil:
		case l.open:
			need--
		default:
			ends = append(ends, l.until)
		}
	}
	if need <= 0 {
		return time.Time{}, len(voters) > 0
	}
	if need > len(ends) {
		return time.Time{}, false
	}
	slices.SortFunc(ends, func(a, b time.Time) int { return b.Compare(a) })
	return ends[need-1], false
}

// Open says that nothing is promised to a voter, as it has answered.
func (h *PulseHolder) Open(voter string) bool {
	l := h.lines[voter]
	return l != nil && l.open
}

// Heard is how long the newest promise that a voter answered lasts; zero: it answered none.
func (h *PulseHolder) Heard(voter string) time.Time {
	if l := h.lines[voter]; l != nil {
		return l.until
	}
	return time.Time{}
}

// PulseLedger is a voter's half: which promises it has answered, and which nodes it answers no more because it has said that theirs
// have ended. The zero value hears nobody. Not safe for concurrent use. Instants are the voter's own boot-time clock.
type PulseLedger struct {
	Boot   string        // of this process, random; required. Every answer says it (PulseHolder.Met)
	Drift  time.Duration // how far two clocks may part within a second; 0: 5 ms
	nodes  map[string]*pulseOf
	barred map[string]time.Time
}

type pulseOf struct {
	met   map[string]int // processes of the node by the order in which they came here first, from 1
	boot  string         // the one that is heard
	seq   uint64
	bound time.Duration // of the newest pulse; 0: nothing is promised
	ends  time.Time     // of the latest promise, by this voter's clock
	heard time.Time
}

// Hear takes a pulse at now, which must be read after it has come; true: it counts, and the answer may say so. What is not heard: a
// pulse that a later one has overtaken, one of a process that was replaced, and one that is not for this process of the voter. It may
// have been sent before this process began, and taken back since; the process before this one would have known that. A node that
// has learned what this process is called was heard by it at least once while it lived (met), so their order here is their order.
func (l *PulseLedger) Hear(node string, p Pulse, now time.Time) bool {
	if l.nodes == nil {
		l.nodes = map[string]*pulseOf{}
	}
	n := l.nodes[node]
	if n == nil {
		n = &pulseOf{met: map[string]int{}}
		l.nodes[node] = n
	}
	if n.met[p.Boot] == 0 {
		n.met[p.Boot] = len(n.met) + 1
	}
	switch {
	case now.Before(l.barred[node]), p.Bound < 0 || p.Bound > maxBound:
		return false
	case l.Boot == "" || p.To != l.Boot, n.met[p.Boot] < n.met[n.boot]:
		return false
	case p.Boot != n.boot:
		n.boot = p.Boot
	case p.Seq <= n.seq:
		return false
	}
	n.seq, n.bound, n.heard = p.Seq, p.Bound, now
	if end := now.Add(p.Bound + pulseDrift(p.Bound, l.Drift)); n.bound > 0 && end.After(n.ends) {
		n.ends = end
	}
	return true
}

// maxBound is the longest promise that is heard; the next one after it would come from another program.
const maxBound = time.Hour

// pulseDrift is how far two clocks may part within a promise, never less than what is assumed where nothing is configured.
func pulseDrift(bound, perSecond time.Duration) time.Duration {
	return max(bound/200, time.Duration(float64(bound)*perSecond.Seconds()))
}

// Ends is when the last promise of a node ends; false: there is none, because it has made none to this process of the voter, or has
// taken it back.
func (l *PulseLedger) Ends(node string) (time.Time, bool) {
	n := l.nodes[node]
	if n == nil || n.bound == 0 {
		return time.Time{}, false
	}
	return n.ends, true
}

// Bound is how long after its newest pulse a node's gates are shut, as it said.
func (l *PulseLedger) Bound(node string) time.Duration {
	if n := l.nodes[node]; n != nil {
		return n.bound
	}
	return 0
}

// Heard is when a node was heard last.
func (l *PulseLedger) Heard(node string) time.Time {
	if n := l.nodes[node]; n != nil {
		return n.heard
	}
	return time.Time{}
}

// Deaf notes that this voter may have heard nobody before now although they spoke: no promise has ended before they had the time to
// be heard.
func (l *PulseLedger) Deaf(now time.Time, patience time.Duration) {
	// order-free: each for itself
	for _, n := range l.nodes {
		if end := now.Add(patience); n.bound > 0 && end.After(n.ends) {
			n.ends = end
		}
	}
}

// Next is when the next promise of a node ends that is not among the known ones, or has ended; zero: there is none.
func (l *PulseLedger) Next(known map[string]bool) (next time.Time) {
	// order-free: the least
	for name, n := range l.nodes {
		if n.bound > 0 && !known[name] && (next.IsZero() || n.ends.Before(next)) {
			next = n.ends
		}
	}
	return next
}

// Ended lists the nodes whose last promise has ended at now, sorted.
func (l *PulseLedger) Ended(now time.Time) (out []string) {
	// order-free: sorted below
	for name, n := range l.nodes {
		if n.bound > 0 && !now.Before(n.ends) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Attest says, for a leader that asks, that the last promise of a node has ended. From then on until the instant bar the node is not
// answered; a restart must not forget that (Barred, Bar). False: there is no promise, or it has not ended.
func (l *PulseLedger) Attest(node string, now, bar time.Time) bool {
	ends, ok := l.Ends(node)
	if !ok || now.Before(ends) {
		return false
	}
	l.Bar(node, bar)
	return true
}

// Bar keeps a node from being answered until an instant.
func (l *PulseLedger) Bar(node string, until time.Time) {
	if l.barred == nil {
		l.barred = map[string]time.Time{}
	}
	if until.After(l.barred[node]) {
		l.barred[node] = until
	}
}

// Barred lists the nodes that are not answered at now, and until when.
func (l *PulseLedger) Barred(now time.Time) map[string]time.Time {
	out := map[string]time.Time{}
	// order-free: copies
	for node, until := range l.barred {
		if now.Before(until) {
			out[node] = until
		} else {
			delete(l.barred, node)
		}
	}
	return out
}

// AttestedBy says whether the voters that attested are a quorum without the node itself, which is not asked.
func AttestedBy(voters []string, node string, attested map[string]bool) bool {
	n := 0
	for _, v := range voters {
		if v != node && attested[v] {
			n++
		}
	}
	return n >= len(voters)/2+1
}
