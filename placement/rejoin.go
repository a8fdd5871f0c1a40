package placement

import (
	"maps"
	"slices"
	"time"
)

// revoke refuses an identity from now on.
func (s State) revoke(id string, at time.Time) State {
	s.Revoked = maps.Clone(s.Revoked)
	if s.Revoked == nil {
		s.Revoked = map[string]time.Time{}
	}
	s.Revoked[id] = at
	return s
}

// applyReplaceNode gives a member a new identity in one step: there is no moment at which its name is free for another, or
// at which both identities are good. c.ID is the identity that is replaced.
func applyReplaceNode(s State, c Command) (State, Result) {
	if c.Node == "" || c.ID == "" || c.NodeInfo == nil {
		return s, refuse("replace-node command without node")
	}
	old, ok := s.Nodes[c.Node]
	n := *c.NodeInfo
	switch {
	case !ok:
		return s, stale("node %s is not a member", c.Node)
	case old.ID != c.ID:
		return s, stale("node %s has another identity by now", c.Node)
	case old.ID == n.ID:
		return s, refuse("node %s has that identity already", c.Node)
	case old.Role != n.Role:
		return s, refuse("node %s is a %s: to change its role remove it and join again", c.Node, old.Role)
	}
	if _, revoked := s.Revoked[n.ID]; revoked {
		return s, refuse("node %s was removed with this identity: join again with a new one", c.Node)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Groups)) {
		if s.Groups[name].Owner == c.Node {
			return s, refuse("node %s owns group %s", c.Node, name)
		}
	}
	n.Admin, n.Joined, n.Lost = old.Admin, c.At, old.Lost
	s = s.revoke(old.ID, c.At).withNode(c.Node, n)
	return s.record(c, "", ""), Result{}
}

// applyForce begins a new incarnation in which c.Node goes on alone. All other identities are revoked, those of living
// survivors too: they have histories of their own and must come back with none. The nodes stay members and owners: what
// they own is given away by the ordinary rule, after the takeover wait.
func applyForce(s State, c Command) (State, Result) {
	if _, ok := s.Nodes[c.Node]; !ok {
		return s, refuse("node %s is not a member", c.Node)
	}
	if c.ID == "" || c.ID == s.Incarnation {
		return s, refuse("a forced quorum needs a new incarnation")
	}
	for _, name := range slices.Sorted(maps.Keys(s.Nodes)) {
		if name == c.Node {
			continue
		}
		n := s.Nodes[name]
		n.Lost = true
		s = s.revoke(n.ID, c.At).withNode(name, n)
	}
	s.Incarnation = c.ID
	s.Tokens = nil // made for the cluster that was
	return s.record(c, "", ""), Result{}
}
