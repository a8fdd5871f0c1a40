package placement

import (
	"cmp"
	"slices"
	"time"
)

// Took says where the time of one change of owner went, in the order in which it goes. It is telemetry: for people and
// benchmarks, never a reason for a decision.
//
// Every duration is the difference of two instants of one machine; those of two machines are never compared, and no instant
// leaves its machine. The leader measures from when it hears to when it hears again; what a node did meanwhile that node
// measures, and what remains is Underway. Zero: not part of this change, or not known.
type Took struct {
	// Detected is from the first sign to the knowledge. A resource failed: from the first bad probe or the first word of the
	// operating system to the report of its node, by that node's clock. A node is lost: from the last renewal the leader had to
	// when the lease had run out on every layer, by the leader's clock.
	Detected  time.Duration `json:"detected_ns,omitempty"`
	Decided   time.Duration `json:"decided_ns,omitempty"`   // the leader: from hearing of it to the proposal
	Committed time.Duration `json:"committed_ns,omitempty"` // the leader: until a quorum had the proposal and it was applied
	Released  time.Duration `json:"released_ns,omitempty"`  // the old owner: from the commit as it saw it to having read back that it holds nothing
	HandedOn  time.Duration `json:"handed_on_ns,omitempty"` // the leader: from the old owner's word to the commit that names the new one
	Acquired  time.Duration `json:"acquired_ns,omitempty"`  // the new owner: from that commit as it saw it to the address being open; without an address: to being online
	Announced time.Duration `json:"announced_ns,omitempty"` // the new owner: until the first announcement was sent
	Online    time.Duration `json:"online_ns,omitempty"`    // the new owner: until all of the group was seen online
	Underway  time.Duration `json:"underway_ns,omitempty"`  // messages between the leader and the two others, and their waiting

	// Tickled is no time: how many clients that waited on connections to a lost owner the new one told of it.
	Tickled int `json:"tickled,omitempty"`
}

// Lap is a node's own part of a change of owner, as it reports it.
type Lap struct {
	Epoch uint64 `json:"epoch,omitempty"` // that it gave up, or took
	Took
}

// Timed is what became known of a recorded change of owner after it was committed. It rides on a command that is written
// anyway.
type Timed struct {
	Seq  uint64 `json:"seq"` // of the event
	Took Took   `json:"took"`
}

// MaxTimed bounds what rides on one command.
const MaxTimed = 16

// Moves says that the event gave a group another owner, or none.
func (e Event) Moves() bool {
	switch CommandKind(e.Kind) {
	case CmdAssign, CmdReleased, CmdTakeover:
		return true
	}
	return false
}

// timed completes the records of former changes of owner. What is no longer kept is no loss.
func (s State) timed(list []Timed) State {
	owned := false
	for _, t := range list[:min(len(list), MaxTimed)] {
		i, ok := slices.BinarySearchFunc(s.Events, t.Seq, func(e Event, seq uint64) int { return cmp.Compare(e.Seq, seq) })
		if !ok || !s.Events[i].Moves() {
			continue
		}
		if !owned {
			s.Events, owned = slices.Clone(s.Events), true
		}
		s.Events[i].Took = t.Took
	}
	return s
}
