package vip

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
)

// The parts of rtnetlink(7) that this package speaks. github.com/vishvananda/netlink does not know IFA_PROTO, by which
// our addresses are recognised, so address messages are built and read here.
const (
	ifaAddress   = 1
	ifaLocal     = 2
	ifaLabel     = 3
	ifaCacheInfo = 6
	ifaFlags     = 8
	ifaProto     = 11 // Linux 5.18

	iflaAddress = 1
	iflaIfname  = 3

	ifaFNoDAD         = 0x02
	ifaFDADFailed     = 0x08
	ifaFTentative     = 0x40
	ifaFNoPrefixRoute = 0x200
	ifaFMCAutoJoin    = 0x400 // Linux 4.1

	familyIPv4 = 2
	familyIPv6 = 10

	iffUp       = 0x1
	iffLoopback = 0x8
	iffNoARP    = 0x80
	iffLowerUp  = 0x10000

	hardwareEthernet = 1 // ARPHRD_ETHER

	lifetimeForever = 0xffffffff
)

// protoHad tags our addresses in IFA_PROTO. The kernel uses 1 to 3 and leaves the rest to user space; 104 is the letter
// h. It must never change: an upgraded agent finds its addresses by it.
const protoHad = 104

// labelSuffix tags our IPv4 addresses on kernels without IFA_PROTO.
const labelSuffix = ":had"

// maxLabel is IFNAMSIZ without the terminating zero.
const maxLabel = 15

// kernelAddr is one address as the kernel reports it.
type kernelAddr struct {
	prefix netip.Prefix // the local address with the prefix length of its subnet
	index  int          // interface
	proto  uint8
	label  string
	flags  uint32
	valid  uint32 // seconds
}

// ours reports whether had added the address.
func (a kernelAddr) ours() bool {
	return a.proto == protoHad || a.prefix.Addr().Is4() && strings.HasSuffix(a.label, labelSuffix)
}

// label is the tag for old kernels, empty when it does not fit.
func label(ifname string) string {
	if len(ifname)+len(labelSuffix) > maxLabel {
		return ""
	}
	return ifname + labelSuffix
}

// parseAddr reads the payload of RTM_NEWADDR and RTM_DELADDR: struct ifaddrmsg and attributes.
func parseAddr(b []byte) (a kernelAddr, ok bool) {
	if len(b) < 8 {
		return kernelAddr{}, false
	}
	family, bits := b[0], int(b[1])
	a.flags, a.index = uint32(b[2]), int(binary.NativeEndian.Uint32(b[4:]))
	a.valid = lifetimeForever
	var local, address netip.Addr
	ok = eachAttr(b[8:], func(kind uint16, v []byte) {
		switch kind {
		case ifaAddress:
			address, _ = netip.AddrFromSlice(v)
		case ifaLocal:
			local, _ = netip.AddrFromSlice(v)
		case ifaLabel:
			a.label = strings.TrimRight(string(v), "\x00")
		case ifaFlags:
			if len(v) >= 4 {
				a.flags = binary.NativeEndian.Uint32(v)
			}
		case ifaCacheInfo:
			if len(v) >= 8 {
				a.valid = binary.NativeEndian.Uint32(v[4:])
			}
		case ifaProto:
			if len(v) >= 1 {
				a.proto = v[0]
			}
		}
	})
	if !local.IsValid() {
		local = address // IPv6 without a peer has only IFA_ADDRESS
	}
	a.prefix = netip.PrefixFrom(local, bits)
	rightFamily := family == familyIPv4 && local.Is4() || family == familyIPv6 && local.Is6()
	return a, ok && rightFamily && a.prefix.IsValid()
}

// kernelLink is one interface as the kernel reports it.
type kernelLink struct {
	name     string
	index    int
	flags    uint32
	hardware uint16
	mac      net.HardwareAddr
}

func (l kernelLink) up() bool      { return l.flags&iffUp != 0 }
func (l kernelLink) carrier() bool { return l.flags&iffLowerUp != 0 }

// silent reports that the interface has no neighbours to talk to: nothing to announce, nobody to conflict with.
func (l kernelLink) silent() bool { return l.flags&(iffLoopback|iffNoARP) != 0 }

// parseLink reads the payload of RTM_NEWLINK and RTM_DELLINK: struct ifinfomsg and attributes.
func parseLink(b []byte) (l kernelLink, ok bool) {
	if len(b) < 16 {
		return kernelLink{}, false
	}
	l.hardware = binary.NativeEndian.Uint16(b[2:])
	l.index = int(int32(binary.NativeEndian.Uint32(b[4:])))
	l.flags = binary.NativeEndian.Uint32(b[8:])
	ok = eachAttr(b[16:], func(kind uint16, v []byte) {
		switch kind {
		case iflaIfname:
			l.name = strings.TrimRight(string(v), "\x00")
		case iflaAddress:
			l.mac = net.HardwareAddr(append([]byte(nil), v...))
		}
	})
	return l, ok && l.index > 0 && l.name != ""
}

// eachAttr walks route attributes; false when one does not fit in b.
func eachAttr(b []byte, visit func(kind uint16, value []byte)) bool {
	for len(b) >= 4 {
		size := int(binary.NativeEndian.Uint16(b))
		if size < 4 || size > len(b) {
			return false
		}
		visit(binary.NativeEndian.Uint16(b[2:])&0x3fff, b[4:size]) // the two high bits are NLA_F_NESTED, NLA_F_NET_BYTEORDER
		b = b[min((size+3)&^3, len(b)):]
	}
	return true
}

// appendAttr adds one route attribute.
func appendAttr(b []byte, kind uint16, v []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(v)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, v...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// addrBody is the part that every message about an address begins with.
func addrBody(p netip.Prefix, index int) []byte {
	family := byte(familyIPv6)
	if p.Addr().Is4() {
		family = familyIPv4
	}
	b := []byte{family, byte(p.Bits()), 0, 0}
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = appendAttr(b, ifaLocal, p.Addr().AsSlice())
	return appendAttr(b, ifaAddress, p.Addr().AsSlice())
}

// armBody is the payload of the RTM_NEWADDR that adds an address or sets a new lifetime in seconds. preferred_lft is 0:
// a deprecated address is not chosen as a source. With guard the kernel refuses to create what is missing: see
// "Renewing without creating" in DESIGN.md.
func armBody(p netip.Prefix, index int, tag string, seconds uint32, guard bool) []byte {
	b := addrBody(p, index)
	flags := uint32(ifaFNoPrefixRoute)
	if p.Addr().Is6() {
		flags |= ifaFNoDAD
	}
	if guard {
		flags |= ifaFMCAutoJoin
	}
	b = appendAttr(b, ifaFlags, binary.NativeEndian.AppendUint32(nil, flags))
	b = appendAttr(b, ifaProto, []byte{protoHad})
	if tag != "" && p.Addr().Is4() {
		b = appendAttr(b, ifaLabel, append([]byte(tag), 0))
	}
	info := binary.NativeEndian.AppendUint32(make([]byte, 4), seconds) // preferred 0, then valid
	return appendAttr(b, ifaCacheInfo, append(info, make([]byte, 8)...))
}

// removeBody is the payload of RTM_DELADDR. The label makes the kernel refuse when an IPv4 address without our label has
// taken the place of the one that was seen.
func removeBody(a kernelAddr) []byte {
	b := addrBody(a.prefix, a.index)
	if a.label != "" && a.prefix.Addr().Is4() {
		b = appendAttr(b, ifaLabel, append([]byte(a.label), 0))
	}
	return b
}
