package node

import (
	"reflect"
	"time"

	"hacluster/placement"
)

// picture is all that the act loop goes by of a slot. While it is the same, another round would do the same.
type picture struct {
	local   placement.LocalResource
	grace   time.Time // when its verdict may change by time alone
	lingers bool      // an address behind a closed gate
	peer    string    // how others reach this node there
}

// picture looks at the slot now.
func (s *slot) picture() picture {
	p := picture{local: s.local(), grace: s.graceEnds(), lingers: s.lingers()}
	if a, ok := s.drv.(*address); ok {
		if peer := a.peer.Load(); peer != nil {
			p.peer = *peer
		}
	}
	return p
}

// gather is local for a round of the act loop, which will not be woken for what it has seen.
func (s *slot) gather() placement.LocalResource {
	p := s.picture() // what comes after this is news
	s.mu.Lock()
	s.gathered = p
	s.mu.Unlock()
	return p.local
}

// wakeForNews wakes the act loop if there is anything that it has not seen. A slot that finds all as before wakes nobody: a hundred of
// them that are asked every few seconds, and probed several times a second, cost a round each.
func (s *slot) wakeForNews() {
	p := s.picture()
	s.mu.Lock()
	news := !reflect.DeepEqual(p, s.gathered)
	s.mu.Unlock()
	if news {
		s.wake()
	}
}

// nextRound is when to ask the operating system although nothing has happened. All addresses of a node are due at the same instants: one
// list of the kernel answers for all that ask together.
func (s *slot) nextRound() time.Duration {
	if _, ok := s.drv.(*address); !ok {
		return statusEvery
	}
	return statusEvery - time.Duration(time.Now().UnixNano()%int64(statusEvery))
}
