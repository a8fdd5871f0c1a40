package node

import (
	"slices"
	"sync"
	"time"

	"hacluster/fence"
	"hacluster/placement"
)

// ladder keeps the steps that followed stops which did not succeed, until the cluster's history has them.
type ladder struct {
	mu    sync.Mutex
	steps []placement.Step
	wake  func() // of the act loop, which reports them
}

// climb notes a step.
func (l *ladder) climb(s placement.Step) {
	if l == nil {
		return
	}
	l.mu.Lock()
	l.steps = append(l.steps, s)
	l.steps = slices.Clone(l.steps[max(0, len(l.steps)-placement.MaxSteps):])
	l.mu.Unlock()
	l.wake()
}

// heard notes what the dead man did in the agent's stead.
func (l *ladder) heard(told []fence.Told) {
	for _, t := range told {
		l.climb(placement.Step{Group: t.Group, Resource: t.Resource, Rung: placement.RungDeadMan, Why: t.Why, At: t.At})
	}
}

// pending are the steps that are not in the history of the state yet; the others are forgotten.
func (l *ladder) pending(st placement.State, node string) []placement.Step {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.steps = slices.DeleteFunc(l.steps, func(s placement.Step) bool { return st.Recorded(node, s) })
	if len(l.steps) == 0 {
		return nil // equal to the report before, so that nothing is sent for it
	}
	return slices.Clone(l.steps)
}

// climb notes a step of this resource.
func (s *slot) climb(rung placement.Rung, why string) {
	s.log.Warn("a stop escalates", "rung", rung, "reason", why)
	if s.ladder != nil {
		s.ladder.climb(placement.Step{Group: s.group, Resource: s.res.Name, Rung: rung, Why: why, At: time.Now()})
	}
}
