package health

import "encoding/binary"

// ICMP echo, RFC 792 and RFC 4443.
const (
	echoRequest4 = 8
	echoReply4   = 0
	echoRequest6 = 128
	echoReply6   = 129
)

// echo builds an echo request. The checksum is ours for IPv4; for ICMPv6 the kernel overwrites it.
func echo(v6 bool, id, seq uint16, payload []byte) []byte {
	b := make([]byte, 8, 8+len(payload))
	b[0] = echoRequest4
	if v6 {
		b[0] = echoRequest6
	}
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], seq)
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[2:], checksum(b))
	return b
}

// checksum is RFC 1071's.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// isReply says whether packet is the reply to the request with this payload. The id is not compared: the kernel replaces
// it on unprivileged sockets; the payload is random and enough. A raw IPv4 socket delivers the IP header too.
func isReply(packet []byte, v6, raw bool, seq uint16, payload []byte) bool {
	if raw && !v6 {
		if len(packet) < 20 {
			return false
		}
		size := int(packet[0]&0x0f) * 4
		if packet[0]>>4 != 4 || size < 20 || size > len(packet) {
			return false
		}
		packet = packet[size:]
	}
	want := byte(echoReply4)
	if v6 {
		want = echoReply6
	}
	return len(packet) == 8+len(payload) && packet[0] == want && packet[1] == 0 &&
		binary.BigEndian.Uint16(packet[6:]) == seq && string(packet[8:]) == string(payload)
}
