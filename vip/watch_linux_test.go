package vip

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// watching starts Watch and waits for its first resync.
func (w *world) watching(m *Manager) <-chan Change {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	changes, ended := make(chan Change, 1024), make(chan error, 1)
	go func() { ended <- m.Watch(ctx, func(c Change) { changes <- c }) }()
	w.t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				w.t.Errorf("Watch = %v", err)
			}
		case <-time.After(5 * time.Second):
			w.t.Error("Watch did not end with its context")
		}
	})
	w.expect(changes, "the first resync", func(c Change) bool { return c.Kind == Resync })
	return changes
}

// expect reads changes until one fits.
func (w *world) expect(changes <-chan Change, what string, fits func(Change) bool) {
	w.t.Helper()
	end := time.After(5 * time.Second)
	for {
		select {
		case c := <-changes:
			if fits(c) {
				return
			}
		case <-end:
			w.t.Fatalf("no %s within 5s", what)
		}
	}
}

func TestWatchReportsRemovalByForeignHands(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	changes := w.watching(w.m1)
	for _, s := range w.both() {
		must(t, w.m1.Add(s, 30*time.Second))
		w.expect(changes, "address-added", func(c Change) bool {
			return c == Change{AddressAdded, s.hostPrefix(), "eth0", true}
		})
		must(t, w.m1.Renew([]Spec{s}, 20*time.Second)) // must not be reported
		var took time.Duration
		start := time.Now()
		w.ip(w.n1, "addr", "del", s.hostPrefix().String(), "dev", "eth0")
		w.expect(changes, "address-removed", func(c Change) bool {
			if c.Kind == AddressAdded {
				t.Errorf("a renewal was reported: %+v", c)
			}
			took = time.Since(start)
			return c == Change{AddressRemoved, s.hostPrefix(), "eth0", true}
		})
		t.Logf("removal of %s reported within %v of starting ip addr del", s, took)
		if took > 500*time.Millisecond {
			t.Errorf("removal of %s reported after %v", s, took)
		}
	}
}

func TestWatchReportsExpiryByTheKernel(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	changes := w.watching(w.m1)
	for _, s := range w.both() {
		must(t, w.m1.Add(s, 1100*time.Millisecond))
	}
	for range w.both() {
		w.expect(changes, "address-removed", func(c Change) bool { return c.Kind == AddressRemoved && c.Ours })
	}
}

func TestWatchAndResolveReportTheLink(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	changes := w.watching(w.m1)
	state := func(up, carrier bool) {
		t.Helper()
		l, err := w.m1.Resolve(Spec{Address: w.v4.Address, Interface: "eth0"})
		if err != nil || l.Up != up || l.Carrier != carrier {
			t.Errorf("Resolve = %+v, %v, want up %v, carrier %v", l, err, up, carrier)
		}
	}
	state(true, true)
	w.ip(w.sw, "link", "set", "p1", "down") // the cable
	w.expect(changes, "link-down", func(c Change) bool { return c.Kind == LinkDown && c.Interface == "eth0" })
	state(true, false)
	w.ip(w.sw, "link", "set", "p1", "up")
	w.expect(changes, "link-up", func(c Change) bool { return c.Kind == LinkUp && c.Interface == "eth0" })
	w.ip(w.n1, "link", "set", "eth0", "down") // the administrator
	w.expect(changes, "link-down", func(c Change) bool { return c.Kind == LinkDown && c.Interface == "eth0" })
	state(false, false)
	w.ip(w.n1, "link", "del", "eth0")
	w.expect(changes, "link-down", func(c Change) bool { return c.Kind == LinkDown && c.Interface == "eth0" })
}

// More events than the socket can hold.
func TestWatchResubscribesAfterLostEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.ip(w.n1, "addr", "add", "198.18.1.200/24", "dev", "lo")
	ctx, cancel := context.WithCancel(context.Background())
	resyncs, release := make(chan int, 8), make(chan bool)
	n := 0
	ended := make(chan error, 1)
	go func() {
		ended <- w.m1.watch(ctx, 4096, func(c Change) {
			if c.Kind != Resync {
				return
			}
			n++
			resyncs <- n
			<-release
		})
	}()
	<-resyncs
	for i := range 100 {
		must(t, w.m1.Add(Spec{Address: mustPrefix(fmt.Sprintf("198.18.1.%d/24", i+1)), Interface: "lo"}, 30*time.Second))
	}
	close(release)
	select {
	case <-resyncs:
	case <-time.After(5 * time.Second):
		t.Error("no second resync after events were lost")
	}
	cancel()
	must(t, <-ended)
}
