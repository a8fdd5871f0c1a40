package vip

import (
	"net/netip"
	"testing"
	"time"
)

// A node may have more addresses than fit into one message to the kernel.
func TestAGateOfAThousandAddresses(t *testing.T) {
	t.Parallel()
	w := newGated(t)
	var all []netip.Addr
	for i := range 500 {
		all = append(all, netip.AddrFrom4([4]byte{198, 19, byte(i / 250), byte(1 + i%250)}),
			netip.AddrFrom16([16]byte{0xfd, 0, 0, 0x19, 14: byte(i / 250), 15: byte(1 + i%250)}))
	}
	open := func() (n int) {
		entries, err := w.m1.Gate()
		must(t, err)
		for _, e := range entries {
			if e.Alive {
				n++
			}
		}
		return n
	}
	must(t, w.m1.Guard(all...))
	if entries, err := w.m1.Gate(); err != nil || len(entries) < len(all) || open() != 0 {
		t.Fatalf("%d are guarded, %d open: %v", len(entries), open(), err)
	}
	const first = 10 * time.Second
	must(t, w.m1.OpenUntil(all, soon(first)))
	for range 2 {
		must(t, w.m1.RenewUntil(all, soon(time.Minute)))
		if n := open(); n != len(all) {
			t.Fatalf("%d of %d are open", n, len(all))
		}
	}
	for _, l := range []lane{inet4, inet6} { // each renewal writes one side, for all of them
		for _, s := range l.alive {
			left, err := w.m1.list(s)
			must(t, err)
			for _, a := range all {
				if len(a.AsSlice()) == int(s.KeyType.Bytes) && left[a] <= first {
					t.Fatalf("%s: two renewals left %s with %v", s.Name, a, left[a])
				}
			}
		}
	}
	must(t, w.m1.Shut(all...))
	if n := open(); n != 0 {
		t.Errorf("%d are open after they were shut", n)
	}
	must(t, w.m1.Unguard(all...))
}

func TestFewOfManyAddressesAreNamed(t *testing.T) {
	var all []netip.Addr
	for i := range 6 {
		all = append(all, netip.AddrFrom4([4]byte{198, 18, 0, byte(i)}))
	}
	if got := few(all[:5]); got != "[198.18.0.0 198.18.0.1 198.18.0.2 198.18.0.3 198.18.0.4]" {
		t.Error(got)
	}
	if got := few(all); got != "[198.18.0.0 198.18.0.1 198.18.0.2 198.18.0.3] and 2 more" {
		t.Error(got)
	}
}
