// Package fence makes sure from outside that a silent node has stopped: it runs the agents of the fence-agents package
// (power switches, management boards, hypervisors) unmodified, and says "confirmed" only when a device said so. It also
// speaks to the watchdog device, which stops a node from inside. Leases do not need any of it; see DESIGN.md.
package fence

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"
)

// Action is what an agent is asked to do.
type Action string

const (
	Off      Action = "off"
	Reboot   Action = "reboot"
	On       Action = "on"
	Status   Action = "status"
	Monitor  Action = "monitor"
	List     Action = "list"
	metadata Action = "metadata"
	validate Action = "validate-all"
)

// Actions are those that the configuration may choose for a silent node.
var Actions = []Action{Reboot, Off}

// State is what a device says about the power (or the access to storage) of a node.
type State string

const (
	StateOn      State = "on"
	StateOff     State = "off"
	StateUnknown State = "unknown" // the agent failed, or contradicts itself
)

// Method is how a device reboots a node.
type Method string

const (
	OnOff Method = "onoff" // off, status must say off, on: proves that the node was off
	Cycle Method = "cycle" // the agent's own reboot: only its word
)

// Methods in the order they are documented.
var Methods = []Method{OnOff, Cycle}

// Defaults of a device; timeout and retries are those of Pacemaker.
const (
	DefaultTimeout    = time.Minute
	DefaultRetries    = 1
	DefaultRetryDelay = time.Second
	DefaultLevel      = 1
	MaxLevel          = 9 // as in Pacemaker's topology
)

var (
	// ErrNoDevice says that no device is configured for the node.
	ErrNoDevice = errors.New("no fence device for this node")
	// ErrBusy says that the node is already being fenced.
	ErrBusy = errors.New("already being fenced")
	// ErrSelf says that a node was asked to fence itself, which nobody could confirm.
	ErrSelf = errors.New("a node cannot confirm its own fencing")
	// ErrUnsupported says that the agent does not advertise the action.
	ErrUnsupported = errors.New("not supported by the agent")
)

// Device is one [[fence]] table: an agent with its parameters and the nodes it can fence.
type Device struct {
	Name       string
	Agent      string            // name of an installed agent such as fence_ipmilan, or an absolute path
	Params     Params            // for every node
	Nodes      map[string]Params // by node: parameters of this node, over Params; a node that is not here is not fenced by the device
	Secrets    map[string]string // parameter to the absolute path of a file whose first line is the value, read when it is needed
	Method     Method
	Level      int           // 1 to MaxLevel; a level succeeds when all its devices do, and is tried when all lower ones failed
	Delay      time.Duration // before the first action
	Timeout    time.Duration // of one action of the agent, and of the wait for status to say off
	Retries    int           // after a failed action
	RetryDelay time.Duration
}

// withDefaults fills what a hand-made device leaves out; config sets everything.
func (d Device) withDefaults() Device {
	if d.Method == "" {
		d.Method = OnOff
	}
	if d.Level == 0 {
		d.Level = DefaultLevel
	}
	if d.Timeout <= 0 {
		d.Timeout = DefaultTimeout
	}
	return d
}

// LogValue keeps the parameters, which carry passwords, out of logs.
func (d Device) LogValue() slog.Value {
	return slog.GroupValue(slog.String("name", d.Name), slog.String("agent", d.Agent), slog.Int("level", d.Level))
}

// Params are options of an agent. They print with secret values masked.
type Params map[string]string

// String lists the parameters sorted by name, with secret values masked.
func (p Params) String() string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(p)) {
		value := p[name]
		if IsSecret(name) {
			value = mask
		}
		all = append(all, name+"="+value)
	}
	return strings.Join(all, " ")
}

// GoString is String, so that %#v leaks nothing either.
func (p Params) GoString() string { return fmt.Sprintf("fence.Params(%q)", p.String()) }

// LogValue is String.
func (p Params) LogValue() slog.Value { return slog.StringValue(p.String()) }
