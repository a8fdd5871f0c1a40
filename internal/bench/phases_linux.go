package bench

import (
	"context"
	"errors"
	"time"

	"hacluster/internal/drill"
)

// teller is a system that measures its own moves.
type teller interface {
	// Newest is the newest change of owner, nil: none. The node avoid is asked last: it may be cut off, frozen or dead.
	Newest(ctx context.Context, avoid string) (*Move, error)
}

// tellLimit is how long a cluster may take to know the end of a move, after the run has been judged.
const tellLimit = 2 * time.Second

// askLimit is how long one hactl may take.
const askLimit = 3 * time.Second

// errNoMove says that the cluster tells of no move that a run could have caused.
var errNoMove = errors.New("the cluster tells of no move of this run")

// Newest asks the nodes one after the other, with the hactl that was built for them.
func (h *had) Newest(ctx context.Context, avoid string) (*Move, error) {
	nodes := []string{Nodes[2], other(avoid), avoid}
	if avoid == "" {
		nodes = []string{Nodes[2], Nodes[0], Nodes[1]}
	}
	var errs []error
	for _, node := range nodes {
		one, cancel := context.WithTimeout(ctx, askLimit)
		text, err := h.c.Hactl(one, node, "why", drill.Group, "-o", "json")
		cancel()
		if err == nil {
			return readMove([]byte(text))
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// before is the newest move before a fault; nil where a system does not measure, or there was none.
func (p Plan) before(ctx context.Context, s System) *Move {
	t, ok := s.(teller)
	if !ok {
		return nil
	}
	m, err := t.Newest(ctx, "")
	if err != nil {
		p.Say("%s: phases: %v", s.Name(), err)
	}
	return m
}

// tell keeps the phases of the move that a run caused. Where the system cannot tell them the run counts all the same.
func (p Plan) tell(ctx context.Context, s System, r *Run, before *Move) {
	t, ok := s.(teller)
	if !ok || r.Lost || r.From == r.To {
		return
	}
	var err error
	_ = poll(ctx, tellLimit, func() bool {
		var m *Move
		if m, err = t.Newest(ctx, r.From); err != nil {
			return true
		}
		if !r.caused(m, before) {
			err = errNoMove
			return false
		}
		r.Move = m
		return m.Done
	})
	if err != nil {
		p.Say("%s, %s: phases: %v", s.Name(), r.Scenario, err)
	}
}
