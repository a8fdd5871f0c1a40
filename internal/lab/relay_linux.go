package lab

import (
	"bytes"
	"container/heap"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// relay is the user-space switch that carries disturbed frames. It listens on the switch's ports before the bridge does,
// and sends on them past the bridge; the bridge's own packet filter drops what the relay carries.
type relay struct {
	ports []relayPort
	poll  *poller
	done  chan struct{}
	close sync.Once
	rules atomic.Pointer[relayRules]

	// of the thread only
	queue frameQueue
	held  int // bytes in the queue
	count uint64
	last  map[string]time.Time // when the newest frame of a pair that stays in order is due
	buf   [vnetLen + 1<<17]byte
}

// relayRules are the faults as the relay needs them; never changed after they were stored.
type relayRules struct {
	disturbed   map[string]Disturbance
	cut, silent set
	loss        map[string]int
}

type relayPort struct {
	name    string
	network int
	fd      int
	mac     net.HardwareAddr // of the node at the other end
}

const (
	// vnetLen is the size of struct virtio_net_hdr, which goes in front of each frame: it carries unfinished checksums and the
	// size of segments that the kernel has not cut yet (packet(7), PACKET_VNET_HDR).
	vnetLen = 10
	// relayMax bounds the frames held; a real queue drops too.
	relayMax = 64 << 20
)

func newRelay(l *Lab) (_ *relay, err error) {
	r := &relay{done: make(chan struct{}), last: map[string]time.Time{}}
	r.rules.Store(&relayRules{})
	if r.poll, err = newPoller(unix.Timespec{}); err != nil {
		return nil, fmt.Errorf("starting the relay: %w", err)
	}
	err = l.sw.do(func() error {
		for _, n := range l.nodes {
			for _, p := range n.ports {
				fd, err := relaySocket(p.swIndex)
				if err != nil {
					return err
				}
				r.ports = append(r.ports, relayPort{name: p.swPort, network: p.network, fd: fd, mac: p.mac})
				if err := r.poll.add(fd, unix.EPOLLIN); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		r.closeSockets()
		return nil, fmt.Errorf("starting the relay: %w", err)
	}
	onInstrumentThread(r.loop)
	l.closers = append(l.closers, r.Close) // the lab's lock is held
	return r, nil
}

// relaySocket hears what a node sends into a port of the switch, and sends what the node is to hear.
func relaySocket(index int) (fd int, err error) {
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // network byte order
	if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return -1, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20)
	for _, option := range []int{unix.PACKET_VNET_HDR, unix.PACKET_IGNORE_OUTGOING} {
		if err = unix.SetsockoptInt(fd, unix.SOL_PACKET, option, 1); err != nil {
			unix.Close(fd)
			return -1, err
		}
	}
	if err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func (r *relay) loop() {
	defer close(r.done)
	for {
		ready, _, stop := r.poll.wait()
		for _, e := range ready {
			i := slices.IndexFunc(r.ports, func(p relayPort) bool { return p.fd == int(e.Fd) })
			r.read(&r.ports[i])
		}
		now := time.Now()
		for len(r.queue) > 0 && (stop || !r.queue[0].due.After(now)) {
			r.deliver()
		}
		if stop {
			return
		}
		if len(r.queue) > 0 {
			r.poll.arm(max(r.queue[0].due.Sub(now), 1))
		}
	}
}

// read takes what a node has sent.
func (r *relay) read(from *relayPort) {
	for {
		n, _, err := unix.Recvfrom(from.fd, r.buf[:], unix.MSG_TRUNC)
		if err != nil {
			return // nothing more; or the port is down
		}
		if n < vnetLen+ethLen || n > len(r.buf) {
			continue
		}
		frame := r.buf[:n]
		to := frame[vnetLen : vnetLen+6]
		for i := range r.ports {
			p := &r.ports[i]
			if p != from && p.network == from.network && (to[0]&1 != 0 || bytes.Equal(to, p.mac)) {
				r.take(frame, from, p)
			}
		}
	}
}

func chance(percent int) bool { return percent > 0 && rand.IntN(100) < percent }

// take decides what becomes of one frame on its way between two ports.
func (r *relay) take(frame []byte, from, to *relayPort) {
	rules, pair := r.rules.Load(), from.name+" "+to.name
	d, ours := rules.disturbed[pair]
	if !ours || rules.blocked(from, to) || chance(rules.loss[from.name]) || chance(rules.loss[to.name]) || chance(d.Loss) {
		return
	}
	due := time.Now().Add(d.Delay)
	if d.Jitter > 0 {
		due = due.Add(rand.N(d.Jitter))
	}
	if chance(d.Reorder) {
		due = due.Add(d.Late)
	} else {
		if last := r.last[pair]; due.Before(last) {
			due = last
		}
		r.last[pair] = due
	}
	copies := 1
	if chance(d.Duplicate) {
		copies = 2
	}
	for range copies {
		if r.held+len(frame) > relayMax {
			return
		}
		r.held += len(frame)
		r.count++
		heap.Push(&r.queue, heldFrame{due: due, n: r.count, from: from, to: to, frame: bytes.Clone(frame)})
	}
}

// blocked says that nothing passes between two ports at all: such faults come before disturbances.
func (f *relayRules) blocked(from, to *relayPort) bool {
	return f.silent[from.name] || f.silent[to.name] || f.cut[from.name+" "+to.name]
}

// deliver sends the frame that is due first, unless its way was cut in the meantime.
func (r *relay) deliver() {
	f := heap.Pop(&r.queue).(heldFrame)
	r.held -= len(f.frame)
	if !r.rules.Load().blocked(f.from, f.to) {
		_, _ = unix.Write(f.to.fd, f.frame) // a port that is down loses frames
	}
}

// Close ends the relay; what it still holds arrives at once.
func (r *relay) Close() error {
	r.close.Do(func() {
		r.poll.stop()
		<-r.done
		r.closeSockets()
	})
	return nil
}

func (r *relay) closeSockets() {
	for _, p := range r.ports {
		unix.Close(p.fd)
	}
	r.poll.close()
}

// heldFrame is a frame on its way.
type heldFrame struct {
	due      time.Time
	n        uint64 // frames that are due at one time keep their order
	from, to *relayPort
	frame    []byte
}

// frameQueue is a heap by due time.
type frameQueue []heldFrame

func (f frameQueue) Len() int { return len(f) }
func (f frameQueue) Less(i, j int) bool {
	return f[i].due.Before(f[j].due) || f[i].due.Equal(f[j].due) && f[i].n < f[j].n
}
func (f frameQueue) Swap(i, j int) { f[i], f[j] = f[j], f[i] }
func (f *frameQueue) Push(x any)   { *f = append(*f, x.(heldFrame)) }
func (f *frameQueue) Pop() any {
	old := *f
	last := old[len(old)-1]
	old[len(old)-1] = heldFrame{}
	*f = old[:len(old)-1]
	return last
}
