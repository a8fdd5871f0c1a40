package lab

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// roundTrip is the median of some pings.
func roundTrip(t *testing.T, from *Node, to netip.Addr) time.Duration {
	t.Helper()
	var list []time.Duration
	for range 9 {
		at := time.Now()
		if err := from.Ping(to, 2*time.Second); err != nil {
			t.Fatal(err)
		}
		list = append(list, time.Since(at))
	}
	slices.Sort(list)
	return list[len(list)/2]
}

// datagrams sends numbered ones from a node to another and returns the numbers in the order they arrived.
func datagrams(t *testing.T, from, to *Node, count int) (got []int) {
	t.Helper()
	var in, out net.Conn
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	addr := net.UDPAddrFromAddrPort(netip.AddrPortFrom(to.Addr(0), 9999))
	must(to.Do(func() (err error) { in, err = net.ListenUDP("udp4", addr); return err }))
	defer in.Close()
	must(from.Do(func() (err error) { out, err = net.DialUDP("udp4", nil, addr); return err }))
	defer out.Close()
	go func() {
		for i := range count {
			out.Write(binary.BigEndian.AppendUint32(nil, uint32(i)))
			time.Sleep(500 * time.Microsecond) // a pace, not a hope
		}
	}()
	var b [16]byte
	in.SetReadDeadline(time.Now().Add(time.Duration(count)*time.Millisecond + time.Second))
	for len(got) < 2*count {
		if n, err := in.Read(b[:]); err != nil {
			break
		} else if n == 4 {
			got = append(got, int(binary.BigEndian.Uint32(b[:])))
		}
	}
	return got
}

// disorder counts what arrived after something that was sent later, and what arrived more than once.
func disorder(got []int) (late, twice int) {
	seen, top := map[int]bool{}, -1
	for _, n := range got {
		if seen[n] {
			twice++
		} else if n < top {
			late++
		}
		seen[n], top = true, max(top, n)
	}
	return late, twice
}

func TestDisturbancesAreMeasurableAndHeal(t *testing.T) {
	l := newLab(t, Options{Client: true, Networks: 2})
	n1, n2, n3 := l.Node("n1"), l.Node("n2"), l.Node("n3")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	reaches(t, n1, n2.Addr(0))
	reaches(t, n1, n3.Addr(0))
	reaches(t, n1, l.Client().Addr(0))
	plain := roundTrip(t, n1, n2.Addr(0))

	must(l.Disturb("n1", "n2", Disturbance{Delay: 30 * time.Millisecond}))
	one := roundTrip(t, n1, n2.Addr(0))
	must(l.DisturbNode("n1", Disturbance{Delay: 30 * time.Millisecond, Jitter: 10 * time.Millisecond}))
	two, others, client := roundTrip(t, n1, n2.Addr(0)), roundTrip(t, n2, n3.Addr(0)), roundTrip(t, n1, l.Client().Addr(0))
	t.Logf("round trips: plain %s, 30ms one way %s, 30 to 40ms both ways %s; other nodes %s, client %s", plain, one, two, others, client)
	if one < 30*time.Millisecond || one > 45*time.Millisecond || two < 60*time.Millisecond || two > 95*time.Millisecond || max(others, client) > 20*time.Millisecond {
		t.Error("delays are not as ordered")
	}
	if late, twice := disorder(datagrams(t, n1, n2, 200)); late != 0 || twice != 0 {
		t.Errorf("jitter alone: %d late, %d twice", late, twice)
	}

	const count = 600
	must(l.Disturb("n1", "n2", Disturbance{Loss: 30}))
	if got := len(datagrams(t, n1, n2, count)); got < count/2 || got > count*9/10 {
		t.Errorf("30 %% loss: %d of %d arrived", got, count)
	}
	must(l.Disturb("n1", "n2", Disturbance{Duplicate: 40}))
	got := datagrams(t, n1, n2, count)
	if _, twice := disorder(got); twice < count/4 || twice > count*6/10 || len(got) != count+twice {
		t.Errorf("40 %% duplicated: %d of %d twice, %d arrived", twice, count, len(got))
	}
	must(l.Disturb("n1", "n2", Disturbance{Reorder: 20}))
	got = datagrams(t, n1, n2, count)
	if late, twice := disorder(got); late < count/10 || late > count*4/10 || twice != 0 || len(got) != count {
		t.Errorf("20 %% reordered: %d of %d late, %d twice, %d arrived", late, count, twice, len(got))
	}

	// A port that was down is carried on for.
	must(l.DisturbNode("n1", Disturbance{Delay: 30 * time.Millisecond}))
	must(n1.PowerCut())
	must(n1.PowerOn())
	reaches(t, n1, n2.Addr(0))
	if again := roundTrip(t, n1, n2.Addr(0)); again < 60*time.Millisecond || again > 95*time.Millisecond {
		t.Errorf("after a power cut: %s", again)
	}
	// Other faults come first.
	must(l.PartitionOneWay("n1", "n2", 0))
	if got := datagrams(t, n1, n2, 50); len(got) > 0 {
		t.Errorf("disturbed and cut: %d of 50 arrived", len(got))
	}
	must(l.Heal())
	reaches(t, n1, n2.Addr(0))
	if l.relay != nil {
		t.Error("the relay goes on after Heal")
	}
	healed := roundTrip(t, n1, n2.Addr(0))
	if got = datagrams(t, n1, n2, 100); len(got) != 100 || !slices.IsSorted(got) || healed > 20*time.Millisecond {
		t.Errorf("healed: %d of 100 arrived, sorted %v, %s", len(got), slices.IsSorted(got), healed)
	}
	must(l.Disturb("n1", "n2", Disturbance{Delay: time.Millisecond}))
	must(l.Disturb("n1", "n2", Disturbance{}))
	if l.relay != nil {
		t.Error("the relay goes on after the last disturbance")
	}
	if l.Disturb("n1", "n2", Disturbance{Loss: 101}) == nil || l.Disturb("n1", "nobody", Disturbance{}) == nil {
		t.Error("nonsense accepted")
	}
}

// TestLargeStreamsSurviveTheRelay: the kernel hands over frames with segments uncut and checksums unfinished.
func TestLargeStreamsSurviveTheRelay(t *testing.T) {
	l := newLab(t, Options{Nodes: []string{"n1", "n2"}})
	n1, n2 := l.Node("n1"), l.Node("n2")
	reaches(t, n1, n2.Addr(0))
	if err := l.DisturbNode("n1", Disturbance{Delay: 2 * time.Millisecond, Duplicate: 2, Reorder: 1}); err != nil {
		t.Fatal(err)
	}
	var ln net.Listener
	if err := n2.Do(func() (err error) { ln, err = net.Listen("tcp4", n2.Addr(0).String()+":9998"); return err }); err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	data := make([]byte, 8<<20)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	sent := make(chan error, 1)
	go func() {
		sent <- n1.Do(func() error {
			c, err := net.DialTimeout("tcp4", ln.Addr().String(), 5*time.Second)
			if err != nil {
				return err
			}
			_, err = c.Write(data)
			return errors.Join(err, c.Close())
		})
	}()
	ln.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err, <-sent)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	at, h := time.Now(), sha256.New()
	n, err := io.Copy(h, c)
	if err = errors.Join(err, <-sent); err != nil {
		t.Fatal(err)
	}
	if want := sha256.Sum256(data); n != int64(len(data)) || !slices.Equal(h.Sum(nil), want[:]) {
		t.Errorf("%d of %d bytes, or not the same", n, len(data))
	}
	t.Logf("%d MB in %s", n>>20, time.Since(at).Round(time.Millisecond))
}

// TestStarvedNodesGetTheirShareOnly counts what a busy loop gets done.
func TestStarvedNodesGetTheirShareOnly(t *testing.T) {
	l := newLab(t, Options{Nodes: []string{"n1"}})
	n := l.Node("n1")
	file := n.Path("beats")
	p, err := n.Start(ProcOptions{Name: "beats", Args: []string{"/bin/sh", "-c", "while :; do echo >> beats; sleep 0.01; done"}})
	if err != nil {
		t.Fatal(err)
	}
	rate := func() float64 {
		size := func() int64 {
			st, err := os.Stat(file)
			if err != nil {
				return 0
			}
			return st.Size()
		}
		from, at := size(), time.Now()
		<-time.After(time.Second)
		return float64(size()-from) / time.Since(at).Seconds()
	}
	eventually(t, 5*time.Second, "beats", func() bool { _, err := os.Stat(file); return err == nil })
	full := rate()
	for name, pids := range map[string]func() []int{"all": nil, "one": func() []int { return []int{p.PID()} }} {
		if err := n.Starve(StarveOptions{Percent: 80, PIDs: pids}); err != nil {
			t.Fatal(err)
		}
		starved := rate()
		if err := l.Heal(); err != nil {
			t.Fatal(err)
		}
		healed := rate()
		t.Logf("%s: %.0f beats per second, starved %.0f, healed %.0f", name, full, starved, healed)
		if starved > 0.5*full || starved < 0.05*full || healed < 0.6*full {
			t.Errorf("%s: %.0f beats per second, starved %.0f, healed %.0f", name, full, starved, healed)
		}
	}
	if err := n.Starve(StarveOptions{Percent: 50}); err != nil {
		t.Fatal(err)
	}
	if err := n.PowerCut(); err != nil { // ends it too
		t.Fatal(err)
	}
	if n.starving != nil || n.Starve(StarveOptions{Percent: 100}) == nil {
		t.Error("still starving, or nonsense accepted")
	}
}

func TestASmallDiskIsFilledAndFreed(t *testing.T) {
	l := newLab(t, Options{Nodes: []string{"n1"}})
	n := l.Node("n1")
	if n.FillDisk() == nil {
		t.Error("a disk that is not there was filled")
	}
	if err := n.SmallDisk(1<<20, "var", "data"); err != nil {
		t.Fatal(err)
	}
	file := n.Path("var", "data", "file")
	write := func() error { return os.WriteFile(file, make([]byte, 8192), 0o644) }
	if err := write(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := n.FillDisk(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file+"2", make([]byte, 8192), 0o644); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("writing to a full disk: %v", err)
		}
		if b, err := os.ReadFile(file); err != nil || len(b) != 8192 {
			t.Errorf("what was there: %d bytes, %v", len(b), err)
		}
		if err := l.Heal(); err != nil {
			t.Fatal(err)
		}
		if err := write(); err != nil {
			t.Error(err)
		}
	}
	if err := n.PowerCut(); err != nil {
		t.Fatal(err)
	}
	if err := n.PowerOn(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error("a power cut took a file:", err)
	}
	dir := filepath.Dir(file)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile("/proc/self/mountinfo"); err != nil || bytes.Contains(b, []byte(" "+dir+" ")) {
		t.Error("the mount is left:", err)
	}
}
