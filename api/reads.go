package api

import (
	"fmt"
	"net/http"
	"strings"

	"hacluster/lease"
	"hacluster/placement"
)

// load asks the backend and makes sure that lists are lists in JSON, never null.
func (s *Server) load(r *http.Request) (Status, error) {
	st, err := s.backend.Status(r.Context())
	if err != nil {
		return Status{}, err
	}
	if st.Nodes == nil {
		st.Nodes = []NodeStatus{}
	}
	if st.Groups == nil {
		st.Groups = []GroupStatus{}
	}
	if st.Timing == (lease.Timing{}) {
		if st.Timing, err = lease.Derive(st.Profile, lease.Address, lease.Overrides{}); err != nil {
			return Status{}, fmt.Errorf("deriving the timing of the cluster: %w", err)
		}
	}
	return st, nil
}

func (s *Server) status(r *http.Request) (any, error) { return s.load(r) }

func (s *Server) nodes(r *http.Request) (any, error) {
	st, err := s.load(r)
	return st.Nodes, err
}

func (s *Server) node(r *http.Request) (any, error) {
	st, err := s.load(r)
	if err != nil {
		return nil, err
	}
	return st.FindNode(r.PathValue("node"))
}

func (s *Server) groups(r *http.Request) (any, error) {
	st, err := s.load(r)
	return st.Groups, err
}

func (s *Server) group(r *http.Request) (any, error) {
	st, err := s.load(r)
	if err != nil {
		return nil, err
	}
	return st.FindGroup(r.PathValue("group"))
}

func (s *Server) resources(r *http.Request) (any, error) {
	st, err := s.load(r)
	return st.AllResources(), err
}

func (s *Server) timing(r *http.Request) (any, error) {
	st, err := s.load(r)
	if err != nil {
		return nil, err
	}
	return NewTimingReport(st.Timing), nil
}

// FindNode returns the named node, or a refusal that lists the nodes there are.
func (st Status) FindNode(name string) (NodeStatus, error) {
	var names []string
	for _, n := range st.Nodes {
		if n.Name == name {
			return n, nil
		}
		names = append(names, n.Name)
	}
	return NodeStatus{}, Errorf(CodeNotFound, "the nodes are: "+listOr(names, "none"), "there is no node %q", name)
}

// FindGroup returns the named group, or a refusal that lists the groups there are.
func (st Status) FindGroup(name string) (GroupStatus, error) {
	var names []string
	for _, g := range st.Groups {
		if g.Name == name {
			return g, nil
		}
		names = append(names, g.Name)
	}
	return GroupStatus{}, Errorf(CodeNotFound, "the groups are: "+listOr(names, "none yet: hactl apply cluster.toml"), "there is no group %q", name)
}

// AllResources returns the resources of all groups, in the order of the groups.
func (st Status) AllResources() []ResourceStatus {
	all := []ResourceStatus{}
	for _, g := range st.Groups {
		for _, r := range g.Resources {
			r.Group = g.Name
			all = append(all, r)
		}
	}
	return all
}

func listOr(names []string, none string) string {
	if len(names) == 0 {
		return none
	}
	return strings.Join(names, ", ")
}

// GroupHealth is GET /v1/groups/{g}/health. The answer is 200 only where the group serves, for external balancers.
type GroupHealth struct {
	Group string          `json:"group"`
	Node  string          `json:"node"` // that answered
	Owner string          `json:"owner,omitempty"`
	State string          `json:"state"`
	Epoch uint64          `json:"epoch"`
	Serve bool            `json:"serve"` // status is 200
	Why   string          `json:"why"`
	Phase placement.Phase `json:"phase"`
}

// groupHealth answers 200 only if the answering node owns the group and the group is online. Without the leader a node
// vouches for itself only while its own lease lasts: another may own the group by then.
func (s *Server) groupHealth(w http.ResponseWriter, r *http.Request) {
	st, err := s.load(r)
	if err != nil {
		writeError(w, err)
		return
	}
	g, err := st.FindGroup(r.PathValue("group"))
	if err != nil {
		writeError(w, err)
		return
	}
	self := s.opt.Node
	if self == "" {
		self = st.Node
	}
	h := GroupHealth{Group: g.Name, Node: self, Owner: g.Owner, State: g.State, Epoch: g.Epoch, Phase: g.Phase}
	me, _ := st.FindNode(self)
	switch {
	case g.Owner == "":
		h.Why = "no node owns the group"
	case g.Owner != self:
		h.Why = "the owner is " + g.Owner
	case g.State != "online":
		h.Why = "the group is " + g.State + " here"
	case g.Phase != placement.PhaseOwned:
		h.Why = "the group is being released here"
	case st.Stale && me.Lease <= 0:
		h.Why = "this node cannot reach the leader and its lease has ended"
	default:
		h.Serve, h.Why = true, "this node owns the group and it is online"
	}
	status := http.StatusServiceUnavailable
	if h.Serve {
		status = http.StatusOK
	}
	writeJSON(w, status, h)
}
