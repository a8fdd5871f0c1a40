package vip

import (
	"encoding/binary"
	"net"
	"net/netip"
)

const (
	etherTypeARP  = 0x0806
	etherTypeIPv6 = 0x86dd
	etherLen      = 14
	arpLen        = 28
	ipv6Len       = 40

	arpRequest = 1
	arpReply   = 2

	icmpv6               = 58
	icmpv6NeighborSol    = 135
	icmpv6NeighborAdv    = 136
	ndOptTargetLinkLayer = 2
	// ndHopLimit proves that a neighbour discovery packet was not forwarded (RFC 4861 7.1).
	ndHopLimit = 255
	// naOverride asks the receiver to replace the link-layer address it has cached (RFC 4861 4.4).
	naOverride = 0x20
)

var (
	broadcastMAC = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	zeroMAC      = make(net.HardwareAddr, 6)
	allNodes     = netip.MustParseAddr("ff02::1")
)

// arpPacket is an Ethernet/IPv4 ARP packet (RFC 826).
type arpPacket struct {
	Op        uint16
	SenderMAC net.HardwareAddr
	SenderIP  netip.Addr
	TargetMAC net.HardwareAddr
	TargetIP  netip.Addr
}

// frame is the packet in a broadcast Ethernet frame from its sender.
func (p arpPacket) frame() []byte {
	b := ethernet(broadcastMAC, p.SenderMAC, etherTypeARP, arpLen)
	b = append(b, 0, 1, 8, 0, 6, 4) // Ethernet, IPv4, their address lengths
	b = binary.BigEndian.AppendUint16(b, p.Op)
	b = append(b, p.SenderMAC...)
	b = append(b, p.SenderIP.AsSlice()...)
	b = append(b, p.TargetMAC...)
	return append(b, p.TargetIP.AsSlice()...)
}

// parseARP reads an Ethernet frame; ok is false for everything that is not a whole Ethernet/IPv4 ARP packet.
func parseARP(frame []byte) (p arpPacket, ok bool) {
	if len(frame) < etherLen+arpLen || binary.BigEndian.Uint16(frame[12:]) != etherTypeARP {
		return arpPacket{}, false
	}
	b := frame[etherLen : etherLen+arpLen]
	if [6]byte(b[:6]) != [6]byte{0, 1, 8, 0, 6, 4} {
		return arpPacket{}, false
	}
	return arpPacket{
		Op:        binary.BigEndian.Uint16(b[6:]),
		SenderMAC: net.HardwareAddr(b[8:14:14]),
		SenderIP:  netip.AddrFrom4([4]byte(b[14:18])),
		TargetMAC: net.HardwareAddr(b[18:24:24]),
		TargetIP:  netip.AddrFrom4([4]byte(b[24:28])),
	}, true
}

// gratuitousARP is the pair of frames that makes neighbours update their caches: some listen to requests only, some to
// replies only (RFC 5944 4.6; RFC 5227 3 prefers the request).
func gratuitousARP(ip netip.Addr, mac net.HardwareAddr) [][]byte {
	request := arpPacket{Op: arpRequest, SenderMAC: mac, SenderIP: ip, TargetMAC: zeroMAC, TargetIP: ip}
	reply := arpPacket{Op: arpReply, SenderMAC: mac, SenderIP: ip, TargetMAC: mac, TargetIP: ip}
	return [][]byte{request.frame(), reply.frame()}
}

// arpProbe asks who has ip without claiming it: the sender address is 0.0.0.0, so no cache learns from it (RFC 5227 2.1.1).
func arpProbe(ip netip.Addr, mac net.HardwareAddr) []byte {
	return arpPacket{Op: arpRequest, SenderMAC: mac, SenderIP: netip.IPv4Unspecified(), TargetMAC: zeroMAC, TargetIP: ip}.frame()
}

// unsolicitedNA is a neighbour advertisement to all nodes with the override flag (RFC 4861 7.2.6).
func unsolicitedNA(ip netip.Addr, mac net.HardwareAddr) []byte {
	body := append([]byte{icmpv6NeighborAdv, 0, 0, 0, naOverride, 0, 0, 0}, ip.AsSlice()...)
	body = append(body, ndOptTargetLinkLayer, 1)
	return ndFrame(mac, ip, allNodes, append(body, mac...))
}

// dadSolicitation asks who has ip in the way of duplicate address detection: from the unspecified address and without
// the source link-layer option, so no cache learns from it (RFC 4862 5.4.2); the answer goes to all nodes.
func dadSolicitation(ip netip.Addr, mac net.HardwareAddr) []byte {
	body := append([]byte{icmpv6NeighborSol, 0, 0, 0, 0, 0, 0, 0}, ip.AsSlice()...)
	return ndFrame(mac, netip.IPv6Unspecified(), solicitedNode(ip), body)
}

// solicitedNode is the multicast address on which the holder of ip listens (RFC 4291 2.7.1).
func solicitedNode(ip netip.Addr) netip.Addr {
	a := ip.As16()
	return netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: a[13], 14: a[14], 15: a[15]})
}

// ndFrame wraps an ICMPv6 message to a multicast group and fills in the checksum.
func ndFrame(mac net.HardwareAddr, src, dst netip.Addr, body []byte) []byte {
	d := dst.As16()
	group := net.HardwareAddr{0x33, 0x33, d[12], d[13], d[14], d[15]} // RFC 2464 7
	b := ethernet(group, mac, etherTypeIPv6, ipv6Len+len(body))
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	b = append(b, icmpv6, ndHopLimit)
	b = append(b, src.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	binary.BigEndian.PutUint16(body[2:], ^sum16(src, dst, body))
	return append(b, body...)
}

// advertisement is a received neighbour advertisement.
type advertisement struct {
	Target netip.Addr
	MAC    net.HardwareAddr // from the target link-layer option, else the sender of the frame
}

// parseNA reads an Ethernet frame; ok is false for everything that is not a valid neighbour advertisement by RFC 4861
// 7.1.2.
func parseNA(frame []byte) (a advertisement, ok bool) {
	if len(frame) < etherLen+ipv6Len+24 || binary.BigEndian.Uint16(frame[12:]) != etherTypeIPv6 {
		return advertisement{}, false
	}
	ip := frame[etherLen:]
	size := int(binary.BigEndian.Uint16(ip[4:]))
	if ip[0]>>4 != 6 || ip[6] != icmpv6 || ip[7] != ndHopLimit || size < 24 || len(ip) < ipv6Len+size {
		return advertisement{}, false
	}
	src, dst, body := netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40])), ip[ipv6Len:ipv6Len+size]
	if body[0] != icmpv6NeighborAdv || body[1] != 0 || sum16(src, dst, body) != 0xffff {
		return advertisement{}, false
	}
	a = advertisement{Target: netip.AddrFrom16([16]byte(body[8:24])), MAC: net.HardwareAddr(frame[6:12:12])}
	if a.Target.IsMulticast() {
		return advertisement{}, false
	}
	for opts := body[24:]; len(opts) > 0; {
		if len(opts) < 8 || opts[1] == 0 || len(opts) < int(opts[1])*8 {
			return advertisement{}, false // a length of 0 makes the whole packet invalid (RFC 4861 4.6)
		}
		if opts[0] == ndOptTargetLinkLayer && opts[1] == 1 {
			a.MAC = net.HardwareAddr(opts[2:8:8])
		}
		opts = opts[int(opts[1])*8:]
	}
	return a, true
}

// sum16 is the internet checksum's ones' complement sum over the IPv6 pseudo header and an ICMPv6 message (RFC 8200 8.1).
func sum16(src, dst netip.Addr, body []byte) uint16 {
	var sum uint32
	add := func(b []byte) {
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
		if len(b)%2 == 1 {
			sum += uint32(b[len(b)-1]) << 8
		}
	}
	add(src.AsSlice())
	add(dst.AsSlice())
	add(body)
	sum += uint32(len(body)) + icmpv6
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// ethernet starts a frame with room for size more bytes.
func ethernet(dst, src net.HardwareAddr, etherType uint16, size int) []byte {
	b := make([]byte, 0, etherLen+size)
	b = append(b, dst...)
	b = append(b, src...)
	return binary.BigEndian.AppendUint16(b, etherType)
}
