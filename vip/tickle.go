package vip

import (
	"cmp"
	"slices"
)

// MaxTickles bounds the connections of one address that are kept for the case that its owner is lost: the newest are.
const MaxTickles = 4096

// Waiting is a connection in which the other side may wait for this node.
type Waiting struct {
	Conn
	Cookie uint64 // of this one socket and no later one
}

// Ages tells the newest of an address's connections from the others, which the kernel does not: a look at them knows what was
// there at the one before. The zero value is ready.
type Ages struct {
	look  uint64
	since map[uint64]uint64 // cookie -> look at which it was there first
}

// Newest gives at most MaxTickles of the connections found, always in the same order where they are the same.
func (a *Ages) Newest(found []Waiting) []Conn {
	a.look++
	since := make(map[uint64]uint64, len(found))
	for _, w := range found {
		if since[w.Cookie] = a.look; a.since[w.Cookie] != 0 {
			since[w.Cookie] = a.since[w.Cookie]
		}
	}
	a.since = since
	found = slices.Clone(found)
	slices.SortFunc(found, func(x, y Waiting) int {
		return cmp.Or(cmp.Compare(since[x.Cookie], since[y.Cookie]), cmp.Compare(x.Cookie, y.Cookie))
	})
	found = found[max(0, len(found)-MaxTickles):]
	conns := make([]Conn, len(found))
	for i, w := range found {
		conns[i] = w.Conn
	}
	return conns
}
