package vip

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"
	nfnl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"hacluster/internal/boottime"
)

// gateTries bounds how often a message that was under way too long is sent again.
const gateTries = 3

// gate is a Manager's half of the kernel gate. What it remembers only decides which side is written next.
type gate struct {
	mu   sync.Mutex
	conn *nftables.Conn // kept open; nil until needed and after any fault
	sock *nfnl.Conn
	raw  *kernelSocket            // for the transactions of armGate; kept open like conn
	side int                      // of the alive sets: what the next renewal writes
	ends map[netip.Addr]time.Time // armed by this process; missing: unknown

	stall func() // tests only: a stop of the process between the clock and the message
}

// GateSupported is nil where the kernel can carry the gate and this process may set it up. It creates and deletes scratch
// tables within one transaction, so that nobody ever sees them.
func GateSupported() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("asking for the kernel gate: %w", err)
	}
	name := fmt.Sprintf("had-check-%d", os.Getpid())
	for _, f := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyARP} {
		t := c.AddTable(&nftables.Table{Family: f, Name: name})
		set := &nftables.Set{Table: t, Name: "s", KeyType: nftables.TypeIPAddr, HasTimeout: true, ID: 1}
		hook := nftables.ChainHookPrerouting
		if f == nftables.TableFamilyARP {
			hook = nftables.ChainHookRef(arpIn)
		}
		ch := c.AddChain(chain(t, "c", nftables.ChainTypeFilter, hook, 0))
		if err := c.AddSet(set, nil); err != nil {
			return fmt.Errorf("asking for the kernel gate: %w", err)
		}
		if f == nftables.TableFamilyINet {
			c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: join(local(false), accept)})
		}
		c.DelTable(t)
	}
	err = c.Flush()
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("the kernel gate needs CAP_NET_ADMIN: %w", err)
	case err != nil:
		return fmt.Errorf("this kernel has no nf_tables with inet, arp and fib (CONFIG_NF_TABLES_INET, CONFIG_NF_TABLES_ARP, CONFIG_NFT_FIB_INET): %w", err)
	}
	return nil
}

// OpenGate sets up had's tables, sets and rules, and takes over those of a process before with everything alive in them:
// no packet is lost. Call it again after ErrNoGate. It fails when the tables belong to somebody else.
func (m *Manager) OpenGate() error {
	m.gate.mu.Lock()
	defer m.gate.mu.Unlock()
	if err := m.setUp(); err != nil {
		return fmt.Errorf("setting up the kernel gate: %w", err)
	}
	return nil
}

func (m *Manager) setUp() error {
	c, err := m.nft()
	if err != nil {
		return err
	}
	for _, t := range []*nftables.Table{inetTable, arpTable} {
		if _, err := ownTable(c, t); err != nil {
			return err
		}
		c.AddTable(t)
	}
	sets := []*nftables.Set{tickets, asks}
	for _, l := range lanes {
		sets = append(sets, l.sets()...)
	}
	for _, s := range sets {
		if err := c.AddSet(s, nil); err != nil {
			return err
		}
	}
	chains := gateChains()
	for _, g := range chains {
		c.AddChain(g.chain)
	}
	if err := m.flush(c); err != nil {
		return err
	}
	// One transaction for each chain, since the library cannot read the echo of many rules. Each is replaced at once.
	for _, g := range chains {
		if c, err = m.nft(); err != nil {
			return err
		}
		c.FlushChain(g.chain)
		for _, r := range g.rules {
			c.AddRule(&nftables.Rule{Table: g.chain.Table, Chain: g.chain, Exprs: r})
		}
		if err := m.flush(c); err != nil {
			return fmt.Errorf("rules of chain %s %s: %w", g.chain.Table.Name, g.chain.Name, err)
		}
	}
	return nil
}

// ownTable reports whether the table is there; it is an error when it is not ours.
func ownTable(c *nftables.Conn, t *nftables.Table) (bool, error) {
	tables, err := c.ListTablesOfFamily(t.Family)
	if err != nil {
		return false, err
	}
	if !slices.ContainsFunc(tables, func(x *nftables.Table) bool { return x.Name == t.Name }) {
		return false, nil
	}
	if _, err := c.GetSetByName(t, inet4.managed.Name); err != nil {
		return false, fmt.Errorf("there is a table %q that is not had's: rename it: %w", t.Name, err)
	}
	return true, nil
}

// Guard puts addresses under the gate: closed unless opened. Call it before the address is added to an interface; for an
// address that serves already, OpenUntil comes first.
func (m *Manager) Guard(addrs ...netip.Addr) error {
	return m.turn("guarding", addrs, func(c elements, l lane, e []nftables.SetElement) error {
		return c.SetAddElements(l.managed, e)
	})
}

// Unguard takes addresses from under the gate, after they were removed from the node. It is no error when they were not.
func (m *Manager) Unguard(addrs ...netip.Addr) error {
	return m.turn("ungating", addrs, func(c elements, l lane, e []nftables.SetElement) error {
		// Deleting what is not there would abort the transaction, adding what is there does nothing.
		return errors.Join(c.SetAddElements(l.managed, e), c.SetDeleteElements(l.managed, e))
	})
}

// Shut closes the gate for the addresses at once, and reads back that it is. A renewal under way is refused. It is no
// error when they were closed.
func (m *Manager) Shut(addrs ...netip.Addr) error {
	err := m.turn("shutting the gate for", addrs, func(c elements, l lane, e []nftables.SetElement) error {
		return shut(c, l, e)
	})
	if err != nil {
		return err
	}
	m.gate.mu.Lock()
	defer m.gate.mu.Unlock()
	return m.isShut(addrs)
}

// shut adds to the transaction what closes the gate.
func shut(c elements, l lane, e []nftables.SetElement) error {
	var errs []error
	for _, s := range l.sets()[1:] {
		errs = append(errs, c.SetAddElements(s, lasting(e, gateLeast)), c.SetDeleteElements(s, e))
	}
	return errors.Join(errs...)
}

// isShut reads back that the gate is closed. The caller holds gate.mu.
func (m *Manager) isShut(addrs []netip.Addr) error {
	for _, a := range addrs {
		delete(m.gate.ends, plain(a))
	}
	for _, l := range lanes {
		for _, s := range l.sets()[1:] {
			if s == l.pass {
				continue
			}
			left, err := m.list(s)
			if err != nil {
				return fmt.Errorf("shutting the gate: %w", err)
			}
			for _, a := range addrs {
				if _, there := left[plain(a)]; there {
					return fmt.Errorf("shutting the gate for %s: it is open again", a)
				}
			}
		}
	}
	return nil
}

// ShutAll closes the gate for every guarded address. Where there is no gate it does nothing.
func (m *Manager) ShutAll() error {
	addrs, err := m.guarded()
	if err == nil && len(addrs) > 0 {
		err = m.Shut(addrs...)
	}
	if errors.Is(err, ErrNoGate) {
		return nil
	}
	return err
}

// guarded lists the addresses under the gate, without asking whether its rules are whole. ErrNoGate when there is none, or
// somebody else's tables bear its name, or this kernel has no nf_tables.
func (m *Manager) guarded() ([]netip.Addr, error) {
	m.gate.mu.Lock()
	defer m.gate.mu.Unlock()
	c, err := m.nft()
	if err != nil {
		return nil, fmt.Errorf("asking the kernel gate: %w", err)
	}
	if there, err := ownTable(c, inetTable); err != nil || !there {
		return nil, errors.Join(ErrNoGate, err, m.gate.close())
	}
	var all []netip.Addr
	for _, l := range []lane{inet4, inet6} {
		found, err := m.list(l.managed)
		if err != nil {
			return nil, fmt.Errorf("asking the kernel gate: %w", err)
		}
		for a := range found {
			all = append(all, a)
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all, nil
}

// OpenUntil opens the gate for the addresses until an instant of the boot-time clock, whether it was open or not. The
// caller must have a right to the addresses until then. Errors: ErrLate, ErrNoGate.
func (m *Manager) OpenUntil(addrs []netip.Addr, until time.Time) error {
	return m.arming(addrs, until, true)
}

// RenewUntil keeps the gate open until an instant of the boot-time clock. It never opens one that has closed: those
// addresses are reported as ErrClosed, and the others are renewed. Errors: ErrClosed, ErrLate, ErrNoGate.
func (m *Manager) RenewUntil(addrs []netip.Addr, until time.Time) error {
	return m.arming(addrs, until, false)
}

func (m *Manager) arming(addrs []netip.Addr, until time.Time, fresh bool) error {
	m.gate.mu.Lock()
	defer m.gate.mu.Unlock()
	all := make([]netip.Addr, len(addrs))
	for i, a := range addrs {
		all[i] = plain(a)
	}
	var errs []error
	for some := range slices.Chunk(all, batchMost) {
		err := m.armSome(some, until, fresh)
		if errs = append(errs, err); err != nil && !errors.Is(err, ErrClosed) {
			return errors.Join(errs...)
		}
	}
	if len(all) > 0 {
		m.gate.side = 1 - m.gate.side // not sooner: each transaction leaves the other side as it was
	}
	return errors.Join(errs...)
}

// armSome arms as many as fit into one transaction. Those that had closed are reported as ErrClosed, and the others are armed.
func (m *Manager) armSome(todo []netip.Addr, until time.Time, fresh bool) error {
	var gone []error
	for try := 0; len(todo) > 0; {
		err := m.armGate(todo, until, fresh)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("opening the kernel gate: %w", err)
		}
		// Something the transaction relied on was not there any more: which?
		proven, err := m.proven()
		if err != nil {
			return fmt.Errorf("opening the kernel gate: %w", err)
		}
		before := len(todo)
		if !fresh {
			todo = slices.DeleteFunc(todo, func(a netip.Addr) bool {
				if !proven[a] {
					gone = append(gone, fmt.Errorf("renewing the kernel gate for %s: %w", a, ErrClosed))
				}
				return !proven[a]
			})
		}
		if try++; len(todo) == before && try >= gateTries {
			return fmt.Errorf("opening the kernel gate: %w: the message was under way for over %v, %d times", ErrLate, gateTicket, try)
		}
	}
	return errors.Join(gone...)
}

// armGate is one attempt. ENOENT: the ticket had run out, an address to renew was closed, or the tables are not there.
func (m *Manager) armGate(addrs []netip.Addr, until time.Time, fresh bool) error {
	ticket := []nftables.SetElement{{Key: make([]byte, 4)}}
	rand.Read(ticket[0].Key)
	c := newBatch()
	if err := c.SetAddElements(tickets, lasting(ticket, gateTicket)); err != nil {
		return err
	}
	if err := m.commit(c); err != nil {
		return err
	}
	// The ticket was made before now, so a transaction that finds it is handled before now + gateTicket.
	left := until.Sub(boottime.Now().Add(gateTicket)) // in this order: from the zero time it would be a long time after one subtraction more
	if left < gateLeast {
		return ErrLate
	}
	if m.gate.stall != nil {
		m.gate.stall()
	}
	c = newBatch()
	if err := c.SetDeleteElements(tickets, ticket); err != nil {
		return err
	}
	sides := m.sides(addrs, until)
	err := byLane(addrs, func(l lane, e []nftables.SetElement) error {
		return arm(c, l, sides, lasting(e, left), fresh)
	})
	if err != nil {
		return err
	}
	if err := m.commit(c); err != nil {
		return err
	}
	if m.gate.ends == nil {
		m.gate.ends = map[netip.Addr]time.Time{}
	}
	for _, a := range addrs {
		m.gate.ends[a] = until
	}
	return nil
}

// sides tells which alive sets must be written: one while the other still covers, so that no packet ever meets a gap;
// both when an older entry could outlive the new one.
func (m *Manager) sides(addrs []netip.Addr, until time.Time) []int {
	for _, a := range addrs {
		if end, ok := m.gate.ends[a]; !ok || until.Before(end) {
			return []int{0, 1}
		}
	}
	return []int{m.gate.side}
}

// arm adds to the transaction what gives the elements a new timeout. Older kernels (before 6.12) leave the timeout of an
// element that is there alone, therefore delete and add; and deleting needs something to delete, therefore add first.
func arm(c *batch, l lane, sides []int, e []nftables.SetElement, fresh bool) error {
	var errs []error
	if l.proof != nil {
		if fresh {
			errs = append(errs, c.SetAddElements(l.proof, e), c.SetAddElements(l.pass, e), c.SetDeleteElements(l.pass, e))
		}
		errs = append(errs, c.SetDeleteElements(l.proof, e), c.SetAddElements(l.proof, e))
	}
	for _, side := range sides {
		s := l.alive[side]
		errs = append(errs, c.SetAddElements(s, e), c.SetDeleteElements(s, e), c.SetAddElements(s, e))
	}
	return errors.Join(errs...)
}

// Gate lists the guarded addresses as the kernel has them. ErrNoGate when there is no gate, or somebody took its rules.
func (m *Manager) Gate() ([]GateEntry, error) {
	m.gate.mu.Lock()
	defer m.gate.mu.Unlock()
	if err := m.whole(); err != nil {
		return nil, fmt.Errorf("asking the kernel gate: %w", err)
	}
	var all []GateEntry
	for _, l := range []lane{inet4, inet6} {
		var found [3]map[netip.Addr]time.Duration
		for i, s := range []*nftables.Set{l.alive[0], l.alive[1], l.managed} {
			var err error
			if found[i], err = m.list(s); err != nil {
				return nil, fmt.Errorf("asking the kernel gate: %w", err)
			}
		}
		for a := range found[2] {
			left := max(found[0][a], found[1][a])
			all = append(all, GateEntry{Address: a, Alive: left > 0, Left: left})
		}
	}
	slices.SortFunc(all, func(a, b GateEntry) int { return a.Address.Compare(b.Address) })
	return all, nil
}

// RemoveGate deletes had's tables, and with them the gate: call it after the addresses were released. It needs nothing
// but the kernel, and it is no error when there are none.
func RemoveGate() error {
	m, err := Open(slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	return errors.Join(m.RemoveGate(), m.Close())
}

// RemoveGate is the function of that name with the sockets of this Manager.
func (m *Manager) RemoveGate() error {
	m.gate.mu.Lock()
	defer m.gate.mu.Unlock()
	if err := m.removeGate(); err != nil {
		return fmt.Errorf("removing the kernel gate: %w", err)
	}
	return nil
}

func (m *Manager) removeGate() error {
	c, err := m.nft()
	if err != nil {
		return err
	}
	for _, t := range []*nftables.Table{inetTable, arpTable} {
		there, err := ownTable(c, t)
		if err != nil {
			return err
		}
		if there {
			c.DelTable(t)
		}
	}
	if err := dropDrains(c); err != nil {
		return err
	}
	return m.flush(c)
}
