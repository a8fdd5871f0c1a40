package sim

import (
	"fmt"
	"time"
)

// Weak names a way to break the code on purpose.
type Weak string

const (
	Sound        Weak = ""
	WeakWait     Weak = "takeover wait too short"
	WeakGrants   Weak = "grants ignore Held and Index"
	WeakWithhold Weak = "no Withhold"
	WeakT0       Weak = "t0 taken after the answer"
	WeakKernel   Weak = "kernel lifetime rounded up"
	WeakReleased Weak = "Released promised without reading back"
	WeakVerify   Weak = "leader confirms without asking a quorum"
	// WeakGate alone is covered by WeakBoots' safeguard in all but a few of a million clusters, so it breaks both.
	WeakGate    Weak = "new process acts on an old copy of the state, and late words of a former one count"
	WeakSince   Weak = "new leader does not wait for its predecessor's leases"
	WeakBoots   Weak = "late words of a former process count"
	WeakFloor   Weak = "a shortened timing counts at once"
	WeakDeaf    Weak = "dead man deaf"
	WeakFresh   Weak = "dead man told a fresh D"
	WeakSuspend Weak = "suspend ignored"
	WeakTicket  Weak = "gate renewed late, without tickets"
	WeakShut    Weak = "gate opened for a fresh D"
	WeakLayer   Weak = "Floor ignored on a change of the layer"
	WeakSync    Weak = "a vote and the newest entries are not on disk"
	WeakSlow    Weak = "kills outlast the stop budget"
	WeakFence   Weak = "fencing unconfirmed believed"
	WeakFile    Weak = "dead man that is started anew ignores what is on file"
	WeakThaw    Weak = "dead man that thaws acts before it hears"
	WeakHeir    Weak = "executor takes the lease of the ended agent for a successor's"

	WeakDrainOpen     Weak = "the gate stays open while connections finish, and nobody reads back"
	WeakDrainAccepts  Weak = "an address that was given away takes new connections"
	WeakDrainOutlives Weak = "connections finish whenever they like"
	WeakDrainRenewed  Weak = "an address that was given away is renewed"
	WeakDrainStrays   Weak = "the new owner keeps connections that it does not know"
	WeakDrainOwn      Weak = "a node that gets its address back does not know its own connections"
	WeakDrainForgot   Weak = "an agent that is started again forgets what it gave away"
	WeakPulseT0       Weak = "t0 of a pulse taken at the answer"
	WeakPulseNoBar    Weak = "a voter attests and goes on answering"
	WeakPulseBars     Weak = "a voter that is started again forgets whom it does not answer"
	WeakPulseCap      Weak = "gates armed for the lease although they were promised to be shut sooner"
	WeakPulseEarly    Weak = "a promise made while what was armed before lasts longer"
	WeakPulseHeritage Weak = "a new process does not know what the former one armed"
	WeakPulseAdopt    Weak = "a new process arms gates before enough voters know of it"
	WeakPulseProof    Weak = "proofs that a pulse has stopped never grow old"
	WeakPulseHold     Weak = "a node is answered again before its leases are over"
	WeakPulseGiven    Weak = "a node whose gates stay shut is given groups"
	WeakPulseOne      Weak = "the leader alone proves that a pulse has stopped"
	// WeakPulseVoter is found in one of some thousands of clusters only, because every answer of a new process of a voter makes the node say
	// again what it promises: package lease tests it.
	WeakPulseVoter Weak = "a promise to a former process of a voter is heard by the next"

	WeakDrainLayer Weak = "a change of the layer takes the gate from an address that was given away"
)

// Options of one run.
type Options struct {
	Seed  uint64
	Weak  Weak
	Storm Storm // forced; else drawn
	Trace int   // newest events kept for the report; 0: none
}

// Stats say what a run did. Comparable, so that two runs of one seed can be held against each other.
type Stats struct {
	Simulated                          time.Duration
	Events, Applied, Takeovers, Moves  int
	Elected, Promises                  int
	Pulsed, Needless                   int            // takeovers by pulse, and those of them whose owner ran and reached somebody
	Fenced                             int            // takeovers that a confirmed fencing allowed before their time
	Faults                             [maxFaults]int // by index into the table of faults
	Excused                            int            // two runs of a service that no layer could have prevented (docs/design.md, "What is limited today")
	ExcusedHeld                        int            // the same of addresses
	Agents, Dead                       int            // agents and dead men started again
	Drained, Overtaken                 int            // moves that let connections finish, and those that began while another did
	Conns, Finished, Cut               int            // connections across them: opened, ended by their clients, ended by others
	Silent, Upgrades, Lossless, Costly int            // epilogues: L2, L3, death of a leader that cost no owner its lease, and that did
}

// Add sums up.
func (s *Stats) Add(o Stats) {
	s.Simulated += o.Simulated
	s.Events += o.Events
	s.Applied += o.Applied
	s.Takeovers += o.Takeovers
	s.Moves += o.Moves
	s.Elected += o.Elected
	s.Promises += o.Promises
	s.Fenced += o.Fenced
	s.Pulsed += o.Pulsed
	s.Needless += o.Needless
	for i := range s.Faults {
		s.Faults[i] += o.Faults[i]
	}
	s.Excused += o.Excused
	s.ExcusedHeld += o.ExcusedHeld
	s.Agents += o.Agents
	s.Dead += o.Dead
	s.Drained += o.Drained
	s.Overtaken += o.Overtaken
	s.Conns += o.Conns
	s.Finished += o.Finished
	s.Cut += o.Cut
	s.Silent += o.Silent
	s.Upgrades += o.Upgrades
	s.Lossless += o.Lossless
	s.Costly += o.Costly
}

// Fault is how often one kind was injected.
type Fault struct {
	Name string
	N    int
}

// Injected lists the faults of each kind, in the order of the table; kinds of one name are summed up.
func (s Stats) Injected() []Fault {
	var out []Fault
	at := map[string]int{}
	for i, f := range faults {
		if _, ok := at[f.name]; !ok {
			at[f.name] = len(out)
			out = append(out, Fault{Name: f.name})
		}
		out[at[f.name]].N += s.Faults[i]
	}
	return out
}

func (s Stats) String() string {
	return fmt.Sprintf("%d events, %d commands, %d takeovers (%d by pulse, %d of these needless), %d planned moves, %d elections, faults %v", s.Events, s.Applied, s.Takeovers, s.Pulsed, s.Needless, s.Moves, s.Elected, s.Injected())
}
