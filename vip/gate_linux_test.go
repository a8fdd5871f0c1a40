package vip

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/internal/boottime"
)

// blink is how long a client waits where nothing may come.
const blink = 150 * time.Millisecond

func TestGateIsClosedUnlessOpenAndLeavesOtherAddressesAlone(t *testing.T) {
	t.Parallel()
	w := newGated(t)
	own := []netip.Addr{netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("fd00:18::1")}
	for _, a := range w.addrs() {
		if w.reaches(w.c, a, blink) || w.alive(w.m1, a) {
			t.Errorf("%s is reachable before it was opened", a)
		}
	}
	must(t, w.m1.OpenUntil(w.addrs(), soon(time.Minute)))
	for _, a := range w.addrs() {
		if !w.reaches(w.c, a, 2*time.Second) || !w.alive(w.m1, a) {
			t.Errorf("%s is not reachable although it was opened", a)
		}
	}
	for range 2 {
		must(t, w.m1.Shut(w.addrs()...))
	}
	heard := w.heard.Load()
	for _, a := range w.addrs() {
		s := w.stream(a, time.Millisecond) // the client knows the neighbour: its datagrams do arrive
		if w.reaches(w.c, a, blink) || w.alive(w.m1, a) {
			t.Errorf("%s is reachable after it was shut", a)
		}
		until(t, time.Second, "some datagrams", func() bool { return s.sent.Load() > 50 })
		s.end()
		if n := w.heard.Load() - heard; n != 0 {
			t.Errorf("%s: %d datagrams got in after it was shut", a, n)
		}
		if w.reaches(w.n1, a, blink) {
			t.Errorf("%s is reachable on the node itself after it was shut", a)
		}
	}
	for _, a := range own {
		if !w.reaches(w.c, a, 2*time.Second) {
			t.Errorf("%s, which is not guarded, is not reachable", a)
		}
	}
	for range 2 {
		must(t, w.m1.Unguard(w.addrs()...))
	}
	for _, a := range w.addrs() {
		if !w.reaches(w.c, a, 2*time.Second) {
			t.Errorf("%s is not reachable although it is not guarded any more", a)
		}
	}
}

func TestGateClosesToTheMillisecondAndNeverLate(t *testing.T) {
	t.Parallel()
	w := newGated(t)
	const d = 300 * time.Millisecond
	for _, a := range w.addrs() {
		s := w.stream(a, time.Millisecond)
		var early []time.Duration
		for range 20 {
			end := soon(d)
			must(t, w.m1.OpenUntil([]netip.Addr{a}, end))
			until(t, 2*time.Second, "the gate closes", func() bool { return !w.alive(w.m1, a) })
			until(t, 2*time.Second, "the lease ends", func() bool { return boottime.Now().After(end.Add(20 * time.Millisecond)) })
			early = append(early, time.Duration(end.UnixNano()-s.last.Load()))
		}
		s.end()
		slices.Sort(early)
		t.Logf("%s: open for %v, last echo before the end: median %v, %v to %v", a, d, early[10], early[0], early[19])
		// An echo takes its way after it has passed the gate.
		if early[0] < -5*time.Millisecond {
			t.Errorf("%s: an echo came %v after the end of the lease", a, -early[0])
		}
		if early[10] > 2*gateTicket {
			t.Errorf("%s: the gate closes %v too early", a, early[10])
		}
	}
}

func TestRenewalLosesNothing(t *testing.T) {
	t.Parallel()
	w := newGated(t)
	must(t, w.m1.OpenUntil(w.addrs(), soon(400*time.Millisecond)))
	var streams []*stream
	for _, a := range w.addrs() {
		must(t, nilUnless(w.reaches(w.c, a, 2*time.Second), "first connection")) // resolves the neighbour
		streams = append(streams, w.stream(a, 500*time.Microsecond))
	}
	end := time.Now().Add(3 * time.Second)
	var lost, connects sync.Map
	var clients sync.WaitGroup
	for i, a := range w.addrs() {
		clients.Go(func() {
			n, bad := 0, 0
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for time.Now().Before(end) {
				<-tick.C
				n++
				if !w.reaches(w.c, a, 800*time.Millisecond) { // less than the second after which a lost SYN is sent again
					bad++
				}
			}
			connects.Store(i, n)
			lost.Store(i, bad)
		})
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(end) {
		<-tick.C
		must(t, w.m1.RenewUntil(w.addrs(), soon(400*time.Millisecond)))
	}
	must(t, w.m1.RenewUntil(w.addrs(), soon(5*time.Second)))
	clients.Wait()
	for i, a := range w.addrs() {
		streams[i].end()
		n, _ := connects.Load(i)
		bad, _ := lost.Load(i)
		t.Logf("%s: %v connects, %v lost; %d datagrams", a, n, bad, streams[i].sent.Load())
		if bad != 0 {
			t.Errorf("%s: %v of %v connects were lost", a, bad, n)
		}
		until(t, 2*time.Second, fmt.Sprintf("the last echoes of %s: %d of %d", a, streams[i].got.Load(), streams[i].sent.Load()),
			func() bool { return streams[i].got.Load() == streams[i].sent.Load() })
	}
}

func nilUnless(ok bool, what string) error {
	if ok {
		return nil
	}
	return errors.New(what + " did not come about")
}

func TestRenewalNeverOpensWhatHasClosed(t *testing.T) {
	t.Parallel()
	w := newGated(t)
	a, b := w.addrs()[0], w.addrs()[1]
	renew := func(addrs ...netip.Addr) error { return w.m1.RenewUntil(addrs, soon(2*time.Minute)) }

	if err := renew(a); !errors.Is(err, ErrGone) || w.alive(w.m1, a) {
		t.Errorf("renewing what was never open = %v, want ErrGone", err)
	}
	must(t, w.m1.OpenUntil([]netip.Addr{a}, soon(200*time.Millisecond)))
	must(t, w.m1.OpenUntil([]netip.Addr{b}, soon(time.Minute)))
	until(t, time.Second, "the gate closes", func() bool { return !w.alive(w.m1, a) })
	err := renew(a, b)
	if !errors.Is(err, ErrGone) || !strings.Contains(err.Error(), a.String()) || strings.Contains(err.Error(), b.String()) {
		t.Errorf("renewing one that closed and one that is open = %v, want ErrGone for %s only", err, a)
	}
	if w.alive(w.m1, a) || !w.alive(w.m1, b) || w.reaches(w.c, a, blink) || !w.reaches(w.c, b, time.Second) {
		t.Errorf("after it: %s must be closed and %s open", a, b)
	}
	for _, e := range gateOf(t, w.m1) {
		if e.Address == b && e.Left < 90*time.Second {
			t.Errorf("%s was not renewed because %s had closed: %+v", b, a, e)
		}
	}
	must(t, w.m1.Shut(b))
	if err := renew(a, b); !errors.Is(err, ErrGone) || w.alive(w.m1, b) {
		t.Errorf("renewing what was shut = %v, want ErrGone", err)
	}
}

func TestMessageUnderWayTooLongIsRefused(t *testing.T) {
	t.Parallel()
	w := newGated(t)
	for name, arm := range map[string]func([]netip.Addr, time.Time) error{"OpenUntil": w.m1.OpenUntil, "RenewUntil": w.m1.RenewUntil} {
		must(t, w.m1.OpenUntil(w.addrs(), soon(5*time.Second)))
		stops := 0
		w.m1.gate.stall = func() { // as if the process was stopped between the clock and the message, each time
			stops++
			begin := time.Now()
			until(t, time.Second, "the stop", func() bool { return time.Since(begin) > 2*gateTicket })
		}
		if err := arm(w.addrs(), soon(30*time.Second)); !errors.Is(err, ErrLate) || stops != gateTries {
			t.Errorf("%s stopped %d times = %v, want ErrLate after %d tries", name, stops, err, gateTries)
		}
		for _, e := range gateOf(t, w.m1) {
			if e.Left > 5*time.Second {
				t.Errorf("%s: the late message was taken: %+v", name, e)
			}
		}
		// Stopped once: the second try counts anew and still ends with the lease.
		stops = 0
		stall := w.m1.gate.stall
		w.m1.gate.stall = func() {
			if stops == 0 {
				stall()
			}
		}
		end := soon(10 * time.Second)
		must(t, arm(w.addrs(), end))
		endsWith(t, w.m1, end)
		// Stopped, but not too long: it is not refused and still does not end late.
		w.m1.gate.stall = func() {
			begin := time.Now()
			until(t, time.Second, "the stop", func() bool { return time.Since(begin) > gateTicket/2 })
		}
		end = soon(20 * time.Second)
		must(t, arm(w.addrs(), end))
		endsWith(t, w.m1, end)
		w.m1.gate.stall = nil
	}
	for name, end := range map[string]time.Time{"at the end of the lease": soon(gateTicket), "without one": {}, "long after it": time.Unix(-1<<40, 0)} {
		if err := w.m1.OpenUntil(w.addrs(), end); !errors.Is(err, ErrLate) {
			t.Errorf("OpenUntil %s = %v, want ErrLate", name, err)
		}
	}
}

// endsWith checks that the gate closes with the lease: a little early, never late.
func endsWith(t *testing.T, m *Manager, end time.Time) {
	t.Helper()
	left := end.Sub(boottime.Now())
	for _, e := range gateOf(t, m) {
		if e.Left > left || e.Left < left-150*time.Millisecond {
			t.Errorf("%+v, but the lease has %v left", e, left)
		}
	}
}

func gateOf(t *testing.T, m *Manager) []GateEntry {
	t.Helper()
	e, err := m.Gate()
	must(t, err)
	return e
}

func TestRenewalCanShortenAndSoCanANewProcess(t *testing.T) {
	t.Parallel()
	w := newGated(t)
	for name, next := range map[string]*Manager{"the same process": w.m1, "a new process": w.open(w.n1)} {
		must(t, w.m1.OpenUntil(w.addrs(), soon(time.Minute)))
		must(t, w.m1.RenewUntil(w.addrs(), soon(2*time.Minute)))
		must(t, next.RenewUntil(w.addrs(), soon(200*time.Millisecond)))
		until(t, time.Second, name+" shortens the time", func() bool {
			return !w.alive(w.m1, w.addrs()[0]) && !w.alive(w.m1, w.addrs()[1])
		})
	}
}

func TestNewProcessTakesOverAnOpenGateWithoutALoss(t *testing.T) {
	t.Parallel()
	w := newGated(t)
	must(t, w.m1.OpenUntil(w.addrs(), soon(20*time.Second)))
	var streams []*stream
	for _, a := range w.addrs() {
		must(t, nilUnless(w.reaches(w.c, a, 2*time.Second), "first connection"))
		streams = append(streams, w.stream(a, 200*time.Microsecond))
	}
	for begin := time.Now(); time.Since(begin) < time.Second; {
		next := w.open(w.n1)
		must(t, next.OpenGate())
		must(t, next.Guard(w.addrs()...))
		must(t, next.RenewUntil(w.addrs(), soon(20*time.Second)))
	}
	for i, s := range streams {
		s.end()
		until(t, 2*time.Second, fmt.Sprintf("stream %d: the last echoes", i), func() bool { return s.got.Load() == s.sent.Load() })
		t.Logf("%d of %d datagrams answered", s.got.Load(), s.sent.Load())
	}
	for _, e := range gateOf(t, w.m1) {
		if !e.Alive || e.Left < 15*time.Second {
			t.Errorf("after the takeover: %+v", e)
		}
	}
}

func TestEstablishedConnectionsStandStillWhileTheGateIsClosed(t *testing.T) {
	t.Parallel()
	w := newGated(t)
	must(t, w.m1.OpenUntil(w.addrs(), soon(time.Minute)))
	for _, a := range w.addrs() {
		c, err := w.connect(w.c, a, 2*time.Second)
		must(t, err)
		t.Cleanup(func() { c.Close() })
		if !echo(t, c, "open", 2*time.Second) {
			t.Fatalf("%s: no echo while open", a)
		}
		must(t, w.m1.Shut(a))
		if echo(t, c, "shut", 2*blink) {
			t.Errorf("%s: an established connection goes on while the gate is closed", a)
		}
		must(t, w.m1.OpenUntil([]netip.Addr{a}, soon(time.Minute)))
		must(t, c.SetDeadline(time.Now().Add(10*time.Second)))
		if !answered(c, "shut") {
			t.Errorf("%s: the connection did not go on after the gate was opened again", a)
		}
	}
}

func TestGateLeavesTheRulesOfOthersAlone(t *testing.T) {
	t.Parallel()
	w := newGated(t)
	w.in(w.n1, RemoveGate)
	w.nft(w.n1, "add table inet site; add chain inet site input { type filter hook input priority 0; policy accept; };"+
		"add set inet site ban { type ipv4_addr; flags timeout; }; add element inet site ban { 198.18.9.9 };"+
		"add rule inet site input ip saddr @ban drop; add table arp site; add table ip had")
	before := w.nft(w.n1, "list", "ruleset")
	must(t, w.m1.OpenGate())
	must(t, w.m1.Guard(w.addrs()...))
	must(t, w.m1.OpenUntil(w.addrs(), soon(time.Minute)))
	must(t, w.m1.RenewUntil(w.addrs(), soon(time.Minute)))
	must(t, w.m1.Shut(w.addrs()...))
	for range 2 {
		w.in(w.n1, RemoveGate)
	}
	if after := w.nft(w.n1, "list", "ruleset"); after != before {
		t.Errorf("the rules before:\n%s\nand after:\n%s", before, after)
	}
	if _, err := w.m1.Gate(); !errors.Is(err, ErrNoGate) {
		t.Errorf("Gate without a gate = %v, want ErrNoGate", err)
	}
	w.nft(w.n1, "add table inet had; add chain inet had mine")
	before = w.nft(w.n1, "list", "ruleset")
	if err := w.m1.OpenGate(); err == nil || !strings.Contains(err.Error(), "not had's") {
		t.Errorf("OpenGate with a foreign table of that name = %v", err)
	}
	w.in(w.n1, func() error {
		if err := RemoveGate(); err == nil {
			return errors.New("a foreign table was taken for ours")
		}
		return nil
	})
	if after := w.nft(w.n1, "list", "ruleset"); after != before {
		t.Errorf("a foreign table of that name before:\n%s\nand after:\n%s", before, after)
	}
}

func TestFlushedRulesetIsNoticedAndMended(t *testing.T) {
	t.Parallel()
	w := newGated(t)
	for name, damage := range map[string]string{"ruleset": "flush ruleset", "arp table": "delete table arp had", "inet table": "delete table inet had"} {
		must(t, w.m1.OpenUntil(w.addrs(), soon(time.Minute)))
		w.nft(w.n1, damage)
		if err := w.m1.RenewUntil(w.addrs(), soon(time.Minute)); !errors.Is(err, ErrNoGate) {
			t.Errorf("%s flushed: RenewUntil = %v, want ErrNoGate", name, err)
		}
		if err := w.m1.Guard(w.addrs()...); !errors.Is(err, ErrNoGate) {
			t.Errorf("%s flushed: Guard = %v, want ErrNoGate", name, err)
		}
		if _, err := w.m1.Gate(); !errors.Is(err, ErrNoGate) {
			t.Errorf("%s flushed: Gate = %v, want ErrNoGate", name, err)
		}
		must(t, w.m1.OpenGate())
		must(t, w.m1.Guard(w.addrs()...))
	}
	w.nft(w.n1, "flush table arp had") // takes the rules, leaves the sets
	if _, err := w.m1.Gate(); !errors.Is(err, ErrNoGate) {
		t.Errorf("rules flushed: Gate = %v, want ErrNoGate", err)
	}
	must(t, w.m1.OpenGate())
	must(t, w.m1.Shut(w.addrs()...))
	if w.reaches(w.c, w.addrs()[0], blink) {
		t.Error("the mended gate lets traffic pass")
	}
}

func TestGateSupportedSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.in(w.n1, GateSupported)
	w.in(w.n1, func() error { // on a thread that ends afterwards
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			return err
		}
		if err := GateSupported(); !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
			return fmt.Errorf("GateSupported without rights = %v", err)
		}
		return nil
	})
}

func BenchmarkRenewUntil(b *testing.B) {
	for _, n := range []int{1, 50} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			if unix.Geteuid() != 0 {
				b.Skip("needs root")
			}
			done := make(chan error)
			go func() {
				runtime.LockOSThread()
				done <- benchmarkRenew(b, n)
			}()
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		})
	}
}

func benchmarkRenew(b *testing.B, n int) (err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	m, err := Open(nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	var addrs []netip.Addr
	for a := netip.MustParseAddr("198.18.1.1"); len(addrs) < n; a = a.Next() {
		addrs = append(addrs, a)
	}
	if err := errors.Join(m.OpenGate(), m.Guard(addrs...), m.OpenUntil(addrs, soon(time.Minute))); err != nil {
		return err
	}
	b.ResetTimer()
	for range b.N {
		if err := m.RenewUntil(addrs, soon(time.Minute)); err != nil {
			return err
		}
	}
	return nil
}
