package vip

import (
	"context"
	"net/netip"
	"time"
)

// DrainSupported always fails on Windows.
func DrainSupported() error { return errWindows }

// Peer always fails on Windows.
func (*Manager) Peer(Spec) (Peer, error) { return Peer{}, errWindows }

// ReadyDrains always fails on Windows.
func (*Manager) ReadyDrains() error { return errWindows }

// DrainTo always fails on Windows.
func (*Manager) DrainTo(netip.Addr, Peer, Peer, time.Duration) error { return errWindows }

// TakeFrom always fails on Windows.
func (*Manager) TakeFrom(netip.Addr, Peer, time.Duration) error { return errWindows }

// EndDrain always fails on Windows.
func (*Manager) EndDrain(...netip.Addr) error { return errWindows }

// Drains always fails on Windows.
func (*Manager) Drains() ([]Drain, error) { return nil, errWindows }

// Connections always fails on Windows.
func (*Manager) Connections(netip.Addr) ([]Conn, error) { return nil, errWindows }

// HoldOpenings always fails on Windows.
func (*Manager) HoldOpenings(Spec, Peer) (func(context.Context, []Conn) error, error) {
	return nil, errWindows
}
