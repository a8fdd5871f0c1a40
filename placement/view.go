package placement

import (
	"fmt"
	"strings"
	"time"
)

// ResourceState is WSFC's resource state.
type ResourceState string

const (
	StateUnknown        ResourceState = "unknown"
	StateInitializing   ResourceState = "initializing"
	StateOffline        ResourceState = "offline"
	StateOnlinePending  ResourceState = "online-pending"
	StateOnline         ResourceState = "online"
	StateOfflinePending ResourceState = "offline-pending"
	StateFailed         ResourceState = "failed"
)

// View is what the leader knows now; soft, rebuilt on election. Instants are the leader's own boot-time clock.
type View struct {
	Self        string              // the leader's name
	LeaderSince time.Time           // after the barrier; grants of earlier leaders are older than this
	Nodes       map[string]NodeView // every node that ever spoke to this leader
	Wall        time.Time           // wall clock, for windows of hours only
	Withheld    map[string]uint64   // group -> epoch that this leader has decided to take away and grants no more

	// Lapsed are nodes whose gates are shut, with the evidence: a quorum of the other voters has said that what the node had promised
	// with its pulses has ended, and answers it no more for as long as one of its leases may last.
	Lapsed map[string]Lapse

	// Unheard are nodes whose promise has ended by this leader's own clock, until it hears them again, and those that it does not answer
	// for a while because it has said so. The gates of such a node may stay shut though it renews its lease: it is given nothing.
	Unheard map[string]bool

	// Of fencing. Without Voters no node is fenced.
	Voters    []string             // of the Raft group
	Listening time.Time            // since when this leader hears renewals without a gap; zero: since LeaderSince
	Fenced    map[string]FenceView // what this leader had done to nodes
	Ending    map[string]bool      // nodes whose process ended in order, as it said when this leader confirmed it last
}

// Lapse is the proof that the gates of a node are shut.
type Lapse struct {
	Silent time.Duration // since this leader heard a pulse
	Bound  time.Duration // after the last pulse that was answered the gates were to be shut
	By     []string      // voters that said so, sorted
}

// say is the evidence in words.
func (l Lapse) say(node string) string {
	return fmt.Sprintf("%s heard no pulse of %s for %s; its gates were to be shut %s after the last one that enough of them answered",
		strings.Join(l.By, " and "), node, atLeast(l.Silent), l.Bound)
}

// NodeView is what one node told the leader.
type NodeView struct {
	Confirmed time.Time // when this leader last confirmed a lease renewal; zero: never
	Report    Report
}

// PulseBound is what a node says that has promised, with its pulses, that its gates are shut soon after the last one.
const PulseBound = "bound"

// Report is what a node says of itself with each renewal.
type Report struct {
	Node    string                 `json:"node"`
	ID      string                 `json:"id"`
	Version string                 `json:"version"`
	Applied uint64                 `json:"applied"`          // newest Raft index applied there
	Config  uint64                 `json:"config,omitempty"` // version of the configuration it follows
	Retime  bool                   `json:"retime,omitempty"` // part of the timing takes effect when its agent starts again, which it may be asked to do
	Leaving bool                   `json:"leaving,omitempty"`
	Gate    bool                   `json:"gate,omitempty"`    // its kernel carries the gate (kernel lease in milliseconds)
	NoGate  string                 `json:"no_gate,omitempty"` // why not, for people
	Pulse   string                 `json:"pulse,omitempty"`   // PulseBound: its gates are shut soon after its last pulse; else why it promises nothing. Empty: there are no pulses, or it holds nothing
	Unsure  string                 `json:"unsure,omitempty"`  // why the end of its lease may not end an exclusive resource here; empty: it does
	Groups  map[string]GroupReport `json:"groups,omitempty"`
	Layers  string                 `json:"layers,omitempty"` // by which the end of its lease is enforced there, in words

	// Reset is how long after the end of its lease the node is reset by its watchdog, at the latest, where something may still
	// run that the lease covered. Zero: no watchdog that is sure to do so.
	Reset time.Duration `json:"reset_ns,omitempty"`

	Ladder []Step `json:"ladder,omitempty"` // what followed stops that did not succeed; each until it is in the history

	// Warnings are sentences for people about settings of this node; no decision depends on them.
	Warnings []string `json:"warnings,omitempty"`
}

// Trouble is how a node judges a group it owns (or keeps warm).
type Trouble string

const (
	TroubleNone    Trouble = ""
	TroubleFailing Trouble = "failing"  // a resource failed; restarts are left
	TroubleGivenUp Trouble = "given-up" // restarts are exhausted, or not wanted
)

// GroupReport is the part of a Report about one group.
type GroupReport struct {
	Holding   bool                      `json:"holding,omitempty"`  // some owner-only resource is not proven offline here
	Released  uint64                    `json:"released,omitempty"` // newest epoch of which the node holds nothing and will never act again
	Ready     bool                      `json:"ready,omitempty"`    // every run_on=every-node resource is online and healthy here
	Trouble   Trouble                   `json:"trouble,omitempty"`
	Resource  string                    `json:"resource,omitempty"` // the one in trouble
	Cause     Cause                     `json:"cause,omitempty"`    // of all that failed
	Evidence  []string                  `json:"evidence,omitempty"`
	Blocked   string                    `json:"blocked,omitempty"` // a stop that cannot be proven: a human is needed
	Unfit     string                    `json:"unfit,omitempty"`   // why an owner-only resource could not start here now, whoever wants it
	Resources map[string]ResourceReport `json:"resources,omitempty"`
	Links     map[string]string         `json:"links,omitempty"` // by address resource: how others reach this node there; only where it can forward connections
	Drain     *DrainReport              `json:"drain,omitempty"` // connections that finish here after the group was given away
	Lap       Lap                       `json:"lap,omitzero"`    // the node's part of the newest change of owner, for display
}

// ResourceReport is one resource on one node.
type ResourceReport struct {
	State   ResourceState `json:"state"`
	Verdict string        `json:"verdict,omitempty"` // health verdict in words
	Detail  string        `json:"detail,omitempty"`
	Since   time.Time     `json:"since,omitzero"` // wall clock of the reporting node, for display only
}

// Decision is what the leader should do now.
type Decision struct {
	Commands []Command
	Wake     time.Time // decide again no later than this; zero: only on events
	Notes    []string  // why nothing was done where a reader may expect something, "group: text"

	Fences []FenceOrder // nodes to be fenced now; at most one
	Yield  string       // why another node should lead: this one would have to fence itself; empty: no reason
}

// Local is what a node knows about itself now. Instants are its own boot-time clock.
type Local struct {
	Node      string
	Leaving   bool                                // the agent stops and hands its groups over
	Leased    map[string]time.Time                // group -> until when this node may act for the epoch in State; absent: may not
	Resources map[string]map[string]LocalResource // group -> resource
	Released  map[string]uint64                   // group -> newest epoch this process has promised not to act for
	Inherited time.Time                           // end of the lease of the process before this one, while this one has none: what runs stays, nothing starts
}

// LocalResource is what the operating system and the probes say of a resource, plus what the executor is doing.
type LocalResource struct {
	State    ResourceState // from the OS and the executor, never from memory alone
	Healthy  bool          // probes and OS events agree that it serves
	Ready    bool          // healthy, or no probe says otherwise
	Verdict  string
	Detail   string
	Failure  string      // why State is failed
	Cause    Cause       // of the failure
	Restarts []time.Time // restarts on this node, newest last
	FailedAt time.Time   // when it failed last
	Blocked  string      // its stop or kill cannot be proven
	Unfit    string      // why it could not start here now, as the operating system says; empty: nothing is known that is against it
	Running  bool        // the OS says that something of it runs, or cannot say that nothing does
	Doing    ActionKind  // action the executor is running, empty: none
	Wall     time.Time   // wall clock of the last change of State
}

// ActionKind is what the executor can do to a resource.
type ActionKind string

const (
	ActStart ActionKind = "start"
	ActStop  ActionKind = "stop" // orderly, bounded by pending_timeout, then kill
	ActKill  ActionKind = "kill" // at once, bounded by the stop budget
)

// Action is one thing to do now. It can be asked "already done?": its goal is a state the OS can be asked for.
type Action struct {
	Kind     ActionKind
	Group    string
	Resource string
	Epoch    uint64
	Restart  bool // counts as a restart
	Rung     Rung // the action is this step of the ladder; empty: of none
	Why      string
}

// Plan is what a node should do and say now.
type Plan struct {
	Actions  []Action
	Report   Report
	Released map[string]uint64 // promises: group -> epoch; the caller must keep them in Local.Released from now on
	Wake     time.Time         // reconcile again no later than this; zero: only on events
}
