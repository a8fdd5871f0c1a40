package lab

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ProbeOptions describes what to probe.
type ProbeOptions struct {
	Addrs []netip.Addr  // required: on the first network
	Every time.Duration // optional: time between two probes of each node, 4ms
}

// Prober measures double ownership as clients would suffer it: by who ANSWERS, not by who has the address. From the client's
// place it sends each node, in frames to that node's hardware address only, a question for the address (ARP or neighbour
// solicitation), each second time an echo request too, and now and then a question to all as clients send it. A node whose user space is
// frozen still answers, because its kernel does; a node whose packet filter keeps the address shut does not.
//
// What counts: a probe sent at s whose first answer by node N was seen at g proves that N answered for the address at some
// moment between s and g. Answered probes of N that are no more than five periods apart make a run; for a run it is sure that N
// answered from its smallest g to its greatest s. Double ownership is the time in which the sure times of two nodes
// have a common part. Where a node gave single answers only, each that lies wholly (s to g) in the sure time of another node
// counts with that length. So
//   - a handover without overlap gives exactly 0, whatever was delayed on its way, since each s is before and each g after the
//     moment of the answer;
//   - an overlap is reported up to one period too short, never too long (two periods, where packets pass but no questions);
//   - an overlap of less than a period and a round trip may be missed.
//
// A node that is cut off from clients gives no answers that could be heard, and so does not count.
//
// The probes teach nobody anything but the prober's own hardware addresses: the questions come from no address, or from one
// that nothing else uses, and the answers are addressed to the prober alone, so the client's neighbour cache learns nothing.
type Prober struct {
	o      ProbeOptions
	fd     int
	index  int
	nodes  []probeNode
	names  map[[6]byte]string
	poll   *poller
	done   chan struct{}
	close  sync.Once
	base   time.Time
	id     uint16
	teach  [][]byte // frames that tell each node where the prober is
	toLink *unix.SockaddrLinklayer

	mu      sync.Mutex // guards the rest
	seq     int
	sent    [probeSlots]time.Duration // by sequence number
	asked   [probeSlots]bool          // the broadcast question was sent too
	answers answers
	gaps    []look // between two probes, clearly longer than the period
	strange map[string][]string
	err     error
}

type probeNode struct {
	name string
	mac  net.HardwareAddr
}

const (
	probeSlots  = 512         // sequence numbers; with 4ms they come round after 2s
	probeWindow = time.Second // later answers are not believed
	echoEvery   = 2           // periods between two echo requests: each frame costs
	askEvery    = 5           // periods between two questions to all
	teachEvery  = 50          // periods between two lessons
	bridgeOver  = 5           // periods
	probeHost   = 251         // last part of the address that echo requests come from
	askHost     = 250         // the same of questions to all
	probeHost6  = 0x2fb       // in IPv6
	askHost6    = 0x2fa       // in IPv6
	probeMACs   = 0x0218fd00  // first four bytes of all the prober's hardware addresses; the other two: sequence number
	strangeMax  = 8           // strangers remembered by address
	gapsMax     = 100_000     // gaps remembered
	probeEvery  = 4 * time.Millisecond
)

// probeMAC is the hardware address of a question with that sequence number. ARP has no other place for one.
func probeMAC(seq int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0x18, 0xfd, 0, byte(seq >> 8), byte(seq)}
}

// proberMAC is where echo requests come from, and where the prober can be asked.
var proberMAC = probeMAC(0xffff)

// Probe starts a prober over all nodes. Close ends it, at the latest Lab.Close does.
func (l *Lab) Probe(o ProbeOptions) (*Prober, error) {
	if l.client == nil || len(o.Addrs) == 0 {
		return nil, errors.New("probing: needs Options.Client and an address")
	}
	if o.Every == 0 {
		o.Every = probeEvery
	}
	o.Addrs = slices.Clone(o.Addrs)
	p := &Prober{o: o, fd: -1, index: l.client.ports[0].ethIndex, names: map[[6]byte]string{}, done: make(chan struct{}), base: time.Now(),
		answers: answers{}, strange: map[string][]string{}}
	p.id = uint16(p.base.UnixNano())
	p.toLink = &unix.SockaddrLinklayer{Ifindex: p.index, Halen: 6}
	for _, n := range l.nodes {
		mac := n.MAC(0)
		p.nodes = append(p.nodes, probeNode{n.Name, mac})
		p.names[[6]byte(mac)] = n.Name
		p.teach = append(p.teach, arpTo(mac, 1, proberMAC, hostAddr(0, probeHost), make(net.HardwareAddr, 6), n.Addr(0)))
		if l.o.IPv6 {
			p.teach = append(p.teach, solicit(mac, proberMAC, hostAddr6(0, probeHost6), n.Addr6(0)))
		}
	}
	err := l.client.Do(func() (err error) { return p.open() })
	if err == nil {
		if p.poll, err = newPoller(unix.NsecToTimespec(int64(o.Every))); err == nil {
			err = p.poll.add(p.fd, unix.EPOLLIN)
		}
	}
	if err != nil {
		unix.Close(p.fd)
		return nil, fmt.Errorf("probing: %w", err)
	}
	onInstrumentThread(p.loop)
	l.onClose(p.Close)
	return p, nil
}

// open makes the socket; the kernel hands on what is addressed to the prober only.
func (p *Prober) open() (err error) {
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // network byte order
	if p.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return err
	}
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: probeMACs, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 256},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0]))}
	if err = unix.SetsockoptSockFprog(p.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		return err
	}
	_ = unix.SetsockoptInt(p.fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
	// Room for a burst while this process waits for the processor.
	_ = unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20)
	if err = unix.Bind(p.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: p.index}); err != nil {
		return err
	}
	return unix.SetsockoptPacketMreq(p.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &unix.PacketMreq{Ifindex: int32(p.index), Type: unix.PACKET_MR_PROMISC})
}

func (p *Prober) loop() {
	defer close(p.done)
	for {
		ready, tick, stop := p.poll.wait()
		if stop {
			return
		}
		if len(ready) > 0 {
			p.read()
		}
		if tick {
			p.probe()
			p.read() // most answers are there by now, which saves waking up for them
		}
	}
}

// probe sends one round. Its time is taken before the first frame goes out.
func (p *Prober) probe() {
	p.mu.Lock()
	now := time.Since(p.base)
	last := p.sent[p.seq%probeSlots]
	if gap := now - last; p.seq > 0 && gap > p.o.Every*3/2 && len(p.gaps) < gapsMax {
		p.gaps = append(p.gaps, look{p.base.Add(now), gap})
	}
	p.seq++
	seq, slot := p.seq, p.seq%probeSlots
	ask := seq%askEvery == 0
	p.sent[slot], p.asked[slot] = now, ask
	p.mu.Unlock()
	mac := probeMAC(slot)
	for _, a := range p.o.Addrs {
		for _, n := range p.nodes {
			from := hostAddr(0, probeHost)
			if a.Is4() {
				p.send(arpTo(n.mac, 1, mac, netip.IPv4Unspecified(), make(net.HardwareAddr, 6), a))
			} else {
				from = hostAddr6(0, probeHost6)
				p.send(solicit(n.mac, mac, hostAddr6(0, askHost6), a))
			}
			if seq%echoEvery == 0 {
				p.send(echo(n.mac, proberMAC, from, a, p.id, uint16(slot)))
			}
		}
		if ask && a.Is4() {
			p.send(arpFrame(1, probeMAC(slot|1<<15), hostAddr(0, askHost), make(net.HardwareAddr, 6), a))
		}
	}
	if seq%teachEvery == 1 {
		for _, f := range p.teach {
			p.send(f)
		}
	}
}

// send leaves frames that cannot be sent unsent: they are probes without an answer.
func (p *Prober) send(frame []byte) { _ = unix.Sendto(p.fd, frame, 0, p.toLink) }

func (p *Prober) read() {
	var b [256]byte
	for {
		n, _, err := unix.Recvfrom(p.fd, b[:], 0)
		got := time.Since(p.base)
		if err != nil {
			if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENETDOWN) {
				p.mu.Lock()
				p.err = fmt.Errorf("reading answers to probes: %w", err)
				p.mu.Unlock()
			}
			return
		}
		if h, ok := parseHeard(b[:n]); ok {
			p.hear(h, got)
		}
	}
}

func (p *Prober) hear(h heard, got time.Duration) {
	if h.kind == 0 {
		// A node wants to know where to send its answer.
		switch h.addr {
		case hostAddr(0, probeHost):
			p.send(arpTo(h.src, 2, proberMAC, h.addr, h.src, h.from))
		case hostAddr6(0, probeHost6):
			p.send(advertise(h.src, proberMAC, h.addr, h.from))
		}
		return
	}
	if !slices.Contains(p.o.Addrs, h.addr) {
		return // an answer to a lesson
	}
	slot := int(h.seq)
	if h.kind == answeredARP {
		slot = int(h.dst[4])<<8 | int(h.dst[5])
		if slot&(1<<15) != 0 {
			slot, h.kind = slot&^(1<<15), answeredAsked
		}
	} else if h.id != p.id {
		return
	}
	if slot >= probeSlots {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	name, ok := p.names[[6]byte(h.src)]
	if !ok {
		k, mac := h.addr.String(), h.src.String()
		if list := p.strange[k]; !slices.Contains(list, mac) && len(list) < strangeMax {
			p.strange[k] = append(list, mac)
		}
		return
	}
	if sent := p.sent[slot]; sent > 0 && got-sent <= probeWindow && (h.kind != answeredAsked || p.asked[slot]) {
		p.answers.add(holdKey{name, h.addr}, sent, got, h.kind)
	}
}

// Report tells who answered probes sent from since until now. An error says that the prober could not work and the report is
// worth nothing.
func (p *Prober) Report(since time.Time) (AnswerReport, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	from, now := max(0, since.Sub(p.base)), time.Since(p.base)
	r := p.answers.report(p.o.Addrs, p.base, from, now, bridgeOver*p.o.Every)
	for _, g := range p.gaps {
		if !g.at.Before(since) {
			r.Blind = max(r.Blind, g.gap)
		}
	}
	select {
	case <-p.done:
	default:
		if gap := now - p.sent[p.seq%probeSlots]; gap > p.o.Every*3/2 {
			r.Blind = max(r.Blind, gap)
		}
	}
	r.Strange = maps.Clone(p.strange)
	return r, p.err
}

// Close ends the prober; Report still works on what was answered until then.
func (p *Prober) Close() error {
	p.close.Do(func() {
		p.poll.stop()
		<-p.done
		unix.Close(p.fd)
		p.poll.close()
	})
	return nil
}
