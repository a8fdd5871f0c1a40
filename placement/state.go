package placement

import "time"

// Role says whether a node may own groups.
type Role string

const (
	RoleMember  Role = "member"
	RoleWitness Role = "witness" // votes, owns nothing
)

// Admin is the administrator's word about a node.
type Admin string

const (
	AdminUp     Admin = "up"
	AdminPaused Admin = "paused" // no group is placed here; what it owns stays unless drained
	AdminDrain  Admin = "drain"  // paused, and what it owns moves away
)

// Phase is where a group stands between owners. Edges: unowned -> owned -> releasing -> unowned|owned, owned -> owned
// (takeover by lease expiry).
type Phase string

const (
	PhaseUnowned   Phase = "unowned"   // proven free: never owned, or released and read back
	PhaseOwned     Phase = "owned"     // Owner may act for Epoch while it holds a lease
	PhaseReleasing Phase = "releasing" // Owner must give up Epoch and say so
)

// State is what the Raft group replicates: decisions, never telemetry.
//
// Invariants (check, run at every Apply, in tests and in the simulator):
//  1. An epoch never falls, and every change of owner raises it.
//  2. Owner is empty exactly when Phase is unowned.
//  3. An owner is a known member node that is not a witness.
//  4. A group has state exactly when the policy has it (a removed group is kept only until it is released).
//  5. Events are ordered by Seq without gaps and bounded by MaxEvents.
//  6. MoveTo is set only while releasing.
type State struct {
	Cluster       string                `json:"cluster"`
	ID            string                `json:"id"`                    // random, set at init
	Incarnation   string                `json:"incarnation,omitempty"` // random, anew at each forced quorum; empty: none was forced
	Index         uint64                `json:"index"`                 // Raft index of the newest command applied
	ConfigVersion uint64                `json:"config_version"`
	ConfigText    string                `json:"config_text"`            // cluster.toml as applied
	KernelLease   string                `json:"kernel_lease,omitempty"` // what the proposer resolved the configuration's kernel_lease to: a lease.Layer; empty: address
	Floor         time.Duration         `json:"floor_ns,omitempty"`     // longest takeover wait of leases given under a former timing
	FloorIndex    uint64                `json:"floor_index,omitempty"`  // Raft index of the configuration that shortened it
	Policy        Policy                `json:"policy"`                 // derived from ConfigText by the proposer
	Nodes         map[string]NodeState  `json:"nodes"`
	Groups        map[string]GroupState `json:"groups"`
	Tokens        map[string]Token      `json:"tokens,omitempty"`  // by token id
	Revoked       map[string]time.Time  `json:"revoked,omitempty"` // node ids (certificates) that were removed
	Retired       map[string]uint64     `json:"retired,omitempty"` // newest epoch of groups that were removed
	Events        []Event               `json:"events"`
	Seq           uint64                `json:"seq"` // of the newest event
}

// MaxEvents bounds the replicated history.
const MaxEvents = 1000

// NodeState is one member of the cluster.
type NodeState struct {
	ID        string    `json:"id"` // random identity of this installation; a wiped disk has another
	Role      Role      `json:"role"`
	Admin     Admin     `json:"admin"`
	Addresses []string  `json:"addresses"` // host:port of the cluster port, in order of preference
	Gossip    []string  `json:"gossip,omitempty"`
	Version   string    `json:"version,omitempty"`
	Joined    time.Time `json:"joined"`
	Lost      bool      `json:"lost,omitempty"` // the leader saw it fall silent and not come back yet; for display and history
}

// GroupState is the replicated part of a group.
type GroupState struct {
	Offline     bool                 `json:"offline,omitempty"` // the administrator wants it offline (persistent_state)
	Phase       Phase                `json:"phase"`
	Owner       string               `json:"owner,omitempty"`
	Epoch       uint64               `json:"epoch"`
	AssignIndex uint64               `json:"assign_index"`        // Raft index at which Epoch was given
	MoveTo      string               `json:"move_to,omitempty"`   // while releasing: wanted next owner, empty: choose
	Why         Reason               `json:"why"`                 // of the newest transition
	Since       time.Time            `json:"since"`               // wall clock of the proposer
	Failovers   []time.Time          `json:"failovers,omitempty"` // failovers by failure, wall clock, bounded
	GivenUp     map[string]time.Time `json:"given_up,omitempty"`  // nodes on which this group failed, until they are retried
	Failed      bool                 `json:"failed,omitempty"`    // gave up everywhere or over failover_threshold
	Retries     int                  `json:"retries,omitempty"`   // rounds tried since the group was last well
	Round       uint64               `json:"round,omitempty"`     // raised to make nodes forget their restart counters
	RetryAt     time.Time            `json:"retry_at,omitzero"`   // next round, zero: none
	LastOwner   string               `json:"last_owner,omitempty"`
	Resources   map[string]bool      `json:"offline_resources,omitempty"` // resources an administrator took offline
	Drain       *Drain               `json:"drain,omitempty"`             // connections of the newest planned move that finish where it came from
}

// Token is a one-time join token; the secret is kept as a hash only.
type Token struct {
	Hash    string    `json:"hash"` // hex SHA-256 of the secret
	Role    Role      `json:"role"`
	Rejoin  string    `json:"rejoin,omitempty"` // name of the one member that may come back with it under a new identity
	Expires time.Time `json:"expires"`
	Used    string    `json:"used,omitempty"` // node name
}

// Rule names the rule by which a decision was taken; stable words for logs, events and scripts.
type Rule string

const (
	RuleStart       Rule = "start"        // group without owner is placed
	RuleMove        Rule = "move"         // administrator's move
	RuleFailover    Rule = "failover"     // resource failure, restarts exhausted or hot standby ready
	RuleNodeLost    Rule = "node-lost"    // silent longer than the takeover wait
	RuleDrain       Rule = "drain"        // node drained
	RuleFailback    Rule = "failback"     // auto_failback
	RuleOffline     Rule = "offline"      // administrator
	RuleOnline      Rule = "online"       // administrator
	RuleNotPossible Rule = "not-possible" // configuration no longer allows the owner
	RuleNodeLeaving Rule = "node-leaving" // agent stops
	RuleReleased    Rule = "released"     // old owner read back that it holds nothing
	RuleStay        Rule = "stay"         // nothing better, or threshold reached
	RuleRetry       Rule = "retry"        // retry_period_on_failure
	RuleConfig      Rule = "config"       // configuration applied
	RuleNode        Rule = "node"         // node joined, paused, resumed, removed, promoted
	RuleObserved    Rule = "observed"     // node lost or back; evidence only
	RuleLadder      Rule = "ladder"       // a stop did not succeed, and what followed (Rung); evidence only
	RuleQuorumForce Rule = "quorum-force" // an administrator let one survivor go on without the majority
	RuleDrained     Rule = "drained"      // what became of the connections of a planned move; evidence only
	RuleFence       Rule = "fence"        // a node is about to be fenced
	RuleFenced      Rule = "fenced"       // a device confirmed that it was stopped; also of what that allows
	RuleFenceFailed Rule = "fence-failed" // no device confirmed it, and nothing has changed
)

// Reason is one decision explained (guarantee E1).
type Reason struct {
	Rule     Rule       `json:"rule"`
	Text     string     `json:"text"`               // one sentence
	Evidence []string   `json:"evidence,omitempty"` // what was seen
	Rejected []Rejected `json:"rejected,omitempty"` // alternatives and why not
	Cause    Cause      `json:"cause,omitempty"`    // of a failover, where it matters for who takes over
}

// Cause is why a resource failed, where that matters for who takes over.
type Cause string

const (
	CauseOther   Cause = ""           // or not known: a floating address that failed may be held by a machine that is no node
	CauseCarrier Cause = "no-carrier" // a floating address was held here, and the cable of its interface is out: nobody else had it
)

// Rejected is an alternative that was not taken.
type Rejected struct {
	Node string `json:"node"`
	Why  string `json:"why"`
}

// Event is one record of the replicated history.
type Event struct {
	Seq    uint64    `json:"seq"`
	Time   time.Time `json:"time"` // wall clock of the proposing leader
	Kind   string    `json:"kind"` // CommandKind that made it
	Group  string    `json:"group,omitempty"`
	Node   string    `json:"node,omitempty"`
	From   string    `json:"from,omitempty"`
	To     string    `json:"to,omitempty"`
	Epoch  uint64    `json:"epoch,omitempty"`
	Reason Reason    `json:"reason"`
	By     string    `json:"by,omitempty"`  // leader that proposed it
	Took   Took      `json:"took,omitzero"` // of a change of owner: where its time went, as far as it is known
}

// CommandKind names a command.
type CommandKind string

const (
	CmdInit        CommandKind = "init"         // cluster name, id
	CmdConfig      CommandKind = "config"       // ConfigText + Policy
	CmdNode        CommandKind = "node"         // add or update a node
	CmdRemoveNode  CommandKind = "remove-node"  //
	CmdReplaceNode CommandKind = "replace-node" // a member comes back with a new identity; its old one is revoked
	CmdForce       CommandKind = "force"        // last command of a history of which one survivor goes on alone; never proposed
	CmdAdmin       CommandKind = "admin"        // node pause, drain, resume
	CmdGroupAdmin  CommandKind = "group-admin"  // group online, offline
	CmdAssign      CommandKind = "assign"       // unowned -> owned
	CmdRelease     CommandKind = "release"      // owned -> releasing
	CmdReleased    CommandKind = "released"     // releasing -> unowned, or straight to the next owner
	CmdTakeover    CommandKind = "takeover"     // owned|releasing -> owned elsewhere by proof of expiry
	CmdGroupFailed CommandKind = "group-failed" // stays where it is, failed
	CmdGroupWell   CommandKind = "group-well"   // recovered by itself
	CmdRetry       CommandKind = "retry"        // one new round
	CmdNodeSeen    CommandKind = "node-seen"    // lost, or back
	CmdToken       CommandKind = "token"        //
	CmdUseToken    CommandKind = "use-token"    //
	CmdDrained     CommandKind = "drained"      // connections of a planned move have ended
	CmdSettle      CommandKind = "settle"       // no lease of a former, longer timing is left
	CmdNote        CommandKind = "note"         // an event only
)

// Command is one entry of the Raft log. Times and random values come from the proposer. Epoch is always the epoch the
// proposer decided on; a command for another epoch is stale and a no-op.
type Command struct {
	Kind     CommandKind `json:"kind"`
	At       time.Time   `json:"at"` // wall clock of the proposer
	By       string      `json:"by,omitempty"`
	Term     uint64      `json:"term,omitempty"` // Raft term of the decision; an entry of another term is stale. 0: any
	Group    string      `json:"group,omitempty"`
	Epoch    uint64      `json:"epoch,omitempty"`
	Node     string      `json:"node,omitempty"` // subject: new owner, node of an admin command, ...
	Reason   Reason      `json:"reason"`
	Counted  bool        `json:"counted,omitempty"` // counts as a failover by failure
	Failing  string      `json:"failing,omitempty"` // node on which the group failed: given up on there
	RetryAt  time.Time   `json:"retry_at,omitzero"`
	Offline  bool        `json:"offline,omitempty"`
	Resource string      `json:"resource,omitempty"`
	Admin    Admin       `json:"admin,omitempty"`
	Lost     bool        `json:"lost,omitempty"`
	Force    bool        `json:"force,omitempty"` // remove-node: an administrator vouches that it holds nothing
	NodeInfo *NodeState  `json:"node_info,omitempty"`
	Cluster  string      `json:"cluster,omitempty"`
	ID       string      `json:"id,omitempty"`
	Config   string      `json:"config,omitempty"`
	Policy   *Policy     `json:"policy,omitempty"`
	// KernelLease is what the proposer of a configuration resolved its kernel_lease to: a lease.Layer, empty for address.
	KernelLease string `json:"kernel_lease,omitempty"`
	Version     uint64 `json:"version,omitempty"` // config version the proposer saw
	Token       *Token `json:"token,omitempty"`
	Drain       *Drain `json:"drain,omitempty"` // release: open connections go on

	Took  Took    `json:"took,omitzero"`   // of the event: what was known when it was proposed
	Timed []Timed `json:"timed,omitempty"` // of former events, at most MaxTimed
}

// Result is what Apply says of a command.
type Result struct {
	Applied bool   `json:"applied"`
	Stale   bool   `json:"stale,omitempty"` // decided on something that has changed since
	Why     string `json:"why,omitempty"`   // of a refusal
}
