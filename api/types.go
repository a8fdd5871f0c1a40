// Package api is the only way in for hactl: HTTP and JSON over mutual TLS or the local socket, a typed client, and the
// event stream. It decides nothing; a Backend does.
package api

import (
	"context"
	"time"

	"hacluster/lease"
	"hacluster/placement"
)

// Error is the body of every refused call: {"error": {...}}. See error.go for the codes.
type Error struct {
	Status  int      `json:"-"`              // HTTP status; 0: derived from Code
	Code    Code     `json:"code"`           // stable word
	Message string   `json:"message"`        // what and why
	Hint    string   `json:"hint,omitempty"` // what to do
	Faults  []string `json:"faults,omitempty"`
	Untried bool     `json:"untried,omitempty"` // nothing was begun: no leader is known just now, or the one that was is gone

	cause error // on this side of the wire only
}

// Status is GET /v1/status.
type Status struct {
	Cluster   string           `json:"cluster"`
	Profile   lease.Profile    `json:"profile"`
	Timing    lease.Timing     `json:"timing,omitzero"` // in force; zero: derived from Profile
	Health    Health           `json:"health"`
	Quorum    Quorum           `json:"quorum"`
	Leader    string           `json:"leader,omitempty"`
	Node      string           `json:"node"`   // that answered
	Stale     bool             `json:"stale"`  // answered without the leader: from this node's copy
	At        time.Time        `json:"at"`     // wall clock of the answering node
	Config    uint64           `json:"config"` // version applied
	Nodes     []NodeStatus     `json:"nodes"`  // by name
	Groups    []GroupStatus    `json:"groups"` // by name
	Warnings  []string         `json:"warnings,omitempty"`
	LastEvent *placement.Event `json:"last_event,omitempty"`
	Log       *Log             `json:"log,omitempty"` // without a leader only: how far the log of the answering node goes
}

// Log is how far a node's log goes: when a majority is lost for good, the survivor with the greatest term, then index, has
// everything that was decided.
type Log struct {
	Term    uint64 `json:"term"`
	Index   uint64 `json:"index"`
	Applied uint64 `json:"applied"`
}

// Health sums a status up; hactl status exits 0, 1 or 2 by it.
type Health string

const (
	HealthOK       Health = "healthy"
	HealthDegraded Health = "degraded"
	HealthDown     Health = "down" // a group is down, or there is no quorum
)

// Quorum says in numbers and words which losses can still be taken.
type Quorum struct {
	Voters int    `json:"voters"`
	Alive  int    `json:"alive"`
	Needed int    `json:"needed"`
	Margin string `json:"margin"` // "one more node may fail"
}

// NodeStatus is one node.
type NodeStatus struct {
	Name      string         `json:"name"`
	Role      placement.Role `json:"role"`
	State     string         `json:"state"`           // up, down, paused, joining
	Flags     []string       `json:"flags,omitempty"` // draining, drained, isolated, leaving
	Leader    bool           `json:"leader"`
	Voter     bool           `json:"voter"`
	Version   string         `json:"version,omitempty"`
	Addresses []string       `json:"addresses"`
	LastSeen  time.Duration  `json:"last_seen_ns"`      // since the leader last confirmed its lease; negative: never
	Lease     time.Duration  `json:"lease_ns"`          // what is at least left of its lease; 0: none
	Groups    []string       `json:"groups,omitempty"`  // that it owns
	Release   string         `json:"release,omitempty"` // by which layers its lease is enforced
	Pulse     string         `json:"pulse,omitempty"`   // "bound": it is replaced by its pulse; else why only by the end of its lease. Empty: no pulses, or it holds nothing
	Gate      bool           `json:"gate"`              // its kernel carries the gate
	NoGate    string         `json:"no_gate,omitempty"` // why not
	Config    uint64         `json:"config,omitempty"`  // version of the configuration that it follows; 0: unknown
}

// GroupStatus is one group.
type GroupStatus struct {
	Name      string           `json:"name"`
	State     string           `json:"state"` // online, offline, failed, partial-online, pending
	Owner     string           `json:"owner,omitempty"`
	Epoch     uint64           `json:"epoch"`
	Phase     placement.Phase  `json:"phase"`
	Since     time.Time        `json:"since"`
	Addresses []string         `json:"addresses,omitempty"`
	Why       placement.Reason `json:"why"`
	Notes     []string         `json:"notes,omitempty"` // blocked, next retry, no ready standby, ...
	Standbys  []StandbyStatus  `json:"standbys,omitempty"`
	Resources []ResourceStatus `json:"resources"`
	Move      *Move            `json:"move,omitempty"` // the newest change of its owner that the history has
}

// StandbyStatus is a node that could take a group.
type StandbyStatus struct {
	Node  string `json:"node"`
	Ready bool   `json:"ready"`
	Why   string `json:"why,omitempty"` // not ready
}

// ResourceStatus is a resource, on its owner or on each node where it runs.
type ResourceStatus struct {
	Group   string                  `json:"group"`
	Name    string                  `json:"name"`
	Type    string                  `json:"type"`
	Node    string                  `json:"node"`
	State   placement.ResourceState `json:"state"`
	Verdict string                  `json:"verdict,omitempty"`
	Detail  string                  `json:"detail,omitempty"`
	Since   time.Time               `json:"since,omitzero"`
}

// Write is POST to a verb's path. One of the fields for the verb is set.
type Write struct {
	Verb     Verb           `json:"verb"`
	Group    string         `json:"group,omitempty"`
	Node     string         `json:"node,omitempty"` // move target, or subject of node verbs
	Resource string         `json:"resource,omitempty"`
	Config   string         `json:"config,omitempty"` // apply: text of cluster.toml
	File     string         `json:"file,omitempty"`   // apply: its name, for messages
	DryRun   bool           `json:"dry_run,omitempty"`
	Force    bool           `json:"force,omitempty"`
	Role     placement.Role `json:"role,omitempty"`     // token
	TTL      time.Duration  `json:"ttl_ns,omitempty"`   // token
	Rejoin   string         `json:"rejoin,omitempty"`   // token: the member that may come back with it
	Drain    time.Duration  `json:"drain_ns,omitempty"` // move: how long open connections may finish where they are; 0: they end with the move
	Action   string         `json:"action,omitempty"`   // fence: reboot, off or on; empty: what the configuration says
}

// Verb names a write. Paths: see routes in server.go.
type Verb string

const (
	VerbApply        Verb = "apply"
	VerbMove         Verb = "move"
	VerbGroupOnline  Verb = "group-online"
	VerbGroupOffline Verb = "group-offline"
	VerbPause        Verb = "pause"
	VerbDrain        Verb = "drain"
	VerbResume       Verb = "resume"
	VerbRemove       Verb = "remove"
	VerbToken        Verb = "token"
	VerbFence        Verb = "fence"       // answers when it is known what came of it, which may take minutes
	VerbFenceCheck   Verb = "fence-check" // asks the devices, of all nodes without Node; the agent that is called asks them, not the leader
)

// Reply is the answer to a write that was accepted. With --wait hactl follows the status from here.
type Reply struct {
	Message string   `json:"message"`           // one sentence
	Epoch   uint64   `json:"epoch,omitempty"`   // group verbs: the epoch decided on
	Version uint64   `json:"version,omitempty"` // apply
	Changes []string `json:"changes,omitempty"` // apply: what differs
	Token   string   `json:"token,omitempty"`
	Target  string   `json:"target,omitempty"`
	Already bool     `json:"already,omitempty"` // nothing to do
	Fenced  *Fenced  `json:"fenced,omitempty"`  // fence and fence-check

	Warnings []string `json:"warnings,omitempty"` // accepted, with what will not work yet
}

// Fenced is what came of a fencing, or of asking the devices.
type Fenced struct {
	Confirmed bool          `json:"confirmed"` // every device of one level confirmed it; of a check: no device has a fault
	Reason    string        `json:"reason,omitempty"`
	Devices   []string      `json:"devices,omitempty"` // what each said, in order
	Health    []FenceHealth `json:"health,omitempty"`  // of a check
}

// FenceHealth is one device for one node.
type FenceHealth struct {
	Node   string `json:"node"`
	Device string `json:"device"`
	Level  int    `json:"level"`
	State  string `json:"state,omitempty"` // on, off, unknown; empty: the agent cannot say
	Fault  string `json:"fault,omitempty"` // why it could not be asked
}

// Join is what a new node sends with its token; TLS without a client certificate, its own ALPN.
type Join struct {
	Token     string         `json:"token"`
	Name      string         `json:"name"`
	ID        string         `json:"id"`
	Role      placement.Role `json:"role"`
	Addresses []string       `json:"addresses"` // host:port
	Gossip    []string       `json:"gossip"`
	CSR       []byte         `json:"csr"` // DER
	Version   string         `json:"version"`
}

// Joined is the answer.
type Joined struct {
	Cluster   string `json:"cluster"`
	ClusterID string `json:"cluster_id"`
	// Incarnation is State.Incarnation; the node keeps it in its identity.
	Incarnation string                         `json:"incarnation,omitempty"`
	CA          []byte                         `json:"ca"`     // PEM
	CAKey       []byte                         `json:"ca_key"` // PEM; every node can admit the next
	Cert        []byte                         `json:"cert"`   // PEM
	Gossip      []byte                         `json:"gossip"` // key
	Nodes       map[string]placement.NodeState `json:"nodes"`
}

// Backend is what the server serves. node implements it.
type Backend interface {
	Status(ctx context.Context) (Status, error)                                           // forwarded to the leader where there is one
	Write(ctx context.Context, w Write) (Reply, error)                                    // forwarded to the leader
	Join(ctx context.Context, j Join) (Joined, error)                                     // forwarded to the leader
	Events(ctx context.Context, since uint64) ([]placement.Event, <-chan struct{}, error) // newer than since; the channel closes at the next change
}
