package placement

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Check tests the numbered invariants of State; the error joins every one that is broken. Whoever finds one broken gives
// up its addresses and stops: an invariant that does not hold is never just logged.
func (s State) Check() error {
	var errs []error
	bad := func(n int, format string, args ...any) {
		errs = append(errs, fmt.Errorf("invariant %d: "+format, append([]any{n}, args...)...))
	}
	policies := s.Policy.names()
	for _, name := range slices.Sorted(maps.Keys(s.Groups)) {
		g := s.Groups[name]
		if (g.Owner == "") != (g.Phase == PhaseUnowned) {
			bad(2, "group %s is %s with owner %q", name, g.Phase, g.Owner)
		}
		if g.Owner != "" && s.mayOwn(g.Owner).Why != "" {
			bad(3, "group %s: %s", name, s.mayOwn(g.Owner).Why)
		}
		if !policies[name] {
			bad(4, "group %s has no policy", name)
		}
		if g.MoveTo != "" && g.Phase != PhaseReleasing {
			bad(6, "group %s is %s with a move to %s", name, g.Phase, g.MoveTo)
		}
	}
	for _, p := range s.Policy.Groups {
		if _, ok := s.Groups[p.Name]; !ok {
			bad(4, "group %s has no state", p.Name)
		}
	}
	if len(s.Events) > MaxEvents {
		bad(5, "%d events", len(s.Events))
	}
	for i := range s.Events { // by index: an event is large
		if seq, want := s.Events[i].Seq, s.Seq-uint64(len(s.Events)-1-i); seq != want {
			bad(5, "event at %d has seq %d, not %d", i, seq, want)
			break
		}
	}
	return errors.Join(errs...)
}

// CheckStep tests what must hold between a state and its successor (invariant 1).
func CheckStep(before, after State) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(before.Groups)) {
		b := before.Groups[name]
		a, ok := after.Groups[name]
		if !ok {
			if after.Retired[name] < b.Epoch {
				errs = append(errs, fmt.Errorf("invariant 1: group %s went at epoch %d, kept %d", name, b.Epoch, after.Retired[name]))
			}
			continue
		}
		if a.Epoch < b.Epoch {
			errs = append(errs, fmt.Errorf("invariant 1: epoch of group %s fell from %d to %d", name, b.Epoch, a.Epoch))
		}
		if a.Owner != b.Owner && a.Owner != "" && a.Epoch <= b.Epoch {
			errs = append(errs, fmt.Errorf("invariant 1: group %s went from %q to %q within epoch %d", name, b.Owner, a.Owner, a.Epoch))
		}
	}
	return errors.Join(errs...)
}
