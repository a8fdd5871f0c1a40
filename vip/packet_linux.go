package vip

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/internal/boottime"
)

// Announce tells the neighbours that the address lives here: IPv4 by a gratuitous ARP request and reply, IPv6 by an
// unsolicited neighbour advertisement with the override flag. One set per call; the caller repeats. It refuses with
// ErrGone when we do not hold the address, because that would lead clients to nobody. Interfaces without neighbours
// (loopback, NOARP) have nothing to announce.
func (m *Manager) Announce(s Spec) error {
	if err := m.announce(s); err != nil {
		return fmt.Errorf("announcing VIP %s: %w", s, err)
	}
	return nil
}

func (m *Manager) announce(s Spec) error {
	all, err := m.route.addresses()
	if err != nil {
		return err
	}
	a, err := all.present(s.Address.Addr(), m.linkName)
	if err != nil {
		return err
	}
	link, err := m.ethernet(a.index)
	if err != nil || link.silent() {
		return err
	}
	var frames [][]byte
	if ip := a.prefix.Addr(); ip.Is4() {
		frames = gratuitousARP(ip, link.mac)
	} else {
		frames = append(frames, unsolicitedNA(ip, link.mac))
	}
	return m.send(link, frames)
}

// sender is the packet socket for announcements. It is opened at the first one and kept, because closing a packet socket
// waits for an RCU grace period: 15 ms in the middle of a takeover.
type sender struct {
	mu     sync.Mutex
	fd     int
	open   bool
	closed bool
}

func (m *Manager) send(link kernelLink, frames [][]byte) error {
	m.sender.mu.Lock()
	defer m.sender.mu.Unlock()
	if m.sender.closed {
		return net.ErrClosed
	}
	if !m.sender.open {
		fd, err := m.packetSocket()
		if err != nil {
			return err
		}
		m.sender.fd, m.sender.open = fd, true
	}
	var errs []error
	for _, f := range frames {
		errs = append(errs, sendFrame(m.sender.fd, link, f))
	}
	return errors.Join(errs...)
}

func (s *sender) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if !s.open {
		return nil
	}
	s.open = false
	return unix.Close(s.fd)
}

// ethernet reads an interface; the error says when it has neighbours but is not an Ethernet.
func (m *Manager) ethernet(index int) (kernelLink, error) {
	links, err := m.route.links()
	if err != nil {
		return kernelLink{}, err
	}
	l, ok := links[index]
	switch {
	case !ok:
		return kernelLink{}, fmt.Errorf("%w: interface %d is gone", ErrNoInterface, index)
	case !l.silent() && (l.hardware != hardwareEthernet || len(l.mac) != 6):
		return kernelLink{}, fmt.Errorf("interface %s is not an Ethernet: %w", l.name, errors.ErrUnsupported)
	}
	return l, nil
}

// packetSocket opens an AF_PACKET socket that receives nothing until it is bound to a protocol.
func (m *Manager) packetSocket() (fd int, err error) {
	err = m.ns.do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("opening a packet socket: %w", err)
	}
	return fd, nil
}

func sendFrame(fd int, link kernelLink, frame []byte) error {
	to := unix.SockaddrLinklayer{Ifindex: link.index, Protocol: networkOrder(binary.BigEndian.Uint16(frame[12:])), Halen: 6}
	copy(to.Addr[:], frame[:6])
	if err := unix.Sendto(fd, frame, 0, &to); err != nil {
		return fmt.Errorf("sending on %s: %w", link.name, err)
	}
	return nil
}

// networkOrder is htons(3).
func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// probes is how often Conflict asks within its wait; a single lost frame must not hide a holder.
const probes = 3

// Conflict asks the network whether somebody else holds the address: IPv4 by ARP probes (RFC 5227), IPv6 by
// solicitations in the way of duplicate address detection (RFC 4862). It returns at the first answer, or without one
// after wait. Silence is no proof that nobody holds it: the holder may be unreachable from here. A second node that
// probes at the same moment is not a holder.
func (m *Manager) Conflict(ctx context.Context, s Spec, wait time.Duration) (Holder, bool, error) {
	h, found, err := m.conflict(ctx, s, wait)
	if err != nil {
		return Holder{}, false, fmt.Errorf("probing for another holder of VIP %s: %w", s, err)
	}
	return h, found, nil
}

func (m *Manager) conflict(ctx context.Context, s Spec, wait time.Duration) (Holder, bool, error) {
	to, err := m.resolve(s)
	if err != nil {
		return Holder{}, false, err
	}
	link, err := m.ethernet(to.Index)
	if err != nil || link.silent() {
		return Holder{}, false, err
	}
	links, err := m.route.links()
	if err != nil {
		return Holder{}, false, err
	}
	own := map[string]bool{} // a second interface of ours on the same wire may answer for us
	for _, l := range links {
		own[string(l.mac)] = true
	}
	fd, f, err := m.listen(s, link)
	if err != nil {
		return Holder{}, false, err
	}
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()

	probe := dadSolicitation
	if s.Address.Addr().Is4() {
		probe = arpProbe
	}
	frame := probe(s.Address.Addr(), link.mac)
	end := boottime.Now().Add(wait)
	for i := range probes {
		if err := sendFrame(fd, link, frame); err != nil {
			return Holder{}, false, err
		}
		left := end.Sub(boottime.Now())
		mac, found, err := answer(ctx, f, s, own, left/time.Duration(probes-i))
		if err != nil || found {
			return Holder{MAC: mac, Interface: link.name}, found, err
		}
	}
	return Holder{}, false, nil
}

// answer waits for a frame in which somebody else speaks as the holder of the address.
func answer(ctx context.Context, f *os.File, s Spec, own map[string]bool, wait time.Duration) ([]byte, bool, error) {
	if err := f.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return nil, false, err
	}
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	buf := make([]byte, 2048)
	for {
		n, err := f.Read(buf)
		if ctx.Err() != nil {
			return nil, false, ctx.Err()
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, false, nil
		}
		if err != nil {
			return nil, false, fmt.Errorf("listening for answers: %w", err)
		}
		if mac, ok := speaker(buf[:n], s); ok && !own[string(mac)] {
			return mac, true, nil
		}
	}
}

// speaker is the link-layer address of the node that uses the address as its own in this frame.
func speaker(frame []byte, s Spec) ([]byte, bool) {
	if s.Address.Addr().Is4() {
		p, ok := parseARP(frame)
		return p.SenderMAC, ok && p.SenderIP == s.Address.Addr()
	}
	a, ok := parseNA(frame)
	return a.MAC, ok && a.Target == s.Address.Addr()
}

// listen opens a packet socket that receives only the answers to a probe. The number is for sending (File.Fd would make
// the file blocking); closing the file closes both.
func (m *Manager) listen(s Spec, link kernelLink) (int, *os.File, error) {
	protocol := uint16(etherTypeIPv6)
	if s.Address.Addr().Is4() {
		protocol = etherTypeARP
	}
	fd, err := m.packetSocket()
	if err != nil {
		return -1, nil, err
	}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, answersOnly(s.Address.Addr()))
	if protocol == etherTypeIPv6 && err == nil {
		// The all-nodes group must pass the card's filter also where the kernel does not use IPv6 itself.
		err = unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &unix.PacketMreq{
			Ifindex: int32(link.index), Type: unix.PACKET_MR_MULTICAST, Alen: 6, Address: [8]byte{0x33, 0x33, 0, 0, 0, 1}})
	}
	if err == nil {
		// Bound last: from here on frames queue up, already filtered.
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(protocol), Ifindex: link.index})
	}
	if err != nil {
		return -1, nil, errors.Join(fmt.Errorf("listening on %s: %w", link.name, err), unix.Close(fd))
	}
	return fd, os.NewFile(uintptr(fd), "packet socket"), nil
}

// answersOnly accepts what may say that somebody uses the address: ARP with it as the sender's, or a neighbour advertisement with it as the
// target. Busy servers see far more IPv6; and where a thousand addresses are probed for at the same time, each probe comes to every socket.
func answersOnly(ip netip.Addr) *unix.SockFprog {
	const nextHeader, icmpType, icmpTarget, arpSender = etherLen + 6, etherLen + ipv6Len, etherLen + ipv6Len + 8, etherLen + 14
	type test struct{ size, at, want uint32 }
	tests := []test{{unix.BPF_W, arpSender, 0}}
	words := ip.AsSlice()
	if ip.Is6() {
		tests = []test{{unix.BPF_B, nextHeader, icmpv6}, {unix.BPF_B, icmpType, icmpv6NeighborAdv}}
		for i := range uint32(4) {
			tests = append(tests, test{unix.BPF_W, icmpTarget + 4*i, binary.BigEndian.Uint32(words[4*i:])})
		}
	} else {
		tests[0].want = binary.BigEndian.Uint32(words)
	}
	var prog []unix.SockFilter
	for i, x := range tests {
		prog = append(prog, unix.SockFilter{Code: uint16(unix.BPF_LD | unix.BPF_ABS | x.size), K: x.at},
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: uint8(2*(len(tests)-1-i) + 1), K: x.want})
	}
	prog = append(prog, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 2048}, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0})
	return &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
}
