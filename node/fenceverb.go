package node

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"hacluster/api"
	"hacluster/fence"
	"hacluster/placement"
)

// fence is an administrator's order. It waits for what comes of it; when the caller goes away it is carried out all the same.
func (b backend) fence(ctx context.Context, w api.Write) (api.Reply, error) {
	l, st := b.n.leader, b.n.raft.State()
	action := placement.FenceAction(cmp.Or(w.Action, string(st.Policy.Fencing.Action), string(placement.FenceReboot)))
	result := make(chan fence.Report, 1)
	l.mu.Lock()
	if l.ledger == nil || l.fencing == nil {
		l.mu.Unlock()
		return api.Reply{}, b.n.noLeader()
	}
	o, refusal := placement.PlanFence(st.Policy, st, l.view(), b.n.clock(), w.Node, action)
	if refusal == nil && !w.DryRun {
		l.fence(o, l.term, result)
	}
	l.mu.Unlock()
	switch {
	case refusal != nil && w.Node == b.n.name && action != placement.FenceOn && !w.DryRun:
		if err := b.n.raft.TransferLeadership(ctx, ""); err == nil {
			return api.Reply{}, api.Errorf(api.CodeNoQuorum, "repeat the command in a few seconds", "node %s leads and cannot fence itself; another node leads now", w.Node)
		}
		fallthrough
	case refusal != nil:
		code := api.CodeRefused
		if _, ok := st.Nodes[w.Node]; !ok {
			code = api.CodeNotFound
		}
		return api.Reply{}, api.Errorf(code, refusal.Hint, "%s", refusal.Why)
	case w.DryRun:
		return api.Reply{Message: fmt.Sprintf("%s of node %s would be tried now", action, w.Node), Changes: o.Why.Evidence}, nil
	}
	select {
	case r := <-result:
		return sayFenced(r), nil
	case <-ctx.Done():
		return api.Reply{}, api.Errorf(api.CodeTimeout, "hactl events shows what comes of it", "node %s is still being fenced", w.Node)
	}
}

func sayFenced(r fence.Report) api.Reply {
	reply := api.Reply{Target: r.Node, Fenced: &api.Fenced{Confirmed: r.Confirmed, Reason: r.Reason, Devices: sayAttempts(r.Attempts)}}
	switch {
	case r.Confirmed && r.Action == fence.On:
		reply.Message = fmt.Sprintf("node %s was switched on: %s", r.Node, r.Reason)
	case r.Confirmed:
		reply.Message = fmt.Sprintf("node %s is fenced (%s): %s", r.Node, r.Action, r.Reason)
	default:
		reply.Message = fmt.Sprintf("%s of node %s is not confirmed: %s", r.Action, r.Node, r.Reason)
	}
	return reply
}

// fenceCheck asks every device of a node, or of all nodes, how it is. Nothing is changed. It is this node that asks, not the
// leader: any node may come to lead.
func (b backend) fenceCheck(ctx context.Context, w api.Write) (api.Reply, error) {
	st := b.n.raft.State()
	if _, member := st.Nodes[w.Node]; !member && w.Node != "" {
		return api.Reply{}, api.Errorf(api.CodeNotFound, "hactl node list shows the members", "node %s is not a member", w.Node)
	}
	f, err := b.n.fences.get(ctx)
	if err != nil || len(f.Nodes()) == 0 {
		return api.Reply{}, api.Errorf(api.CodeRefused, "add a [[fence]] to cluster.toml and apply it", "no fence device is configured")
	}
	nodes := f.Nodes()
	if w.Node != "" {
		nodes = []string{w.Node}
	}
	all := make([][]fence.Health, len(nodes))
	var asking sync.WaitGroup
	for i, node := range nodes {
		asking.Go(func() { all[i] = f.Examine(ctx, node) })
	}
	asking.Wait()
	out := &api.Fenced{Confirmed: true}
	for _, h := range slices.Concat(all...) {
		out.Health = append(out.Health, api.FenceHealth{Node: h.Node, Device: h.Device, Level: h.Level, State: string(h.State), Fault: h.Reason})
		out.Confirmed = out.Confirmed && h.Err == nil
	}
	if len(out.Health) == 0 {
		return api.Reply{}, api.Errorf(api.CodeRefused, "name the node in a [[fence]] of cluster.toml and apply it", "no fence device is configured for node %s", w.Node)
	}
	return api.Reply{Message: "asked from node " + b.n.name, Target: b.n.name, Fenced: out}, nil
}

// checkFences refuses devices that this node could not use.
func checkFences(ctx context.Context, self string, wanted []fence.Device) error {
	errs := fence.Check(ctx, wanted)
	if len(errs) == 0 {
		return nil
	}
	refusal := api.Errorf(api.CodeRefused, "install what is missing on every node (Debian: apt-get install fence-agents), or correct the parameters, and apply the file again",
		"node %s, which leads, could not use every fence device", self)
	for _, err := range errs {
		refusal.Faults = append(refusal.Faults, err.Error())
	}
	return refusal
}
