package node

import (
	"cmp"
	"maps"
	"slices"
)

// listed is what is asked of the live slots in each round, and changes with the configuration only.
type listed struct {
	keys      []key
	addresses map[key]*address
}

func (s *slots) list() listed {
	if s.listed.addresses != nil {
		return s.listed
	}
	l := listed{keys: slices.SortedFunc(maps.Keys(s.live), key.compare), addresses: map[key]*address{}}
	for k, sl := range s.live {
		if a, ok := sl.drv.(*address); ok {
			l.addresses[k] = a
		}
	}
	s.listed = l
	return l
}

// ordered names all live slots, by group and resource.
func (s *slots) ordered() []key { return s.list().keys }

// all are the floating addresses, online or not; to be read only.
func (s *slots) all() map[key]*address { return s.list().addresses }

func (k key) compare(o key) int {
	return cmp.Or(cmp.Compare(k.group, o.group), cmp.Compare(k.resource, o.resource))
}
