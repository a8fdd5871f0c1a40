package vip

import (
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const (
	priorityDrain = -310    // before the gate, before connection tracking
	drainSize     = 1 << 20 // connections that one set can hold
)

// drainLane is what forwards the connections of one family. Its table exists only while something is drained.
type drainLane struct {
	table        *nftables.Table
	there, back  *nftables.Set // maps with timeouts: floating address to the node it is forwarded to
	from         *nftables.Set // floating address and hardware address of that node: what comes from there is not sent there
	mine, theirs *nftables.Set // connections whose first packet was seen here: kept, and forwarded
	addresses    uint32        // offset of source and destination in the header
	hops         uint32        // offset of the hops that are left
	size         uint32        // of an address
}

var drainLanes = []drainLane{
	newDrainLane(nftables.TableFamilyIPv4, nftables.TypeIPAddr, 12, 8, 51),
	newDrainLane(nftables.TableFamilyIPv6, nftables.TypeIP6Addr, 8, 7, 61),
}

func newDrainLane(f nftables.TableFamily, key nftables.SetDatatype, addresses, hops, id uint32) drainLane {
	t := &nftables.Table{Family: f, Name: DrainTable}
	conn := nftables.MustConcatSetType(key, key, nftables.TypeMark) // source, destination, both ports
	seen := func(name string, id uint32) *nftables.Set {
		return &nftables.Set{Table: t, Name: name, KeyType: conn, Concatenation: true, HasTimeout: true, Dynamic: true, Size: drainSize, ID: id}
	}
	node := func(name string, id uint32) *nftables.Set {
		return &nftables.Set{Table: t, Name: name, KeyType: key, DataType: key, IsMap: true, HasTimeout: true, ID: id}
	}
	return drainLane{table: t, there: node("there", id), back: node("back", id+1),
		from: &nftables.Set{Table: t, Name: "from", KeyType: nftables.MustConcatSetType(key, nftables.TypeEtherAddr), Concatenation: true, HasTimeout: true, ID: id + 2},
		mine: seen("mine", id+3), theirs: seen("theirs", id+4), addresses: addresses, hops: hops, size: key.Bytes}
}

func (l drainLane) sets() []*nftables.Set {
	return []*nftables.Set{l.there, l.back, l.from, l.mine, l.theirs}
}

// drainRegister is the first of the 4-byte registers, of which keys of several parts are made.
const drainRegister = 8

// tuple loads the key of the packet's connection.
func (l drainLane) tuple() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: drainRegister, Base: expr.PayloadBaseNetworkHeader, Offset: l.addresses, Len: 2 * l.size},
		&expr.Payload{DestRegister: drainRegister + 2*l.size/4, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 4},
	}
}

func (l drainLane) destination() []expr.Any {
	return load(expr.PayloadBaseNetworkHeader, l.addresses+l.size, l.size)
}

// to matches packets whose destination has an entry, and loads that.
func (l drainLane) to(s *nftables.Set) []expr.Any {
	return append(l.destination(), &expr.Lookup{SourceRegister: 1, DestRegister: 2, IsDestRegSet: true, SetName: s.Name, SetID: s.ID})
}

// known matches packets of connections in the set.
func (l drainLane) known(s *nftables.Set) []expr.Any {
	return append(l.tuple(), &expr.Lookup{SourceRegister: drainRegister, SetName: s.Name, SetID: s.ID})
}

// note puts the packet's connection into the set.
func (l drainLane) note(s *nftables.Set) []expr.Any {
	return append(l.tuple(), &expr.Dynset{SrcRegKey: drainRegister, SetName: s.Name, SetID: s.ID, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: 2 * DrainLongest})
}

// stranger matches what did not come from a node to which packets of its address are forwarded, and has hops left. The
// kernel counts the hops of what it duplicates down and never looks at them: without this a packet that no node knows
// would go round for ever.
func (l drainLane) stranger() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: drainRegister, Base: expr.PayloadBaseNetworkHeader, Offset: l.addresses + l.size, Len: l.size},
		&expr.Payload{DestRegister: drainRegister + l.size/4, Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6},
		&expr.Lookup{SourceRegister: drainRegister, SetName: l.from.Name, SetID: l.from.ID, Invert: true},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: l.hops, Len: 1},
		&expr.Cmp{Op: expr.CmpOpGt, Register: 1, Data: []byte{1}},
	}
}

// forward sends the packet to the node that to has loaded, as it is, and takes it from here.
var forward = append([]expr.Any{&expr.Dup{RegAddr: 2}}, drop...)

// The flags of TCP: a packet with SYN and without ACK opens a connection.
var opening = []expr.Any{
	&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
	&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{0x12}, Xor: []byte{0}},
	&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0x02}},
}

var notOpening = []expr.Any{opening[0], opening[1], &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0x02}}}

var tcp = meta(expr.MetaKeyL4PROTO, unix.IPPROTO_TCP)

// loopback matches what comes from this node itself.
var loopback = []expr.Any{
	&expr.Meta{Key: expr.MetaKeyIIFTYPE, Register: 1},
	&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint16(unix.ARPHRD_LOOPBACK)},
}

// chain is the rules that forward: "Connections on two nodes" in DESIGN.md.
func (l drainLane) chain() gateChain {
	return gateChain{chain(l.table, "drain", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, priorityDrain), [][]expr.Any{
		join(loopback, accept),
		join(tcp, l.to(l.there), opening, l.note(l.theirs)),
		join(tcp, opening, l.stranger(), l.to(l.there), forward),
		join(tcp, l.to(l.back), opening, l.note(l.mine)),
		join(tcp, opening, accept),
		join(tcp, l.known(l.theirs), l.stranger(), l.to(l.there), forward),
		join(tcp, l.known(l.mine), accept),
		join(tcp, l.stranger(), l.to(l.back), forward),
	}}
}

// pairs is the elements of a map with a timeout.
func pairs(key, value []byte, d time.Duration) []nftables.SetElement {
	return []nftables.SetElement{{Key: key, Val: value, Timeout: d}}
}
