// Package apitest is a cluster that exists only as its status: an api.Backend for tests of the API and of hactl. Nothing is
// decided here; a test says what the cluster answers and changes it while a client looks.
package apitest

import (
	"context"
	"sync"
	"time"

	"hacluster/api"
	"hacluster/lease"
	"hacluster/placement"
)

// World is the backend. Its zero value answers an empty status and refuses writes and joins.
type World struct {
	OnWrite func(*World, api.Write) (api.Reply, error) // nil: refused
	OnJoin  func(api.Join) (api.Joined, error)         // nil: refused

	mu      sync.Mutex
	status  api.Status
	err     error
	events  []placement.Event
	changed chan struct{}
	writes  []api.Write
	looks   int
}

// Update changes what the cluster answers.
func (w *World) Update(f func(*api.Status)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.status)
}

// Fail lets reads fail with err; nil ends that.
func (w *World) Fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
}

// Happen adds events; their numbers continue unless they have one.
func (w *World) Happen(events ...placement.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range events {
		if e.Seq == 0 {
			e.Seq = 1
			if n := len(w.events); n > 0 {
				e.Seq = w.events[n-1].Seq + 1
			}
		}
		w.events = append(w.events, e)
	}
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// Writes returns what was written so far.
func (w *World) Writes() []api.Write {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]api.Write(nil), w.writes...)
}

// Looks returns how often the status was asked for.
func (w *World) Looks() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.looks
}

// Status is part of api.Backend.
func (w *World) Status(ctx context.Context) (api.Status, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks++
	if w.err != nil {
		return api.Status{}, w.err
	}
	// Copy what a test may change in place while the answer is encoded.
	st := w.status
	st.Nodes = append([]api.NodeStatus(nil), st.Nodes...)
	st.Groups = append([]api.GroupStatus(nil), st.Groups...)
	return st, ctx.Err()
}

// Answer changes what answers writes and joins while the world is served.
func (w *World) Answer(change func(w *World)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(w)
}

// Write is part of api.Backend.
func (w *World) Write(_ context.Context, wr api.Write) (api.Reply, error) {
	w.mu.Lock()
	w.writes = append(w.writes, wr)
	answer := w.OnWrite
	w.mu.Unlock()
	if answer == nil {
		return api.Reply{}, api.Errorf(api.CodeRefused, "", "this cluster takes no writes")
	}
	return answer(w, wr)
}

// Join is part of api.Backend.
func (w *World) Join(_ context.Context, j api.Join) (api.Joined, error) {
	w.mu.Lock()
	answer := w.OnJoin
	w.mu.Unlock()
	if answer == nil {
		return api.Joined{}, api.Errorf(api.CodeUnauthorized, "make a new token: hactl token", "the token is not valid")
	}
	return answer(j)
}

// Events is part of api.Backend.
func (w *World) Events(_ context.Context, since uint64) ([]placement.Event, <-chan struct{}, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return nil, nil, w.err
	}
	if w.changed == nil {
		w.changed = make(chan struct{})
	}
	var out []placement.Event
	for _, e := range w.events {
		if e.Seq > since {
			out = append(out, e)
		}
	}
	return out, w.changed, nil
}

// Tomcats returns the status of a healthy cluster at the given instant: two Tomcat nodes and a witness, a hot standby group
// web owned by n1.
func Tomcats(now time.Time) api.Status {
	node := func(name, ip string, role placement.Role) api.NodeStatus {
		return api.NodeStatus{Name: name, Role: role, State: "up", Voter: true, Version: "0.2.0", Addresses: []string{ip + ":7400"},
			LastSeen: 90 * time.Millisecond, Lease: 1300 * time.Millisecond, Release: "agent, kernel lifetime", Config: 7, NoGate: "no nf_tables in this kernel"}
	}
	timing, err := lease.Derive(lease.LAN, lease.Address, lease.Overrides{})
	if err != nil {
		panic(err) // the default profile adds up, or nothing does
	}
	st := api.Status{Cluster: "prod", Profile: lease.LAN, Timing: timing, Health: api.HealthOK, Leader: "w1", Node: "n1", At: now, Config: 7,
		Quorum: api.Quorum{Voters: 3, Alive: 3, Needed: 2, Margin: "one more node may fail"},
		Nodes:  []api.NodeStatus{node("n1", "198.18.0.11", placement.RoleMember), node("n2", "198.18.0.12", placement.RoleMember), node("w1", "198.18.0.13", placement.RoleWitness)}}
	st.Nodes[0].Groups, st.Nodes[2].Leader = []string{"web"}, true
	since := now.Add(-12 * time.Second)
	why := placement.Reason{Rule: placement.RuleNodeLost, Text: "n2 was silent for 1.8s, longer than the takeover wait of 1.757s",
		Evidence: []string{"last lease confirmed 1.8s ago"}, Rejected: []placement.Rejected{{Node: "w1", Why: "a witness owns nothing"}}}
	res := func(name, kind, node, verdict, detail string) api.ResourceStatus {
		return api.ResourceStatus{Group: "web", Name: name, Type: kind, Node: node, State: placement.StateOnline, Verdict: verdict, Detail: detail, Since: since}
	}
	st.Groups = []api.GroupStatus{{Name: "web", State: "online", Owner: "n1", Epoch: 4, Phase: placement.PhaseOwned, Since: since,
		Addresses: []string{"198.18.0.100/24"}, Why: why, Standbys: []api.StandbyStatus{{Node: "n2", Ready: true}},
		Resources: []api.ResourceStatus{res("vip", "address", "n1", "healthy", "198.18.0.100/24 on eth0"),
			res("tomcat", "systemd", "n1", "healthy", "CPONG in 2ms"), res("tomcat", "systemd", "n2", "healthy", "CPONG in 3ms")}}}
	st.LastEvent = &placement.Event{Seq: 42, Time: since, Kind: "takeover", Group: "web", From: "n2", To: "n1", Epoch: 4, Reason: why, By: "w1"}
	return st
}
