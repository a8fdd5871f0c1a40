package node

import (
	"context"
	"sync"
	"sync/atomic"

	"hacluster/placement"
)

// maxTogether bounds the proposals under way at once; as many as Raft sends in one message.
const maxTogether = 64

// proposeTogether commits what one decision says. Raft writes whatever waits for its disk with one write, here and on every
// follower: so all groups of a dead node cost two or three writes and not one each, one after the other. The commands of
// one decision are about different groups or nodes, so their order does not matter; it is kept as far as it goes.
//
// A renewal that waits for the proposals under way (renew) goes before those that have not begun: their number bounds how
// long it waits. False: the fate of one is unknown, and no further was begun.
func (l *leader) proposeTogether(ctx context.Context, commands []placement.Command) bool {
	var next atomic.Int64
	var failed atomic.Bool
	work := func() {
		for !failed.Load() {
			i := int(next.Add(1)) - 1
			if i >= len(commands) {
				return
			}
			if _, err := l.propose(ctx, commands[i]); err != nil {
				l.n.log.Warn("proposing", "command", commands[i].Kind, "group", commands[i].Group, "err", err)
				failed.Store(true)
			}
		}
	}
	var all sync.WaitGroup
	for range min(len(commands), maxTogether) - 1 {
		all.Go(work)
	}
	work()
	all.Wait()
	return !failed.Load()
}
