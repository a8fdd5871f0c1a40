package node

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"hacluster/api"
	"hacluster/internal/identity"
	"hacluster/internal/pki"
	"hacluster/placement"
)

// authority admits new nodes: every node holds the cluster's CA, so that any leader can.
type authority struct {
	ca          *pki.CA
	gossip      []byte
	fingerprint string
}

func loadAuthority(caFile, keyFile, gossipFile string) (authority, error) {
	cert, err := os.ReadFile(caFile)
	if err != nil {
		return authority{}, err
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return authority{}, err
	}
	ca, err := pki.ParseCA(cert, key)
	if err != nil {
		return authority{}, fmt.Errorf("reading %s: %w", keyFile, err)
	}
	gossip, err := identity.LoadGossipKey(gossipFile)
	if err != nil {
		return authority{}, err
	}
	return authority{ca: ca, gossip: gossip, fingerprint: pki.Fingerprint(ca.Cert)}, nil
}

// Join implements api.Backend: it admits a node that shows a token. A name that is taken is refused unless the node comes
// back by right (rejoin.go): a wiped disk has forgotten the votes it gave.
func (b backend) Join(ctx context.Context, j api.Join) (api.Joined, error) {
	out, done, err := forward(ctx, b, func(ctx context.Context, c *api.Client) (api.Joined, error) { return c.PostJoin(ctx, j) })
	if done {
		return out, err
	}
	if !b.n.raft.IsLeader() {
		return api.Joined{}, b.n.noLeader()
	}
	if err := b.n.founded(); err != nil {
		return api.Joined{}, err
	}
	st := b.n.raft.State()
	a, refusal := b.admit(st, j)
	if refusal != nil {
		return api.Joined{}, refusal
	}
	cert, err := b.n.ca.ca.Issue(j.CSR, pki.Identity{Cluster: st.Cluster, ClusterID: st.ID, Name: j.Name, NodeID: j.ID}, time.Now())
	if err != nil {
		return api.Joined{}, api.Errorf(api.CodeInvalid, "run hactl join again", "the certificate request cannot be signed: %v", err)
	}
	key, err := b.n.ca.ca.KeyPEM()
	if err != nil {
		return api.Joined{}, err
	}
	if a.replaces != "" {
		if err := b.detach(ctx, j.Name); err != nil {
			return api.Joined{}, err
		}
	}
	if _, err := b.commit(ctx, placement.Command{Kind: placement.CmdUseToken, ID: a.token, Node: j.Name,
		Reason: placement.Reason{Rule: placement.RuleNode, Text: fmt.Sprintf("node %s joins with a token", j.Name)}}); err != nil {
		return api.Joined{}, err
	}
	if _, err := b.commit(ctx, a.command(j)); err != nil {
		e := api.AsError(err)
		if e.Untried { // the token is used up by now
			e.Untried, e.Hint = false, "make a new token on a member with hactl token, then join with it"
		}
		return api.Joined{}, e
	}
	if err := b.n.raft.AddNonvoter(ctx, j.Name); err != nil {
		return api.Joined{}, api.Errorf(api.CodeNoQuorum, fmt.Sprintf("run hactl token --rejoin %s on a member, then hactl node rejoin with it", j.Name),
			"node %s was admitted, but not added to the Raft group: %v", j.Name, err)
	}
	return api.Joined{Cluster: st.Cluster, ClusterID: st.ID, Incarnation: st.Incarnation, CA: b.n.ca.ca.CertPEM(), CAKey: key, Cert: cert, Gossip: b.n.ca.gossip,
		Nodes: maps.Clone(b.n.raft.State().Nodes)}, nil
}

func (b backend) checkToken(st placement.State, j api.Join) (id string, kept placement.Token, refusal *api.Error) {
	const again = "make a new one on a member with hactl token"
	token, err := pki.ParseToken(j.Token)
	if err != nil {
		return "", kept, api.Errorf(api.CodeUnauthorized, again, "%v", err)
	}
	kept, ok := st.Tokens[token.ID]
	switch {
	case !ok || !token.Matches(kept.Hash):
		return "", kept, api.Errorf(api.CodeUnauthorized, again, "the join token is not known to this cluster")
	case kept.Used != "":
		return "", kept, api.Errorf(api.CodeUnauthorized, again, "the join token was used by node %s already", kept.Used)
	case !kept.Expires.After(time.Now()):
		return "", kept, api.Errorf(api.CodeUnauthorized, again, "the join token expired at %s", kept.Expires.Local().Format(time.DateTime))
	case kept.Rejoin != "" && kept.Rejoin != j.Name:
		return "", kept, api.Errorf(api.CodeRefused, "make one with hactl token", "the token lets node %s come back and nobody else", kept.Rejoin)
	case kept.Role != j.Role:
		return "", kept, api.Errorf(api.CodeRefused, fmt.Sprintf("make one with hactl token --role %s", j.Role), "the join token is for a %s, not for a %s", kept.Role, j.Role)
	}
	return token.ID, kept, nil
}

func (b backend) checkName(st placement.State, j api.Join, back bool) *api.Error {
	if err := pki.CheckName(j.Name); err != nil {
		return api.Errorf(api.CodeInvalid, "choose another with --name", "%v", err)
	}
	if old, taken := st.Nodes[j.Name]; taken && old.ID != j.ID && !back {
		return api.Errorf(api.CodeRefused,
			fmt.Sprintf("if this is another machine choose another --name; if the disk of %s was lost run hactl token --rejoin %s on a member, then hactl node rejoin on it", j.Name, j.Name),
			"the name %s belongs to a member with another identity", j.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(st.Nodes)) {
		for _, addr := range st.Nodes[name].Addresses {
			if name != j.Name && slices.Contains(j.Addresses, addr) {
				return api.Errorf(api.CodeRefused, "give this node its own address with --address", "address %s belongs to node %s", addr, name)
			}
		}
	}
	return nil
}

// allow refuses peers whose certificate no longer stands for a member.
func (n *Node) allow(id pki.Identity) error {
	st := n.raftState()
	if _, removed := st.Revoked[id.NodeID]; removed {
		return fmt.Errorf("node %s was removed from the cluster, or the cluster went on without it: run hactl node rejoin on it", id.Name)
	}
	if node, ok := st.Nodes[id.Name]; ok && node.ID != id.NodeID {
		return fmt.Errorf("node %s has another identity than the member of that name: run hactl node rejoin on it", id.Name)
	}
	return nil
}
