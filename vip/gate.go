package vip

import (
	"errors"
	"net/netip"
	"time"
)

// ErrNoGate: had's nf_tables tables are not there. Either OpenGate was never called, or somebody flushed the whole ruleset
// (`nft flush ruleset`, a restart of nftables.service); nothing is gated until OpenGate and Guard are called again.
var ErrNoGate = errors.New("the kernel gate is not set up")

// ErrClosed: the gate for the address has closed; a renewal does not open it again. It is an ErrGone for errors.Is.
var ErrClosed error = closedError{}

type closedError struct{}

func (closedError) Error() string        { return "the kernel gate has closed" }
func (closedError) Is(target error) bool { return target == ErrGone }

// GateTable is the name of had's own tables, one in family inet and one in family arp.
const GateTable = "had"

// gateTicket is the longest that a message to the gate may be under way: the kernel refuses it afterwards. The gate closes
// that much before the end of the lease, see "The gate" in DESIGN.md.
const gateTicket = 25 * time.Millisecond

// gateLeast is the shortest time for which the gate is opened. Below two ticks of a kernel with 100 Hz the kernel could
// round the time down to 0, which means forever.
const gateLeast = 20 * time.Millisecond

// GateEntry is one guarded address as the kernel has it.
type GateEntry struct {
	Address netip.Addr
	Alive   bool          // traffic for it passes
	Left    time.Duration // until the gate closes by itself, milliseconds; 0 when it is closed
}
