package vip

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"hacluster/internal/nowait"
)

// watchBuffer holds the events of a busy moment; when it overflows the watch resynchronises.
const watchBuffer = 1 << 20

// watchRetry is the pause before a broken subscription is opened again.
const watchRetry = 200 * time.Millisecond

// Watch calls changed for every address that comes or goes and every interface that goes up or down, until ctx ends;
// then it returns nil. It begins with a Resync, and sends one again whenever events were lost, so that a caller who looks
// at the kernel on each call never misses a state. changed is called from one goroutine and should not block. Renewals
// are not reported. The error is that of a first subscription that cannot be made.
func (m *Manager) Watch(ctx context.Context, changed func(Change)) error {
	return m.watch(ctx, watchBuffer, changed)
}

func (m *Manager) watch(ctx context.Context, buffer int, changed func(Change)) error {
	w := &watch{m: m, changed: changed}
	for first := true; ctx.Err() == nil; first = false {
		err := w.run(ctx, buffer)
		if ctx.Err() != nil {
			return nil
		}
		if first && errors.Is(err, errSubscribe) {
			return err
		}
		if errors.Is(err, unix.ENOBUFS) {
			continue // too many events at once is no reason to wait
		}
		m.log.Warn("address watch interrupted: subscribing again", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(watchRetry):
		}
	}
	return nil
}

var errSubscribe = errors.New("subscribing to address and link events")

// watch knows what it reported, to tell a new address from a renewed one and a link that changed from one that did not.
type watch struct {
	m       *Manager
	changed func(Change)
	addrs   map[addrKey]bool
	links   map[int]kernelLink
}

type addrKey struct {
	index  int
	prefix string
}

// run is one subscription, from its resync to its error.
func (w *watch) run(ctx context.Context, buffer int) error {
	f, err := w.m.subscribe(buffer)
	if err != nil {
		return fmt.Errorf("%w: %w", errSubscribe, err)
	}
	stop := context.AfterFunc(ctx, func() { f.Close() }) // ends the wait
	defer func() {
		if stop() {
			f.Close()
		}
	}()
	if err := w.load(); err != nil {
		return err
	}
	w.changed(Change{Kind: Resync})
	conn, err := f.SyscallConn()
	buf := make([]byte, eventsMost)
	for err == nil {
		var n int
		if n, err = receive(conn, buf); err == nil {
			err = eachMessage(buf[:n], w.event)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("reading address and link events: %w", err)
}

// eventsMost is how long a datagram of events can be.
const eventsMost = 64 << 10

// subscribe opens a socket that the events come to. Each renewal of an address is one, so it is read without a word to the scheduler of
// Go, and into one buffer, which the socket of package nl cannot.
func (m *Manager) subscribe(buffer int) (f *os.File, err error) {
	err = m.ns.do(func() error {
		sock, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
		if err != nil {
			return err
		}
		defer sock.Close()
		if err := sock.SetReceiveBufferSize(buffer, true); err != nil {
			_ = sock.SetReceiveBufferSize(buffer, false) // without CAP_NET_ADMIN: as much as is allowed
		}
		fd, err := unix.FcntlInt(uintptr(sock.GetFd()), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.Connect(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil { // refuses what others send: netlink(7)
			return errors.Join(err, unix.Close(fd))
		}
		f = os.NewFile(uintptr(fd), "address and link events") // not blocking, as the one it was made from
		return nil
	})
	return f, err
}

// receive waits for a datagram.
func receive(conn syscall.RawConn, buf []byte) (n int, err error) {
	waited := conn.Read(func(fd uintptr) bool {
		for err = unix.EINTR; errors.Is(err, unix.EINTR); {
			n, err = nowait.Receive(fd, buf)
		}
		return !errors.Is(err, unix.EAGAIN)
	})
	if waited != nil {
		return 0, waited
	}
	return n, err
}

// load takes the present state as known; it runs after the subscription, so nothing falls between the two.
func (w *watch) load() error {
	v, err := w.m.See()
	if err != nil {
		return err
	}
	w.links = maps.Clone(v.links) // events change it
	w.addrs = map[addrKey]bool{}
	for _, a := range v.addrs.all {
		w.addrs[addrKey{a.index, a.prefix.String()}] = true
	}
	return nil
}

// event reports one message of the kernel when it says something new.
func (w *watch) event(h header, data []byte) error {
	switch h.kind {
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if a, ok := parseAddr(data); ok {
			w.address(a, h.kind == unix.RTM_NEWADDR)
		}
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		// Family AF_BRIDGE reports ports of a bridge, with RTM_DELLINK when a port leaves it: not the link itself.
		if l, ok := parseLink(data); ok && data[0] == unix.AF_UNSPEC {
			w.link(l, h.kind == unix.RTM_DELLINK)
		}
	}
	return nil
}

func (w *watch) address(a kernelAddr, added bool) {
	key := addrKey{a.index, a.prefix.String()}
	if added && w.addrs[key] {
		return // a renewal
	}
	c := Change{Kind: AddressRemoved, Address: a.prefix, Interface: w.links[a.index].name, Ours: a.ours()}
	if added {
		c.Kind = AddressAdded
		w.addrs[key] = true
	} else {
		delete(w.addrs, key)
	}
	w.changed(c)
}

func (w *watch) link(l kernelLink, deleted bool) {
	old, known := w.links[l.index]
	works := l.up() && l.carrier() && !deleted
	worked := known && old.up() && old.carrier()
	w.links[l.index] = l
	if deleted {
		delete(w.links, l.index)
	}
	if known && works == worked && !deleted {
		return
	}
	c := Change{Kind: LinkDown, Interface: l.name}
	if works {
		c.Kind = LinkUp
	}
	w.changed(c)
}
