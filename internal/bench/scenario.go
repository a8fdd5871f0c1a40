package bench

import "slices"

// Scenario is one thing that happens to the node that owns the address.
type Scenario struct {
	Name string
	Does string // for the report
}

// Names of the scenarios.
const (
	NoFault       = "no fault"
	PlannedMove   = "planned move"
	LowerPriority = "lowered priority"
	PowerCut      = "power cut"
	CablePulled   = "cable pulled"
	ServiceCable  = "service cable"
	SilentPort    = "silent port"
	DaemonsKilled = "daemons killed"
	DaemonsFrozen = "daemons frozen"
	ServiceKilled = "service killed"
	ServiceFrozen = "service frozen"
	CutFromPeers  = "cut from peers"
	OutgoingCut   = "outgoing cut"
	IncomingCut   = "incoming cut"
)

// Scenarios are all of them, in the order of the report.
var Scenarios = []Scenario{
	{PlannedMove, "an administrator moves the address to the other node: `hactl group move`, SIGTERM to keepalived, `crm_resource --move`, the script"},
	{LowerPriority, "keepalived: the owner's priority falls under the other's. had: the configuration prefers the other node, with failback allowed"},
	{PowerCut, "the switch port goes down, everything on the node is killed, its addresses are gone"},
	{CablePulled, "the port goes down, the node lives on"},
	{ServiceCable, "the same, of the network that clients use; the nodes hear each other on a second one"},
	{SilentPort, "the port stays up, but no frame passes"},
	{DaemonsKilled, "kill -9 of all daemons of the cluster manager at once"},
	{DaemonsFrozen, "SIGSTOP of all of them"},
	{ServiceKilled, "kill -9 of the service"},
	{ServiceFrozen, "SIGSTOP of the service: connections are accepted, nothing answers"},
	{CutFromPeers, "no frame passes to and from the other nodes; clients reach the node"},
	{OutgoingCut, "the other nodes do not hear the node, it hears them; clients reach it"},
	{IncomingCut, "the node does not hear the others, they hear it; clients reach it"},
	{NoFault, "nothing happens: what the client and the machine do by themselves"},
}

// Find returns the scenario of that name.
func Find(name string) (Scenario, bool) {
	i := slices.IndexFunc(Scenarios, func(s Scenario) bool { return s.Name == name })
	if i < 0 {
		return Scenario{}, false
	}
	return Scenarios[i], true
}

// networks is how many the nodes have in the scenario: clients are on the first one only.
func (s Scenario) networks() int {
	if s.Name == ServiceCable {
		return 2
	}
	return 1
}

// moves tells that an administrator asked for another owner, so that the scenario is over only when that one answers.
func (s Scenario) moves() bool { return s.Name == PlannedMove || s.Name == LowerPriority }

// lasts tells that clients may be served all the time, so that nothing but time shows that it is over.
func (s Scenario) lasts() bool {
	return slices.Contains([]string{NoFault, DaemonsKilled, DaemonsFrozen, CutFromPeers, OutgoingCut, IncomingCut}, s.Name)
}

// Names of the systems. Those of had and of the peers begin alike.
const (
	HadFast        = "had fast"
	HadTight       = "had tight" // fast with shorter pulses than those that are built in
	HadLan         = "had lan"
	KeepDefault    = "keepalived default"
	KeepFast       = "keepalived fast"
	KeepExtreme    = "keepalived extreme"
	PacemakerStock = "pacemaker default"
	PacemakerFast  = "pacemaker token 300"
	ByHand         = "by hand"
)

// SystemNames are all of them, in the order of the report.
var SystemNames = []string{HadFast, HadTight, HadLan, KeepDefault, KeepFast, KeepExtreme, PacemakerStock, PacemakerFast, ByHand}

// peer tells that had is compared with it. The hand is no peer: it needs somebody who knows.
func peer(system string) bool {
	return !slices.Contains([]string{HadFast, HadTight, HadLan, ByHand}, system)
}
