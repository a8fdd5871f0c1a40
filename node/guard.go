package node

import (
	"context"
	"slices"
	"time"

	"hacluster/placement"
	"hacluster/resources"
)

// guardEvery is how often a driver is asked again: an administrator may have changed or mended a setting.
const guardEvery = 10 * time.Second

// guard takes the resource out of the hands of others that would decide about it too, such as systemd with its Restart=,
// and learns what stands against that. It begins before the resource is started, so that one which is found running is
// taken over as well.
func (s *slot) guard() {
	adopter, adopts := s.drv.(resources.Adopter)
	warner, warns := s.drv.(resources.Warner)
	if !adopts && !warns {
		return
	}
	told := ""
	for {
		err := error(nil)
		if adopts {
			err = bounded(s.ctx, statusTimeout, adopter.Adopt)
		}
		var found []string
		if warns {
			asked := bounded(s.ctx, statusTimeout, func(ctx context.Context) error {
				found = warner.Warnings(ctx)
				return nil
			})
			if asked != nil {
				found = nil
			}
		}
		if s.ctx.Err() != nil {
			return
		}
		if err != nil {
			if told != err.Error() {
				s.log.Warn("taking the resource over", "err", err)
				told = err.Error()
			}
			if len(found) == 0 {
				found = []string{err.Error()}
			}
		}
		s.mu.Lock()
		news := !slices.Equal(found, s.warnings)
		s.warnings = found
		s.mu.Unlock()
		if news {
			s.wake()
		}
		select {
		case <-s.ctx.Done():
			return
		case <-time.After(guardEvery):
		}
	}
}

// warnings are those of all resources of this node, in order.
func (s *slots) warnings() []string {
	out := slices.Clone(s.faults)
	for _, k := range s.ordered() {
		sl := s.live[k]
		sl.mu.Lock()
		for _, w := range sl.warnings {
			if !slices.Contains(out, w) { // two resources may drive one unit
				out = append(out, w)
			}
		}
		sl.mu.Unlock()
	}
	return out
}

// part ends a slot whose resource is stopped, or has a new slot, and gives back what guard took unless that one needs it.
func (s *slots) part(old *slot) {
	adopter, ok := old.drv.(resources.Adopter)
	for _, sl := range s.live {
		ok = ok && sl.res.Spec.Unit != old.res.Spec.Unit
	}
	s.disown.Go(func() {
		old.close()
		if !ok {
			return
		}
		if err := bounded(context.Background(), statusTimeout, adopter.Disown); err != nil {
			s.log.Warn("giving a resource back", "group", old.group, "resource", old.res.Name, "err", err)
		}
	})
}

// groupPolicy is the policy of a group in force; a group without one can be owned by nobody.
func groupPolicy(st placement.State, group string) placement.GroupPolicy {
	for _, g := range st.Policy.Groups {
		if g.Name == group {
			return g
		}
	}
	return placement.GroupPolicy{Name: group, PossibleOwners: []string{""}}
}
