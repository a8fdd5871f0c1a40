package node

import "time"

// rhythm is when a node whose renewal came at now is to renew next, so that all of them come at the same instants, the whole multiples of
// the interval by the leader's clock: waking up is most of what a renewal at rest costs the leader, and it wakes once for all of them. Nobody
// renews less often for that, and by an eighth of the interval sooner at most: who is far from the beat comes near by and by.
func rhythm(now time.Time, renew time.Duration) time.Duration {
	if renew <= 0 {
		return 0
	}
	late := time.Duration(now.UnixNano()) % renew
	switch {
	case late <= renew/8:
		return renew - late
	case late >= renew-renew/16: // on its way back it would be early again
		return renew
	}
	return renew - renew/8
}

// keepTime notes when the leader wants the next renewal.
func (r *renewer) keepTime(next time.Time) {
	select {
	case <-r.next: // of a grant before
	default:
	}
	select {
	case r.next <- next:
	default:
	}
}
