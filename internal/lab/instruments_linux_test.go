package lab

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestTheClientSeesAnAddressMoveByHand(t *testing.T) {
	l := newLab(t, Options{Nodes: []string{"n1", "n2"}, Client: true, IPv6: true})
	t.Run("IPv4", func(t *testing.T) { moveByHand(t, l, l.VIP(0)) })
	t.Run("IPv6", func(t *testing.T) { moveByHand(t, l, l.VIP6(0)) })
}

func moveByHand(t *testing.T, l *Lab, vip netip.Prefix) {
	for _, n := range l.Nodes() {
		p := startService(t, n)
		t.Cleanup(func() { p.Kill9() })
	}
	if err := l.Node("n1").AddAddr(vip); err != nil {
		t.Fatal(err)
	}
	c, err := l.StartClient(ClientOptions{Target: netip.AddrPortFrom(vip.Addr(), 8080)})
	if err != nil {
		t.Fatal(err)
	}
	ob, err := l.Observe(ObserveOptions{Addrs: []netip.Addr{vip.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	w, err := l.WatchARP(l.VIP(0).Addr(), 0)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	eventually(t, 10*time.Second, "n1 answers", func() bool { return c.AnsweredBy("n1", start) })
	start = time.Now()
	var gaps []time.Duration
	at := []string{"n1", "n2"}
	for range 5 {
		mark := c.Mark()
		if err := l.MoveByHand(vip, at[0], at[1]); err != nil {
			t.Fatal(err)
		}
		eventually(t, 5*time.Second, at[1]+" answers", func() bool { return c.AnsweredBy(at[1], mark.Add(50*time.Millisecond)) })
		eventually(t, 5*time.Second, "requests have ended", func() bool { return c.Settled(mark.Add(50 * time.Millisecond)) })
		r, err := c.Report(mark)
		if err != nil {
			t.Fatal(err)
		}
		if r.NodeChange.IsZero() && r.Nodes[at[1]] == 0 {
			t.Errorf("the report does not show the move: %+v", r)
		}
		gaps = append(gaps, r.Gap)
		slices.Reverse(at)
	}
	slices.Sort(gaps)
	t.Logf("median gap of a move by hand: %s of %v", gaps[2], gaps)
	if gaps[2] > time.Second {
		t.Errorf("median gap %s", gaps[2])
	}
	r, err := c.Report(start)
	if err != nil || r.OK < 50 {
		t.Errorf("client: %+v %v", r, err)
	}
	t.Log("client: ", r)
	own, err := ob.Report(start)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("observer: double %s, none %s, blind %s, missed %d, %d events", own.Double, own.None, own.Blind, own.Missed, len(own.Timeline))
	if own.Double != 0 || len(own.Timeline) != 10 {
		t.Errorf("double %s, %d events, want 0 and 10: %+v", own.Double, len(own.Timeline), own.Timeline)
	}
	arp := w.Report(start)
	t.Logf("arp: %+v", arp)
	if vip.Addr().Is4() && (len(arp.Double) > 0 || arp.Nodes["n1"] == 0 || arp.Nodes["n2"] == 0) {
		t.Errorf("arp watch: %+v", arp)
	}
}

func TestTheClientTellsItsFailuresApart(t *testing.T) {
	l := newLab(t, Options{Nodes: []string{"n1"}, Client: true})
	n := l.Node("n1")
	p := startService(t, n)
	c, err := l.StartClient(ClientOptions{Target: netip.AddrPortFrom(n.Addr(0), 8080), Timeout: 150 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	eventually(t, 10*time.Second, "n1 answers", func() bool { return c.AnsweredBy("n1", start) })
	expect := func(what, class string, undo func()) {
		t.Helper()
		mark := c.Mark()
		eventually(t, 3*time.Second, what, func() bool { r, err := c.Report(mark); return err == nil && r.Errors[class] > 5 })
		undo()
		mark = time.Now()
		eventually(t, 5*time.Second, what+" is over", func() bool { return c.AnsweredBy("n1", mark) })
	}
	if err := p.Freeze(); err != nil {
		t.Fatal(err)
	}
	expect("freeze", "timeout", func() { p.Thaw() })
	if err := p.Signal(unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	expect("hang", "timeout", func() { p.Signal(unix.SIGUSR2) })
	if err := p.Kill9(); err != nil {
		t.Fatal(err)
	}
	expect("kill", "refused", func() { startService(t, n) })
	cpu := processTime(t)
	from := time.Now()
	stays(t, time.Second, "answers", func() bool { return c.AnsweredBy("n1", start) })
	t.Logf("client and test use %.1f %% of a core", 100*float64(processTime(t)-cpu)/float64(time.Since(from)))
}

func TestTheClientHasARealNeighbourCache(t *testing.T) {
	l := newLab(t, Options{Nodes: []string{"n1", "n2"}, Client: true})
	vip := l.VIP(0)
	for _, n := range l.Nodes() {
		startService(t, n)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(l.Node("n1").AddAddr(vip))
	c, err := l.StartClient(ClientOptions{Target: netip.AddrPortFrom(vip.Addr(), 8080), Timeout: 200 * time.Millisecond})
	must(err)
	w, err := l.WatchARP(vip.Addr(), 5*time.Millisecond) // must not teach the client where the address is
	must(err)
	start := time.Now()
	eventually(t, 10*time.Second, "n1 answers", func() bool { return c.AnsweredBy("n1", start) })
	must(l.Node("n1").DelAddr(vip))
	must(l.Node("n2").AddAddr(vip))
	moved := time.Now()
	// Longer than the second in which the kernel believes no second answer (locktime, arp(7)).
	stays(t, 1300*time.Millisecond, "moved without an announcement, the client is lost", func() bool { return !c.AnsweredBy("n2", moved) })
	if r := w.Report(moved); r.Nodes["n2"] == 0 {
		t.Errorf("arp watch: %+v", r)
	}
	must(l.Node("n2").Announce(vip.Addr()))
	eventually(t, time.Second, "n2 answers", func() bool { return c.AnsweredBy("n2", moved) })
}

func processTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestTheObserverCatchesADoubleAddress(t *testing.T) {
	l := newLab(t, Options{Client: true})
	vip := l.VIP(0)
	n1, n2 := l.Node("n1"), l.Node("n2")
	ob, err := l.Observe(ObserveOptions{Addrs: []netip.Addr{vip.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	w, err := l.WatchARP(vip.Addr(), 10*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	const want = 120 * time.Millisecond
	start := time.Now()
	must(n1.AddAddr(vip))
	must(n2.AddAddr(vip))
	both := time.Now()
	<-time.After(want)
	must(n1.DelAddr(vip))
	real := time.Since(both)
	r, err := ob.Report(start)
	must(err)
	if diff := (r.Double - real).Abs(); diff > 5*time.Millisecond+r.Blind {
		t.Errorf("double ownership of %s reported as %s (blind %s)", real, r.Double, r.Blind)
	}
	t.Logf("double ownership of %s reported as %s (blind %s)", real, r.Double, r.Blind)
	if len(r.Overlaps) != 1 || !slices.Equal(r.Overlaps[0].Nodes, []string{"n1", "n2"}) {
		t.Errorf("overlaps %+v", r.Overlaps)
	}
	if a := w.Report(start); len(a.Double) < 5 {
		t.Errorf("arp watch saw %d double answers in %s: %+v", len(a.Double), real, a)
	}
	// An address left on a node that nobody hears is held, but does not answer.
	for name, f := range map[string][2]func() error{
		"silence": {func() error { return n2.Silence() }, func() error { return n2.Unsilence() }},
		"cable":   {func() error { return n2.CableOut() }, func() error { return n2.CableIn() }},
	} {
		must(f[0]())
		mark := time.Now()
		must(n1.AddAddr(vip))
		<-time.After(20 * time.Millisecond)
		must(n1.DelAddr(vip))
		r, err := ob.Report(mark)
		must(err)
		if r.Double != 0 || r.Held < 15*time.Millisecond {
			t.Errorf("%s: double %s, held %s", name, r.Double, r.Held)
		}
		must(f[1]())
	}
	must(n2.PowerCut())
	mark := time.Now()
	must(n1.AddAddr(vip))
	must(n2.PowerOn())
	r, err = ob.Report(mark)
	must(err)
	if r.Double != 0 || r.Held != 0 {
		t.Errorf("power cut: double %s, held %s: %+v", r.Double, r.Held, r.Timeline)
	}
}

func FuzzNetlinkAddresses(f *testing.F) {
	f.Add([]byte{24, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 24, 0, 0, 1, 0, 0, 0})
	f.Add([]byte{32, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 24, 0, 0, 1, 0, 0, 0, 8, 0, 2, 0, 198, 18, 0, 1})
	f.Add([]byte{16, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		eachAddr(b, func(kind uint16, a netip.Addr, _ bool) {
			if !a.IsValid() {
				t.Errorf("kind %d: invalid address", kind)
			}
		})
	})
}

func FuzzAnswers(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nnode=n1"), true)
	f.Add([]byte("HTTP/1.0 503 No\r\n\r\n"), false)
	f.Add([]byte("garbage"), true)
	f.Fuzz(func(t *testing.T, b []byte, eof bool) {
		c := &Client{}
		in := b[:min(len(b), maxAnswer)]
		done, problem := c.answer(&conn{in: in, size: len(b)}, eof)
		if eof && !done {
			t.Error("not done at the end of the stream")
		}
		if done && problem == "" && len(nodeOf(in)) > len(in) {
			t.Error("a name longer than the answer")
		}
		parseARP(b)
	})
}
