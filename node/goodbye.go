package node

import (
	"context"
	"time"
)

// goodbyeTime bounds what a node does before it ends because it was asked to, without leaving gossip.
const goodbyeTime = time.Second

// goodbye is what a node does before it ends because it was asked to. It takes up to a second, in which the loops go on: the
// lease must be fresh at the end, because it covers what runs here until the next process has one of its own (L3). Who
// leads then is told that this process ends in order, and does not take its silence for a death.
func (n *Node) goodbye() {
	ctx, cancel := context.WithTimeout(n.ctx, goodbyeTime)
	defer cancel()
	if n.raft.IsLeader() {
		n.logError("handing leadership over", n.raft.TransferLeadership(ctx, ""))
	}
	n.pulser.end(ctx)
	n.renewer.sayEnding() // not before: what this node knows as a leader is gone with its leadership
	if m := n.members.Load(); m != nil {
		n.logError("leaving gossip", m.Close(true))
	}
	if n.owns() { // nobody is fenced else
		n.renewer.heardEnding(ctx)
	}
}

// owns says that some group is given to this node, as far as it knows.
func (n *Node) owns() bool {
	for _, gs := range n.raft.State().Groups { // order-free
		if gs.Owner == n.name {
			return true
		}
	}
	return false
}

// sayEnding lets each renewal from now on say that this process ends in order, and sends one at once.
func (r *renewer) sayEnding() {
	r.mu.Lock()
	r.ending = true
	r.mu.Unlock()
	r.kick()
}

// heardEnding waits until a leader that was told so has granted, no longer than the lease lasts: without one there is nothing
// for which anybody would have to be patient.
func (r *renewer) heardEnding(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, r.remaining())
	defer cancel()
	select {
	case <-r.parted:
	case <-ctx.Done():
		if r.n.ctx.Err() == nil {
			r.n.log.Info("no leader has answered that it knows that this agent ends in order")
		}
	}
}

// granting notes that a leader has granted what this renewal asked for, and so knows what it said. The caller holds mu.
func (r *renewer) granting(m renewal) {
	if !m.Ending {
		return
	}
	select {
	case <-r.parted:
	default:
		close(r.parted)
	}
}
