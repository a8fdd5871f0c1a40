package lab

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// answered lists answers of a node: each sent at a millisecond and answered so many microseconds later.
func answered(delay int, sent ...int) (out []answer) {
	for _, ms := range sent {
		s := time.Duration(ms) * time.Millisecond
		out = append(out, answer{s, s + time.Duration(delay)*time.Microsecond, answeredARP})
	}
	return out
}

// every lists milliseconds.
func every(from, to, step int) (out []int) {
	for ; from <= to; from += step {
		out = append(out, from)
	}
	return out
}

func TestOnlyWhatIsCertainCountsAsDouble(t *testing.T) {
	a := netip.MustParseAddr("198.18.0.100")
	const delay = 100
	stuck := answered(delay, every(0, 100, 4)...) // and then held up in a queue until 300ms
	for _, s := range every(104, 300, 4) {
		stuck = append(stuck, answer{time.Duration(s) * time.Millisecond, 300*time.Millisecond + time.Duration(s)*time.Microsecond, answeredARP})
	}
	slow := answered(50_000, every(0, 200, 4)...)
	for name, tc := range map[string]struct {
		a, b []answer
		want time.Duration
	}{
		"one after the other": {answered(delay, every(0, 100, 4)...), answered(delay, every(104, 200, 4)...), 0},
		"the second was asked before the first answered its last": {answered(3000, every(0, 100, 4)...), answered(3000, every(102, 200, 4)...), 0},
		"both at a time":                         {answered(delay, every(0, 100, 4)...), answered(delay, every(60, 200, 4)...), 39_900 * time.Microsecond},
		"one within the other":                   {answered(delay, every(0, 200, 4)...), answered(delay, every(60, 80, 4)...), 19_900 * time.Microsecond},
		"a single answer within the other":       {answered(delay, every(0, 200, 4)...), answered(delay, 60), 100 * time.Microsecond},
		"single answers of both":                 {answered(delay, 10), answered(delay, 10), 0},
		"there and back":                         {append(answered(delay, every(0, 100, 4)...), answered(delay, every(200, 300, 4)...)...), answered(delay, every(104, 196, 4)...), 0},
		"there and back, with a queue held up":   {stuck, answered(delay, every(104, 290, 4)...), 0},
		"a lost answer does not hide an overlap": {answered(delay, 0, 4, 8, 20, 24, 28, 32, 36, 40), answered(delay, 0, 4, 8, 12, 28, 32, 36, 40), 39_900 * time.Microsecond},
		"a slow node":                            {slow, answered(delay, every(100, 300, 4)...), 99_900 * time.Microsecond},
		"a slow node gives it away":              {slow, answered(delay, every(251, 300, 4)...), 0},
	} {
		t.Run(name, func(t *testing.T) {
			as := answers{}
			for i := range max(len(tc.a), len(tc.b)) {
				for node, list := range map[string][]answer{"a": tc.a, "b": tc.b} {
					if i < len(list) {
						as.add(holdKey{node, a}, list[i].sent, list[i].got, answeredARP)
					}
				}
			}
			r := as.report([]netip.Addr{a}, time.Now(), 0, time.Second, 20*time.Millisecond)
			if r.Double != tc.want {
				t.Errorf("double %s, want %s: %+v", r.Double, tc.want, r.Overlaps)
			}
		})
	}
}

func TestAnswersAreKeptInOrderOfTheirProbes(t *testing.T) {
	as, k := answers{}, holdKey{"a", netip.MustParseAddr("198.18.0.100")}
	for _, s := range []time.Duration{3, 1, 2, 1} {
		as.add(k, s, s+10, answeredARP)
	}
	as.add(k, 2, 99, answeredEcho)
	got := as[k]
	if len(got) != 3 || got[0].sent != 1 || got[1].sent != 2 || got[2].sent != 3 || got[1].got != 12 || got[1].kinds != answeredARP|answeredEcho {
		t.Errorf("%+v", got)
	}
}

func TestTheProberSeesWhoAnswers(t *testing.T) {
	l := newLab(t, Options{Client: true, IPv6: true})
	t.Run("IPv4", func(t *testing.T) { probeWorld(t, l, l.VIP(0)) })
	t.Run("IPv6", func(t *testing.T) { probeWorld(t, l, l.VIP6(0)) })
}

// probeWorld makes overlaps of known length and handovers without any.
func probeWorld(t *testing.T, l *Lab, vip netip.Prefix) {
	n1, n2 := l.Node("n1"), l.Node("n2")
	p, err := l.Probe(ProbeOptions{Addrs: []netip.Addr{vip.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	report := func(since time.Time) AnswerReport {
		t.Helper()
		<-time.After(20 * time.Millisecond) // the last probes are answered
		r, err := p.Report(since)
		must(err)
		return r
	}
	start := time.Now()
	// Handover as fast as it goes, again and again.
	must(n1.AddAddr(vip))
	for i := range 20 {
		from, to := n1, n2
		if i%2 == 1 {
			from, to = to, from
		}
		<-time.After(40 * time.Millisecond)
		must(from.DelAddr(vip))
		must(to.AddAddr(vip))
	}
	r := report(start)
	split := r.Blind > 0 && len(r.Runs) > 21 // a prober that had to wait for the processor splits runs
	if r.Double != 0 || len(r.Runs) != 21 && !split || r.Answers["n1"] < 60 || r.Answers["n2"] < 60 || r.Answers["n3"] != 0 {
		t.Errorf("handovers: double %s, %d runs, want 0 and 21; %v: %+v", r.Double, len(r.Runs), r.Answers, r.Overlaps)
	}
	run := r.Runs[0]
	if run.Node != "n1" || run.ARP == 0 || run.Echo == 0 || run.Clients == 0 && vip.Addr().Is4() {
		t.Errorf("first run %+v", run)
	}
	t.Logf("handovers: silent %s, blind %s, delay %v", r.Silent, r.Blind, r.Delay)
	for _, want := range []time.Duration{12 * time.Millisecond, 40 * time.Millisecond, 120 * time.Millisecond} {
		since := time.Now()
		must(n2.AddAddr(vip))
		both := time.Now()
		<-time.After(want)
		ends := time.Now()
		must(n2.DelAddr(vip))
		after := time.Now()
		r := report(since)
		low, high := ends.Sub(both)-4*time.Millisecond-r.Blind, after.Sub(since)
		if vip.Addr().Is6() {
			low -= 15 * time.Millisecond // the kernel makes a new IPv6 address usable when its worker gets the processor
		}
		t.Logf("double answers for %s to %s: reported as %s (blind %s)", ends.Sub(both), high, r.Double, r.Blind)
		if r.Double > high || r.Double < low-4*time.Millisecond { // a period at each end
			t.Errorf("double answers for %s to %s: reported as %s", ends.Sub(both), high, r.Double)
		}
	}
	// Nobody hears a node that is cut off.
	must(n2.Silence())
	since := time.Now()
	must(n2.AddAddr(vip))
	if r := report(since); r.Double != 0 {
		t.Errorf("silent: double %s", r.Double)
	}
	must(n2.DelAddr(vip))
	must(n2.Unsilence())
	// What comes back with its address does answer twice.
	must(n2.CableOut())
	must(n2.AddAddr(vip))
	since = time.Now()
	must(n2.CableIn())
	eventually(t, 5*time.Second, "n2 is back", func() bool { r, err := p.Report(since); return err == nil && r.Double > 20*time.Millisecond })
	must(n2.DelAddr(vip))
	must(n1.DelAddr(vip))
}

func TestAFrozenNodeAnswersAndAnAddressBehindAFilterDoesNot(t *testing.T) {
	l := newLab(t, Options{Nodes: []string{"n1", "n2"}, Client: true})
	n1, n2, vip := l.Node("n1"), l.Node("n2"), l.VIP(0)
	startService(t, n1)
	p, err := l.Probe(ProbeOptions{Addrs: []netip.Addr{vip.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(n1.AddAddr(vip))
	must(n2.AddAddr(vip))
	must(n1.FreezeAll())
	since := time.Now()
	<-time.After(100 * time.Millisecond)
	r, err := p.Report(since)
	must(err)
	if r.Double < 80*time.Millisecond {
		t.Errorf("frozen: double %s of 100ms", r.Double)
	}
	must(n1.ThawAll())
	filter := func(rules string) {
		t.Helper()
		out, err := n1.Command(t.Context(), "sh", "-c", "nft -f - <<'EOT'\n"+rules+"\nEOT").CombinedOutput()
		if err != nil {
			t.Fatal(err, string(out))
		}
	}
	// Only ARP shut, then packets too: one of both answers is enough to count.
	filter("table arp t {\nchain c {\ntype filter hook input priority 0\ndrop\n}\n}")
	since = time.Now()
	<-time.After(50 * time.Millisecond)
	r, err = p.Report(since)
	must(err)
	if r.Double < 30*time.Millisecond {
		t.Errorf("ARP shut: double %s of 50ms: %+v", r.Double, r.Runs)
	}
	filter("table inet t {\nchain c {\ntype filter hook prerouting priority 0\nip daddr " + vip.Addr().String() + " drop\n}\n}")
	since = time.Now()
	<-time.After(50 * time.Millisecond)
	r, err = p.Report(since)
	must(err)
	if r.Double != 0 || r.Answers["n1"] != 0 || r.Answers["n2"] == 0 {
		t.Errorf("all shut: double %s, %v", r.Double, r.Answers)
	}
}

func TestTheProberCostsLittle(t *testing.T) {
	l := newLab(t, Options{Client: true})
	vip := l.VIP(0)
	if err := l.Node("n1").AddAddr(vip); err != nil {
		t.Fatal(err)
	}
	// A slow host makes every system call dearer, so the measure is a loop that wakes as often and does next to nothing.
	const limit = 4 // times that; it is 1.5 to 2
	ratio := 2.0 * limit
	for try := 0; ratio > limit && try < 5; try++ {
		bare := bareShare(t)
		p, err := l.Probe(ProbeOptions{Addrs: []netip.Addr{vip.Addr()}})
		if err != nil {
			t.Fatal(err)
		}
		cpu, from := processTime(t), time.Now()
		<-time.After(2 * time.Second)
		share := 100 * float64(processTime(t)-cpu) / float64(time.Since(from))
		r, err := p.Report(from)
		if err != nil {
			t.Fatal(err)
		}
		p.Close()
		ratio = share / bare
		t.Logf("%.1f %% of a core, %.1f times the %.1f %% of a bare loop; %v answers, delay %v, blind %s", share, ratio, bare, r.Answers, r.Delay["n1"], r.Blind)
	}
	if ratio > limit {
		t.Errorf("%.1f times a loop that does nothing", ratio)
	}
	// The client's own kernel must not have learned the address from the probes.
	out, err := l.Client().Command(t.Context(), "ip", "neigh", "show", "to", vip.Addr().String()).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("the client's neighbours: %s %v", out, err)
	}
}

// bareShare is the share of a core, in percent, of a loop with the prober's period that sends itself two packets each time, as the prober
// sends one and hears one.
func bareShare(t *testing.T) float64 {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	self, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	poll, err := newPoller(unix.NsecToTimespec(int64(probeEvery)))
	if err != nil {
		t.Fatal(err)
	}
	defer poll.close()
	cpu, from := processTime(t), time.Now()
	done := make(chan error, 1)
	onInstrumentThread(func() {
		var b [64]byte
		for time.Since(from) < time.Second {
			poll.wait()
			for range 2 {
				if err := unix.Sendto(fd, b[:42], 0, self); err != nil {
					done <- err
					return
				}
				unix.Read(fd, b[:])
			}
		}
		done <- nil
	})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return 100 * float64(processTime(t)-cpu) / float64(time.Since(from))
}

func FuzzHeard(f *testing.F) {
	mac, a := probeMAC(7), netip.MustParseAddr("198.18.0.100")
	a6 := netip.MustParseAddr("fd00:18::100")
	f.Add(arpTo(mac, 2, proberMAC, a, mac, a))
	f.Add(echo(mac, proberMAC, a, a, 1, 2))
	f.Add(echo(mac, proberMAC, a6, a6, 1, 2))
	f.Add(solicit(mac, proberMAC, a6, a6))
	f.Add(advertise(mac, proberMAC, a6, a6))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, ok := parseHeard(b); ok && (!h.addr.IsValid() || len(h.src) != 6) {
			t.Errorf("%+v", h)
		}
	})
}
