package vip

import (
	"net/netip"
	"time"
)

// GateSupported always fails on Windows.
func GateSupported() error { return errWindows }

// RemoveGate always fails on Windows.
func RemoveGate() error { return errWindows }

// OpenGate always fails on Windows.
func (*Manager) OpenGate() error { return errWindows }

// Guard always fails on Windows.
func (*Manager) Guard(...netip.Addr) error { return errWindows }

// Unguard always fails on Windows.
func (*Manager) Unguard(...netip.Addr) error { return errWindows }

// OpenUntil always fails on Windows.
func (*Manager) OpenUntil([]netip.Addr, time.Time) error { return errWindows }

// RenewUntil always fails on Windows.
func (*Manager) RenewUntil([]netip.Addr, time.Time) error { return errWindows }

// Shut always fails on Windows.
func (*Manager) Shut(...netip.Addr) error { return errWindows }

// Gate always fails on Windows.
func (*Manager) Gate() ([]GateEntry, error) { return nil, errWindows }

// ShutAll always fails on Windows.
func (*Manager) ShutAll() error { return errWindows }

// RemoveGate always fails on Windows.
func (*Manager) RemoveGate() error { return errWindows }
