package node

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"hacluster/lease"
	"hacluster/placement"
)

const (
	proposeTimeout = 5 * time.Second
	barrierTimeout = 10 * time.Second
	transferPause  = 10 * time.Second // between two attempts to hand leadership to a node that owns nothing
	promoteAfter   = 500 * time.Millisecond
	catchUp        = 64 // entries a node may lack and still be promoted
)

var (
	errNotLeader = errors.New("this node does not lead")
	errNotOwner  = errors.New("this node no longer owns the group")
	errUnknown   = errors.New("this agent does not know the question: upgrade it")
	errReplaced  = errors.New("this agent has been replaced by another on the same node")
	errDeposed   = errors.New("a quorum does not confirm that this node still leads")
)

// leader is this node's half of leading; it sleeps while another node leads. What it knows is soft and begins anew with
// each term.
type leader struct {
	n    *Node
	wake chan struct{}
	asks chan chan error // renewals that wait for a verification

	proposing sync.RWMutex // read-locked while a proposal is under way
	moves     moves

	slow   map[string]int // voters that let the last round wait; only verifyLoop uses it
	asking sync.WaitGroup // questions under way

	mu       sync.Mutex
	term     uint64        // of the ledger
	ledger   *lease.Ledger // nil: not leading, or before the barrier
	reports  map[string]reported
	notes    []string
	moved    time.Time         // last attempt to hand leadership away
	settling time.Time         // since when no lease of a former timing should be left
	former   map[string]bool   // boots of processes that were replaced in this term
	settled  map[string]string // node -> boot of the process that was granted what every proposal before it had made
	turn     turn              // the agent that is being started again
	turned   map[string]uint64 // node -> configuration for which it was
	seen     map[string]time.Time
	echoes   lease.Echoes // of this term
	carried  time.Time    // when this node's own lease was last renewed by them
	fencing  *fencing     // nil: as ledger

	covered covered
	voters  []string              // as counted last, sorted
	counted time.Time             // since when they are the same
	lapses  map[string]lapseProof // nodes whose promise has ended
	proving map[string]bool       // nodes that the voters are asked about

	fences sync.WaitGroup // orders under way; begun under mu while fencing is set
	proofs sync.WaitGroup // questions about pulses under way; begun as fences are
}

// reported is the newest report of a node.
type reported struct {
	boot    string
	seq     uint64
	version uint64 // of the report, as its process counts
	ending  bool   // the process said that it ends in order
	report  placement.Report
	index   uint64 // of the leader's state when it came
}

// behind says that a process does not know what was committed when it renewed last: a new one knows nothing of it, and another one has missed
// a hint. It may not act for what it does not know.
func (old reported) behind(m renewal) bool { return old.boot != m.Boot || m.Report.Applied < old.index }

func newLeader(n *Node) *leader {
	return &leader{n: n, wake: make(chan struct{}, 1), asks: make(chan chan error), slow: map[string]int{}, proving: map[string]bool{}, moves: moves{clock: n.clock, log: n.log}}
}

func (l *leader) kick() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// loop leads whenever Raft says so. Leadership is asked, not remembered: a notice may be lost, a term may be regained.
func (l *leader) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	defer l.fences.Wait()
	defer l.proofs.Wait()
	defer func() { // last: nothing is fenced by a node that stops
		l.mu.Lock()
		l.noFencing()
		l.mu.Unlock()
	}()
	for {
		changed := l.n.raft.Leadership() // before asking, so that nothing is missed
		wait := idle
		if l.leading(ctx) {
			if next := l.decide(ctx); !next.IsZero() {
				wait = max(0, min(idle, next.Sub(l.n.clock())))
			}
			if l.care(ctx) {
				wait = min(wait, promoteAfter)
			}
		} else if l.n.raft.IsLeader() { // the barrier did not succeed, and no event will say when it can
			wait = l.n.timing().Renew
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		case <-changed:
		case <-timer.C:
		}
	}
}

// leading makes sure that there is a ledger for the present term, made after its barrier; false when not leading.
func (l *leader) leading(ctx context.Context) bool {
	term := l.n.raft.Term()
	if !l.n.raft.IsLeader() {
		l.mu.Lock()
		if l.ledger != nil {
			l.n.log.Info("no longer leading", "term", l.term)
		}
		l.ledger, l.reports, l.seen = nil, nil, nil
		l.noFencing()
		l.mu.Unlock()
		return false
	}
	l.mu.Lock()
	current := l.ledger != nil && l.term == term
	l.mu.Unlock()
	if current {
		return true
	}
	bounded, cancel := context.WithTimeout(ctx, barrierTimeout)
	defer cancel()
	if err := l.n.raft.Barrier(bounded); err != nil {
		l.n.log.Warn("leading: waiting for the barrier", "term", term, "err", err)
		return false
	}
	if l.n.raft.Term() != term || !l.n.raft.IsLeader() {
		return false
	}
	l.mu.Lock()
	l.term, l.ledger, l.reports, l.seen, l.former = term, lease.NewLedger(l.n.clock()), map[string]reported{}, map[string]time.Time{}, map[string]bool{}
	l.echoes, l.carried = lease.Echoes{}, time.Time{}
	l.turn, l.turned, l.settled = turn{}, map[string]uint64{}, map[string]string{}
	l.voters, l.counted, l.lapses = nil, time.Time{}, map[string]lapseProof{}
	l.newFencing(ctx)
	l.moves.forget()
	l.mu.Unlock()
	l.n.log.Info("leading", "term", term)
	l.n.renewer.kick()
	return true
}

// take keeps a report unless it is older than the one kept.
func (l *leader) take(node string, m renewal) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ledger == nil {
		return errNotLeader
	}
	old, ok := l.reports[node]
	if ok && old.boot == m.Boot && m.Seq <= old.seq {
		return nil
	}
	if ok && old.boot != m.Boot {
		// What a process that has been replaced said last may come late. Its promises do not bind its successor.
		if l.former[m.Boot] {
			return errReplaced
		}
		l.former[old.boot] = true
		delete(l.seen, node) // the time counts anew
	}
	if err := l.unsaid(&m, old, ok); err != nil {
		return err
	}
	if node != l.n.name && old.behind(m) {
		l.n.raft.Remind(node)
	}
	m.Report.Node = node
	l.reports[node] = reported{boot: m.Boot, seq: m.Seq, version: m.Version, report: m.Report, ending: m.Ending, index: l.n.raft.State().Index}
	if l.seen[node].IsZero() {
		l.seen[node] = l.n.clock()
	}
	if !ok || !old.says(m) {
		l.moves.heard(node, old.report, m.Report)
		l.kick()
	}
	return nil
}

// verify waits for a verification round that begins after now.
func (l *leader) verify(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case l.asks <- done:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// termAnswer is one voter's word in a verification round.
type termAnswer struct {
	voter string
	ok    bool
}

// verifyLoop runs one round at a time for all who asked before it began.
func (l *leader) verifyLoop(ctx context.Context) {
	defer l.asking.Wait()
	for {
		var waiting []chan error
		select {
		case <-ctx.Done():
			return
		case done := <-l.asks:
			waiting = append(waiting, done)
		}
		for more := true; more; {
			select {
			case done := <-l.asks:
				waiting = append(waiting, done)
			default:
				more = false
			}
		}
		err := l.round(ctx)
		for _, done := range waiting {
			done <- err
		}
	}
}

// round asks every voter for its Raft term. A quorum that answers with ours, after the question, has not voted for a later
// leader before that: any later leader was elected after every renewal that this round serves was sent.
//
// hashicorp/raft's VerifyLeader is not used: it also counts answers to heartbeats that were sent before the call.
func (l *leader) round(ctx context.Context) error {
	l.mu.Lock()
	term, leading := l.term, l.ledger != nil
	l.mu.Unlock()
	if !leading || !l.n.raft.IsLeader() || l.n.raft.Term() != term {
		return errNotLeader
	}
	ctx, cancel := context.WithTimeout(ctx, l.n.timing().Renew)
	defer cancel()
	servers, err := l.n.raft.Servers()
	if err != nil {
		return err
	}
	var others []string
	agree := 0
	for _, s := range servers {
		switch {
		case !s.Voter:
		case s.Name == l.n.name:
			agree++
		default:
			others = append(others, s.Name)
		}
	}
	quorum := (len(others)+agree)/2 + 1
	// As few as a quorum needs are asked at first, those that answered last time; the rest when one of them is slow.
	slices.SortStableFunc(others, func(a, b string) int { return cmp.Compare(l.slow[a], l.slow[b]) })
	answers := make(chan termAnswer, len(others))
	asked, left := 0, 0
	ask := func(n int) {
		for ; asked < min(n, len(others)); asked++ {
			voter := others[asked]
			left++
			l.asking.Go(func() {
				a, err := l.n.links.to(voter).call(ctx, message{AskTerm: true})
				answers <- termAnswer{voter, err == nil && a.Term == term}
			})
		}
	}
	patience := time.NewTimer(l.n.timing().Renew / 8)
	defer patience.Stop()
	for ask(quorum - agree); agree < quorum; {
		if left == 0 && asked == len(others) {
			return errDeposed
		}
		select {
		case a := <-answers:
			left--
			l.slow[a.voter] = 1
			if a.ok {
				agree++
				l.slow[a.voter] = 0
			} else {
				ask(len(others))
			}
		case <-patience.C:
			for _, voter := range others[:asked] {
				l.slow[voter]++
			}
			ask(len(others))
		case <-ctx.Done():
			return errDeposed
		}
	}
	if l.n.raft.Term() != term {
		return errNotLeader
	}
	return nil
}

// view is what the leader knows now. The caller holds mu.
func (l *leader) view() placement.View {
	v := placement.View{Self: l.n.name, LeaderSince: l.ledger.Since(), Wall: time.Now(), Withheld: l.ledger.Withheld(), Nodes: map[string]placement.NodeView{}}
	for node, r := range l.reports {
		v.Nodes[node] = placement.NodeView{Confirmed: l.ledger.Confirmed(node), Report: r.report}
	}
	l.viewFencing(&v, l.n.raft.State())
	l.viewLapses(&v)
	return v
}

// decide runs the pure core once and proposes what it says.
func (l *leader) decide(ctx context.Context) time.Time {
	l.mu.Lock()
	if l.ledger == nil {
		l.mu.Unlock()
		return time.Time{}
	}
	st, term := l.n.raft.State(), l.term
	view, now := l.view(), l.n.clock()
	l.moves.begin(now)
	d := placement.Decide(st.Policy, st, view, now)
	for _, c := range d.Commands {
		if c.Kind == placement.CmdTakeover {
			l.ledger.Withhold(c.Group, c.Epoch)
			l.moves.because(c.Group, c.Reason.Rule, now.Sub(lastContact(view, st.Groups[c.Group].Owner, now)), now)
		}
	}
	for _, o := range d.Fences {
		l.fence(o, term, nil)
	}
	l.notes = d.Notes
	l.mu.Unlock()
	l.yield(ctx, d.Yield)
	for i, c := range d.Commands {
		c.Term = term
		d.Commands[i] = c
	}
	if !l.proposeTogether(ctx, d.Commands) {
		return l.n.clock().Add(l.n.timing().Renew)
	}
	if len(d.Commands) > 0 {
		l.kick() // look again at what became of it
	}
	return d.Wake
}

// propose commits one command and logs what it decided.
func (l *leader) propose(ctx context.Context, c placement.Command) (placement.Result, error) {
	// Who asked may go away; what became of the proposal must be known all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), proposeTimeout)
	defer cancel()
	l.proposing.RLock()
	unsaid := l.moves.proposing(&c, l.n.raft.State())
	res, err := l.n.raft.Propose(ctx, c)
	if err != nil || !res.Applied {
		unsaid()
	}
	if err != nil { // it may still be committed: no grant before a barrier has shown what became of it
		l.mu.Lock()
		l.ledger = nil
		l.mu.Unlock()
		l.kick()
	}
	l.proposing.RUnlock()
	switch {
	case err != nil:
	case res.Applied:
		l.n.log.Info("decided", "command", c.Kind, "group", c.Group, "node", c.Node, "epoch", c.Epoch, "reason", c.Reason.Text)
	default:
		l.n.log.Info("not applied", "command", c.Kind, "group", c.Group, "node", c.Node, "epoch", c.Epoch, "why", res.Why)
	}
	return res, err
}

// heard waits, on a node that was just elected, until it has heard of every member, or could have: before that it would
// call healthy nodes down and refuse to move a group to them. It returns at once on any other node.
func (l *leader) heard(ctx context.Context) {
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for l.n.raft.IsLeader() && !l.hasHeard() {
		select {
		case <-ctx.Done():
			return
		case <-l.n.ctx.Done():
			return
		case <-look.C:
		}
	}
}

func (l *leader) hasHeard() bool {
	st := l.n.raft.State()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ledger == nil {
		return false
	}
	if l.n.clock().Sub(l.ledger.Since()) > l.n.timing().Suspect {
		return true
	}
	for name := range st.Nodes {
		if l.ledger.Confirmed(name).IsZero() {
			return false
		}
	}
	return true
}

// leaseLeft is how long a node may at most still act by a lease of this or an earlier leader.
func (l *leader) leaseLeft(node string, st placement.State) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.left(node, st)
}

// left is leaseLeft for a caller who holds mu.
func (l *leader) left(node string, st placement.State) time.Duration {
	wait := st.Floor
	for _, g := range st.Policy.Groups {
		wait = max(wait, g.TakeoverWait)
	}
	if l.ledger == nil {
		return wait
	}
	last := l.ledger.Since()
	if at := l.ledger.Confirmed(node); at.After(last) {
		last = at
	}
	return max(0, wait-l.n.clock().Sub(last))
}

// alive says which nodes renewed lately, and how long ago each did.
func (l *leader) alive() (map[string]time.Duration, map[string]placement.Report, []string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ledger == nil {
		return nil, nil, nil, false
	}
	since, reports := map[string]time.Duration{}, map[string]placement.Report{}
	for node, r := range l.reports {
		reports[node] = r.report
		if at := l.ledger.Confirmed(node); !at.IsZero() {
			since[node] = l.n.clock().Sub(at)
		}
	}
	return since, maps.Clone(reports), slices.Clone(l.notes), true
}
