package node

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"sync"
	"time"

	"hacluster/fence"
	"hacluster/internal/boottime"
	"hacluster/lease"
	"hacluster/placement"
)

// maxRenewals bounds the renewals under way at once.
const maxRenewals = 8

// renewer keeps this node's lease: it tells the leader how the node is and is told until when the node may act. A change
// of the report is sent at once, not at the next renewal.
type renewer struct {
	n    *Node
	boot string // random, one per process

	asleep *boottime.Suspend
	start  stages
	hint   string         // who granted the newest lease, of this process or the one before; empty: not known, or it leads no more
	wake   chan struct{}  // send now
	next   chan time.Time // when the leader wants the next renewal
	echoed chan struct{}  // voters have renewed this leader's own lease with theirs
	slots  chan struct{}  // bounds the renewals under way
	flight sync.WaitGroup

	crowded bool // of the loop: no renewal was sent because enough were under way, so the next one may have news that none of them has

	mu      sync.Mutex
	holder  lease.Holder
	report  placement.Report
	version uint64 // of report
	told    told
	granted chan struct{} // closed and replaced at each grant
	ending  bool          // this process ends in order, and says so
	parted  chan struct{} // closed when a leader has heard that
	lastErr string
	will    *fence.Will // tells the next process until when this one's lease lasts
	legacy  time.Time   // what the process before this one left; zero once this one may act
}

func newRenewer(n *Node, asleep *boottime.Suspend) *renewer {
	boot := make([]byte, 8)
	rand.Read(boot)
	will, legacy := fence.OpenWill(fence.WillPath(n.cfg.Socket), n.clock(), n.timing().Duration)
	hint := will.Leader
	if hint == n.name { // it does not lead while it has just started
		hint = ""
	}
	return &renewer{n: n, asleep: asleep, hint: hint, will: will, legacy: legacy, boot: hex.EncodeToString(boot), wake: make(chan struct{}, 1), next: make(chan time.Time, 1), echoed: make(chan struct{}, 1), slots: make(chan struct{}, maxRenewals),
		holder: lease.Holder{Duration: n.timing().Duration}, granted: make(chan struct{}), parted: make(chan struct{})}
}

// resumed drops the lease when this machine was suspended: what enforces its end counts ticks of the kernel, which stood
// still, and would end it too late. It comes before every use of the lease. The caller holds mu.
func (r *renewer) resumed() {
	slept := r.asleep.Noticed()
	if slept == 0 {
		return
	}
	r.holder.Drop()
	r.legacy = time.Time{}
	r.will.Leave(r.n.clock())
	r.n.log.Warn("this machine was suspended; its lease is over", "suspended", slept)
	r.n.wakeAct()
}

// say notes what to tell the leader; a change is sent at once.
func (r *renewer) say(report placement.Report) {
	r.mu.Lock()
	old := r.report
	r.report = report
	news := !old.Same(report)
	if news {
		r.version++
	}
	r.mu.Unlock()
	if news {
		r.kick()
	}
}

func (r *renewer) kick() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// loop renews until ctx ends.
func (r *renewer) loop(ctx context.Context) {
	defer r.flight.Wait()
	timer := boottime.NewTimer()
	defer timer.Close()
	for {
		changed := r.n.raft.Leadership() // before asking, so that a new leader is never missed
		wait := r.n.timing().Renew
		if !r.send(ctx) {
			wait /= 4
		}
		timer.Reset(wait)
		if now := time.Now(); !r.due(ctx, changed, r.n.raft.Beat(), timer, now.Add(wait-wait/8), now.Add(wait)) {
			return
		}
	}
}

// due waits until the lease is to be renewed; false: ctx has ended. A heartbeat shortly before the time is taken for it: this
// process is awake then, and so is the leader. So is an instant at which the leader wants it.
func (r *renewer) due(ctx context.Context, changed, beat <-chan struct{}, timer *boottime.Timer, soon, latest time.Time) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-r.wake:
			return true
		case <-changed:
			return true
		case <-timer.C:
			return true
		case next := <-r.next:
			if !next.Before(soon) && next.Before(latest) {
				timer.Reset(time.Until(next))
			}
		case <-r.echoed:
			if r.crowded {
				continue
			}
			wait := r.n.timing().Renew * 5 / 4 // if no more of them come
			soon, latest = time.Now().Add(wait), time.Now().Add(wait)
			timer.Reset(wait)
		case <-beat:
			if !time.Now().Before(soon) {
				return true
			}
		}
	}
}

// send starts one renewal; false when there is no leader to send it to.
func (r *renewer) send(ctx context.Context) bool {
	if r.n.abandoned.Load() {
		return true
	}
	leader := r.leader()
	if leader == "" {
		return false
	}
	r.start.reach(&r.start.leader, r.n.clock())
	select {
	case r.slots <- struct{}{}:
		r.crowded = false
	default:
		r.crowded = true
		return true // enough under way; the next one will say everything
	}
	r.mu.Lock()
	r.resumed()
	seq := r.holder.Send(r.n.clock()) // t0, before the first byte leaves
	m := r.compose(seq, leader)
	r.mu.Unlock()
	r.flight.Go(func() {
		defer func() { <-r.slots }()
		r.renew(ctx, leader, m)
	})
	return true
}

// leader is whom to ask: whom Raft knows, and while it knows none who granted the newest lease. Raft's connections may be
// stuck in a network that was cut while a lease connection has found another; and a process that has just started has not
// heard of a leader yet. One that does not lead any more refuses, and is not asked again.
func (r *renewer) leader() string {
	if leader := r.n.raft.Leader(); leader != "" {
		return leader
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hint
}

func (r *renewer) renew(ctx context.Context, leader string, m renewal) {
	var grant *lease.Grant
	var err error
	term := r.n.raft.Term()
	if leader == r.n.name {
		grant, err = r.n.leader.renew(ctx, r.n.name, m)
	} else {
		var a message
		if a, err = r.n.links.call(ctx, leader, message{Renew: &m}, 2*r.n.timing().Renew); err == nil {
			r.heardBack(leader, term, a.Known)
			if grant = a.Grant; a.Again {
				r.n.startAgain()
			}
		}
	}
	if err != nil && err.Error() == errTellAll.Error() {
		r.tellAll()
		return
	}
	if err != nil || grant == nil {
		r.failed(leader, err)
		return
	}
	r.confirm(*grant, m)
}

// confirm takes a grant up, unless it is none any more; m is what it answers.
func (r *renewer) confirm(grant lease.Grant, m renewal) bool {
	r.mu.Lock()
	r.resumed()
	confirmed := !r.n.abandoned.Load() && r.holder.Confirm(grant, r.n.clock())
	if confirmed {
		r.will.Leader, r.hint = grant.Leader, grant.Leader
		r.will.Leave(r.holder.Until())
		r.n.logError("setting the alarm for the end of the lease", r.n.alarm.Set(r.holder.Until()))
		close(r.granted)
		r.granted = make(chan struct{})
		r.lastErr = ""
		r.granting(m)
		if r.n.pulser != nil { // with the lease, which nobody can use before
			r.n.pulser.counted(grant.Voters)
		}
	}
	r.mu.Unlock()
	if confirmed {
		r.n.raft.Follow(grant.Leader, grant.Term)
		if grant.Next > 0 {
			r.keepTime(time.Now().Add(grant.Next))
		}
		r.start.reach(&r.start.lease, r.n.clock())
		r.n.wakeProlong()
	}
	return confirmed
}

// failed logs the first of a row of equal faults.
func (r *renewer) failed(leader string, err error) {
	text := "no answer"
	if err != nil {
		text = err.Error()
	}
	r.mu.Lock()
	news := r.lastErr != text
	r.lastErr = text
	if text == errNotLeader.Error() || !r.n.clock().Before(r.holder.Until()) {
		r.hint = ""
	}
	r.mu.Unlock()
	if news && r.n.ctx.Err() == nil {
		r.n.log.Warn("renewing the lease", "leader", leader, "err", text)
	}
	if r.n.ctx.Err() == nil {
		time.AfterFunc(r.n.timing().Renew/4, r.kick)
	}
}

// leased is until when this node may act, for each group whose epoch its lease covers.
func (r *renewer) leased(st placement.State) map[string]time.Time {
	out := map[string]time.Time{}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.resumed()
	for group, gs := range st.Groups {
		if gs.Owner != r.n.name {
			continue
		}
		if until, ok := r.holder.UntilFor(group, gs.Epoch, gs.AssignIndex, st.Index); ok {
			out[group] = until
		}
	}
	return out
}

// until implements leaseSource.
func (r *renewer) until(group string) (time.Time, bool) {
	st := r.n.raft.State()
	gs := st.Groups[group]
	if gs.Owner != r.n.name || gs.Phase != placement.PhaseOwned {
		return time.Time{}, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.resumed()
	return r.holder.UntilFor(group, gs.Epoch, gs.AssignIndex, st.Index)
}

// fresh implements leaseSource: it renews and waits for the answer.
func (r *renewer) fresh(ctx context.Context, group string) (time.Time, error) {
	for {
		r.mu.Lock()
		granted := r.granted
		r.mu.Unlock()
		r.kick()
		select {
		case <-ctx.Done():
			return time.Time{}, ctx.Err()
		case <-granted:
		}
		if until, ok := r.until(group); ok {
			return until, nil
		}
		if st := r.n.raft.State(); st.Groups[group].Owner != r.n.name || st.Groups[group].Phase != placement.PhaseOwned {
			return time.Time{}, errNotOwner
		}
	}
}

// proven implements leaseSource: nobody of this cluster can hold the address, because its last owner said so or its
// lease has run out. At the first placement, and after a node was removed by force, somebody might.
func (r *renewer) proven(group string) bool {
	st := r.n.raft.State()
	gs := st.Groups[group]
	if _, revoked := st.Revoked[st.Nodes[gs.LastOwner].ID]; revoked {
		return false // by a forced quorum: only the administrator's word says that it is gone
	}
	switch gs.Why.Rule {
	case placement.RuleStart, placement.RuleNode, placement.RuleConfig:
		return gs.LastOwner == r.n.name
	case placement.RuleFailover:
		// Where a node was given up on, what failed ran on the owner only: the address itself, perhaps because it is taken. Not so
		// where the owner held it until the cable was pulled.
		return len(gs.GivenUp) == 0 || gs.Why.Cause == placement.CauseCarrier
	default:
		return true
	}
}

// inheritedUntil is when the lease of the process before this one ends, until this one has one of its own and a state that is
// new enough to act by it.
func (r *renewer) inheritedUntil(applied uint64) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.resumed(); r.holder.CaughtUp(applied) {
		r.legacy = time.Time{}
	}
	return r.legacy
}

// caughtUp says that a state applied up to that index can tell what this node owns, and
// gives a channel that is closed at the next grant.
func (r *renewer) caughtUp(applied uint64) (bool, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.holder.CaughtUp(applied), r.granted
}

// remaining is what is left of the lease, zero when there is none.
func (r *renewer) remaining() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(0, r.holder.Until().Sub(r.n.clock()))
}

// current is the newest report.
func (r *renewer) current() placement.Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.report
}

// retime takes up another lease duration, for leases that are granted from now on and for the one in force.
func (r *renewer) retime(t lease.Timing) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.holder.Duration = t.Duration
}
