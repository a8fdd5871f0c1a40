package vip

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// onesTotal is the ones' complement sum of RFC 1071, written here anew.
func onesTotal(parts ...[]byte) uint16 {
	all := bytes.Join(parts, nil)
	if len(all)%2 == 1 {
		all = append(all, 0)
	}
	sum := 0
	for i := 0; i < len(all); i += 2 {
		sum += int(all[i])<<8 | int(all[i+1])
	}
	for sum > 0xffff {
		sum = sum%0x10000 + sum/0x10000
	}
	return uint16(sum)
}

// The segments were computed by another program. The fields are at the offsets of RFC 9293 3.1, the pseudo headers those of 3.1 there
// and of RFC 8200 8.1.
func TestATickleIsASegmentWithNothingButACK(t *testing.T) {
	for _, v := range []struct{ local, remote, segment string }{
		{"192.0.2.10:443", "198.51.100.7:51234", "01bbc822000000000000000050100400f5b10000"},
		{"[2001:db8::10]:443", "[2001:db8:ffff::7]:51234", "01bbc822000000000000000050100400866e0000"},
	} {
		c := Conn{Local: netip.MustParseAddrPort(v.local), Remote: netip.MustParseAddrPort(v.remote)}
		if got := hex.EncodeToString(tickleSegment(c)); got != v.segment {
			t.Errorf("%s: %s, want %s", v.local, got, v.segment)
		}
	}
	rnd := uint32(1)
	next := func(n int) (b []byte) {
		for range n {
			rnd = rnd*1664525 + 1013904223
			b = append(b, byte(rnd>>24))
		}
		return b
	}
	for i := range 4000 { // also sums that fold twice
		n := []int{4, 16}[i%2]
		at := func() netip.AddrPort {
			a, _ := netip.AddrFromSlice(next(n))
			return netip.AddrPortFrom(a, binary.BigEndian.Uint16(next(2)))
		}
		c := Conn{Local: at(), Remote: at()}
		tcp := tickleSegment(c)
		if len(tcp) != 20 || onesTotal(c.Local.Addr().AsSlice(), c.Remote.Addr().AsSlice(), []byte{0, 6, 0, 20}, tcp) != 0xffff {
			t.Fatalf("%+v: the checksum or the length is wrong: %x", c, tcp)
		}
		if tcp[12] != 0x50 || tcp[13] != 0x10 || binary.BigEndian.Uint64(tcp[4:]) != 0 || binary.BigEndian.Uint16(tcp) != c.Local.Port() || binary.BigEndian.Uint16(tcp[2:]) != c.Remote.Port() {
			t.Fatalf("%+v: %x", c, tcp)
		}
	}
}

func TestTheNewestConnectionsAreKept(t *testing.T) {
	conn := func(i int) Waiting { // cookies fall: they do not tell the age
		return Waiting{Conn{Local: netip.MustParseAddrPort("198.18.0.100:80"), Remote: netip.AddrPortFrom(netip.MustParseAddr("198.18.0.3"), uint16(i))}, uint64(100000 - i)}
	}
	var a Ages
	var found []Waiting
	for i := range MaxTickles + 10 {
		if found = append(found, conn(i)); i == MaxTickles-5 {
			a.Newest(found)
		}
	}
	got := a.Newest(found)
	if len(got) != MaxTickles {
		t.Fatalf("%d are kept", len(got))
	}
	for i := MaxTickles - 4; i < MaxTickles+10; i++ {
		if !slices.Contains(got, conn(i).Conn) {
			t.Errorf("connection %d, which is among the newest, is not kept", i)
		}
	}
	if again := a.Newest(found); !slices.Equal(got, again) {
		t.Error("the same connections give another list")
	}
	if few := a.Newest(found[:3]); len(few) != 3 || len(a.since) != 3 {
		t.Errorf("%d connections, %d remembered", len(few), len(a.since))
	}
}

// hoard accepts connections on all addresses of a namespace and does nothing with them.
func (w *world) hoard(ns, network string, port uint16) {
	w.t.Helper()
	var l net.Listener
	w.in(ns, func() (err error) {
		l, err = net.Listen(network, fmt.Sprintf(":%d", port))
		return err
	})
	var mu sync.Mutex
	var open []net.Conn
	w.t.Cleanup(func() {
		l.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range open {
			c.Close()
		}
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
		}
	}()
}

// The case that tickles are for: the owner vanishes without a word, and the client of the new one waits on what it had open.
func TestAClientOfALostOwnerNoticesWithinASecond(t *testing.T) {
	for _, listener := range []bool{true, false} { // a hot standby has one that fits, a cold one has not
		t.Run(fmt.Sprintf("listener %v", listener), func(t *testing.T) { lostOwner(t, listener) })
	}
}

func lostOwner(t *testing.T, listener bool) {
	t.Parallel()
	w := newWorld(t)
	for _, s := range w.both() {
		must(t, w.m1.Add(s, time.Minute))
	}
	w.hoard(w.n1, "tcp4", 8)
	w.hoard(w.n1, "tcp", gatePort)
	v4, v6 := w.addrs()[0], w.addrs()[1]
	kinds := []netip.AddrPort{netip.AddrPortFrom(v4, 8), netip.AddrPortFrom(v4, gatePort), netip.AddrPortFrom(v6, gatePort)}
	var tickled, left []net.Conn
	for _, to := range kinds {
		tickled, left = append(tickled, w.dial(to)), append(left, w.dial(to))
	}
	w.dial(netip.AddrPortFrom(netip.MustParseAddr("198.18.0.1"), gatePort)) // of another address: nobody's business
	known, err := w.m1.Waiting(w.addrs())
	must(t, err)
	if len(known[v4]) != 4 || len(known[v6]) != 2 || len(known) != 2 {
		t.Fatalf("listed %v", known)
	}
	w.ip(w.sw, "link", "set", "p1", "down") // no FIN, no RST
	var ends, hang []<-chan ending
	for i := range kinds {
		ends, hang = append(ends, broken(tickled[i])), append(hang, broken(left[i]))
	}
	for _, s := range w.both() {
		must(t, w.m2.Add(s, time.Minute))
		must(t, w.m2.Announce(s))
	}
	var own net.Conn
	if listener {
		w.serve(w.n2)
		if own, err = w.connect(w.c, v4, 5*time.Second); err != nil {
			t.Fatal(err)
		}
		defer own.Close()
	}
	begun := time.Now()
	for _, a := range w.addrs() {
		tk, err := w.m2.Tickler(a)
		must(t, err)
		defer tk.Close()
		var lost []Conn
		for _, k := range known[a] {
			for _, c := range tickled {
				if k.Remote == netip.MustParseAddrPort(c.LocalAddr().String()) {
					lost = append(lost, k.Conn)
				}
			}
		}
		for range 3 {
			if n, err := tk.Send(lost); n != len(lost) || err != nil {
				t.Errorf("%d of %d were sent, %v", n, len(lost), err)
			}
			<-time.After(100 * time.Millisecond)
		}
	}
	for i, end := range ends {
		select {
		case e := <-end:
			t.Logf("%s: %v after %v", kinds[i], e.err, e.at.Sub(begun))
			if !errors.Is(e.err, unix.ECONNRESET) || e.at.Sub(begun) > time.Second {
				t.Errorf("%s: the connection ended with %v after %v", kinds[i], e.err, e.at.Sub(begun))
			}
		case <-time.After(2 * time.Second):
			t.Errorf("%s: the client still waits", kinds[i])
		}
	}
	for i, end := range hang { // by now three seconds without a tickle
		select {
		case e := <-end:
			t.Errorf("%s: a client that was not tickled noticed %v: this test shows nothing", kinds[i], e.err)
		default:
		}
	}
	if own != nil && !echo(t, own, "own", 2*time.Second) {
		t.Error("a connection of the new owner was ended")
	}
}

// What lives on this node is known, so that it is left out; and even a tickle does not end it.
func TestSocketsOfThisNodeAreKnownAndOutliveATickle(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, s := range w.both() {
		must(t, w.m1.Add(s, time.Minute))
	}
	w.serve(w.n1)
	for _, a := range w.addrs() {
		live, err := w.connect(w.c, a, 5*time.Second)
		must(t, err)
		defer live.Close()
		over, err := w.connect(w.c, a, 5*time.Second)
		must(t, err)
		remote := func(c net.Conn) Conn {
			return Conn{Local: netip.AddrPortFrom(a, gatePort), Remote: netip.MustParseAddrPort(c.LocalAddr().String())}
		}
		another := Conn{Local: remote(live).Local, Remote: netip.AddrPortFrom(remote(live).Remote.Addr(), 9)}
		left, err := w.m1.Unknown(a, []Conn{remote(live), another, remote(over)})
		must(t, err)
		if !slices.Equal(left, []Conn{another}) {
			t.Errorf("%s: unknown are %v", a, left)
		}
		must(t, over.Close())
		tk, err := w.m1.Tickler(a)
		must(t, err)
		defer tk.Close()
		if n, err := tk.Send([]Conn{remote(live)}); n != 1 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		if !echo(t, live, "alive", 2*time.Second) {
			t.Errorf("%s: a connection of this node was ended", a)
		}
		until(t, 2*time.Second, "the closed connection is not waited for", func() bool {
			all, err := w.m1.Waiting([]netip.Addr{a})
			must(t, err)
			return len(all[a]) == 1 && all[a][0].Conn == remote(live) && all[a][0].Cookie != 0
		})
	}
}

// dialFrom opens a connection from the client's port.
func (w *world) dialFrom(port int, to netip.AddrPort) net.Conn {
	w.t.Helper()
	var c net.Conn
	w.in(w.c, func() (err error) {
		d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{Port: port}}
		c, err = d.Dial("tcp", to.String())
		return err
	})
	w.t.Cleanup(func() { c.Close() })
	return c
}

// A node that had the address a minute ago has kept what it closed itself in time-wait, and the kernel of a client that goes through
// its ports, as one of a reverse proxy does, has taken one of these for a connection to the owner that is lost now.
func TestAFormerTurnDoesNotAnswerForALostOwner(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hoard(w.n2, "tcp", gatePort)
	for i, a := range w.addrs() {
		spec := w.both()[i]
		to := netip.AddrPortFrom(a, gatePort)
		must(t, w.m1.Add(spec, time.Minute))
		var l net.Listener
		w.in(w.n1, func() (err error) {
			l, err = net.Listen("tcp", fmt.Sprintf(":%d", gatePort))
			return err
		})
		defer l.Close()
		first := w.dialFrom(40001+i, to)
		here, err := l.Accept()
		must(t, err)
		must(t, here.Close())
		if _, err := first.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		must(t, first.Close())
		conn := Conn{Local: to, Remote: netip.MustParseAddrPort(first.LocalAddr().String())}
		inTimeWait := func() bool {
			return strings.Contains(run(t, "ip", "netns", "exec", w.n1, "ss", "-tanH", "state", "time-wait", "sport", fmt.Sprint(gatePort)), ":"+fmt.Sprint(40001+i))
		}
		until(t, 2*time.Second, "the first connection is in time-wait", inTimeWait)
		must(t, w.m1.Remove(spec))
		must(t, w.m2.Add(spec, time.Minute))
		must(t, w.m2.Announce(spec))
		waits := broken(w.dialFrom(40001+i, to))
		w.ip(w.sw, "link", "set", "p2", "down")
		must(t, w.m1.Add(spec, time.Minute))
		must(t, w.m1.Announce(spec))
		if !inTimeWait() {
			t.Fatal("nothing is in time-wait any more: this test shows nothing")
		}
		lost, err := w.m1.Unknown(a, []Conn{conn})
		if err != nil || !slices.Equal(lost, []Conn{conn}) || inTimeWait() {
			t.Errorf("%s: unknown are %v, %v", a, lost, err)
		}
		tk, err := w.m1.Tickler(a)
		must(t, err)
		defer tk.Close()
		for range 3 {
			if n, err := tk.Send([]Conn{conn}); n != 1 || err != nil {
				t.Errorf("%d, %v", n, err)
			}
			<-time.After(100 * time.Millisecond)
		}
		select {
		case e := <-waits:
			if !errors.Is(e.err, unix.ECONNRESET) {
				t.Errorf("%s: the client got %v", a, e.err)
			}
		case <-time.After(2 * time.Second):
			t.Errorf("%s: the client still waits", a)
		}
		must(t, l.Close())
		w.ip(w.sw, "link", "set", "p2", "up")
	}
}

// A client that has said all it had to say may wait for the answer all the same.
func TestAClientThatHasSaidAllStillWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	must(t, w.m1.Add(w.v4, time.Minute))
	w.hoard(w.n1, "tcp4", 8)
	a := w.addrs()[0]
	c := w.dial(netip.AddrPortFrom(a, 8))
	must(t, c.(*net.TCPConn).CloseWrite())
	closeWait := func() bool {
		return strings.Contains(run(t, "ip", "netns", "exec", w.n1, "cat", "/proc/net/tcp"), " 08 ") // TCP_CLOSE_WAIT
	}
	until(t, 2*time.Second, "the service has heard it", closeWait)
	all, err := w.m1.Waiting([]netip.Addr{a})
	must(t, err)
	if len(all[a]) != 1 || !closeWait() {
		t.Errorf("%v", all)
	}
}

// S1: the kernel itself sends nothing from an address that is not here, or behind a gate that is shut.
func TestNoTickleLeavesFromAnAddressThatIsNotHeld(t *testing.T) {
	t.Parallel()
	w := newGated(t)
	must(t, w.m1.OpenUntil(w.addrs(), soon(time.Minute)))
	conns, ticklers := map[netip.Addr][]Conn{}, map[netip.Addr]*Tickler{}
	for _, a := range w.addrs() {
		w.reaches(w.c, a, time.Second) // so that the client's address is resolved
		client := netip.MustParseAddr("198.18.0.3")
		if a.Is6() {
			client = netip.MustParseAddr("fd00:18::3")
		}
		conns[a] = []Conn{{netip.AddrPortFrom(a, 9), netip.AddrPortFrom(client, 40001)}}
		tk, err := w.m1.Tickler(a)
		must(t, err)
		defer tk.Close()
		ticklers[a] = tk
	}
	send := func() (n int, err error) {
		for _, a := range w.addrs() {
			one, e := ticklers[a].Send(conns[a])
			n, err = n+one, errors.Join(err, e)
		}
		return n, err
	}
	seen := w.capture(w.mac(w.n1))
	if n, err := send(); n != 2 || err != nil {
		t.Fatalf("while it is held: %d, %v", n, err)
	}
	until(t, 2*time.Second, "both are seen on the wire", func() bool { return seen.Load() >= 2 })
	must(t, w.m1.Shut(w.addrs()...))
	settled := func() int64 { // the capture has nothing left to read
		last := seen.Load()
		for {
			<-time.After(150 * time.Millisecond)
			if now := seen.Load(); now == last {
				return now
			} else {
				last = now
			}
		}
	}
	before := settled()
	_, err := send()
	t.Logf("behind the shut gate: %v", err)
	if now := settled(); now != before {
		t.Errorf("%d packets left from behind a shut gate", now-before)
	}
	must(t, w.m1.OpenUntil(w.addrs(), soon(time.Minute)))
	for _, s := range w.both() {
		must(t, w.m1.Remove(s))
	}
	before = settled()
	for _, a := range w.addrs() {
		if n, err := ticklers[a].Send(append(conns[a], conns[a]...)); n != 0 || err == nil {
			t.Errorf("%s is not here: %d, %v", a, n, err)
		}
		if _, err := w.m1.Tickler(a); !errors.Is(err, ErrGone) {
			t.Errorf("%s is not here: %v", a, err)
		}
	}
	if now := settled(); now != before {
		t.Errorf("%d packets left from an address that is not here", now-before)
	}
	if _, err := ticklers[w.addrs()[0]].Send(conns[w.addrs()[1]]); err == nil {
		t.Error("a connection of another address is no error")
	}
}

// One walk through the kernel's connections serves many addresses.
func TestConnectionsOfManyAddressesAreToldApart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.serve(w.n1)
	var addrs []netip.Addr
	for i := range 40 {
		s := Spec{Address: netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, 0, byte(110 + i)}), 24)}
		if i%2 == 1 {
			s.Address = netip.PrefixFrom(netip.MustParseAddr(fmt.Sprintf("fd00:18::1:%d", i)), 64)
		}
		must(t, w.m1.Add(s, time.Minute))
		addrs = append(addrs, s.Address.Addr())
	}
	at := []int{0, 1, 17, 38, 39}
	for _, i := range at {
		c, err := w.connect(w.c, addrs[i], 5*time.Second)
		must(t, err)
		defer c.Close()
	}
	c, err := w.connect(w.c, netip.MustParseAddr("198.18.0.1"), 5*time.Second)
	must(t, err)
	defer c.Close()
	found, err := w.m1.Waiting(addrs)
	must(t, err)
	for i, a := range addrs {
		want := 0
		if slices.Contains(at, i) {
			want = 1
		}
		if len(found[a]) != want {
			t.Errorf("%s: %v", a, found[a])
		}
	}
	if len(found) != len(at) {
		t.Errorf("found %v", found)
	}
	if none, err := w.m1.Waiting(addrs[2:3]); err != nil || len(none) != 0 {
		t.Errorf("%v, %v", none, err)
	}
}
