package vip

import (
	"errors"
	"net/netip"
	"testing"
	"time"
)

// What the dead man does: it needs nothing of the agent, and what the agent sends later does not open the gate again.
func TestReleaseShutsTheGateAndRemovesTheAddresses(t *testing.T) {
	t.Parallel()
	w := newGated(t)
	must(t, w.m1.OpenUntil(w.addrs(), soon(time.Minute)))
	w.in(w.n1, func() error {
		_, err := Release()
		return err
	})
	for _, s := range w.both() {
		a := s.Address.Addr()
		if w.there(w.n1, s) || w.alive(w.m1, a) {
			t.Errorf("%s: there %v, gate open %v after the release", a, w.there(w.n1, s), w.alive(w.m1, a))
		}
		must(t, w.m1.Add(s, time.Minute)) // an agent that was stopped before it added the address, and goes on
		if err := w.m1.RenewUntil([]netip.Addr{a}, soon(time.Minute)); !errors.Is(err, ErrClosed) {
			t.Errorf("renewing after the release = %v, want ErrClosed", err)
		}
		if w.reaches(w.c, a, blink) {
			t.Errorf("%s answers after the release", a)
		}
	}
}

// Without a gate, or with tables of the same name that are not ours, the addresses are removed all the same.
func TestReleaseNeedsNoGate(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]string{"no tables": "flush ruleset",
		"foreign table": "flush ruleset; add table inet had; add chain inet had mine"} {
		w := newGated(t)
		w.nft(w.n1, damage)
		w.in(w.n1, func() error {
			held, err := Release()
			if len(held) != 2 {
				t.Errorf("%s: released %v", name, held)
			}
			return err
		})
	}
}
