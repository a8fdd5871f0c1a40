package vip

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// holdAt is how long after its arrival a packet is sent on, again and again: whoever gets it while the gate is shut drops it.
var holdAt = []time.Duration{2, 4, 8, 14, 20, 28, 36, 48, 64, 96, 128, 256}

const (
	holdMost = 4096                 // packets held at once
	holdTick = 2 * time.Millisecond // longest time between two looks
)

// held is a packet that opens a connection, and how often it was sent on.
type held struct {
	packet []byte
	came   time.Time
	times  int
}

// HoldOpenings hears what opens a connection to an address, from right before DrainTo. run, which must be called, sends it to the
// new owner until ctx ends, several times each. What comes before that owner has opened its gate would be lost, and the client
// would try again after a second only. Nothing is answered, so that nobody but the owner of the open gate does. own are the
// connections that this node has right after DrainTo: what opened those is not sent on.
func (m *Manager) HoldOpenings(s Spec, to Peer) (run func(ctx context.Context, own []Conn) error, err error) {
	link, err := m.resolve(s)
	if err != nil {
		return nil, err
	}
	fd, err := m.holdSocket(s.Address.Addr(), link.Index)
	if err != nil {
		return nil, fmt.Errorf("hearing what opens connections to %s: %w", s.Address.Addr(), err)
	}
	return func(ctx context.Context, own []Conn) error {
		defer unix.Close(fd)
		if err := hold(ctx, fd, own, holdTo(s.Address.Addr(), link.Index, to.MAC)); err != nil {
			return fmt.Errorf("holding what opens connections to %s: %w", s.Address.Addr(), err)
		}
		return nil
	}, nil
}

func hold(ctx context.Context, fd int, own []Conn, dest *unix.SockaddrLinklayer) error {
	mine := map[string]bool{}
	for _, k := range own {
		mine[string(k.key())] = true
	}
	var all []held
	buf := make([]byte, 2048)
	for ctx.Err() == nil {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		switch {
		case err == nil && len(all) < holdMost && sumTCP(buf[:n]) && !mine[opens(buf[:n])]:
			all = append(all, held{packet: append([]byte(nil), buf[:n]...), came: time.Now()})
		case err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR):
			return err
		}
		kept := all[:0]
		for _, h := range all {
			if time.Since(h.came) >= holdAt[h.times]*time.Millisecond {
				_ = unix.Sendto(fd, h.packet, 0, dest) // the next time
				h.times++
			}
			if h.times < len(holdAt) {
				kept = append(kept, h)
			}
		}
		all = kept
	}
	return nil
}

func holdTo(a netip.Addr, index int, mac net.HardwareAddr) *unix.SockaddrLinklayer {
	to := &unix.SockaddrLinklayer{Protocol: etherType(a), Ifindex: index, Halen: 6}
	copy(to.Addr[:], mac)
	return to
}

// etherType is in network byte order.
func etherType(a netip.Addr) uint16 {
	kind := uint16(unix.ETH_P_IPV6)
	if a.Is4() {
		kind = unix.ETH_P_IP
	}
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, kind))
}

// holdSocket hears what opens TCP connections to the address, without the link's header.
func (m *Manager) holdSocket(a netip.Addr, index int) (fd int, err error) {
	err = m.ns.do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) // deaf until it is bound
		return err
	})
	if err != nil {
		return -1, err
	}
	filter := holdFilter(a)
	timeout := unix.NsecToTimeval(int64(holdTick))
	err = errors.Join(
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1))
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: etherType(a), Ifindex: index})
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// holdFilter accepts TCP to the address with SYN and without ACK.
func holdFilter(a netip.Addr) []unix.SockFilter {
	const load, byteAt, wordAt, jump = unix.BPF_LD | unix.BPF_ABS, unix.BPF_B, unix.BPF_W, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	var f []unix.SockFilter
	want := func(code uint16, offset, value uint32) {
		f = append(f, unix.SockFilter{Code: code, K: offset}, unix.SockFilter{Code: jump, K: value, Jf: 0xff}) // the way out is put in below
	}
	proto, dest := uint32(6), uint32(24)
	if a.Is4() {
		proto, dest = 9, 16
	}
	want(load|byteAt, proto, unix.IPPROTO_TCP)
	for i, b := uint32(0), a.AsSlice(); int(i) < len(b); i += 4 {
		want(load|wordAt, dest+i, binary.BigEndian.Uint32(b[i:]))
	}
	if a.Is4() { // the header's length is its first byte's lower half, in words
		f = append(f, unix.SockFilter{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH})
	} else {
		f = append(f, unix.SockFilter{Code: unix.BPF_LDX | unix.BPF_IMM, K: 40})
	}
	f = append(f, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_IND, K: 13}, unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0x12},
		unix.SockFilter{Code: jump, K: 0x02, Jf: 0xff}, unix.SockFilter{Code: unix.BPF_RET, K: 0xffff}, unix.SockFilter{Code: unix.BPF_RET})
	for i := range f {
		if f[i].Jf == 0xff {
			f[i].Jf = uint8(len(f) - 2 - i)
		}
	}
	return f
}

// opens is the connection that a packet opens, as Conn.key has it.
func opens(p []byte) string {
	if p[0]>>4 == 4 {
		head := int(p[0]&15) * 4
		return string(p[12:20]) + string(p[head:head+4])
	}
	return string(p[8:44])
}

// sumTCP fills the checksum in, which a sender on the same machine leaves to hardware that is not there. False for what is no whole
// packet.
func sumTCP(p []byte) bool {
	if len(p) < 20 {
		return false
	}
	head, size, pseudo := int(p[0]&15)*4, 0, []byte(nil)
	if p[0]>>4 == 4 {
		size, pseudo = int(binary.BigEndian.Uint16(p[2:])), p[12:20]
	} else if len(p) >= 40 {
		head, size, pseudo = 40, 40+int(binary.BigEndian.Uint16(p[4:])), p[8:40]
	}
	if head < 20 || size < head+20 || size > len(p) {
		return false
	}
	body := p[head:size]
	binary.BigEndian.PutUint16(body[16:], 0)
	sum := uint32(unix.IPPROTO_TCP) + uint32(len(body))
	for _, part := range [][]byte{pseudo, body} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(part[i]) << 8
			if i+1 < len(part) {
				sum += uint32(part[i+1])
			}
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(body[16:], ^uint16(sum))
	return true
}
