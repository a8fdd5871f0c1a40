package vip

import "net/netip"

// Tickler has no implementation on Windows yet.
type Tickler struct{}

// Tickler always fails on Windows.
func (*Manager) Tickler(netip.Addr) (*Tickler, error) { return nil, errWindows }

// Close does nothing.
func (*Tickler) Close() error { return nil }

// Send always fails on Windows.
func (*Tickler) Send([]Conn) (int, error) { return 0, errWindows }

// Waiting always fails on Windows.
func (*Manager) Waiting([]netip.Addr) (map[netip.Addr][]Waiting, error) { return nil, errWindows }

// Unknown always fails on Windows.
func (*Manager) Unknown(netip.Addr, []Conn) ([]Conn, error) { return nil, errWindows }
