package raft

import (
	"cmp"
	"context"
	"slices"
	"time"

	hraft "github.com/hashicorp/raft"
)

const (
	// MaxVoters bounds how many nodes vote: each entry waits for a majority of them, each more costs the leader, and no
	// cluster loses four nodes at the same moment. The rest get the log, hold leases and own groups without a vote.
	MaxVoters = 7
	// VoterAway is how long a voter is silent before a node without a vote takes its place: longer than a restart.
	VoterAway = time.Minute
)

// Seat is a member of the Raft group as its leader sees it.
type Seat struct {
	Name    string
	Voter   bool
	Witness bool          // owns nothing; voting is all that it is for
	Steady  bool          // answers, and has done so for a moment
	Caught  bool          // has nearly all of the log
	Silent  time.Duration // not heard of for so long
}

// NextSeat says whose vote changes next, as seen by the leader, at most one at a time: promote is to get a vote, demote is to
// lose it, both may be empty. wait says that time alone may change the answer.
//
// Witnesses come first, then names. An odd number is preferred: a fourth voter makes a majority larger and lets no more of
// them fail, but as a node without a vote it can take the place of one that stays away. Two are better than one all the
// same: nothing that was decided is then on one disk only. The number of voters is never above MaxVoters.
func NextSeat(self string, seats []Seat) (promote, demote string, wait bool) {
	var voters, spares []Seat
	answering := 0
	for _, s := range seats {
		switch {
		case s.Voter:
			voters = append(voters, s)
			if s.Steady || s.Name == self {
				answering++
			}
		case s.Steady && s.Caught:
			spares = append(spares, s)
		default:
			wait = wait || len(seats) <= MaxVoters || s.Witness
		}
	}
	slices.SortFunc(spares, func(a, b Seat) int { return cmp.Or(witnessFirst(a, b), cmp.Compare(a.Name, b.Name)) })
	if len(spares) == 0 {
		return "", "", wait
	}
	n := len(voters)
	if n < MaxVoters && (n < 2 || n%2 == 0 || len(spares) > 1) {
		return spares[0].Name, "", true
	}
	// From here on there are enough voters, and the only question is whether another would be a better one.
	slices.SortFunc(voters, func(a, b Seat) int { return cmp.Or(cmp.Compare(b.Silent, a.Silent), cmp.Compare(b.Name, a.Name)) })
	for _, v := range voters {
		if v.Steady || v.Name == self {
			continue
		}
		if wait = true; v.Silent >= VoterAway && 2*answering > n-1 {
			return "", v.Name, true
		}
	}
	if spares[0].Witness && answering == n {
		slices.SortFunc(voters, func(a, b Seat) int { return cmp.Compare(b.Name, a.Name) })
		for _, v := range voters {
			if !v.Witness && v.Name != self {
				return "", v.Name, true
			}
		}
	}
	return "", "", wait
}

func witnessFirst(a, b Seat) int {
	switch {
	case a.Witness == b.Witness:
		return 0
	case a.Witness:
		return -1
	}
	return 1
}

// Demote takes a node's vote; it goes on receiving the log. Leader only.
func (r *Raft) Demote(ctx context.Context, name string) error {
	return r.change(ctx, "taking the vote of "+name, func() hraft.IndexFuture {
		return r.raft.DemoteVoter(hraft.ServerID(name), 0, r.cfg.Timing.Election)
	})
}
