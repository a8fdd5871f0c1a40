package placement

import (
	"testing"
	"time"
)

// An agent that has just been restarted under its address learns of the address before the service manager has told it of
// the service (L3). What nobody has told yet must neither stop an address nor start one.
func TestADependencyThatIsNotKnownYetNeitherStopsNorStartsWhatNeedsIt(t *testing.T) {
	now := time.Unix(1000, 0)
	p := Policy{Groups: []GroupPolicy{{Name: "web", Resources: []ResourcePolicy{
		{Name: "service", RunOn: RunOnEveryNode},
		{Name: "vip", RunOn: RunOnOwner, Address: true, DependsOn: &Expr{Name: "service"}},
	}}}}
	s := State{Nodes: map[string]NodeState{"n1": {Role: RoleMember}}, Groups: map[string]GroupState{"web": {Owner: "n1", Epoch: 1, Phase: PhaseOwned}}}
	for _, c := range []struct {
		service, vip ResourceState
		want         ActionKind // of the vip; empty: none
	}{
		{StateInitializing, StateOnline, ""},
		{StateUnknown, StateOnline, ""},
		{StateInitializing, StateOffline, ""},
		{StateOnline, StateOffline, ActStart},
		{StateOnline, StateOnline, ""},
		{StateOnlinePending, StateOnline, ActStop},
		{StateFailed, StateOnline, ActStop},
	} {
		l := Local{Node: "n1", Leased: map[string]time.Time{"web": now.Add(time.Second)}, Resources: map[string]map[string]LocalResource{"web": {
			"service": {State: c.service, Running: true}, "vip": {State: c.vip, Running: c.vip == StateOnline},
		}}}
		got := ActionKind("")
		for _, a := range Reconcile(p, s, l, now).Actions {
			if a.Resource == "vip" {
				got = a.Kind
			}
		}
		if got != c.want {
			t.Errorf("service %s, vip %s: action %q, want %q", c.service, c.vip, got, c.want)
		}
	}
}

// A dependency is taken down after what needs it, also when nobody knows yet whether that serves.
func TestADependencyOutlivesWhatRunsAndIsNotKnownYet(t *testing.T) {
	now := time.Unix(1000, 0)
	p := Policy{Groups: []GroupPolicy{{Name: "web", Resources: []ResourcePolicy{
		{Name: "disk", RunOn: RunOnOwner},
		{Name: "service", RunOn: RunOnOwner, DependsOn: &Expr{Name: "disk"}},
	}}}}
	s := State{Nodes: map[string]NodeState{"n1": {Role: RoleMember}}, Groups: map[string]GroupState{"web": {Owner: "n1", Epoch: 1, Phase: PhaseReleasing}}}
	for _, service := range []ResourceState{StateOnline, StateUnknown} {
		l := Local{Node: "n1", Leased: map[string]time.Time{"web": now.Add(time.Second)}, Resources: map[string]map[string]LocalResource{"web": {
			"disk": {State: StateOnline, Running: true}, "service": {State: service, Running: true},
		}}}
		for _, a := range Reconcile(p, s, l, now).Actions {
			if a.Resource != "service" || a.Kind != ActStop {
				t.Errorf("service %s: %s %s", service, a.Kind, a.Resource)
			}
		}
	}
}
