package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pings tells whether one ping from a node to an address is answered soon.
func pings(t *testing.T, from *Node, to netip.Addr) bool {
	t.Helper()
	return from.Ping(to, 200*time.Millisecond) == nil
}

// reaches waits for a ping to be answered.
func reaches(t *testing.T, from *Node, to netip.Addr) {
	t.Helper()
	eventually(t, 5*time.Second, from.Name+" reaches "+to.String(), func() bool { return pings(t, from, to) })
}

func TestALabIsBuiltAsDescribedAndGoneAfterClose(t *testing.T) {
	l := newLab(t, Options{Client: true, IPv6: true, Networks: 2})
	for _, from := range append(l.Nodes(), l.Client()) {
		for _, to := range append(l.Nodes(), l.Client()) {
			reaches(t, from, to.Addr(0))
			reaches(t, from, to.Addr6(0))
		}
		reaches(t, from, l.Gateway())
	}
	reaches(t, l.Node("n1"), l.Node("n3").Addr(1))
	if pings(t, l.Client(), l.Node("n1").Addr(1)) {
		t.Error("the client reaches the second network")
	}
	if out, err := l.Node("n2").Command(t.Context(), "ip", "-br", "addr", "show", "dev", "eth0").Output(); err != nil || !strings.Contains(string(out), "198.18.0.12/24") {
		t.Errorf("eth0 of n2: %s %v", out, err)
	}
	dir := l.Dir()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("directory %s is left", dir)
	}
}

func TestBadOptionsAreAllReported(t *testing.T) {
	_, err := New(t.Context(), Options{Nodes: []string{"n1", "n1", "client", "Way-too-long-name"}, Networks: 3})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{`"n1" is given twice`, `"client"`, `"Way-too-long-name"`, "not 3"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
}

func TestProcessesOfANodeAreStoppedFrozenAndKilled(t *testing.T) {
	l := newLab(t, Options{Nodes: []string{"n1", "n2"}})
	n := l.Node("n1")
	p := startService(t, n, "-ignore-term")
	url := "http://" + n.Addr(0).String() + ":8080/"
	ask := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		return l.Node("n2").Command(ctx, "curl", "-sf", "--max-time", "0.2", url).Run()
	}
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("needs curl: ", err)
	}
	up := func() bool { return ask() == nil }
	eventually(t, 5*time.Second, "service answers", up)
	for name, f := range map[string][2]func() error{
		"process": {p.Freeze, p.Thaw},
		"pid":     {func() error { return n.Freeze(p.PID()) }, func() error { return n.Thaw(p.PID()) }},
		"all":     {n.FreezeAll, n.ThawAll},
		"hang":    {func() error { return p.Signal(unix.SIGUSR1) }, func() error { return p.Signal(unix.SIGUSR2) }},
	} {
		if err := f[0](); err != nil {
			t.Fatalf("freezing %s: %v", name, err)
		}
		eventually(t, time.Second, name+" is frozen", func() bool { return !up() })
		if err := f[1](); err != nil {
			t.Fatalf("thawing %s: %v", name, err)
		}
		eventually(t, 5*time.Second, name+" is thawed", up)
	}
	if err := l.Node("n2").Kill9(p.PID()); err == nil {
		t.Error("a node killed a process of another node")
	}
	if err := p.Stop(50 * time.Millisecond); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("stopping a service that ignores SIGTERM: %v", err)
	}
	if s, at := p.State(); s != "signal: killed" || time.Since(at) > time.Minute {
		t.Errorf("state %q at %s", s, at)
	}
	if b, err := os.ReadFile(p.Log); err != nil || !strings.Contains(string(b), "serving node=n1") {
		t.Errorf("log %q %v", b, err)
	}
}

func TestFaultsDoWhatTheySay(t *testing.T) {
	l := newLab(t, Options{Client: true, Networks: 2})
	n1, n2, n3, c := l.Node("n1"), l.Node("n2"), l.Node("n3"), l.Client()
	type reach struct {
		from, to *Node
		want     bool
	}
	check := func(what string, rs ...reach) {
		t.Helper()
		for _, r := range rs {
			if r.want { // a neighbour that failed to answer is asked again only once a second
				reaches(t, r.from, r.to.Addr(0))
			} else if pings(t, r.from, r.to.Addr(0)) {
				t.Errorf("%s: %s reaches %s", what, r.from.Name, r.to.Name)
			}
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check("at first", reach{n1, n2, true})
	must(l.Partition("n1", "n2"))
	check("partition", reach{n1, n2, false}, reach{n1, n3, true}, reach{n1, c, true})
	if pings(t, n1, n2.Addr(1)) {
		t.Error("partition: the second network is open")
	}
	must(l.Heal())
	must(l.Partition("n1", "n2", 0))
	reaches(t, n1, n2.Addr(1))
	must(l.Heal())
	must(l.IsolateFromPeers("n1"))
	check("isolated", reach{n1, n2, false}, reach{n3, n1, false}, reach{n2, n3, true}, reach{c, n1, true})
	must(l.Heal())
	check("healed", reach{n1, n2, true}, reach{n3, n1, true})

	must(l.PartitionOneWay("n1", "n2"))
	before := frames(t, n1)
	pings(t, n2, n1.Addr(0))
	if frames(t, n1) == before {
		t.Error("one way: nothing of n2 arrives at n1")
	}
	check("one way", reach{n1, n2, false})
	must(l.Heal())
	for what, f := range map[string]func(string, ...int) error{"out": l.IsolateOutgoing, "in": l.IsolateIncoming} {
		must(f("n1"))
		check(what, reach{n1, n2, false}, reach{n3, n1, false}, reach{n2, n3, true}, reach{c, n1, true})
		// What others say to everybody (neighbour discovery, when it likes) is counted too: a path that is shut stays quiet in
		// one of some tries, an open one in none.
		for try, out, in := 0, true, true; ; try++ {
			in1, in2 := frames(t, n1), frames(t, n2)
			pings(t, n2, n1.Addr(0))
			pings(t, n1, n2.Addr(0))
			out, in = frames(t, n2) > in2, frames(t, n1) > in1
			if out != (what == "out") && in != (what == "in") {
				break
			} else if try == 3 {
				t.Errorf("isolated %s: frames of n1 reach n2: %v, of n2 reach n1: %v", what, out, in)
				break
			}
		}
		must(l.Partition("n2", "n3"))
		must(l.Reconnect("n1"))
		check("n1 reconnected", reach{n1, n2, true}, reach{n2, n3, false})
		must(l.Heal())
	}

	must(n1.Silence())
	check("silent", reach{n1, n2, false}, reach{c, n1, false})
	if got := carrier(t, n1); got != "1" {
		t.Errorf("silent: carrier %q", got)
	}
	must(n1.Unsilence())
	must(n1.CableOut(0))
	check("cable out", reach{n1, n2, false})
	if got := carrier(t, n1); got != "0" {
		t.Errorf("cable out: carrier %q", got)
	}
	reaches(t, n1, n2.Addr(1))
	must(n1.CableIn())
	check("cable in", reach{n1, n2, true})

	must(l.Loss("n1", 50))
	reaches(t, n2, n1.Addr(0))
	lost, err := n2.PingMany(n1.Addr(0), 200, 0, 5*time.Millisecond)
	if err != nil || lost < 110 || lost > 190 {
		t.Errorf("loss of 50 %% each way: %d of 200 lost, want about 150: %v", lost, err)
	}
}

// carrier reads eth0's link state as the node's kernel shows it.
func carrier(t *testing.T, n *Node) string {
	t.Helper()
	link, err := n.ns.h.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if link.Attrs().RawFlags&unix.IFF_LOWER_UP != 0 {
		return "1"
	}
	return "0"
}

// frames counts what eth0 has received.
func frames(t *testing.T, n *Node) uint64 {
	t.Helper()
	link, err := n.ns.h.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	return link.Attrs().Statistics.RxPackets
}

func TestAPowerCutLeavesNothingButFiles(t *testing.T) {
	l := newLab(t, Options{Client: true, IPv6: true})
	n := l.Node("n1")
	p := startService(t, n)
	// A process that leaves the node's network namespace is still the node's.
	script := "unshare --net sleep 1000 & echo $! > stray.pid; wait"
	if _, err := n.Start(ProcOptions{Name: "stray", Args: []string{"/bin/sh", "-c", script}}); err != nil {
		t.Fatal(err)
	}
	stray := 0
	eventually(t, 5*time.Second, "a process outside of the network namespace", func() bool {
		b, _ := os.ReadFile(n.Path("stray.pid"))
		stray, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		link, err := netnsLink(stray)
		return stray > 0 && err == nil && link != n.ns.link
	})
	if err := n.AddAddr(l.VIP(0)); err != nil {
		t.Fatal(err)
	}
	if err := n.Command(t.Context(), "nft", "add table inet x").Run(); err != nil {
		t.Fatal(err)
	}
	if err := n.FreezeAll(); err != nil { // frozen processes must die too, and the next ones not be frozen
		t.Fatal(err)
	}
	if err := n.Command(t.Context(), "true").Run(); err == nil || !strings.Contains(err.Error(), "frozen") {
		t.Errorf("a command in a frozen node: %v", err)
	}
	start := time.Now()
	if err := n.PowerCut(); err != nil {
		t.Fatal(err)
	}
	t.Logf("power cut took %s", time.Since(start))
	if s, _ := p.State(); s != "signal: killed" {
		t.Errorf("service: %q", s)
	}
	if _, err := netnsLink(stray); err == nil && n.cg != nil {
		t.Error("a process outside of the network namespace lives")
	}
	if a, err := n.Addrs(); err != nil || len(a) > 0 {
		t.Errorf("addresses left: %v %v", a, err)
	}
	if pings(t, l.Client(), n.Addr(0)) {
		t.Error("answers without power")
	}
	if err := n.PowerOn(); err != nil {
		t.Fatal(err)
	}
	if a, err := n.Addrs(); err != nil || len(a) != 2 {
		t.Errorf("addresses after power on: %v %v", a, err)
	}
	reaches(t, l.Client(), n.Addr(0))
	if out, err := n.Command(t.Context(), "nft", "list", "ruleset").Output(); err != nil || len(out) > 0 {
		t.Errorf("packet filters left: %s %v", out, err)
	}
	if _, err := os.Stat(n.Path("log", "service.log")); err != nil {
		t.Error(err)
	}
}

// holdLab is the main function of a process that makes a lab and is killed.
func holdLab() int {
	l, err := New(context.Background(), Options{Nodes: []string{"n1"}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if _, err := l.Node("n1").Start(ProcOptions{Name: "sleep", Args: []string{"sleep", "1000"}}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(l.Prefix())
	select {}
}

func TestLeftoversOfAKilledHolderAreSweptAndLivingLabsAreNot(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir()) // a registry that no other test process sweeps
	living := newLab(t, Options{Nodes: []string{"n1"}})
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), holderEnv+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var prefix string
	if _, err := fmt.Fscanln(out, &prefix); err != nil {
		t.Fatal(err)
	}
	if swept, err := SweepStale(); err != nil || len(swept) > 0 {
		t.Fatalf("swept while the holder lives: %v %v", swept, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(netnsDir, prefix+"-n1"), &st); err != nil {
		t.Fatal(err)
	}
	link := fmt.Sprintf("net:[%d]", st.Ino)
	eventually(t, 5*time.Second, "the holder's node runs a process", func() bool { return len(pidsIn(link)) > 0 })
	cmd.Process.Kill()
	cmd.Wait()
	swept, err := SweepStale()
	if err != nil || len(swept) != 1 || swept[0] != prefix {
		t.Fatalf("swept %v, want %s: %v", swept, prefix, err)
	}
	if left := pidsIn(link); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
	left, _ := filepath.Glob(filepath.Join(netnsDir, prefix+"*"))
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	if len(left)+len(dirs) > 0 {
		t.Errorf("left: %v %v", left, dirs)
	}
	if !pings(t, living.Node("n1"), living.Gateway()) {
		t.Error("the living lab was harmed")
	}
}

func TestADetachedLabIsLeftAloneUntilAllAreSwept(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	l := newLab(t, Options{Nodes: []string{"n1"}})
	p, err := l.Node("n1").Start(ProcOptions{Name: "sleep", Args: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Detach(); err != nil {
		t.Fatal(err)
	}
	if swept, err := SweepStale(); err != nil || len(swept) > 0 {
		t.Fatalf("swept %v %v", swept, err)
	}
	if s, _ := p.State(); s != "" {
		t.Errorf("process of a detached lab: %s", s)
	}
	if swept, err := SweepAll(); err != nil || len(swept) != 1 {
		t.Fatalf("swept %v %v", swept, err)
	}
	<-p.Done()
}

func TestAnOrdinaryUserCanUseTheLab(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become somebody else")
	}
	dir, err := os.MkdirTemp("", "had-lab-user-") // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	const nobody = 65534
	b, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "lab.test")
	for _, err := range []error{os.WriteFile(bin, b, 0o755), os.Chown(dir, nobody, nobody), os.Chmod(dir, 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), bin, "-test.v", "-test.run=^TestTheObserverCatchesADoubleAddress$")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "--- SKIP") || strings.Contains(string(out), ErrNotPermitted.Error()) {
		t.Skipf("needs user namespaces: %s", out)
	}
	if err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Errorf("as an ordinary user: %v\n%s", err, out)
	}
}
