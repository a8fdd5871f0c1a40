package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ObserveOptions describes what to watch.
type ObserveOptions struct {
	Addrs []netip.Addr  // required
	Every time.Duration // optional: longest time between two looks at the kernel's events, 2ms
}

// sampleEvery is the period of the dumps that back the events up. They run on a goroutine of their own: a dump may wait for
// a lock that a link change holds for 15 ms.
const sampleEvery = 20 * time.Millisecond

// Observer watches which nodes hold the given addresses, by the kernel's own address events in each namespace, backed up by
// samples. One thread reads all namespaces: what it sees in one go gets one timestamp, and it reads every namespace again
// until all are empty, so that "released here, then added there" is never read the wrong way round.
//
// An IPv6 address counts as held once it is usable: tentative and duplicate ones do not answer.
type Observer struct {
	poll  *poller
	socks []obsSocket
	every time.Duration
	done  chan struct{}
	close sync.Once
	quit  chan struct{} // ends the sampler
	wg    sync.WaitGroup

	askMu   sync.Mutex // one dump at a time; taken before mu
	dumpBuf [32 << 10]byte

	mu       sync.Mutex // guards the rest
	buf      [32 << 10]byte
	version  map[string]int // address events seen, by node
	own      ownership
	held     map[holdKey]bool
	lastLook time.Time
	looks    []look // gaps between looks worth remembering
	lost     error
}

// look is a time in which the observer was not looking, clearly longer than its period.
type look struct {
	at  time.Time
	gap time.Duration
}

type obsSocket struct {
	node        string
	events, ask int // netlink sockets: subscription, and dump requests
}

// Observe starts an observer over all nodes. Close ends it, at the latest Lab.Close does.
func (l *Lab) Observe(o ObserveOptions) (*Observer, error) {
	if len(o.Addrs) == 0 {
		return nil, errors.New("observing: no address given")
	}
	if o.Every == 0 {
		o.Every = 2 * time.Millisecond
	}
	poll, err := newPoller(unix.NsecToTimespec(int64(o.Every)))
	if err != nil {
		return nil, fmt.Errorf("observing: %w", err)
	}
	ob := &Observer{poll: poll, every: o.Every, done: make(chan struct{}), held: map[holdKey]bool{}, version: map[string]int{}, quit: make(chan struct{}), lastLook: time.Now()}
	ob.own.addrs = slices.Clone(o.Addrs)
	for _, n := range l.nodes {
		s := obsSocket{node: n.Name, events: -1, ask: -1}
		err := n.Do(func() (err error) { return s.open() })
		ob.socks = append(ob.socks, s)
		if err == nil {
			err = poll.add(s.events, unix.EPOLLIN)
		}
		if err != nil {
			ob.closeSockets()
			return nil, fmt.Errorf("observing node %s: %w", n.Name, err)
		}
	}
	l.onAnswering(ob.setAnswering)
	ob.look()
	ob.sampleAll()
	onInstrumentThread(ob.loop)
	ob.wg.Go(ob.sampleLoop)
	l.onClose(ob.Close)
	return ob, nil
}

func (s *obsSocket) open() (err error) {
	const kind = unix.SOCK_RAW | unix.SOCK_CLOEXEC
	if s.events, err = unix.Socket(unix.AF_NETLINK, kind|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE); err != nil {
		return err
	}
	// Room for a burst while this process waits for the processor.
	_ = unix.SetsockoptInt(s.events, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20)
	groups := uint32(1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_IFADDR-1))
	if err = unix.Bind(s.events, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return err
	}
	if s.ask, err = unix.Socket(unix.AF_NETLINK, kind, unix.NETLINK_ROUTE); err != nil {
		return err
	}
	return unix.Bind(s.ask, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

func (ob *Observer) loop() {
	defer close(ob.done)
	for {
		if _, _, stop := ob.poll.wait(); stop {
			return
		}
		ob.look()
	}
}

func (ob *Observer) sampleLoop() {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ob.quit:
			return
		case <-tick.C:
			ob.sampleAll()
		}
	}
}

// look reads all events there are.
func (ob *Observer) look() {
	ob.mu.Lock()
	defer ob.mu.Unlock()
	ob.lookLocked()
}

func (ob *Observer) lookLocked() {
	now := time.Now()
	if gap := now.Sub(ob.lastLook); gap > ob.every*3/2 {
		ob.looks = append(ob.looks, look{now, gap})
	}
	ob.lastLook = now
	for again := true; again; {
		again = false
		for _, s := range ob.socks {
			for {
				n, err := unix.Read(s.events, ob.buf[:])
				if err != nil {
					break // nothing more; or events were lost (ENOBUFS), which the samples put right
				}
				again = true
				ob.version[s.node]++
				ob.fold(s.node, ob.buf[:n], now)
			}
		}
	}
}

// sampleAll compares a dump of each namespace with what the events told.
func (ob *Observer) sampleAll() {
	ob.askMu.Lock()
	defer ob.askMu.Unlock()
	for _, s := range ob.socks {
		ob.mu.Lock()
		ob.lookLocked()
		version := ob.version[s.node]
		ob.mu.Unlock()
		found, err := ob.dump(s)
		ob.mu.Lock()
		ob.lookLocked()
		switch {
		case err != nil:
			ob.lost = errors.Join(ob.lost, fmt.Errorf("sampling node %s: %w", s.node, err))
		case ob.version[s.node] == version: // else the dump may be older than the newest event
			for _, a := range ob.own.addrs {
				ob.setHeld(s.node, a, slices.Contains(found, a), ob.lastLook, true)
			}
		}
		ob.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// fold applies address events of one node.
func (ob *Observer) fold(node string, b []byte, now time.Time) {
	eachAddr(b, func(kind uint16, a netip.Addr, usable bool) {
		ob.setHeld(node, a, kind == unix.RTM_NEWADDR && usable, now, false)
	})
}

func (ob *Observer) setHeld(node string, a netip.Addr, held bool, now time.Time, sampled bool) {
	k := holdKey{node, a}
	if !slices.Contains(ob.own.addrs, a) || ob.held[k] == held {
		return
	}
	ob.held[k] = held
	ob.own.events = append(ob.own.events, HoldEvent{At: now, Node: node, Addr: a, Held: held, Sampled: sampled})
}

// setAnswering is told by the lab which nodes clients can hear.
func (ob *Observer) setAnswering(node string, answering bool, at time.Time) {
	ob.mu.Lock()
	defer ob.mu.Unlock()
	e := HoldEvent{At: at, Node: node, Answering: answering}
	i := len(ob.own.events)
	for i > 0 && ob.own.events[i-1].At.After(at) {
		i--
	}
	ob.own.events = slices.Insert(ob.own.events, i, e)
}

// dump asks a namespace which of the observed addresses it has.
func (ob *Observer) dump(s obsSocket) (found []netip.Addr, err error) {
	var req [unix.SizeofNlMsghdr + unix.SizeofIfAddrmsg]byte
	h := (*unix.NlMsghdr)(unsafe.Pointer(&req[0]))
	h.Len, h.Type, h.Flags = uint32(len(req)), unix.RTM_GETADDR, unix.NLM_F_REQUEST|unix.NLM_F_DUMP
	if _, err := unix.Write(s.ask, req[:]); err != nil {
		return nil, err
	}
	for done := false; !done; {
		n, err := unix.Read(s.ask, ob.dumpBuf[:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		done = eachAddr(ob.dumpBuf[:n], func(_ uint16, a netip.Addr, usable bool) {
			if usable && slices.Contains(ob.own.addrs, a) {
				found = append(found, a)
			}
		})
	}
	return found, nil
}

// eachAddr walks rtnetlink messages and calls f for each RTM_NEWADDR and RTM_DELADDR; usable is false for an IPv6 address in
// duplicate detection or found duplicate. It returns true at the end of a dump, and on garbage.
func eachAddr(b []byte, f func(kind uint16, a netip.Addr, usable bool)) (done bool) {
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b))
		kind := binary.NativeEndian.Uint16(b[4:])
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return true
		}
		switch kind {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			return true
		case unix.RTM_NEWADDR, unix.RTM_DELADDR:
			if body := b[unix.SizeofNlMsghdr:size]; len(body) >= unix.SizeofIfAddrmsg {
				flags, local, address := addrAttrs(body)
				a := local // IPv4: IFA_ADDRESS is the peer's on point-to-point links
				if !a.IsValid() {
					a = address
				}
				if a.IsValid() {
					f(kind, a, flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0)
				}
			}
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return false
}

// addrAttrs reads a struct ifaddrmsg and its attributes (rtnetlink(7)).
func addrAttrs(body []byte) (flags uint32, local, address netip.Addr) {
	flags = uint32(body[2])
	for at := body[unix.SizeofIfAddrmsg:]; len(at) >= 4; {
		size, typ := int(binary.NativeEndian.Uint16(at)), binary.NativeEndian.Uint16(at[2:])
		if size < 4 || size > len(at) {
			return flags, local, address
		}
		switch v := at[4:size]; typ {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(v)
		case unix.IFA_ADDRESS:
			address, _ = netip.AddrFromSlice(v)
		case unix.IFA_FLAGS: // 32 bits, supersedes the 8 bits of the header
			if len(v) == 4 {
				flags = binary.NativeEndian.Uint32(v)
			}
		}
		at = at[min(len(at), (size+3)&^3):]
	}
	return flags, local, address
}

// Report tells who held what from since until now. An error says that the observer went blind and the report is worth
// nothing.
func (ob *Observer) Report(since time.Time) (OwnershipReport, error) {
	select {
	case <-ob.done:
	default:
		ob.sampleAll()
	}
	ob.mu.Lock()
	defer ob.mu.Unlock()
	r := ob.own.report(since, ob.lastLook)
	for _, g := range ob.looks {
		if !g.at.Before(since) {
			r.Blind = max(r.Blind, g.gap)
		}
	}
	return r, ob.lost
}

// Close ends the observer; Report still works on what was seen until then.
func (ob *Observer) Close() error {
	ob.close.Do(func() {
		close(ob.quit)
		ob.wg.Wait()
		ob.poll.stop()
		<-ob.done
		ob.askMu.Lock()
		defer ob.askMu.Unlock()
		ob.mu.Lock()
		defer ob.mu.Unlock()
		ob.closeSockets()
	})
	return nil
}

func (ob *Observer) closeSockets() {
	for _, s := range ob.socks {
		for _, fd := range []int{s.events, s.ask} {
			if fd >= 0 {
				unix.Close(fd)
			}
		}
	}
	ob.socks = nil
	ob.poll.close()
}
