package vip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"
)

var errWindows = fmt.Errorf("floating addresses are not implemented on Windows yet: run this group on Linux nodes (%w)", errors.ErrUnsupported)

// Manager has no implementation on Windows yet; every method returns an error that wraps errors.ErrUnsupported.
type Manager struct{}

// Open always fails on Windows.
func Open(*slog.Logger) (*Manager, error) { return nil, errWindows }

// Close does nothing.
func (*Manager) Close() error { return nil }

// Resolve always fails on Windows.
func (*Manager) Resolve(Spec) (Link, error) { return Link{}, errWindows }

// Sight is nothing on Windows yet.
type Sight struct{}

// See always fails on Windows.
func (*Manager) See() (Sight, error) { return Sight{}, errWindows }

// Resolve always fails on Windows.
func (Sight) Resolve(Spec) (Link, error) { return Link{}, errWindows }

// Present always fails on Windows.
func (Sight) Present(Spec) (bool, error) { return false, errWindows }

// Peer always fails on Windows.
func (Sight) Peer(Spec) (Peer, error) { return Peer{}, errWindows }

// Unplugged always fails on Windows.
func (*Manager) Unplugged() ([]netip.Addr, error) { return nil, errWindows }

// AddBy always fails on Windows.
func (*Manager) AddBy(Spec, time.Time) error { return errWindows }

// Add is not implemented on Windows yet.
func (*Manager) Add(Spec, time.Duration) error { return errWindows }

// RenewBy always fails on Windows.
func (*Manager) RenewBy([]Spec, time.Time) error { return errWindows }

// Renew is not implemented on Windows yet.
func (*Manager) Renew([]Spec, time.Duration) error { return errWindows }

// Remove always fails on Windows.
func (*Manager) Remove(Spec) error { return errWindows }

// Held always fails on Windows.
func (*Manager) Held() ([]Held, error) { return nil, errWindows }

// Present always fails on Windows.
func (*Manager) Present(Spec) (bool, error) { return false, errWindows }

// Announce always fails on Windows.
func (*Manager) Announce(Spec) error { return errWindows }

// Conflict always fails on Windows.
func (*Manager) Conflict(context.Context, Spec, time.Duration) (Holder, bool, error) {
	return Holder{}, false, errWindows
}

// Watch always fails on Windows.
func (*Manager) Watch(context.Context, func(Change)) error { return errWindows }

// Sweep always fails on Windows.
func (*Manager) Sweep(func(netip.Prefix) bool) ([]Held, error) { return nil, errWindows }

// Release always fails on Windows.
func Release() ([]Held, error) { return nil, errWindows }

// ReleaseAll always fails on Windows.
func (*Manager) ReleaseAll() ([]Held, error) { return nil, errWindows }

// ResetSupported always fails on Windows.
func (*Manager) ResetSupported() error { return errWindows }

// Reset always fails on Windows.
func (*Manager) Reset(netip.Addr) (int, error) { return 0, errWindows }
