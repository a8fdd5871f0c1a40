package vip

import (
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The priorities of the two inet chains: before connection tracking and any address translation on the way in, after
// source translation on the way out, so that the packet shows the VIP in both.
const (
	priorityIn  = -300 // raw
	priorityOut = 300
)

// The hooks of family arp (include/uapi/linux/netfilter_arp.h).
const (
	arpIn  nftables.ChainHook = 0
	arpOut nftables.ChainHook = 1
)

// lane is where one family of addresses is kept in one table. The sets are created once and only their elements change.
type lane struct {
	managed *nftables.Set    // permanent: what is gated at all
	alive   [2]*nftables.Set // with timeouts: what may pass; one side covers while the other is written
	proof   *nftables.Set    // with timeouts, in no rule: renewal deletes the old element, which fails when it is over
	pass    *nftables.Set    // with timeouts: closed, but TCP connections that are open go on
}

var (
	inetTable = &nftables.Table{Family: nftables.TableFamilyINet, Name: GateTable}
	arpTable  = &nftables.Table{Family: nftables.TableFamilyARP, Name: GateTable}

	inet4 = newLane(inetTable, "4", nftables.TypeIPAddr, 1, true)
	inet6 = newLane(inetTable, "6", nftables.TypeIP6Addr, 11, true)
	arp4  = newLane(arpTable, "4", nftables.TypeIPAddr, 21, false)
	// tickets holds one element for each message that is under way.
	tickets = &nftables.Set{Table: inetTable, Name: "tickets", KeyType: nftables.TypeMark, HasTimeout: true, ID: 31}

	lanes = []lane{inet4, inet6, arp4}

	// asks holds what the kernel names as sender when it asks for a neighbour on behalf of a connection that goes on: the
	// node's own address, since the floating one would teach the client where it no longer is.
	asks = &nftables.Set{Table: arpTable, Name: "asks", KeyType: nftables.TypeIPAddr, DataType: nftables.TypeIPAddr, IsMap: true, HasTimeout: true, ID: 41}
)

// newLane names the sets. The ids are only used within the transaction that creates the sets.
func newLane(t *nftables.Table, suffix string, key nftables.SetDatatype, id uint32, proof bool) lane {
	timed := func(name string, id uint32) *nftables.Set {
		return &nftables.Set{Table: t, Name: name + suffix, KeyType: key, HasTimeout: true, ID: id}
	}
	l := lane{
		managed: &nftables.Set{Table: t, Name: "managed" + suffix, KeyType: key, ID: id},
		alive:   [2]*nftables.Set{timed("alive_a", id+1), timed("alive_b", id+2)},
	}
	if proof {
		l.proof = timed("proof", id+3)
		l.pass = timed("pass", id+4)
	}
	return l
}

// sets lists the sets of the lane.
func (l lane) sets() []*nftables.Set {
	all := []*nftables.Set{l.managed, l.alive[0], l.alive[1]}
	if l.proof != nil {
		all = append(all, l.proof, l.pass)
	}
	return all
}

// gateChain is one base chain with its rules.
type gateChain struct {
	chain *nftables.Chain
	rules [][]expr.Any
}

func chain(t *nftables.Table, name string, kind nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority) *nftables.Chain {
	accept := nftables.ChainPolicyAccept
	return &nftables.Chain{Table: t, Name: name, Type: kind, Hooknum: hook, Priority: &priority, Policy: &accept}
}

// gateRules says how many rules there are to be.
var gateRules = gateChains()

// gateChains is all the gate consists of. "closed" below means: managed and not alive.
func gateChains() []gateChain {
	const (
		nfprotoAt, protoAt = expr.MetaKeyNFPROTO, expr.MetaKeyL4PROTO
		solicit, advertise = 135, 136 // RFC 4861
	)
	v4 := meta(nfprotoAt, unix.NFPROTO_IPV4)
	v6 := meta(nfprotoAt, unix.NFPROTO_IPV6)
	discovery := func(kind byte) []expr.Any {
		return join(v6, meta(protoAt, unix.IPPROTO_ICMPV6), match(expr.PayloadBaseTransportHeader, 0, kind),
			closed(inet6, expr.PayloadBaseTransportHeader, 8), drop)
	}
	// Ethernet, IPv4: hardware type 1, protocol 0x0800, lengths 6 and 4, then the operation.
	ethernet := []byte{0, 1, 8, 0, 6, 4}
	request := append(ethernet[:6:6], 0, 1)
	ongoing := func(version []expr.Any, l lane, offset uint32, more ...[]expr.Any) []expr.Any {
		return join(version, load(expr.PayloadBaseNetworkHeader, offset, l.pass.KeyType.Bytes), in(l.pass), tcp, join(more...), accept)
	}
	return []gateChain{
		{chain(inetTable, "in", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, priorityIn), [][]expr.Any{
			ongoing(v4, inet4, 16, notOpening),
			ongoing(v6, inet6, 24, notOpening),
			ongoing(v4, inet4, 16, loopback),
			ongoing(v6, inet6, 24, loopback),
			join(v4, closed(inet4, expr.PayloadBaseNetworkHeader, 16), local(false), drop),
			join(v6, closed(inet6, expr.PayloadBaseNetworkHeader, 24), local(false), drop),
			discovery(solicit),
		}},
		{chain(inetTable, "out", nftables.ChainTypeFilter, nftables.ChainHookPostrouting, priorityOut), [][]expr.Any{
			ongoing(v4, inet4, 12),
			ongoing(v6, inet6, 8),
			// What a connection is reset by when the address leaves: it opens nothing and keeps nothing alive.
			join(meta(protoAt, unix.IPPROTO_TCP), tcpReset, accept),
			join(v4, closed(inet4, expr.PayloadBaseNetworkHeader, 12), local(true), drop),
			join(v6, closed(inet6, expr.PayloadBaseNetworkHeader, 8), local(true), drop),
			discovery(advertise),
		}},
		{chain(arpTable, "in", nftables.ChainTypeFilter, nftables.ChainHookRef(arpIn), 0), [][]expr.Any{
			// The announcement of the new owner (sender and target are the VIP) must reach this node's own cache.
			join(match(expr.PayloadBaseNetworkHeader, 0, request...), load(expr.PayloadBaseNetworkHeader, 14, 4), in(arp4.managed), accept),
			join(match(expr.PayloadBaseNetworkHeader, 0, request...), closed(arp4, expr.PayloadBaseNetworkHeader, 24), drop),
		}},
		{chain(arpTable, "out", nftables.ChainTypeFilter, nftables.ChainHookRef(arpOut), 0), [][]expr.Any{
			join(match(expr.PayloadBaseNetworkHeader, 0, request...), load(expr.PayloadBaseNetworkHeader, 14, 4), []expr.Any{
				&expr.Lookup{SourceRegister: 1, DestRegister: 2, IsDestRegSet: true, SetName: asks.Name, SetID: asks.ID},
				&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: 2, Base: expr.PayloadBaseNetworkHeader, Offset: 14, Len: 4},
			}, accept),
			join(match(expr.PayloadBaseNetworkHeader, 0, ethernet...), closed(arp4, expr.PayloadBaseNetworkHeader, 14), drop),
		}},
	}
}

var (
	drop   = []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
	accept = []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
)

func join(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// meta compares one byte of the packet's metadata.
func meta(key expr.MetaKey, value byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{value}}}
}

// tcpReset matches a segment that resets its connection (RFC 9293: the flags are at offset 13).
var tcpReset = []expr.Any{
	&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
	&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{4}, Xor: []byte{0}},
	&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0}},
}

func load(base expr.PayloadBase, offset, length uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: length}}
}

// match compares bytes of the packet.
func match(base expr.PayloadBase, offset uint32, value ...byte) []expr.Any {
	return append(load(base, offset, uint32(len(value))), &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value})
}

func in(s *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID}}
}

// closed matches when the address at the offset is managed and on neither side alive.
func closed(l lane, base expr.PayloadBase, offset uint32) []expr.Any {
	all := append(load(base, offset, l.managed.KeyType.Bytes), in(l.managed)...)
	for _, s := range l.alive {
		all = append(all, &expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID, Invert: true})
	}
	return all
}

// local matches when the packet's destination (or source) is an address of this node: what is only forwarded here, to or
// from another owner of the VIP, is not ours to stop.
func local(source bool) []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagSADDR: source, FlagDADDR: !source},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}
