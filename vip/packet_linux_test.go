package vip

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"hacluster/internal/boottime"
)

// Without an announcement the client keeps the old owner's link-layer address; with it the entry follows at once.
func TestClientFollowsTheAnnouncementAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	mac1, mac2 := w.mac(w.n1), w.mac(w.n2)
	for _, s := range w.both() {
		ip := s.Address.Addr()
		must(t, w.m1.Add(s, 30*time.Second))
		w.ask(ip)
		until(t, 3*time.Second, "the client resolves "+ip.String(), func() bool { return w.neighbour(ip) == mac1 })
		for _, move := range []struct {
			from, to *Manager
			mac      string
		}{{w.m1, w.m2, mac2}, {w.m2, w.m1, mac1}} {
			must(t, move.from.Remove(s))
			must(t, move.to.Add(s, 30*time.Second))
			if got := w.neighbour(ip); got == move.mac {
				t.Fatalf("the client knows the new owner of %s before the announcement", ip)
			}
			start := time.Now()
			must(t, move.to.Announce(s))
			until(t, 500*time.Millisecond, "the client's entry of "+ip.String()+" follows", func() bool { return w.neighbour(ip) == move.mac })
			t.Logf("entry of %s followed within %v", ip, time.Since(start))
		}
	}
}

func TestAnnounceRefusesWhatIsNotHeld(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, s := range w.both() {
		if err := w.m1.Announce(s); !errors.Is(err, ErrGone) {
			t.Errorf("Announce of an absent address: %v, want ErrGone", err)
		}
	}
	w.ip(w.n1, "addr", "add", w.v4.Address.String(), "dev", "eth0")
	if err := w.m1.Announce(w.v4); !errors.Is(err, ErrForeign) {
		t.Errorf("Announce of a foreign address: %v, want ErrForeign", err)
	}
	lo := Spec{Address: w.v6.Address, Interface: "lo"}
	must(t, w.m1.Add(lo, 10*time.Second))
	must(t, w.m1.Announce(lo)) // nobody to tell, no error
}

func TestConflictFindsAHolderAndNoAbsentOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	for _, s := range w.both() {
		start := time.Now()
		if h, found, err := w.m2.Conflict(ctx, s, 300*time.Millisecond); found || err != nil {
			t.Errorf("%s: Conflict without a holder = %v, %v, %v", s, h, found, err)
		}
		if d := time.Since(start); d < 300*time.Millisecond || d > time.Second {
			t.Errorf("%s: the probe waited %v, want 300ms", s, d)
		}
		must(t, w.m1.Add(s, 30*time.Second))
		start = time.Now()
		h, found, err := w.m2.Conflict(ctx, s, 3*time.Second)
		if !found || err != nil || h.MAC.String() != w.mac(w.n1) || h.Interface != "eth0" {
			t.Errorf("%s: Conflict with a holder = %v, %v, %v, want %s", s, h, found, err, w.mac(w.n1))
		}
		t.Logf("holder of %s found after %v", s, time.Since(start))
		if h, found, err := w.m1.Conflict(ctx, s, 200*time.Millisecond); found || err != nil {
			t.Errorf("%s: the holder conflicts with itself: %v, %v, %v", s, h, found, err)
		}
		if got := w.neighbour(s.Address.Addr()); got != "" && got != w.mac(w.n1) {
			t.Errorf("%s: the probe changed the client's cache to %s", s, got)
		}
	}
}

// A second interface of the holder on the same wire answers for the VIP too (Linux answers ARP for any local address).
func TestOwnSecondInterfaceIsNoConflict(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.ip(w.sw, "link", "add", "p1b", "type", "veth", "peer", "name", "eth1", "netns", w.n1)
	w.ip(w.sw, "link", "set", "p1b", "master", "br0", "up")
	w.ip(w.n1, "link", "set", "eth1", "up")
	must(t, w.m1.Add(w.v4, 30*time.Second))
	if h, found, err := w.m1.Conflict(context.Background(), w.v4, 300*time.Millisecond); found || err != nil {
		t.Errorf("Conflict = %v, %v, %v, want none", h, found, err)
	}
}

// Two nodes that probe at once must not take each other for holders, or neither would take over.
func TestTwoProbingNodesAreNoHolders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, s := range w.both() {
		found := make(chan bool, 2)
		for _, m := range []*Manager{w.m1, w.m2} {
			go func() {
				_, f, err := m.Conflict(context.Background(), s, 300*time.Millisecond)
				found <- f || err != nil
			}()
		}
		for range 2 {
			if <-found {
				t.Errorf("%s: a probing node was taken for a holder", s)
			}
		}
	}
}

func TestConflictEndsWithItsContext(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, _, err := w.m1.Conflict(ctx, w.v4, time.Minute); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Conflict = %v, want the context's error", err)
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("Conflict ended %v after its context", d)
	}
}

// A process that was stopped between reading the clock and the system call armed an address for a lease that is over.
func TestLateArmingIsUndone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	must(t, w.m1.Add(w.v4, 30*time.Second))
	there, err := w.m1.find(w.v4.Address.Addr())
	must(t, err)

	w.m1.route.mu.Lock() // the stop
	armed := make(chan []error)
	go func() { armed <- w.m1.arm(there, boottime.Now().Add(1050*time.Millisecond)) }()
	time.Sleep(1200 * time.Millisecond) // past the deadline whatever happens
	w.m1.route.mu.Unlock()
	if errs := <-armed; !errors.Is(errors.Join(errs...), ErrLate) {
		t.Errorf("a late renewal: %v, want ErrLate", errs)
	}
	if w.there(w.n1, w.v4) {
		t.Error("the address is there after a late renewal")
	}

	link, err := w.m1.Resolve(w.v4)
	must(t, err)
	must(t, w.m1.Add(w.v4, 30*time.Second))
	if err := w.m1.verify(w.v4, link, boottime.Now()); !errors.Is(err, ErrLate) {
		t.Errorf("a late Add: %v, want ErrLate", err)
	}
	if w.there(w.n1, w.v4) {
		t.Error("the address is there after a late Add")
	}
}

// Not a benchmark: the figures are in the log, the bound only catches a blunder.
func TestTimeOfAddAnnounceAndRemove(t *testing.T) {
	w := newWorld(t)
	for _, s := range w.both() {
		var add, remove, renew []time.Duration
		must(t, w.m1.Add(s, 10*time.Second))
		must(t, w.m1.Announce(s)) // opens the socket
		must(t, w.m1.Remove(s))
		for range 50 {
			start := time.Now()
			must(t, w.m1.Add(s, 10*time.Second))
			must(t, w.m1.Announce(s))
			add = append(add, time.Since(start))
			start = time.Now()
			must(t, w.m1.Renew([]Spec{s}, 10*time.Second))
			renew = append(renew, time.Since(start))
			start = time.Now()
			must(t, w.m1.Remove(s))
			remove = append(remove, time.Since(start))
		}
		for _, d := range [][]time.Duration{add, renew, remove} {
			slices.Sort(d)
		}
		t.Logf("%s: median of 50: Add+Announce %v (max %v), Renew %v, Remove %v (max %v)",
			s, add[25], add[49], renew[25], remove[25], remove[49])
		if add[25] > 50*time.Millisecond || remove[25] > 50*time.Millisecond {
			t.Errorf("moving %s takes far too long", s)
		}
	}
}
