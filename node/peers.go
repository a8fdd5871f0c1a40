package node

import (
	"context"
	"maps"
	"reflect"

	"hacluster/internal/identity"
	"hacluster/placement"
)

// keepPeers writes down who the other nodes are: the state may be empty at the next start until a leader speaks, the
// founder never got a list, and a node whose store is damaged must know whom to ask.
func (n *Node) keepPeers(ctx context.Context) {
	last := map[string]placement.NodeState(n.peers)
	for ctx.Err() == nil {
		changed := n.stateChanged()
		next := maps.Clone(n.raft.State().Nodes)
		delete(next, n.name)
		for name, node := range next {
			node.Lost, node.Admin = false, "" // only where it is
			next[name] = node
		}
		if len(next) > 0 && !reflect.DeepEqual(next, last) {
			n.logError("keeping the list of nodes", identity.SavePeers(n.cfg.DataDir, next))
			last = next
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
}
