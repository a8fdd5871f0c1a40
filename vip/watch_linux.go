package vip

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
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
	var sock *nl.NetlinkSocket
	err := w.m.ns.do(func() (err error) {
		sock, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
		return err
	})
	if err != nil {
		return fmt.Errorf("%w: %w", errSubscribe, err)
	}
	stop := context.AfterFunc(ctx, sock.Close) // ends Receive
	defer func() {
		if stop() {
			sock.Close()
		}
	}()
	if err := sock.SetReceiveBufferSize(buffer, true); err != nil {
		_ = sock.SetReceiveBufferSize(buffer, false) // without CAP_NET_ADMIN: as much as is allowed
	}
	if err := w.load(); err != nil {
		return err
	}
	w.changed(Change{Kind: Resync})
	for {
		msgs, from, err := sock.Receive()
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			if errors.Is(err, os.ErrClosed) {
				return ctx.Err()
			}
			return fmt.Errorf("reading address and link events: %w", err)
		}
		if from.Pid != nl.PidKernel {
			continue
		}
		for _, msg := range msgs {
			w.event(msg)
		}
	}
}

// load takes the present state as known; it runs after the subscription, so nothing falls between the two.
func (w *watch) load() error {
	addrs, err := w.m.route.addresses()
	if err != nil {
		return err
	}
	w.links, err = w.m.route.links()
	if err != nil {
		return err
	}
	w.addrs = map[addrKey]bool{}
	for _, a := range addrs {
		w.addrs[addrKey{a.index, a.prefix.String()}] = true
	}
	return nil
}

// event reports one message of the kernel when it says something new.
func (w *watch) event(msg syscall.NetlinkMessage) {
	switch msg.Header.Type {
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if a, ok := parseAddr(msg.Data); ok {
			w.address(a, msg.Header.Type == unix.RTM_NEWADDR)
		}
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		// Family AF_BRIDGE reports ports of a bridge, with RTM_DELLINK when a port leaves it: not the link itself.
		if l, ok := parseLink(msg.Data); ok && msg.Data[0] == unix.AF_UNSPEC {
			w.link(l, msg.Header.Type == unix.RTM_DELLINK)
		}
	}
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
