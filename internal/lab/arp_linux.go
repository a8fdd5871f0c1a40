package lab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const arpLen = 42 // Ethernet header and an IPv4 ARP packet (RFC 826)

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// arpFrame builds an ARP packet; op 1 asks, 2 answers.
func arpFrame(op uint16, from net.HardwareAddr, fromIP netip.Addr, to net.HardwareAddr, toIP netip.Addr) []byte {
	b := make([]byte, 0, arpLen)
	b = append(b, broadcast...)
	b = append(b, from...)
	b = append(b, 0x08, 0x06, 0, 1, 0x08, 0, 6, 4)
	b = binary.BigEndian.AppendUint16(b, op)
	b = append(append(b, from...), fromIP.AsSlice()...)
	return append(append(b, to...), toIP.AsSlice()...)
}

// parseARP reads sender and kind of an ARP packet for IPv4 over Ethernet.
func parseARP(b []byte) (op uint16, mac net.HardwareAddr, ip netip.Addr, ok bool) {
	if len(b) < arpLen || !bytes.Equal(b[12:20], []byte{0x08, 0x06, 0, 1, 0x08, 0, 6, 4}) {
		return 0, nil, netip.Addr{}, false
	}
	ip, _ = netip.AddrFromSlice(b[28:32])
	return binary.BigEndian.Uint16(b[20:]), net.HardwareAddr(b[22:28]), ip, true
}

// neighbourAdvert builds an unsolicited neighbour advertisement to all nodes with the override flag (RFC 4861 4.4).
func neighbourAdvert(from net.HardwareAddr, a netip.Addr) []byte {
	allNodes := netip.MustParseAddr("ff02::1")
	icmp := append([]byte{136, 0, 0, 0, 0x20, 0, 0, 0}, a.AsSlice()...)
	icmp = append(append(icmp, 2, 1), from...) // option: target link-layer address
	b := append([]byte{0x33, 0x33, 0, 0, 0, 1}, from...)
	b = append(b, 0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(icmp)), 58, 255)
	b = append(append(b, a.AsSlice()...), allNodes.AsSlice()...)
	sum := uint32(len(icmp)) + 58 // pseudo header: addresses, length, next header (RFC 8200 8.1)
	for _, part := range [][]byte{b[22:54], icmp} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(icmp[2:], ^uint16(sum))
	return append(b, icmp...)
}

// Announce sends one gratuitous ARP request (IPv4) or unsolicited neighbour advertisement (IPv6) for an address from the
// node's first interface, as an administrator would by hand.
func (n *Node) Announce(a netip.Addr) error {
	p := n.ports[0]
	frame := neighbourAdvert(p.mac, a.Unmap())
	if a.Is4() {
		frame = arpFrame(1, p.mac, a, make(net.HardwareAddr, 6), a)
	}
	return n.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("announcing %s: %w", a, err)
		}
		defer unix.Close(fd)
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: p.ethIndex, Halen: 6}); err != nil {
			return fmt.Errorf("announcing %s: %w", a, err)
		}
		return nil
	})
}

// MoveByHand moves an address as an administrator would, with one announcement: the floor under every failover's outage.
func (l *Lab) MoveByHand(p netip.Prefix, from, to string) error {
	a, b := l.Node(from), l.Node(to)
	if a == nil || b == nil {
		return fmt.Errorf("moving %s: no such nodes: %q, %q", p, from, to)
	}
	if err := a.DelAddr(p); err != nil {
		return err
	}
	if err := b.AddAddr(p); err != nil {
		return err
	}
	return b.Announce(p.Addr())
}

// ARPAnswer is one probe and who answered it.
type ARPAnswer struct {
	At    time.Time // of the probe
	Nodes []string  // by name where the hardware address is a node's, else the hardware address
}

// ARPWatch asks for an address from the client's place in the network at a fixed rate and notes who answers: what clients
// see, whatever the nodes say of themselves. It asks under a hardware and network address of its own, so that the client's
// neighbour cache learns nothing from it.
type ARPWatch struct {
	fd    int
	index int
	addr  netip.Addr
	names map[string]string // hardware address to node
	poll  *poller
	done  chan struct{}
	close sync.Once

	mu      sync.Mutex
	answers []ARPAnswer
}

// arpWatchMAC is locally administered; the kernel of the client ignores frames to it.
var arpWatchMAC = net.HardwareAddr{0x02, 0x18, 0, 0, 0, 0xfe}

// WatchARP probes an IPv4 address from the client's namespace at that rate (20ms when 0). Close ends it.
func (l *Lab) WatchARP(addr netip.Addr, every time.Duration) (*ARPWatch, error) {
	if l.client == nil || !addr.Is4() {
		return nil, errors.New("watching ARP: needs Options.Client and an IPv4 address")
	}
	if every == 0 {
		every = 20 * time.Millisecond
	}
	w := &ARPWatch{addr: addr, index: l.client.ports[0].ethIndex, fd: -1, names: map[string]string{}, done: make(chan struct{})}
	for _, n := range l.nodes {
		w.names[n.MAC(0).String()] = n.Name
	}
	err := l.client.Do(func() (err error) { return w.open() })
	if err == nil {
		if w.poll, err = newPoller(unix.NsecToTimespec(int64(every))); err == nil {
			err = w.poll.add(w.fd, unix.EPOLLIN)
		}
	}
	if err != nil {
		unix.Close(w.fd)
		return nil, fmt.Errorf("watching ARP: %w", err)
	}
	onInstrumentThread(w.loop)
	l.onClose(w.Close)
	return w, nil
}

func (w *ARPWatch) open() (err error) {
	const proto = unix.ETH_P_ARP<<8&0xff00 | unix.ETH_P_ARP>>8 // network byte order
	if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return err
	}
	if err = unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: w.index}); err != nil {
		return err
	}
	return unix.SetsockoptPacketMreq(w.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP,
		&unix.PacketMreq{Ifindex: int32(w.index), Type: unix.PACKET_MR_PROMISC})
}

func (w *ARPWatch) loop() {
	defer close(w.done)
	probe := arpFrame(1, arpWatchMAC, hostAddr(0, 250), make(net.HardwareAddr, 6), w.addr)
	to := &unix.SockaddrLinklayer{Ifindex: w.index, Halen: 6}
	for {
		ready, tick, stop := w.poll.wait()
		if stop {
			return
		}
		if len(ready) > 0 {
			w.read()
		}
		if tick {
			w.mu.Lock()
			w.answers = append(w.answers, ARPAnswer{At: time.Now()})
			w.mu.Unlock()
			unix.Sendto(w.fd, probe, 0, to) // a probe that cannot be sent is one without an answer
		}
	}
}

// read takes answers and counts them for the newest probe: in the lab they come within a fraction of the period.
func (w *ARPWatch) read() {
	var b [256]byte
	for {
		n, _, err := unix.Recvfrom(w.fd, b[:], 0)
		if err != nil {
			return
		}
		op, mac, ip, ok := parseARP(b[:n])
		// Only answers to us: announcements are broadcast, or for somebody else.
		if !ok || op != 2 || ip != w.addr || !bytes.Equal(b[:6], arpWatchMAC) {
			continue
		}
		name := w.names[mac.String()]
		if name == "" {
			name = mac.String()
		}
		w.mu.Lock()
		if i := len(w.answers) - 1; i >= 0 && !slices.Contains(w.answers[i].Nodes, name) {
			w.answers[i].Nodes = append(w.answers[i].Nodes, name)
		}
		w.mu.Unlock()
	}
}

// ARPReport sums up an ARPWatch.
type ARPReport struct {
	Probes int
	Double []ARPAnswer    // probes that more than one machine answered: guarantee S1 broken before clients' eyes
	Nodes  map[string]int // answers by node
	Silent time.Duration  // longest time without any answer
}

// Report tells who answered since then.
func (w *ARPWatch) Report(since time.Time) ARPReport {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := ARPReport{Nodes: map[string]int{}}
	last := since
	for _, a := range w.answers {
		if a.At.Before(since) {
			continue
		}
		r.Probes++
		if len(a.Nodes) > 1 {
			r.Double = append(r.Double, a)
		}
		for _, n := range a.Nodes {
			r.Nodes[n]++
		}
		if len(a.Nodes) > 0 {
			r.Silent = max(r.Silent, a.At.Sub(last))
			last = a.At
		}
	}
	r.Silent = max(r.Silent, time.Since(last))
	return r
}

// Close ends the watch; Report still works.
func (w *ARPWatch) Close() error {
	w.close.Do(func() {
		w.poll.stop()
		<-w.done
		unix.Close(w.fd)
		w.poll.close()
	})
	return nil
}
