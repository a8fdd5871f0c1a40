// Package placement is the pure core: which node owns which group, and what a node must do next about it.
//
// Decide is the leader's half, Reconcile every node's half, State.Apply the body of the replicated state machine. All
// three are functions of values and an instant; none reads a clock, the environment or a random value, starts a
// goroutine or takes a lock. Output is data. A test over the syntax tree keeps it so, because the simulator, the
// tests, `hactl plan` and production must be able to run the very same decisions.
package placement

import "time"

// RunOn says on which nodes a resource runs.
type RunOn string

const (
	RunOnOwner     RunOn = "owner"      // only where the group is owned
	RunOnEveryNode RunOn = "every-node" // on every possible owner (hot standby)
)

// Standby says what the nodes that do not own a group keep ready.
type Standby string

const (
	StandbyCold Standby = "cold" // services are started on failover
	StandbyHot  Standby = "hot"  // run_on = "every-node" resources run and are probed everywhere; failover moves the rest
)

// RestartAction is what happens when a resource has failed (WSFC RestartAction; ours adds failover-first).
type RestartAction string

const (
	RestartNone          RestartAction = "none"                  // stay failed
	RestartOnly          RestartAction = "restart"               // restart here, never move the group
	RestartThenFailover  RestartAction = "restart-then-failover" // WSFC default (2)
	RestartFailoverFirst RestartAction = "failover-first"        // move to a ready hot standby at once, else restart
)

// Policy is the part of the cluster configuration that decisions depend on.
type Policy struct {
	SuspectAfter   time.Duration `json:"suspect_after"`        // silence after which a node is no longer chosen as a target
	GroupWaitDelay time.Duration `json:"group_wait_delay"`     // cold start: wait for the preferred owner
	NeedsGate      bool          `json:"needs_gate,omitempty"` // the kernel lease in force is the gate: only a node that carries it may own
	Fencing        FencingPolicy `json:"fencing,omitzero"`
	Groups         []GroupPolicy `json:"groups"` // sorted by name
}

// GroupPolicy is one group (WSFC: role). Durations and defaults: docs/semantics, WSFC group common properties.
type GroupPolicy struct {
	Name                string           `json:"name"`
	PreferredOwners     []string         `json:"preferred_owners,omitempty"` // ordered
	PossibleOwners      []string         `json:"possible_owners,omitempty"`  // empty: every member; the intersection over the resources
	FailoverThreshold   int              `json:"failover_threshold"`         // -1: nodes - 1
	FailoverPeriod      time.Duration    `json:"failover_period"`            // rolling window
	AutoFailback        bool             `json:"auto_failback,omitempty"`    // no effect without preferred owners
	FailbackFrom        int              `json:"failback_from"`              // hour 0-23, -1: no window
	FailbackTo          int              `json:"failback_to"`                // hour 0-23 (exclusive), -1: no window
	RetryPeriod         time.Duration    `json:"retry_period"`               // retry_period_on_failure; 0: never
	Priority            int              `json:"priority"`                   // 0 no auto start, 1000, 2000, 3000
	AntiAffinity        []string         `json:"anti_affinity,omitempty"`    // class names
	EnforceAntiAffinity bool             `json:"enforce_anti_affinity,omitempty"`
	Standby             Standby          `json:"standby"`
	TakeoverWait        time.Duration    `json:"takeover_wait"`      // silence of the owner after which the group may be reassigned; package lease derives it
	OnPulse             bool             `json:"on_pulse,omitempty"` // only addresses are what its owner alone may have, and pulses say when their gates are shut
	Resources           []ResourcePolicy `json:"resources"`          // in file order
}

// ResourcePolicy is what Reconcile must know of a resource; how to start and stop it is package resources' business.
type ResourcePolicy struct {
	Name             string        `json:"name"`
	DependsOn        *Expr         `json:"depends_on,omitempty"`
	RunOn            RunOn         `json:"run_on"`
	Exclusive        bool          `json:"exclusive,omitempty"` // guarantee S2
	Address          bool          `json:"address,omitempty"`   // a floating address: needs a living lease at every moment
	RestartAction    RestartAction `json:"restart_action"`
	RestartThreshold int           `json:"restart_threshold"`
	RestartPeriod    time.Duration `json:"restart_period"`
	RestartDelay     time.Duration `json:"restart_delay"`
	PendingTimeout   time.Duration `json:"pending_timeout"` // bound on start and stop
	StopBudget       time.Duration `json:"stop_budget"`     // bound on a kill
}

// Expr is a depends_on expression: a leaf (Name) or All / Any of its children, exactly one of the three.
type Expr struct {
	Name string `json:"name,omitempty"`
	All  []Expr `json:"all,omitempty"`
	Any  []Expr `json:"any,omitempty"`
}

// Group returns the policy of the named group.
func (p Policy) Group(name string) (GroupPolicy, bool) {
	for _, g := range p.Groups {
		if g.Name == name {
			return g, true
		}
	}
	return GroupPolicy{}, false
}

// names are the groups that have a policy; for loops over all groups, in which Group would cost the square of their number.
func (p Policy) names() map[string]bool {
	names := make(map[string]bool, len(p.Groups))
	for i := range p.Groups {
		names[p.Groups[i].Name] = true
	}
	return names
}

// Resource returns the policy of the named resource.
func (g GroupPolicy) Resource(name string) (ResourcePolicy, bool) {
	for _, r := range g.Resources {
		if r.Name == name {
			return r, true
		}
	}
	return ResourcePolicy{}, false
}

// longestWait is the longest takeover wait of any group, 0 without groups.
func (p Policy) longestWait() (d time.Duration) {
	for _, g := range p.Groups {
		d = max(d, g.TakeoverWait)
	}
	return d
}

// shortestWait is the shortest takeover wait of any group, 0 without groups.
func (p Policy) shortestWait() (d time.Duration) {
	for i, g := range p.Groups {
		if i == 0 || g.TakeoverWait < d {
			d = g.TakeoverWait
		}
	}
	return d
}
