package api

import (
	"time"

	"hacluster/placement"
)

// Move is one change of a group's owner: why it was, and where its time went.
type Move struct {
	Seq    uint64           `json:"seq"`  // of its event
	Time   time.Time        `json:"time"` // wall clock of the leader that decided it
	Group  string           `json:"group"`
	From   string           `json:"from,omitempty"` // the owner before; empty: none
	To     string           `json:"to,omitempty"`   // the owner since; empty: none
	Epoch  uint64           `json:"epoch"`
	Leader string           `json:"leader,omitempty"` // that decided it
	Done   bool             `json:"done"`             // the new owner has said that it is over; or there is none
	Part   bool             `json:"part,omitempty"`   // phases before the end are not known: the leader changed meanwhile
	Total  time.Duration    `json:"total_ns"`         // sum of the phases
	Phases []MovePhase      `json:"phases"`           // those that were measured, in order
	Reason placement.Reason `json:"reason"`

	Tickled int `json:"tickled,omitempty"` // clients that waited on connections to a lost owner and were told by the new one
}

// MovePhase is one part of the time that a move took; the parts of a Move can be stacked.
type MovePhase struct {
	Name string        `json:"name"`           // detected, decided, committed, released, handed-on, acquired, announced, online, underway
	Node string        `json:"node,omitempty"` // by whose clock; empty: by more than one
	Took time.Duration `json:"took_ns"`
}

// NewMove is the move of a recorded change of owner (placement.Event.Moves) with where its time went.
func NewMove(e placement.Event, took placement.Took, done bool) Move {
	m := Move{Seq: e.Seq, Time: e.Time, Group: e.Group, From: e.From, To: e.To, Epoch: e.Epoch, Leader: e.By, Done: done, Reason: e.Reason, Phases: []MovePhase{}, Tickled: took.Tickled}
	witness := e.From
	if e.Kind == string(placement.CmdTakeover) { // the owner said nothing
		witness = e.By
	}
	m.Part = took.Committed == 0 || e.Kind == string(placement.CmdReleased) && took.HandedOn == 0
	for _, p := range []MovePhase{
		{"detected", witness, took.Detected},
		{"decided", e.By, took.Decided},
		{"committed", e.By, took.Committed},
		{"released", e.From, took.Released},
		{"handed-on", e.By, took.HandedOn},
		{"acquired", e.To, took.Acquired},
		{"announced", e.To, took.Announced},
		{"online", e.To, took.Online},
		{"underway", "", took.Underway},
	} {
		if p.Took > 0 {
			m.Phases = append(m.Phases, p)
			m.Total += p.Took
		}
	}
	return m
}

// Longest is the phase that took longest; ok is false where none was measured.
func (m Move) Longest() (longest MovePhase, ok bool) {
	for _, p := range m.Phases {
		if p.Took > longest.Took {
			longest, ok = p, true
		}
	}
	return longest, ok
}
