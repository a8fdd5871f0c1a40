package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hacluster/internal/boottime"
	"hacluster/vip"
)

// word is a lease that is always there; proven says that nobody of the cluster can hold the address.
type word struct{ isProven bool }

func (w word) until(string) (time.Time, bool) { return boottime.Now().Add(time.Minute), true }
func (w word) fresh(context.Context, string) (time.Time, error) {
	return boottime.Now().Add(time.Minute), nil
}
func (w word) proven(string) bool { return w.isProven }

// newAddress makes an address in a namespace of its own, with a cable to the namespace other.
func newAddress(t *testing.T) (a *address, other string) {
	t.Helper()
	a, _, other = newAddressIn(t)
	return a, other
}

var addresses atomic.Int32

// newAddressIn also tells where the address is. No two have a namespace in common: tests that mostly wait do so together.
func newAddressIn(t *testing.T) (a *address, mine, other string) {
	t.Helper()
	needNetwork(t)
	count := addresses.Add(1)
	mine, other = nsOf(t, fmt.Sprintf("mine%d", count)), nsOf(t, fmt.Sprintf("other%d", count))
	for _, ns := range []string{mine, other} {
		sh(t, "ip", "netns", "add", ns)
		t.Cleanup(func() { sh(t, "ip", "netns", "del", ns) })
	}
	sh(t, "ip", "-n", mine, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", other)
	sh(t, "ip", "-n", mine, "addr", "add", "198.18.0.1/24", "dev", "eth0")
	for _, ns := range []string{mine, other} {
		sh(t, "ip", "-n", ns, "link", "set", "eth0", "up")
	}
	m, err := openIn(mine, discard())
	if err != nil {
		t.Fatal(err)
	}
	a = &address{vips: m, gate: newGatekeeper(m, boottime.Now, discard()), spec: vip.Spec{Group: "web", Resource: "ip", Address: theVIP},
		clock: boottime.Now, log: discard(), possible: true}
	t.Cleanup(func() {
		a.close()
		if _, err := m.Sweep(func(netip.Prefix) bool { return false }); err != nil {
			t.Error(err)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	waitFor(t, "the link is up", func() error {
		if link, err := m.Resolve(a.spec); err != nil || !link.Carrier {
			return errors.Join(err, errors.New("no carrier"))
		}
		return nil
	})
	return a, mine, other
}

// absent checks that the kernel does not have the address.
func absent(t *testing.T, a *address) {
	t.Helper()
	if present, err := a.vips.Present(a.spec); err != nil || present {
		t.Errorf("after it the address is here: %v, %v", present, err)
	}
}

// An address that another machine answers for is not added, unless the old owner's word or the end of its lease has proven
// that it has let go: what still answers then is a stale entry of a switch, and clients must not wait for it.
func TestAnAddressThatSomebodyElseHasIsNotTaken(t *testing.T) {
	a, other := newAddress(t)
	sh(t, "ip", "-n", other, "addr", "add", theVIP.String(), "dev", "eth0")
	a.lease = word{}
	if err := a.Start(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "is in use by") {
		t.Errorf("starting an address that another machine has: %v", err)
	}
	absent(t, a)
	a.lease = word{isProven: true}
	if err := a.Start(t.Context(), 2); err != nil {
		t.Errorf("starting an address whose last owner has proven to be out: %v", err)
	}
}

// lapsing is a lease that is taken back once somebody has seen it.
type lapsing struct {
	word
	seen bool
}

func (l *lapsing) until(group string) (time.Time, bool) {
	if l.seen {
		return time.Time{}, false
	}
	l.seen = true
	return l.word.until(group)
}

// Between the look at the lease and the address lies time: a lease that is gone by then covers nothing (S1).
func TestAnAddressWhoseLeaseEndsWhileItIsAddedGoesAgain(t *testing.T) {
	a, _ := newAddress(t)
	a.lease = &lapsing{word: word{isProven: true}}
	if err := a.Start(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "the lease ended") {
		t.Errorf("started: %v", err)
	}
	absent(t, a)
}

// Where the takeover wait counts on the gate, an address without one is held by nobody (S1).
func TestAnAddressIsNotHeldWithoutItsGate(t *testing.T) {
	a, _ := newAddress(t)
	a.lease = word{isProven: true}
	a.gate.follow(true, true)
	a.gate.none = errors.New("this kernel has none")
	if err := a.Start(t.Context(), 1); !errors.Is(err, errNoGate) {
		t.Errorf("started: %v", err)
	}
	absent(t, a)
	a.gate.follow(true, false) // the lifetime of the address is what ends the lease
	if err := a.Start(t.Context(), 2); err != nil {
		t.Error(err)
	}
}
