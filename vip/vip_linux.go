package vip

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/internal/boottime"
)

// Manager works on the addresses of one network namespace: the one of the thread that called Open. It is safe for
// concurrent use. It remembers nothing about addresses; every call asks the kernel.
type Manager struct {
	log    *slog.Logger
	ns     namespace
	route  *route
	sender sender
	gate   gate
	waits  waits

	change    sync.Mutex // held while addresses are changed: look, act and read back belong together
	unguarded bool       // the kernel refused the guard of a renewal although the address was there
}

// Open prepares a Manager; the error says what the operating system lacks.
func Open(log *slog.Logger) (*Manager, error) {
	ns, err := currentNamespace()
	if err != nil {
		return nil, fmt.Errorf("opening the address manager: %w", err)
	}
	m := &Manager{log: log, ns: ns}
	if m.route, err = openRoute(ns); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the address manager: %w", err), ns.close())
	}
	return m, nil
}

// Close frees the sockets; call it once, after Watch and Conflict have returned. It leaves every address where it is: the
// kernel lifetime ends them.
func (m *Manager) Close() error {
	m.route.close()
	m.gate.mu.Lock()
	err := m.gate.close()
	m.gate.mu.Unlock()
	return errors.Join(err, m.waits.close(), m.sender.close(), m.ns.close())
}

// Add puts the address on its interface and reads back that it is there. An address that we hold already is armed anew;
// one that we hold on another interface moves. lifetime counts from the call: what is spent in it is taken off, and the
// kernel gets the rest in whole seconds, rounded down. Errors: ErrLifetime, ErrForeign, ErrNoInterface, ErrLate.
func (m *Manager) Add(s Spec, lifetime time.Duration) error {
	return m.AddBy(s, boottime.Now().Add(lifetime))
}

// AddBy is Add with the instant (boot time) at which the lifetime ends. Who holds a lease gives its end: a process that is
// stopped between working out a lifetime and the call would give more than is left.
func (m *Manager) AddBy(s Spec, deadline time.Time) error {
	m.change.Lock()
	defer m.change.Unlock()
	if err := m.add(s, deadline); err != nil {
		return fmt.Errorf("adding VIP %s: %w", s, err)
	}
	return nil
}

func (m *Manager) add(s Spec, deadline time.Time) error {
	link, err := m.resolve(s)
	if err != nil {
		return err
	}
	there, err := m.find(s.Address.Addr())
	if err != nil {
		return err
	}
	if err := foreign(there, m.linkName); err != nil {
		return err
	}
	flags := uint16(unix.NLM_F_CREATE | unix.NLM_F_EXCL)
	for _, a := range there {
		if a.index == link.Index && a.prefix == s.hostPrefix() && a.flags&(ifaFDADFailed|ifaFTentative) == 0 {
			flags = unix.NLM_F_CREATE | unix.NLM_F_REPLACE
		} else if err := m.remove(a); err != nil {
			return err
		}
	}
	if flags&unix.NLM_F_EXCL != 0 && !link.InSubnet {
		m.log.Warn("interface has no address in the subnet of the VIP: clients are answered by the default route",
			"vip", s.Address, "interface", link.Name)
	}
	seconds, err := wholeSeconds(deadline.Sub(boottime.Now()))
	if err != nil {
		return err
	}
	body := armBody(s.hostPrefix(), link.Index, label(link.Name), seconds, false)
	err = m.route.do(request{unix.RTM_NEWADDR, flags, body})[0]
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%w: it appeared on %s while it was being added", ErrForeign, link.Name)
	}
	if err != nil {
		return err
	}
	return m.verify(s, link, deadline)
}

// verify reads back what add did and undoes it when the lease is over or the kernel cannot carry our tag: an address
// that cannot be recognised would never be swept.
func (m *Manager) verify(s Spec, link Link, deadline time.Time) error {
	there, err := m.find(s.Address.Addr())
	if err != nil {
		return err
	}
	for _, a := range there {
		if a.index != link.Index || a.prefix != s.hostPrefix() {
			continue
		}
		switch {
		case !a.ours():
			untagged := errors.New("the kernel cannot tag the address as ours: IPv6, and interface names over 11 characters, need Linux 5.18")
			return errors.Join(untagged, m.remove(a))
		case !boottime.Now().Before(deadline):
			return errors.Join(ErrLate, m.remove(a))
		case a.flags&(ifaFDADFailed|ifaFTentative) != 0:
			return fmt.Errorf("the kernel does not use the address on %s (duplicate address detection)", link.Name)
		}
		return nil
	}
	return fmt.Errorf("%w: it vanished from %s right after it was added", ErrGone, link.Name)
}

// Renew arms all addresses with a new lifetime, all at once. It never creates an address: one that is missing is
// reported as ErrGone and the caller decides. The error joins one per address that was not armed; ErrLifetime means that
// none was touched. lifetime counts from the call.
func (m *Manager) Renew(specs []Spec, lifetime time.Duration) error {
	return m.RenewBy(specs, boottime.Now().Add(lifetime))
}

// RenewBy is Renew with the instant at which the lifetime ends, as AddBy is.
func (m *Manager) RenewBy(specs []Spec, deadline time.Time) error {
	m.change.Lock()
	defer m.change.Unlock()
	all, err := m.route.addresses()
	if err != nil {
		return fmt.Errorf("renewing VIPs: %w", err)
	}
	var errs []error
	var addrs []kernelAddr
	for _, s := range specs {
		a, err := all.present(s.Address.Addr(), m.linkName)
		if err != nil {
			errs = append(errs, fmt.Errorf("renewing VIP %s: %w", s, err))
			continue
		}
		addrs = append(addrs, a)
	}
	if len(addrs) == 0 {
		return errors.Join(errs...)
	}
	return errors.Join(append(errs, m.arm(addrs, deadline)...)...)
}

// arm sets a new lifetime on addresses that are there.
func (m *Manager) arm(addrs []kernelAddr, deadline time.Time) []error {
	reqs := make([]request, len(addrs))
	seconds, err := wholeSeconds(deadline.Sub(boottime.Now()))
	if err != nil {
		return []error{fmt.Errorf("renewing VIPs: %w", err)}
	}
	for i, a := range addrs {
		reqs[i] = request{unix.RTM_NEWADDR, unix.NLM_F_REPLACE, armBody(a.prefix, a.index, a.label, seconds, !m.unguarded)}
	}
	var errs []error
	for i, err := range m.route.do(reqs...) {
		if errors.Is(err, unix.EINVAL) && !m.unguarded {
			err = m.refused(addrs[i], deadline)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("renewing VIP %s: %w", addrs[i].prefix.Addr(), err))
		}
	}
	if boottime.Now().Before(deadline) {
		return errs
	}
	// This process was stopped on the way and armed what it must not hold any more.
	for _, a := range addrs {
		errs = append(errs, fmt.Errorf("renewing VIP %s: %w", a.prefix.Addr(), errors.Join(ErrLate, m.remove(a))))
	}
	return errs
}

// refused finds out why a guarded renewal was refused: the address is gone, or this kernel does not take the guard.
func (m *Manager) refused(a kernelAddr, deadline time.Time) error {
	all, err := m.route.addresses()
	if err != nil {
		return err
	}
	if _, err := all.present(a.prefix.Addr(), m.linkName); err != nil {
		return err
	}
	m.log.Warn("the kernel refuses guarded renewals: going on without the guard", "vip", a.prefix.Addr())
	m.unguarded = true
	seconds, err := wholeSeconds(deadline.Sub(boottime.Now()))
	if err != nil {
		return err
	}
	return m.route.do(request{unix.RTM_NEWADDR, unix.NLM_F_REPLACE, armBody(a.prefix, a.index, a.label, seconds, false)})[0]
}

// Remove takes the address off this node, wherever on it we hold it, and reads back that it is gone. It is no error when
// it was not there. ErrForeign when it still is because somebody else put it there: the caller must not claim release.
func (m *Manager) Remove(s Spec) error {
	m.change.Lock()
	defer m.change.Unlock()
	there, err := m.find(s.Address.Addr())
	if err != nil {
		return fmt.Errorf("removing VIP %s: %w", s, err)
	}
	var errs []error
	for _, a := range there {
		if a.ours() {
			errs = append(errs, m.remove(a))
		}
	}
	if there, err = m.find(s.Address.Addr()); err == nil {
		err = foreign(there, m.linkName)
	}
	for _, a := range there {
		if a.ours() {
			errs = append(errs, errors.New("the address is still there after its removal"))
		}
	}
	if err := errors.Join(append(errs, err)...); err != nil {
		return fmt.Errorf("removing VIP %s: %w", s, err)
	}
	return nil
}

// remove deletes one address that was seen to be ours.
func (m *Manager) remove(a kernelAddr) error {
	err := m.route.do(request{unix.RTM_DELADDR, 0, removeBody(a)})[0]
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV) {
		return nil // gone, or gone with its interface
	}
	return err
}

// Held lists our addresses as the kernel has them.
func (m *Manager) Held() ([]Held, error) {
	v, err := m.See()
	if err != nil {
		return nil, fmt.Errorf("asking which VIPs are held: %w", err)
	}
	var held []Held
	for _, a := range v.addrs.all {
		if a.ours() {
			held = append(held, a.held(v.links))
		}
	}
	return held, nil
}

func (a kernelAddr) held(links map[int]kernelLink) Held {
	valid := Forever
	if a.valid != lifetimeForever {
		valid = time.Duration(a.valid) * time.Second
	}
	return Held{Address: a.prefix, Interface: links[a.index].name, Valid: valid}
}

// Present reports whether we hold the address in working order. ErrForeign when somebody else put it on this node.
func (m *Manager) Present(s Spec) (bool, error) {
	all, err := m.route.addresses()
	if err == nil {
		_, err = all.present(s.Address.Addr(), m.linkName)
	}
	if errors.Is(err, ErrGone) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for VIP %s: %w", s, err)
	}
	return true, nil
}

// Sweep removes our addresses for which keep is false, and returns those removed. keep gets the prefix as the kernel has
// it (/32 or /128): compare addresses, not prefixes.
func (m *Manager) Sweep(keep func(netip.Prefix) bool) ([]Held, error) {
	m.change.Lock()
	defer m.change.Unlock()
	all, err := m.route.addresses()
	if err != nil {
		return nil, fmt.Errorf("sweeping VIPs: %w", err)
	}
	links, err := m.route.links()
	if err != nil {
		links = nil // names are for the report only
	}
	var swept []Held
	var errs []error
	for _, a := range all.all {
		if !a.ours() || keep(a.prefix) {
			continue
		}
		if err := m.remove(a); err != nil {
			errs = append(errs, fmt.Errorf("sweeping VIP %s: %w", a.prefix.Addr(), err))
			continue
		}
		swept = append(swept, a.held(links))
	}
	all, err = m.route.addresses()
	if err != nil {
		errs = append(errs, fmt.Errorf("sweeping VIPs: %w", err))
	}
	for _, a := range all.all {
		if a.ours() && !keep(a.prefix) {
			errs = append(errs, fmt.Errorf("sweeping VIP %s: it is still there", a.prefix.Addr()))
		}
	}
	return swept, errors.Join(errs...)
}

// shutFirst is how long Release waits for the gate to be shut before it removes the addresses all the same: somebody's
// large rule set may hold the kernel's lock on nf_tables for seconds.
const shutFirst = 50 * time.Millisecond

// Release shuts the gate and drops every address that had ever added on this node; it needs nothing but the kernel. An
// error of the gate does not keep it from removing the addresses, and where there is no gate it is none.
func Release() ([]Held, error) {
	m, err := Open(slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	swept, err := m.ReleaseAll()
	return swept, errors.Join(err, m.Close())
}

// ReleaseAll is Release with the sockets of this Manager.
func (m *Manager) ReleaseAll() ([]Held, error) {
	shut := make(chan error, 1)
	go func() { shut <- m.ShutAll() }()
	var gate error
	waited := true
	select {
	case gate = <-shut:
	case <-time.After(shutFirst):
		waited = false
	}
	swept, err := m.Sweep(func(netip.Prefix) bool { return false })
	if !waited {
		gate = <-shut
	}
	return swept, errors.Join(err, gate, m.endDrains())
}

// find lists where on this node an address is, ours or not.
func (m *Manager) find(ip netip.Addr) ([]kernelAddr, error) {
	all, err := m.route.addresses()
	if err != nil {
		return nil, err
	}
	return all.at(ip), nil
}
