package lab

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// containers skips where mounts and host names are not ours to change.
func containers(t *testing.T) *Lab {
	t.Helper()
	l := newLab(t, Options{Nodes: []string{"n1", "n2"}})
	if l.rec.Cgroup == "" {
		t.Skip("needs real root")
	}
	return l
}

func TestAContainerHasItsOwnProcessesMountsAndName(t *testing.T) {
	l := containers(t)
	n := l.Node("n1")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	marker := n.Path("run", "up")
	c, err := n.StartContainer(ctx, ProcOptions{Name: "boot", Args: []string{"sh", "-c", "hostname inside; mount -t tmpfs tmpfs /run; >/run/mine; >" + marker + "; while :; do sleep 100; done"}})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the container boots", func() bool { _, err := os.Stat(marker); return err == nil })
	out, err := c.Command(ctx, "sh", "-c", "hostname; ls /run; cat /proc/1/comm; ls -d /proc/[0-9]* | wc -l; ip -o -4 addr show dev eth0").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	words := strings.Fields(string(out))
	if len(words) < 5 || words[0] != "inside" || words[1] != "mine" || words[2] != "sh" || len(words[3]) > 1 || !strings.Contains(string(out), n.Addr(0).String()) {
		t.Errorf("inside: %q", out)
	}
	if name, _ := os.Hostname(); name == "inside" {
		t.Error("the machine took the container's name")
	}
	if len(n.PIDs()) < 2 {
		t.Errorf("the node does not know the container's processes: %v", n.PIDs())
	}
	if err := n.PowerCut(); err != nil {
		t.Fatal(err)
	}
	if left := n.PIDs(); len(left) > 0 {
		t.Errorf("after the power cut: %v", left)
	}
	if out, err := c.Command(ctx, "true").CombinedOutput(); err == nil {
		t.Errorf("the container still takes commands: %s", out)
	}
}

func TestAContainerThatCannotStartIsAnError(t *testing.T) {
	l := containers(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := l.Node("n1").StartContainer(ctx, ProcOptions{Name: "nothing", Args: []string{"/nonexistent"}})
	if err == nil { // its process 1 was seen before it failed
		eventually(t, 10*time.Second, "it ends", func() bool { end, _ := c.Proc.State(); return end != "" })
	}
	if left := l.Node("n1").PIDs(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestWhatIsStartedOutsideFallsWithTheNode(t *testing.T) {
	l := containers(t)
	n := l.Node("n1")
	p, err := n.StartOutside(ProcOptions{Name: "outside", Args: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "it runs", func() bool {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.PID()))
		return string(comm) == "sleep\n"
	})
	mine, err := netnsLink(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if its, err := netnsLink(p.PID()); err != nil || its != mine {
		t.Errorf("it is in %s (%v), not in this process's %s", its, err, mine)
	}
	if err := n.PowerCut(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(p.PID(), 0); err == nil {
		t.Error("it survived the power cut")
	}
}
