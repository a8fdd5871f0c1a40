package raft

import (
	"time"

	hraft "github.com/hashicorp/raft"
)

// spareAfter is how long after a connection was taken the next spare one is made: not in the middle of what it was taken for.
const spareAfter = time.Second

// spares keeps one connection more to each node than are used. The library dials when it has to say more at once than it has
// connections for. That is the case first when a change of owner is decided, where a heartbeat, a replication and a hint meet, and the
// handshake costs both ends milliseconds of computing just then.
type spares struct {
	of   map[hraft.ServerAddress]*conn
	made map[hraft.ServerAddress]bool // one is being made
}

// spare takes the one for a node; nil: there is none. s.mu is not held.
func (s *stream) spare(address hraft.ServerAddress) *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.spares.of[address]
	delete(s.spares.of, address)
	return c
}

// forgo closes the spare connection to a node.
func (s *stream) forgo(address hraft.ServerAddress) {
	if c := s.spare(address); c != nil {
		c.Close()
	}
}

// refill makes a spare connection to a node in a while. One that cannot be made is not tried again before the next is taken.
func (s *stream) refill(address hraft.ServerAddress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.spares.made[address] || s.spares.of[address] != nil {
		return
	}
	s.spares.made[address] = true
	s.making.Go(func() {
		var c *conn
		select {
		case <-s.ctx.Done():
		case <-time.After(s.spareAfter):
			c, _ = s.dial(address, s.connect)
		}
		s.mu.Lock()
		s.spares.made[address] = false
		if c != nil && !s.closed {
			s.spares.of[address], c = c, nil
		}
		s.mu.Unlock()
		if c != nil {
			c.Close()
		}
	})
}
