package node

import (
	"errors"
	"net/netip"
	"time"

	"hacluster/lease"
	"hacluster/placement"
	"hacluster/vip"
)

// rearmGain is the least that another arming must add to the lifetime of the addresses to be worth the system calls;
// backupGain is the same where it is only a backup.
const (
	rearmGain  = 50 * time.Millisecond
	backupGain = 500 * time.Millisecond
)

// fronts is every floating address of this node, in order, with what the gate must know of it; held are those that are
// online under a lease.
func (s *slots) fronts(n *Node, st placement.State, local placement.Local) (all []front, held map[netip.Addr]*address) {
	held = map[netip.Addr]*address{}
	for _, old := range s.retiring {
		if a, ok := old.drv.(*address); ok {
			all = append(all, front{addr: a.spec.Address.Addr(), possible: true}) // it is being taken down
		}
	}
	for _, k := range s.ordered() {
		a, ok := s.live[k].drv.(*address)
		if !ok {
			continue
		}
		lr := s.live[k].local()
		f := front{addr: a.spec.Address.Addr(), group: k.group, possible: a.possible,
			absent: !lr.Running && lr.Doing == "" && !a.lingers.Load() && !a.silent()}
		gs := st.Groups[k.group]
		if end, leased := local.Leased[k.group]; leased && lr.State == placement.StateOnline {
			f.until, f.mine = end, gs.Owner == n.name && gs.Phase == placement.PhaseOwned && n.released[k.group] < gs.Epoch
			held[f.addr] = a
		}
		all = append(all, f)
	}
	return all, held
}

// arm keeps open the gate of every address that is online here under a lease and renews its lifetime in the kernel, all in
// one batch, and returns when that is worth while again, and what it went by.
func (n *Node) arm(st placement.State, local placement.Local) (time.Time, []front) {
	n.mop(st, local)
	fronts, held := n.slots.fronts(n, st, local)
	for _, a := range n.gate.tend(fronts) {
		held[a].reopened()
	}
	for _, a := range n.gate.lost(fronts) {
		n.log.Error("giving an address up: the kernel gate does not work, and without it nothing would end the lease", "vip", a)
		if err := held[a].remove(); err != nil {
			n.log.Error("removing an address", "vip", a, "err", err)
		}
		delete(held, a)
		n.slots.askAddresses()
	}
	var until time.Time
	var addrs []netip.Addr
	var specs []vip.Spec
	for _, f := range fronts {
		if a := held[f.addr]; a != nil {
			addrs, specs, until = append(addrs, f.addr), append(specs, a.spec), earliest(until, f.until)
			a.adopt()
		}
	}
	if len(specs) == 0 {
		return time.Time{}, fronts
	}
	return n.lifetimes(addrs, specs, until), fronts
}

// rearms says whether addresses that were armed until one instant have to be armed until another. A later one is worth it when
// it gains something. A much earlier one means that the leases have become shorter: an address that came since then
// ends with them, and the instant is no measure for it.
func rearms(armed, until time.Time, gain time.Duration) bool {
	later := until.Sub(armed)
	return later >= gain || later <= -time.Second // less is rounding
}

// lifetimes arms the addresses. The kernel counts whole seconds and the remaining time is rounded down, so a lease of 1.4s
// that is armed at its begin covers one second; armed again one second before its end it covers all of it. Where the gate
// ends the lease, the lifetime ends behind it.
func (n *Node) lifetimes(addrs []netip.Addr, specs []vip.Spec, until time.Time) time.Time {
	end, coarse := n.gate.deadline(until, addrs...)
	gain := rearmGain
	if coarse {
		gain = backupGain
	}
	if coarse != n.coarse { // another layer, or the gate has gone or come: what was armed last is no measure
		n.coarse, n.kernelEnd = coarse, time.Time{}
	}
	now := n.clock()
	life := lease.KernelLifetime(now, end)
	if life == 0 || !now.Before(until) {
		return time.Time{} // too late for this grant: the addresses live on by the one before, the next one arms them
	}
	if rearms(n.kernelEnd, now.Add(life), gain) {
		n.kernelEnd = now.Add(life)
		if err := n.vips.RenewBy(specs, end); err == nil && !coarse {
			n.gate.strict(addrs...)
		} else if err != nil {
			if !errors.Is(err, vip.ErrGone) && !errors.Is(err, vip.ErrLifetime) {
				n.log.Error("renewing the lifetime of addresses", "err", err)
			}
			n.slots.askAddresses()
		}
	}
	if last := end.Add(-life - gain/2); !coarse && last.After(now) {
		return last
	}
	return time.Time{}
}

// mop removes addresses that stand behind a closed gate and that nobody is about to open: they answer nobody, and the
// group's epoch is not given away before they are gone.
func (n *Node) mop(st placement.State, local placement.Local) {
	now := n.clock()
	for k, a := range n.slots.all() {
		if !a.lingers.Load() {
			continue
		}
		gs := st.Groups[k.group]
		end, leased := local.Leased[k.group]
		wanted := leased && end.After(now) && gs.Owner == n.name && gs.Phase == placement.PhaseOwned && n.released[k.group] < gs.Epoch &&
			!gs.Offline && !gs.Resources[k.resource]
		if lr := n.slots.live[k].local(); wanted || lr.Doing != "" || lr.State != placement.StateOffline {
			continue
		}
		if err := a.remove(); err != nil {
			n.log.Error("removing an address behind a closed gate", "vip", a.spec.Address, "err", err)
		}
		n.slots.live[k].ask()
	}
}

// dropAddresses is the end of all right to addresses: the gate is shut, and they are removed.
func (n *Node) dropAddresses() {
	if _, err := n.vips.ReleaseAll(); err != nil {
		n.log.Error("removing addresses", "err", err)
	}
}

// resumed comes first in every round: when this machine was suspended the lease is over, whatever else is known, and the
// kernel's own timeouts will end too late by as long. True: it was.
func (n *Node) resumed() bool {
	if n.asleep.Noticed() == 0 {
		return false
	}
	n.resumes.Add(1)
	n.dropAddresses()
	n.renewer.mu.Lock()
	n.renewer.resumed()
	n.renewer.mu.Unlock()
	n.slots.askAddresses()
	return true
}

// lingers says that the slot's address is on this node behind a closed gate.
func (s *slot) lingers() bool {
	a, ok := s.drv.(*address)
	return ok && a.lingers.Load()
}
