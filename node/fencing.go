package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"hacluster/fence"
	"hacluster/lease"
	"hacluster/placement"
)

// errCalledOff says that a node was not fenced after all.
var errCalledOff = errors.New("it renewed its lease meanwhile and was left alone")

// unsure says why the end of this node's lease may not end what is exclusive here; empty: it does.
func (n *Node) unsure() string {
	specs := n.exclusive.Load()
	if _, none := n.deadMan.(noDeadMan); none && specs != nil && len(*specs) > 0 {
		return "no dead man stands behind its agent (had run --alone)"
	}
	return ""
}

// fencing is what one leader has done to nodes. It is made with the ledger and thrown away with it: a proof counts only
// beside the confirmations that this very ledger noted since.
type fencing struct {
	ctx    context.Context
	cancel context.CancelFunc
	ledger *lease.Ledger
	views  map[string]placement.FenceView
	heard  time.Time // when any renewal was confirmed last
	since  time.Time // since when there was no gap in hearing

	// ending is the nodes whose newest process had said that it ends in order when a renewal was confirmed last. The next
	// process ends that with its first confirmation and not before: until then the node is as silent as it was.
	ending map[string]bool
}

// deafAfter is how long nobody may be heard before this leader takes itself for deaf.
func (l *leader) deafAfter() time.Duration { return l.n.timing().Suspect * 3 / 4 }

// newFencing begins to remember for a new ledger. The caller holds mu.
func (l *leader) newFencing(ctx context.Context) {
	l.noFencing()
	f := &fencing{ledger: l.ledger, views: map[string]placement.FenceView{}, heard: l.ledger.Since(), since: l.ledger.Since(), ending: map[string]bool{}}
	f.ctx, f.cancel = context.WithCancel(ctx)
	l.fencing = f
}

// noFencing ends what is under way: only who leads may fence. The caller holds mu.
func (l *leader) noFencing() {
	if l.fencing != nil {
		l.fencing.cancel()
		l.fencing = nil
	}
}

// heardOne notes that a renewal was confirmed, and whether the newest process of the node ends in order. The caller holds mu.
func (f *fencing) heardOne(node string, ending bool, now time.Time, deafAfter time.Duration) {
	if f == nil {
		return
	}
	f.ending[node] = ending
	if now.Sub(f.heard) > deafAfter {
		f.since = now
	}
	f.heard = now
}

// viewFencing fills what decisions about fencing need. The caller holds mu.
func (l *leader) viewFencing(v *placement.View, st placement.State) {
	f := l.fencing
	if f == nil || len(st.Policy.Fencing.Nodes) == 0 {
		return
	}
	servers, err := l.n.raft.Servers()
	if err != nil {
		return // no node is fenced without them
	}
	for _, s := range servers {
		if s.Voter {
			v.Voters = append(v.Voters, s.Name)
		}
	}
	v.Fenced, v.Listening, v.Ending = maps.Clone(f.views), f.since, maps.Clone(f.ending)
	if now := l.n.clock(); now.Sub(f.heard) > l.deafAfter() {
		v.Listening = now
	}
}

// fence begins to carry out an order. The caller holds mu, since the decision; result may be nil.
func (l *leader) fence(o placement.FenceOrder, term uint64, result chan<- fence.Report) {
	x := &fenceRun{l: l, f: l.fencing, o: o, term: term, boot: l.reports[o.Node].boot, before: l.ledger.Confirmed(o.Node)}
	x.silent = l.n.clock().Sub(x.before) > l.n.timing().Suspect
	x.ordered = result != nil
	view := x.f.views[o.Node]
	view.Running = true
	x.f.views[o.Node] = view
	l.fences.Go(func() {
		r := x.run()
		if result != nil {
			result <- r
		}
	})
}

// fenceRun carries out one order.
type fenceRun struct {
	l       *leader
	f       *fencing
	o       placement.FenceOrder
	term    uint64
	boot    string    // process of the node that was heard last when the order was given
	before  time.Time // when it was confirmed last then
	silent  bool      // then
	ordered bool      // by an administrator

	release func() bool // lets the run go on after the end of this leadership

	void string // why a confirmation proves nothing; guarded by leader.mu
}

func (x *fenceRun) run() fence.Report {
	r, err := x.try()
	if err != nil {
		r = fence.Report{Node: x.o.Node, Action: fence.Action(x.o.Action), Epoch: x.o.Epoch, Err: err, Reason: err.Error()}
	}
	x.ended(r)
	switch {
	case errors.Is(err, errDeposed) || x.f.ctx.Err() != nil:
	case !r.Confirmed:
		x.note(placement.RuleFenceFailed, fmt.Sprintf("fencing of node %s was not confirmed: %s", x.o.Node, r.Reason), r)
	case r.Action == fence.On:
		x.note(placement.RuleFence, fmt.Sprintf("node %s was switched on: %s", x.o.Node, r.Reason), r)
	default:
		x.afterwards(r)
	}
	x.l.kick()
	return r
}

// try says in the log that the node is to be fenced, and does it. Only a leader that a majority follows can commit the entry,
// and only then is the node touched.
func (x *fenceRun) try() (fence.Report, error) {
	f, err := x.l.n.fences.get(x.f.ctx)
	if err != nil {
		return fence.Report{}, err
	}
	if !x.note(x.o.Why.Rule, x.o.Why.Text, fence.Report{}) {
		return fence.Report{}, errDeposed
	}
	x.l.mu.Lock()
	spoke := x.l.fencing != x.f || x.silent && !x.ordered && !x.f.ledger.Confirmed(x.o.Node).Equal(x.before)
	x.l.mu.Unlock()
	switch {
	case spoke:
		return fence.Report{}, errCalledOff
	case x.o.Action == placement.FenceOn:
		return f.PowerOn(x.f.ctx, x.o.Node, x.o.Epoch), nil
	}
	// A run that is not confirmed yet ends with the leadership. One that is confirmed only has to switch the node on again.
	ctx, cancel := context.WithCancel(x.l.n.ctx)
	defer cancel()
	x.release = context.AfterFunc(x.f.ctx, cancel)
	defer x.release()
	return f.Run(ctx, fence.Request{Node: x.o.Node, Action: fence.Action(x.o.Action), Epoch: x.o.Epoch, Confirmed: x.confirmed}), nil
}

// confirmed takes the word of the devices: the node is stopped. It is a proof against every process of the node that was
// heard when the fencing began; against one that began to speak since it is none.
func (x *fenceRun) confirmed(r fence.Report) {
	x.release()
	l := x.l
	l.mu.Lock()
	if l.fencing != x.f {
		l.mu.Unlock()
		return
	}
	if boot := l.reports[x.o.Node].boot; boot != x.boot {
		x.void = "another process of the node spoke while it was fenced"
		l.mu.Unlock()
		return
	}
	view := x.f.views[x.o.Node]
	view.Off, view.Failed, view.Why = l.n.clock(), 0, r.Reason
	x.f.views[x.o.Node] = view
	l.mu.Unlock()
	l.kick()
	x.note(placement.RuleFenced, fmt.Sprintf("node %s is fenced (%s): %s", x.o.Node, r.Action, r.Reason), r)
}

// ended notes that the attempt is over.
func (x *fenceRun) ended(r fence.Report) {
	l := x.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fencing != x.f {
		return
	}
	view := x.f.views[x.o.Node]
	view.Running, view.Ended = false, l.n.clock()
	if errors.Is(r.Err, errCalledOff) {
		view.Ended = time.Time{}
	} else if !r.Confirmed || x.void != "" {
		view.Failed++
		view.Why = cmp.Or(x.void, r.Reason)
	}
	x.f.views[x.o.Node] = view
}

// afterwards says what a reader must know about a fencing that was confirmed and did not go as it should.
func (x *fenceRun) afterwards(r fence.Report) {
	x.l.mu.Lock()
	void := x.void
	x.l.mu.Unlock()
	if void != "" {
		x.note(placement.RuleFenceFailed, fmt.Sprintf("fencing of node %s was confirmed (%s) and proves nothing: %s", x.o.Node, r.Reason, void), r)
	}
	for _, a := range r.Attempts {
		if a.Action == fence.On && a.Err != "" {
			x.note(placement.RuleFenceFailed, fmt.Sprintf("node %s was fenced and could not be switched on again", x.o.Node), r)
			return
		}
	}
}

// note commits an event; false when it is not known to be committed.
func (x *fenceRun) note(rule placement.Rule, text string, r fence.Report) bool {
	reason := placement.Reason{Rule: rule, Text: text, Evidence: sayAttempts(r.Attempts)}
	if rule == x.o.Why.Rule && r.Action == "" {
		reason.Evidence, reason.Rejected = x.o.Why.Evidence, x.o.Why.Rejected
	}
	res, err := x.l.propose(x.l.n.ctx, placement.Command{Kind: placement.CmdNote, Node: x.o.Node, Term: x.term, At: time.Now(), By: x.l.n.name, Reason: reason})
	x.l.n.logError("recording a fencing", err)
	return err == nil && res.Applied
}

// maxAttempts bounds the lines of one event.
const maxAttempts = 12

// sayAttempts is what each device said, one line each. Secrets are masked by package fence.
func sayAttempts(attempts []fence.Attempt) []string {
	var lines []string
	for _, a := range attempts {
		said := fmt.Sprintf("exit code %d", a.Exit)
		switch {
		case a.Err != "":
			said = a.Err
		case a.Action == fence.Status:
			said = string(a.State)
		case a.Evidence != "":
			said += ": " + a.Evidence
		}
		lines = append(lines, fmt.Sprintf("%s (%s, level %d) %s, try %d, %s: %s", a.Device, a.Agent, a.Level, a.Action, a.Try, a.Took.Round(time.Millisecond), said))
	}
	if len(lines) > maxAttempts {
		lines = append(lines[:maxAttempts-1], fmt.Sprintf("and %d more", len(lines)-maxAttempts+1))
	}
	return lines
}

// yield hands leadership to another node, because this one would have to fence itself.
func (l *leader) yield(ctx context.Context, why string) {
	if why == "" || l.n.clock().Sub(l.moved) < transferPause {
		return
	}
	l.moved = l.n.clock()
	l.n.log.Warn("handing leadership over", "reason", why)
	l.n.logError("handing leadership over", l.n.raft.TransferLeadership(ctx, ""))
}

// busyFencing says that an order is being carried out; leadership is not handed over then.
func (l *leader) busyFencing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fencing != nil {
		for _, f := range l.fencing.views {
			if f.Running {
				return true
			}
		}
	}
	return false
}

// fenceFlags says which nodes are being fenced, and which are known to be stopped by it.
func (l *leader) fenceFlags() map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fencing == nil {
		return nil
	}
	flags := map[string]string{}
	for node, f := range l.fencing.views {
		switch {
		case f.Running:
			flags[node] = "being-fenced"
		case !f.Off.IsZero() && !l.fencing.ledger.Confirmed(node).After(f.Off):
			flags[node] = "fenced"
		case f.Failed > 0 && !l.fencing.ledger.Confirmed(node).After(f.Ended):
			flags[node] = "fencing-failed"
		}
	}
	return flags
}
