package drill

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// The nemesis draws faults from a seed and puts real clusters through them. What it draws is in this file: values only, the
// same on every machine. What it does is in the files for Linux.

// Role names a node by what it is at the begin of a round.
type Role string

// The roles. Holder owns the group with the exclusive service; it may be the owner or the standby of the group that clients
// ask.
const (
	RoleOwner   Role = "owner"
	RoleStandby Role = "standby"
	RoleHolder  Role = "holder"
	RoleLeader  Role = "leader"
	RoleWitness Role = "witness"
)

// Kind is one sort of fault that the nemesis knows.
type Kind struct {
	Name     string
	Roles    []Role        // it may hit; all without any
	Min, Max time.Duration // how long it lasts; drawn from short, middle and long without
	Weight   int           // how often it is drawn, 1 without
	// Excused says why an exclusive service may run twice under it, "" when it must not. Nothing excuses two answers.
	Excused string
}

const (
	dead   = "the agent and its dead man are both gone or stopped: no layer ends a service"
	frozen = "from the thaw until the dead man's timer fires the service runs"
)

var (
	members = []Role{RoleOwner, RoleStandby, RoleHolder}
	voters  = []Role{RoleOwner, RoleStandby, RoleHolder, RoleLeader, RoleWitness}
)

// Kinds are the faults the nemesis draws from.
var Kinds = []Kind{
	{Name: "agent killed"},
	{Name: "agent frozen"},
	{Name: "parent killed", Min: 50 * time.Millisecond, Max: 300 * time.Millisecond},
	{Name: "parent frozen"},
	{Name: "both killed", Excused: dead},
	{Name: "both frozen", Excused: dead},
	{Name: "all frozen", Excused: frozen},
	{Name: "starved", Excused: frozen},
	{Name: "agent upgraded"},
	{Name: "agent stopped"},
	{Name: "power cut", Min: 100 * time.Millisecond, Max: 3 * time.Second},
	{Name: "disk full"},

	{Name: "service killed", Roles: members},
	{Name: "service frozen", Roles: members},
	{Name: "service hangs", Roles: members},
	{Name: "exclusive killed", Roles: []Role{RoleHolder}},
	{Name: "exclusive frozen", Roles: []Role{RoleHolder}},
	{Name: "refuses to stop", Roles: []Role{RoleHolder}},

	{Name: "cable pulled"},
	{Name: "silenced"},
	{Name: "cut from peers", Weight: 2},
	{Name: "cannot reach peers"},
	{Name: "cannot hear peers"},
	{Name: "cut from one peer"},
	{Name: "frames lost"},
	{Name: "frames delayed"},
	{Name: "frames doubled"},
	{Name: "frames reordered"},
	{Name: "frames spoiled"},
	{Name: "packet filter flushed"},
	{Name: "address removed", Roles: []Role{RoleOwner, RoleHolder}},

	{Name: "leader moves", Roles: []Role{RoleLeader}},
	{Name: "group moved", Roles: []Role{RoleOwner, RoleHolder}},
	{Name: "drained", Roles: members},
	{Name: "configuration applied", Roles: []Role{RoleOwner}},
}

// FindKind returns the fault of that name.
func FindKind(name string) (Kind, bool) {
	i := slices.IndexFunc(Kinds, func(k Kind) bool { return k.Name == name })
	if i < 0 {
		return Kind{}, false
	}
	return Kinds[i], true
}

// Strike is one fault of a round.
type Strike struct {
	Fault string        `json:"fault"`
	Role  Role          `json:"role"`
	After time.Duration `json:"after_ns"` // the begin of the round
	For   time.Duration `json:"for_ns"`
	Vary  int           `json:"vary"` // 0 to 999: the fault makes of it what it likes

	Node string `json:"node,omitempty"` // who had the role
	Note string `json:"note,omitempty"` // what it did, or why it had no effect
}

func (s Strike) String() string {
	t := fmt.Sprintf("%s (%s", s.Fault, s.Role)
	if s.Node != "" {
		t += " " + s.Node
	}
	if s.After > 0 {
		t += ", after " + ms(s.After)
	}
	return t + ", for " + ms(s.For) + ")"
}

// Plan is what a round does, drawn from its seed and number alone.
type Plan struct {
	Seed    uint64   `json:"seed"`
	Round   int      `json:"round"`
	Timing  string   `json:"timing"`
	Layer   string   `json:"kernel_lease"`
	Strikes []Strike `json:"strikes"`
}

func (p Plan) String() string {
	var s []string
	for _, k := range p.Strikes {
		s = append(s, k.String())
	}
	return fmt.Sprintf("%d %s %s: %s", p.Round, p.Timing, p.Layer, strings.Join(s, " + "))
}

// block is how many rounds one after the other share profile and kernel lease.
const block = 8

// Draw makes the plan of a round. Only restricts the faults to those names, which changes what is drawn; timing and layer are drawn when
// they are "".
func Draw(seed uint64, round int, timing, layer string, only []string) Plan {
	r := rand.New(rand.NewPCG(seed, uint64(round)))
	p := Plan{Seed: seed, Round: round, Timing: timing, Layer: layer}
	// Neighbours share them: agents are started again one after the other when they change, which takes some seconds.
	b := rand.New(rand.NewPCG(^seed, uint64(round/block)))
	profile, kernel := []string{"lan", "fast"}[b.IntN(2)], []string{"gate", "gate", "address"}[b.IntN(3)]
	if timing == "" {
		p.Timing = profile
	}
	if layer == "" {
		p.Layer = kernel
	}
	pair := r.IntN(3) == 0
	p.Strikes = append(p.Strikes, strike(r, only))
	if pair {
		s := strike(r, only)
		s.After = upTo(r, 0, p.Strikes[0].For)
		p.Strikes = append(p.Strikes, s)
	}
	return p
}

func strike(r *rand.Rand, only []string) Strike {
	var urn []Kind
	for _, k := range Kinds {
		if len(only) == 0 || slices.Contains(only, k.Name) {
			for range max(k.Weight, 1) {
				urn = append(urn, k)
			}
		}
	}
	k := urn[r.IntN(len(urn))]
	roles := k.Roles
	if len(roles) == 0 {
		roles = voters
	}
	s := Strike{Fault: k.Name, Role: roles[r.IntN(len(roles))], Vary: r.IntN(1000)}
	if r.IntN(2) == 0 && slices.Contains(roles, RoleOwner) { // where it hurts
		s.Role = RoleOwner
	}
	// Within a lease, about as long as one, and beyond the takeover.
	short, middle := [2]time.Duration{50 * time.Millisecond, 400 * time.Millisecond}, [2]time.Duration{400 * time.Millisecond, 1500 * time.Millisecond}
	long := [2]time.Duration{1500 * time.Millisecond, 4 * time.Second}
	span := [][2]time.Duration{short, middle, middle, long, long, long}[r.IntN(6)]
	if k.Max > 0 {
		span = [2]time.Duration{k.Min, k.Max}
	}
	s.For = upTo(r, span[0], span[1])
	return s
}

// upTo draws whole milliseconds from low to high.
func upTo(r *rand.Rand, low, high time.Duration) time.Duration {
	return low + time.Duration(r.Int64N(int64((high-low)/time.Millisecond)+1))*time.Millisecond
}

// excuse says why an exclusive service may run twice in this round, "" when it must not. A parent that is frozen or killed and an
// agent that is too make "both", whichever fault did which.
func excuse(strikes []Strike) string {
	parent, agent := map[string]bool{}, map[string]bool{}
	for _, s := range strikes {
		if k, _ := FindKind(s.Fault); k.Excused != "" {
			return k.Excused
		}
		switch s.Fault {
		case "parent killed", "parent frozen":
			parent[s.Node] = true
		case "agent killed", "agent frozen", "disk full", "agent stopped", "agent upgraded":
			agent[s.Node] = true
		}
	}
	for node := range parent {
		if agent[node] {
			return dead
		}
	}
	return ""
}

// Round is what came of a plan.
type Round struct {
	Plan
	Outage    time.Duration `json:"outage_ns"`      // longest time without an answer
	Failed    int           `json:"failed"`         // requests
	Requests  int           `json:"requests"`       // that were made
	Double    time.Duration `json:"double_ns"`      // two nodes answered for one address: guarantee S1
	Present   time.Duration `json:"present_ns"`     // two nodes that clients hear had one address, answering or not
	Address   bool          `json:"by_address"`     // the lifetime of the address was the kernel lease all the time: then Present is a breach too
	Twice     time.Duration `json:"twice_ns"`       // the exclusive service ran on two nodes: guarantee S2
	Excuse    string        `json:"excuse"`         // why S2 may be broken in this round, "" when it must not
	Converged time.Duration `json:"converged_ns"`   // after everything was healed
	Took      time.Duration `json:"took_ns"`        // the round in all
	From      string        `json:"from"`           // owner before
	To        string        `json:"to"`             // and after
	Blind     time.Duration `json:"blind_ns"`       // longest time in which the observer did not look
	Stuck     string        `json:"stuck"`          // why it did not converge, "" when it did
	Logs      string        `json:"logs,omitempty"` // folder with everything, when something was wrong

	fixed  bool     // the kernel lease is not drawn
	layers []string // kernel leases in force at its begin and its end
}

// Wrong says that the round broke a guarantee or did not converge.
func (r Round) Wrong() bool { return r.Stuck != "" || r.two() > 0 || r.Twice > 0 && r.Excuse == "" }

// two is the time in which S1 was broken. Behind a gate that is shut, having an address is nothing.
func (r Round) two() time.Duration {
	if r.Address {
		return max(r.Double, r.Present)
	}
	return r.Double
}

func (r Round) String() string {
	var s []string
	for _, k := range r.Strikes {
		t := k.String()
		if k.Note != "" {
			t += " [" + k.Note + "]"
		}
		s = append(s, t)
	}
	t := fmt.Sprintf("%4d %-4s %-7s outage %5s, %3d failed, double %s, twice %s, converged %5s, took %5s, %s -> %s: %s", r.Round, r.Timing, r.Layer, ms(r.Outage),
		r.Failed, ms(r.two()), ms(r.Twice), ms(r.Converged), ms(r.Took), r.From, r.To, strings.Join(s, " + "))
	if r.Twice > 0 && r.Excuse != "" {
		t += "; twice is excused: " + r.Excuse
	}
	if r.Blind > stall {
		t += fmt.Sprintf("; the machine stood still: the instruments did not look for %s", ms(r.Blind))
	}
	if r.Stuck != "" {
		t += "\n     STUCK: " + r.Stuck
	}
	if r.Logs != "" {
		t += "\n     kept in " + r.Logs
	}
	return t
}

// stall is a pause of the instruments, which run at a higher priority than all else, that says that the machine has no time
// for anybody: what clusters do meanwhile says little.
const stall = 100 * time.Millisecond

func ms(d time.Duration) string {
	if d > 0 && d < time.Millisecond {
		return d.String()
	}
	return fmt.Sprintf("%dms", d.Milliseconds())
}
