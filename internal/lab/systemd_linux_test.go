package lab

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"
)

// baseTree finds a tree in the cache; making one takes minutes and is a script's business.
func baseTree(t *testing.T, packages ...string) string {
	t.Helper()
	o := BaseOptions{Packages: packages}
	dir, made, err := BasePath(o)
	if err != nil {
		t.Skip("needs a Debian host: ", err)
	}
	if !made {
		if len(packages) == 0 { // the larger tree will do
			return baseTree(t, ServicePackages...)
		}
		t.Skip("needs a base tree in ", dir, ": go run ./internal/lab/labctl base")
	}
	if dir, err = SystemdBase(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestASystemdNodeBootsRebootsAndSurvivesAPowerCut(t *testing.T) {
	l := newLab(t, Options{Nodes: []string{"n1", "n2"}, Client: true})
	n := l.Node("n1")
	if n.cg == nil {
		t.Skip("needs real root and a writable cgroup2 hierarchy")
	}
	base := baseTree(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	start := time.Now()
	s, err := n.BootSystemd(ctx, base)
	if err != nil {
		b, _ := os.ReadFile(n.Path("log", "boot.log"))
		t.Fatalf("%v\n%s", err, b)
	}
	t.Logf("booted in %s", time.Since(start))
	out := func(args ...string) string {
		t.Helper()
		b, err := s.Exec(ctx, args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: %s", strings.Join(args, " "), err, b)
		}
		return strings.TrimSpace(string(b))
	}
	if failed, err := s.FailedUnits(ctx); err != nil || len(failed) > 0 {
		t.Errorf("failed units %v %v", failed, err)
	}
	if got := out("cat", "/proc/1/comm"); got != "systemd" {
		t.Errorf("process 1 is %q", got)
	}
	if got := out("hostname"); got != "n1" {
		t.Errorf("hostname %q", got)
	}
	if err := s.WriteFile("/etc/systemd/system/sleeper.service", []byte("[Service]\nExecStart=/bin/sleep 1000\n[Install]\nWantedBy=multi-user.target\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out("systemctl", "daemon-reload")
	out("systemctl", "enable", "--now", "sleeper.service")
	if got := out("systemctl", "is-active", "sleeper.service"); got != "active" {
		t.Errorf("sleeper is %s", got)
	}
	if err := n.AddAddr(l.VIP(0)); err != nil {
		t.Fatal(err)
	}

	start = time.Now()
	s.Exec(ctx, "reboot", "-ff").Run() // its own process dies with the node
	if err := s.WaitBooted(ctx, 2); err != nil {
		t.Fatal(err)
	}
	t.Logf("rebooted in %s", time.Since(start))
	if got := out("systemctl", "is-active", "sleeper.service"); got != "active" {
		t.Errorf("after reboot sleeper is %s", got)
	}
	if a, err := n.Addrs(); err != nil || len(a) != 1 || a[0].Addr() != n.Addr(0) {
		t.Errorf("addresses after a reboot: %v %v", a, err)
	}
	reaches(t, l.Client(), n.Addr(0))

	if err := n.FreezeAll(); err != nil {
		t.Fatal(err)
	}
	if !pings(t, l.Client(), n.Addr(0)) {
		t.Error("the kernel of a frozen node does not answer")
	}
	if err := n.ThawAll(); err != nil {
		t.Fatal(err)
	}
	if err := n.PowerCut(); err != nil {
		t.Fatal(err)
	}
	if left := n.PIDs(); len(left) > 0 {
		t.Errorf("processes left after a power cut: %v", left)
	}
	if err := n.PowerOn(); err != nil {
		t.Fatal(err)
	}
	if s, err = n.BootSystemd(ctx, base); err != nil {
		t.Fatal(err)
	}
	if got := out("systemctl", "is-active", "sleeper.service"); got != "active" {
		t.Errorf("after a power cut sleeper is %s", got)
	}
}
