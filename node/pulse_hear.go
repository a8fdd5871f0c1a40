package node

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"hacluster/fence"
	"hacluster/lease"
)

const (
	// lateRing is how late a timer may ring before this voter takes itself for one that stood still, and that may have pulses in its
	// buffers which it has not read.
	lateRing = 5 * time.Millisecond
	// attestWait is how long a question waits for a promise that has not quite ended here.
	attestWait = 40 * time.Millisecond
	// proofLasts is how long a leader may decide by what the voters attested, from the instant before it asked.
	proofLasts = 500 * time.Millisecond
)

// pulseListener is this node's half as a voter: it hears pulses and says, for a leader that asks, that those of a node have stopped. Then
// it answers that node no more for a while.
type pulseListener struct {
	n    *Node
	wake chan struct{}

	mu     sync.Mutex
	ledger lease.PulseLedger
	lapsed map[string]bool // the last promise has ended, and the timer that said so rang in time
	ended  chan struct{}   // closed and replaced when one has
	deaf   time.Time       // it answers nobody before: it does not know whom the process before it had barred
	begun  time.Time       // when it lost what the process before it knew; zero: it has not, or knows by now how long that counts
	bars   fence.Bars
}

func newListener(n *Node, boot string) *pulseListener {
	l := &pulseListener{n: n, ledger: lease.PulseLedger{Boot: boot}, wake: make(chan struct{}, 1), lapsed: map[string]bool{}, ended: make(chan struct{})}
	now := n.clock()
	bars, known, err := fence.OpenBars(fence.BarsPath(n.cfg.Socket), now)
	n.logError("the file of nodes that are not answered", err)
	l.bars, l.deaf = bars, known[fence.Everybody]
	delete(known, fence.Everybody)
	for node, until := range known {
		l.ledger.Bar(node, until)
	}
	return l
}

// settle keeps this voter silent for as long as a bar may last, where a process before it may have barred somebody and left nothing that says
// whom; also if that process ends before it is over.
func (l *pulseListener) settle(fresh bool) {
	if !l.bars.Lost {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !fresh {
		l.begun = l.n.clock()
		l.deaf = l.begun.Add(maxBar)
	}
	l.keepDeaf()
}

// caughtUp is told that the state of this node is new enough to say by which timing the cluster lives, and so how long a bar lasts: before,
// the longest one is waited for.
func (l *pulseListener) caughtUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.begun.IsZero() {
		return
	}
	if end := l.begun.Add(l.n.barFor(l.n.raft.State().Floor)); end.Before(l.deaf) {
		l.deaf = end
		l.keepDeaf()
	}
	l.begun = time.Time{}
}

// keepDeaf writes down that nobody is answered for a while, if so. The caller holds mu. Nobody is barred by name then: who hears nobody
// attests nothing.
func (l *pulseListener) keepDeaf() {
	barred := map[string]time.Time{}
	if l.n.clock().Before(l.deaf) {
		barred[fence.Everybody] = l.deaf
	}
	l.n.logError("the file of nodes that are not answered", l.bars.Keep(barred))
}

// barFor is how long a node is not answered after it was said that its promise has ended: until the proof is used, and then until every
// lease that it had been granted is over.
func (n *Node) barFor(floor time.Duration) time.Duration {
	wait := max(floor, n.timing().TakeoverWait(0))
	if n.raft != nil {
		for _, g := range n.raft.State().Policy.Groups {
			wait = max(wait, g.TakeoverWait)
		}
	}
	return proofLasts + wait
}

// hear takes a pulse; true: it counts.
func (l *pulseListener) hear(peer string, p lease.Pulse) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.n.clock()
	l.ledger.Drift = l.n.timing().DriftPerSecond()
	if now.Before(l.deaf) || !l.ledger.Hear(peer, p, now) {
		return false
	}
	delete(l.lapsed, peer)
	if p.Bound > 0 {
		l.kick()
	}
	return true
}

func (l *pulseListener) kick() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// loop notes which promises have ended until ctx ends.
func (l *pulseListener) loop(ctx context.Context) {
	timer := time.NewTimer(idle)
	defer timer.Stop()
	for {
		due := l.due()
		if due.IsZero() { // nobody has promised anything: the first one wakes
			select {
			case <-ctx.Done():
				return
			case <-l.wake:
			}
			continue
		}
		timer.Reset(due.Sub(l.n.clock()))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			l.ring(due)
		}
	}
}

// due is when a promise ends next, as far as is known now; one that is kept moves it, which is found out then.
func (l *pulseListener) due() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ledger.Next(l.lapsed)
}

// ring looks which promises have ended. A timer that rang late says that this voter stood still.
func (l *pulseListener) ring(due time.Time) {
	l.mu.Lock()
	now := l.n.clock()
	if now.Sub(due) > lateRing {
		l.ledger.Deaf(now, 2*l.n.timing().Pulse)
		l.mu.Unlock()
		return
	}
	ended := l.ledger.Ended(now)
	news := false
	for _, node := range ended {
		news = news || !l.lapsed[node]
		l.lapsed[node] = true
	}
	if news {
		close(l.ended)
		l.ended = make(chan struct{})
	}
	l.mu.Unlock()
	if news {
		l.n.leader.lapse()
	}
}

// silent lists the nodes whose last promise has ended, sorted.
func (l *pulseListener) silent() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.lapsed))
}

// last is for how long a node has not been heard, and how long after that its gates were to be shut.
func (l *pulseListener) last(node string) (silent, bound time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n.clock().Sub(l.ledger.Heard(node)), l.ledger.Bound(node)
}

// unheard are the nodes whose promise has ended, until they are heard again, and those that this voter does not answer for a while.
func (l *pulseListener) unheard() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := maps.Clone(l.lapsed)
	for node := range l.ledger.Barred(l.n.clock()) {
		out[node] = true
	}
	return out
}

// promised says that a node has made a promise to this voter that it has not taken back.
func (l *pulseListener) promised(node string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.ledger.Ends(node)
	return ok && !l.lapsed[node]
}

// attest answers a leader: true when the last promise of the node has ended, and from then on this voter does not answer it until the bar
// is over. It waits a little for a promise that is about to end.
func (l *pulseListener) attest(ctx context.Context, q attest) bool {
	if q.Bar <= 0 || q.Bar > maxBar || q.Term < l.n.raft.Term() {
		return false
	}
	wait := time.NewTimer(attestWait)
	defer wait.Stop()
	for {
		l.mu.Lock()
		if l.lapsed[q.Node] {
			ok := l.bar(q.Node, q.Bar)
			l.mu.Unlock()
			return ok
		}
		ended := l.ended
		l.mu.Unlock()
		select {
		case <-ended:
		case <-wait.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// maxBar is the longest bar that is believed.
const maxBar = time.Minute

// bar attests. What could not be written down is not said, because the next process would not know of it. The caller holds mu.
func (l *pulseListener) bar(node string, bar time.Duration) bool {
	now := l.n.clock()
	if !l.ledger.Attest(node, now, now.Add(bar)) {
		return false
	}
	if err := l.bars.Keep(l.ledger.Barred(now)); err != nil {
		l.n.log.Error("keeping whom this voter does not answer", "err", err)
		return false
	}
	return true
}
