package lab

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// Frames of the prober, built byte by byte.

// Kinds of ICMPv6 messages (RFC 4861, RFC 4443) and of ICMP ones (RFC 792).
const (
	icmpEcho, icmpEchoReply   = 8, 0
	icmp6Echo, icmp6EchoReply = 128, 129
	icmp6Ask, icmp6Tell       = 135, 136 // neighbour solicitation and advertisement
)

const (
	ethLen   = 14
	protoARP = 0x0806
	protoIP4 = 0x0800
	protoIP6 = 0x86dd
)

// checksum is that of RFC 1071 over parts of even length but the last.
func checksum(start uint32, parts ...[]byte) uint16 {
	sum := start
	for _, p := range parts {
		for ; len(p) >= 2; p = p[2:] {
			sum += uint32(binary.BigEndian.Uint16(p))
		}
		if len(p) == 1 {
			sum += uint32(p[0]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func ethernet(to, from net.HardwareAddr, proto uint16) []byte {
	return binary.BigEndian.AppendUint16(append(append(make([]byte, 0, 96), to...), from...), proto)
}

// arpTo is arpFrame to one hardware address instead of all.
func arpTo(dst net.HardwareAddr, op uint16, from net.HardwareAddr, fromIP netip.Addr, to net.HardwareAddr, toIP netip.Addr) []byte {
	b := arpFrame(op, from, fromIP, to, toIP)
	copy(b, dst)
	return b
}

// icmp6 builds an ICMPv6 packet in its frame.
func icmp6(dst, src net.HardwareAddr, from, to netip.Addr, hops byte, icmp []byte) []byte {
	b := append(ethernet(dst, src, protoIP6), 0x60, 0, 0, 0, 0, byte(len(icmp)), 58, hops)
	b = append(append(b, from.AsSlice()...), to.AsSlice()...)
	icmp[2], icmp[3] = 0, 0
	// Pseudo header: addresses, length, next header (RFC 8200 8.1).
	binary.BigEndian.PutUint16(icmp[2:], checksum(uint32(len(icmp))+58, b[22:54], icmp))
	return append(b, icmp...)
}

// solicit asks for an IPv6 address by its solicited-node group (RFC 4861 4.3), in a frame to one hardware address.
func solicit(dst, src net.HardwareAddr, from, target netip.Addr) []byte {
	group := netip.MustParseAddr("ff02::1:ff00:0").As16()
	t := target.As16()
	copy(group[13:], t[13:])
	icmp := append([]byte{icmp6Ask, 0, 0, 0, 0, 0, 0, 0}, t[:]...)
	icmp = append(append(icmp, 1, 1), src...) // option: source link-layer address
	return icmp6(dst, src, from, netip.AddrFrom16(group), 255, icmp)
}

// advertise answers a solicitation (RFC 4861 4.4).
func advertise(dst, src net.HardwareAddr, target, to netip.Addr) []byte {
	icmp := append([]byte{icmp6Tell, 0, 0, 0, 0x60, 0, 0, 0}, target.AsSlice()...)
	icmp = append(append(icmp, 2, 1), src...)
	return icmp6(dst, src, target, to, 255, icmp)
}

// echo builds an echo request with that sequence number, IPv4 or IPv6.
func echo(dst, src net.HardwareAddr, from, to netip.Addr, id, seq uint16) []byte {
	icmp := make([]byte, 8)
	binary.BigEndian.PutUint16(icmp[4:], id)
	binary.BigEndian.PutUint16(icmp[6:], seq)
	if to.Is6() {
		icmp[0] = icmp6Echo
		return icmp6(dst, src, from, to, 64, icmp)
	}
	icmp[0] = icmpEcho
	binary.BigEndian.PutUint16(icmp[2:], checksum(0, icmp))
	ip := []byte{0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 1, 0, 0}
	ip = append(append(ip, from.AsSlice()...), to.AsSlice()...)
	binary.BigEndian.PutUint16(ip[10:], checksum(0, ip))
	return append(append(ethernet(dst, src, protoIP4), ip...), icmp...)
}

// heard is what a frame says to the prober.
type heard struct {
	kind     uint8      // of the answer; 0: it is a question
	addr     netip.Addr // that answered, or that is asked for
	from     netip.Addr // sender of a question
	dst, src net.HardwareAddr
	id, seq  uint16 // of an echo
}

// parseHeard reads answers to probes, and questions for an address.
func parseHeard(b []byte) (h heard, ok bool) {
	if len(b) < ethLen {
		return h, false
	}
	h.dst, h.src = net.HardwareAddr(b[:6]), net.HardwareAddr(b[6:12])
	switch binary.BigEndian.Uint16(b[12:]) {
	case protoARP:
		op, _, ip, ok := parseARP(b)
		if ok && op == 2 {
			h.kind, h.addr = answeredARP, ip
			return h, true
		}
		if ok && op == 1 {
			h.from = ip
			h.addr, _ = netip.AddrFromSlice(b[38:42])
			return h, true
		}
	case protoIP4:
		p := b[ethLen:]
		if len(p) < 28 || p[0] != 0x45 || p[9] != 1 || p[20] != icmpEchoReply {
			return h, false
		}
		h.kind = answeredEcho
		h.addr, _ = netip.AddrFromSlice(p[12:16])
		h.id, h.seq = binary.BigEndian.Uint16(p[24:]), binary.BigEndian.Uint16(p[26:])
		return h, true
	case protoIP6:
		p := b[ethLen:]
		if len(p) < 48 || p[6] != 58 {
			return h, false
		}
		return h.icmp6(p)
	}
	return h, false
}

func (h heard) icmp6(p []byte) (heard, bool) {
	from, _ := netip.AddrFromSlice(p[8:24])
	m := p[40:]
	switch {
	case m[0] == icmp6EchoReply:
		h.kind, h.addr = answeredEcho, from
		h.id, h.seq = binary.BigEndian.Uint16(m[4:]), binary.BigEndian.Uint16(m[6:])
		return h, true
	case m[0] == icmp6Tell && len(m) >= 24:
		h.kind = answeredARP
		h.addr, _ = netip.AddrFromSlice(m[8:24])
		return h, true
	case m[0] == icmp6Ask && len(m) >= 24:
		h.from = from
		h.addr, _ = netip.AddrFromSlice(m[8:24])
		return h, true
	}
	return h, false
}
