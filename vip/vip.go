// Package vip owns floating addresses on this node: it adds, renews, announces, watches and removes them, and always asks
// the kernel what is there. It decides nothing: whether this node may hold an address is the caller's knowledge, handed
// in as the lifetime after which the kernel itself must remove the address. DESIGN.md says why it is built this way.
package vip

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"time"
)

var (
	// ErrGone: the address is not on this node (any more). Renew and Announce never bring it back.
	ErrGone = errors.New("the address is not on this node")
	// ErrForeign: the address is on this node but was not put there by had. It is never adopted, renewed or removed.
	ErrForeign = errors.New("the address is on this node but was not added by had")
	// ErrLifetime: less than a second is left; the kernel counts address lifetimes in whole seconds.
	ErrLifetime = errors.New("the lifetime left is below 1s, the smallest the kernel can enforce")
	// ErrLate: the lifetime ran out while the address was being armed; it has been removed again.
	ErrLate = errors.New("the lifetime ended while the address was being armed")
	// ErrNoInterface: no interface, or more than one, fits the address.
	ErrNoInterface = errors.New("no interface fits")
)

// minLifetime is the smallest valid_lft that is not "remove at once".
const minLifetime = time.Second

// Forever is Held.Valid of an address that the kernel will not remove by itself.
const Forever = time.Duration(math.MaxInt64)

// Spec is one configured floating address.
type Spec struct {
	Group     string       // optional: for messages only
	Resource  string       // optional: for messages only
	Address   netip.Prefix // required: the address and the subnet it lives in; the kernel gets it as /32 or /128
	Interface string       // optional: empty means the interface that has another address of the subnet
}

// String names the address, and the resource where it is known.
func (s Spec) String() string {
	if s.Resource == "" {
		return s.Address.String()
	}
	return fmt.Sprintf("%s (%s/%s)", s.Address, s.Group, s.Resource)
}

// validate refuses what can never be a floating address.
func (s Spec) validate() error {
	a := s.Address.Addr()
	switch {
	case !s.Address.IsValid():
		return errors.New("the address is empty or not a valid prefix")
	case a.IsUnspecified() || a.IsMulticast():
		return fmt.Errorf("%s is not a unicast address", a)
	case a.Is4In6():
		return fmt.Errorf("%s is an IPv4 address written as IPv6: write %s", a, a.Unmap())
	case a.Is4() && s.Address.Bits() < 31 && (a == s.Address.Masked().Addr() || a == lastAddr(s.Address)):
		return fmt.Errorf("%s is the network or broadcast address of %s", a, s.Address.Masked())
	}
	return nil
}

// lastAddr is the highest address of an IPv4 prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}

// hostPrefix is the form in which the kernel gets the address: see "Host prefix" in DESIGN.md.
func (s Spec) hostPrefix() netip.Prefix {
	return netip.PrefixFrom(s.Address.Addr(), s.Address.Addr().BitLen())
}

// Link is the interface an address belongs to.
type Link struct {
	Name    string
	Index   int
	Up      bool             // administratively up
	Carrier bool             // the other end of the cable is there
	MAC     net.HardwareAddr // empty where the interface has none
	// InSubnet: the interface has an address of the VIP's subnet. When false (only possible with a named interface) the
	// node answers clients by whatever route it has to them.
	InSubnet bool
}

// Held is one of our addresses as the kernel has it.
type Held struct {
	Address   netip.Prefix  // always /32 or /128
	Interface string        // name
	Valid     time.Duration // until the kernel removes it, whole seconds; Forever when somebody took the lifetime away
}

// Holder is another machine that answers for an address.
type Holder struct {
	MAC       net.HardwareAddr
	Interface string // ours, on which the answer came
}

// Kind is what a Change is about.
type Kind string

const (
	AddressAdded   Kind = "address-added"
	AddressRemoved Kind = "address-removed"
	LinkUp         Kind = "link-up"   // up and with carrier
	LinkDown       Kind = "link-down" // down, without carrier, or deleted
	// Resync: events were lost, or the watch has just begun; ask Held and Resolve again.
	Resync Kind = "resync"
)

// Change is one event of Watch. It is a hint to look again, never the truth itself.
type Change struct {
	Kind      Kind
	Address   netip.Prefix // address-added, address-removed: as the kernel has it, ours or not
	Interface string       // empty in a resync
	Ours      bool         // address events: tagged as added by had
}

// wholeSeconds is the kernel lifetime that ends no later than d from now: rounded down, never to 0, which the kernel
// refuses.
func wholeSeconds(d time.Duration) (uint32, error) {
	if d < minLifetime {
		return 0, fmt.Errorf("%w (%v)", ErrLifetime, max(d, 0).Round(time.Millisecond))
	}
	// The all-ones value means forever.
	return uint32(min(int64(d/time.Second), math.MaxUint32-1)), nil
}
