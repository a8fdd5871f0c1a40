package lease

import "slices"

// Echoes is how a leader renews its own lease without asking anybody: by what the voters say when they renew theirs. A node says with a
// renewal which grant it got last. Each grant to a voter is tied to a renewal of the leader's own whose t0 is before that grant was sent, so a
// voter that has the grant, and still is in the leader's term, has said after that t0 what a round would have asked it. DESIGN.md has the argument.
//
// It is of one term. The zero value knows of nothing. Not safe for concurrent use.
type Echoes struct {
	voters map[string]*echoing
}

// echoing is what is known of one voter.
type echoing struct {
	boot    string          // its process
	former  map[string]bool // those before
	granted []tied          // to this process, oldest first
	newest  uint64          // of them, whether or not it is still remembered
	own     uint64          // the newest of the leader's own renewals that the voter has vouched for
}

// tied is a grant, and the renewal of the leader's own that is older.
type tied struct{ seq, own uint64 }

// maxTied bounds how many grants to one voter are remembered: more than are under way at once.
const maxTied = 16

// Granted notes a grant that is about to be sent. own is the number of a renewal of this node's that Holder.Send gave before. What answers a
// renewal that was answered before, or is older, or is of a process that has been replaced, is not tied: the voter may have had the answer to
// that one for long.
func (e *Echoes) Granted(voter, boot string, seq, own uint64) {
	if e.voters == nil {
		e.voters = map[string]*echoing{}
	}
	v := e.voters[voter]
	if v == nil {
		v = &echoing{boot: boot, former: map[string]bool{}}
		e.voters[voter] = v
	}
	if v.former[boot] {
		return
	}
	if v.boot != boot {
		v.former[v.boot] = true
		v.boot, v.granted, v.newest = boot, nil, 0
	}
	if seq <= v.newest {
		return
	}
	v.newest = seq
	v.granted = append(v.granted, tied{seq, own})
	v.granted = v.granted[max(0, len(v.granted)-maxTied):]
}

// Heard takes a voter's word for the newest grant that its process has had. The voter must have read its Raft term after it had that grant,
// and the caller must have found it to be the leader's. Zero is no word.
func (e *Echoes) Heard(voter, boot string, seq uint64) {
	v := e.voters[voter]
	if v == nil || v.boot != boot {
		return
	}
	for i, t := range v.granted {
		if t.seq == seq {
			v.own = max(v.own, t.own)
			v.granted = slices.Delete(v.granted, 0, i)
			return
		}
	}
}

// Newest is the newest renewal of the leader's own after whose t0 a quorum of the voters was in its term; the leader itself is one of them,
// which has to read its own term for that. Zero: none, or the leader is no voter, or it needs nobody else.
func (e *Echoes) Newest(leader string, voters []string) uint64 {
	if !slices.Contains(voters, leader) {
		return 0
	}
	var said []uint64
	for _, v := range voters {
		if e := e.voters[v]; e != nil && e.own > 0 && v != leader {
			said = append(said, e.own)
		}
	}
	others := len(voters) / 2 // that make a quorum with the leader
	if others == 0 || len(said) < others {
		return 0
	}
	slices.Sort(said)
	return said[len(said)-others]
}
