package drill

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"hacluster/internal/lab"
)

// systemd forms a cluster of nodes with a systemd of their own, or skips.
func systemd(t *testing.T, o Options) (*Cluster, context.Context) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	tree := lab.BaseOptions{Packages: lab.ServicePackages}
	dir, made, err := lab.BasePath(tree)
	if err != nil {
		t.Skip("needs a Debian host: ", err)
	}
	if !made {
		t.Skip("needs a base tree in ", dir, ": go run ./internal/lab/labctl base --services")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	t.Cleanup(cancel)
	if dir, err = lab.SystemdBase(ctx, tree); err != nil {
		t.Fatal(err)
	}
	o.Log = t.Logf
	if o.Bin, err = built(); err != nil {
		t.Fatal(err)
	}
	c, err := FormSystemd(ctx, dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, n := range Nodes {
				text, err := c.Journal(context.Background(), n)
				lines := strings.Split(text, "\n")
				t.Logf("--- had on %s (%v)\n%s", n, err, strings.Join(lines[max(0, len(lines)-80):], "\n"))
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c, ctx
}

// pick applies -drill.only and -drill.n.
func pick(t *testing.T, all []Drill) (list []Drill) {
	t.Helper()
	for range *runs {
		for _, d := range all {
			if *only == "" || slices.Contains(strings.Split(*only, ","), d.Name) {
				list = append(list, d)
			}
		}
	}
	if len(list) == 0 {
		t.Fatalf("no drill %q", *only)
	}
	return list
}

// drillAll runs drills and judges what clients and the observer saw.
func drillAll(ctx context.Context, t *testing.T, c *Cluster, list []Drill) {
	t.Helper()
	for _, d := range pick(t, list) {
		unseen := !d.Moves && d.Name != "service killed"
		out := c.judged(ctx, t, d, unseen)
		t.Logf("%-22s outage %8s, %3d failed, double %s, %s -> %s", d.Name, out.Outage.Round(time.Millisecond), out.Failed, out.Double, out.From, out.To)
		if b := out.Breach(); b != "" {
			t.Error(b)
		}
		if moved := out.From != out.To; moved != d.Moves {
			t.Errorf("%s: owner %s -> %s", d.Name, out.From, out.To)
		}
		if unseen && out.Failed > 0 {
			t.Errorf("%s: %d requests failed (L3)", d.Name, out.Failed)
		}
	}
}

// says checks the whole output of a command on a node.
func says(ctx context.Context, t *testing.T, c *Cluster, node, want string, args ...string) {
	t.Helper()
	got, _ := c.Shell(ctx, node, args...) // systemctl is-enabled exits 1 for "disabled"
	if got != want {
		t.Errorf("%s on %s: %q, want %q", strings.Join(args, " "), node, got, want)
	}
}

// unharmed checks that no agent was forbidden anything by its own unit, and that systemd's watchdog had nothing to do.
func unharmed(ctx context.Context, t *testing.T, c *Cluster) {
	t.Helper()
	for _, n := range Nodes {
		lines, err := c.Denied(ctx, n)
		if err != nil || len(lines) > 0 {
			t.Errorf("had on %s is denied what it needs (%v):\n%s", n, err, strings.Join(lines, "\n"))
		}
		text, err := c.Journal(ctx, n)
		if err != nil || strings.Contains(text, "Watchdog timeout") || strings.Contains(text, "Failed with result 'watchdog'") {
			t.Errorf("the watchdog ended had on %s (%v)", n, err)
		}
	}
}

// TestSystemdDrills checks S1, L1, L2 and L3 with the real service manager and the real Tomcat as a hot standby.
func TestSystemdDrills(t *testing.T) {
	c, ctx := systemd(t, Options{Timing: *timing})
	for _, n := range Nodes[:2] {
		says(ctx, t, c, n, "Restart=no", "systemctl", "show", "--property=Restart", Unit)
		says(ctx, t, c, n, "disabled", "systemctl", "is-enabled", Unit)
		says(ctx, t, c, n, "enabled", "systemctl", "is-enabled", AgentUnit)
	}
	if text, err := c.Journal(ctx, Nodes[0]); err != nil || strings.Contains(text, "resource=tomcat action=") {
		t.Errorf("the Tomcat that was running already was not adopted as it was (%v)", err)
	}
	if out, err := c.Hactl(ctx, Nodes[0], "status"); err != nil { // exit code 0: healthy, no warning
		t.Errorf("hactl status: %v\n%s", err, out)
	} else {
		t.Log(out)
	}
	if out, err := c.Shell(ctx, Nodes[0], "systemd-analyze", "security", "--no-pager", AgentUnit); err != nil {
		t.Error(err)
	} else {
		t.Log(out[strings.LastIndexByte(out, '\n')+1:])
	}
	sandboxed(ctx, t, c)
	drillAll(ctx, t, c, SystemdDrills)
	if *only == "" {
		unharmed(ctx, t, c)
		leaves(ctx, t, c)
	}
}

// sandboxed checks that what the unit forbids is forbidden indeed: systemd leaves out what a machine cannot do.
func sandboxed(ctx context.Context, t *testing.T, c *Cluster) {
	t.Helper()
	pid, err := c.Shell(ctx, Nodes[0], "systemctl", "show", "--property=MainPID", "--value", AgentUnit)
	if err != nil {
		t.Fatal(err)
	}
	status, err := c.Shell(ctx, Nodes[0], "cat", "/proc/"+pid+"/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
		if !strings.Contains(status, want) {
			t.Errorf("had runs without %q", want)
		}
	}
	if _, err := c.Shell(ctx, Nodes[0], "nsenter", "--target="+pid, "--mount", "touch", "/usr/local/bin/new"); err == nil || !strings.Contains(err.Error(), "Read-only") {
		t.Errorf("had may write to /usr: %v", err)
	}
	// The agent and its dead man run at once where anything is to do (fields 40 and 41 of proc_pid_stat(5): SCHED_RR, priority 1).
	stat, err := c.Shell(ctx, Nodes[0], "cat", "/proc/"+pid+"/stat")
	if f := strings.Fields(stat[strings.LastIndex(stat, ")")+1:]); err != nil || len(f) < 40 || !sharesRealTime() && (f[37] != "1" || f[38] != "2") {
		t.Errorf("had runs without real-time priority: %q, %v", stat, err)
	}
	for _, line := range strings.Split(status, "\n") {
		if strings.HasPrefix(line, "CapEff") || strings.HasPrefix(line, "Seccomp") || strings.HasPrefix(line, "VmLck") {
			t.Log(line)
		}
	}
}

// leaves takes the agent off the owner for good, as an administrator does.
func leaves(ctx context.Context, t *testing.T, c *Cluster) {
	t.Helper()
	owner, err := c.Owner(ctx)
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.Shell(ctx, owner, "systemctl", "status", "--no-pager", "--lines=0", AgentUnit)
	if err != nil {
		t.Error(err)
	}
	t.Log(out)
	if _, err := c.Shell(ctx, owner, "systemctl", "stop", AgentUnit); err != nil {
		t.Error(err)
	}
	if err := c.without(owner); err != nil {
		t.Error("after systemctl stop: ", err)
	}
	says(ctx, t, c, owner, "", "had", "release")
	says(ctx, t, c, owner, "Result=success", "systemctl", "show", "--property=Result", AgentUnit)
	says(ctx, t, c, owner, "active", "systemctl", "is-active", Unit) // a hot standby goes on
	if out, err = c.Shell(ctx, owner, "had", "uninstall"); err != nil {
		t.Error(err)
	}
	t.Log(out)
	says(ctx, t, c, owner, "Restart=on-abort", "systemctl", "show", "--property=Restart", Unit)
	says(ctx, t, c, owner, "LoadState=not-found", "systemctl", "show", "--property=LoadState", AgentUnit)
	if _, err := c.Shell(ctx, owner, "ls", "/etc/had/had.toml", "/var/lib/had"); err != nil {
		t.Error("uninstall keeps the node's identity: ", err)
	}
	if err := c.without(owner); err != nil {
		t.Error("after had uninstall: ", err)
	}
}

// TestSystemdCold checks S1 and S2 with a Tomcat that runs on its owner only, and what the status says of units that
// systemd would start or restart by itself.
func TestSystemdCold(t *testing.T) {
	c, ctx := systemd(t, Options{Timing: *timing, Cold: true})
	twice := make(chan string, 1)
	watching, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() { // S2, while the test lasts
		defer close(watched)
		for watching.Err() == nil {
			if c.RunsAt(Nodes[0]) && c.RunsAt(Nodes[1]) {
				select {
				case twice <- time.Now().Format("15:04:05.000000"):
				default:
				}
			}
			select {
			case <-watching.Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	drillAll(ctx, t, c, ColdDrills)
	if *only == "" {
		warned(ctx, t, c)
		stopsSlowly(ctx, t, c)
		unharmed(ctx, t, c)
	}
	stop()
	<-watched
	select {
	case at := <-twice:
		t.Errorf("%s ran on two nodes at %s (S2)", Unit, at)
	default:
	}
}

// warned has systemd's own ways to start and restart the service set by an administrator, and waits for the warnings.
func warned(ctx context.Context, t *testing.T, c *Cluster) {
	t.Helper()
	const n = "tomcat2"
	file := "/etc/systemd/system/" + Unit + ".d/90-local.conf"
	if err := c.System(n).WriteFile(file, []byte("[Service]\nRestart=always\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"systemctl", "enable", Unit}, {"systemctl", "daemon-reload"}} {
		if _, err := c.Shell(ctx, n, args...); err != nil {
			t.Fatal(err)
		}
	}
	warns := func(want ...string) func() (bool, string) {
		return func() (bool, string) {
			st, err := c.Status(ctx)
			if err != nil || len(st.Warnings) != len(want) {
				return false, fmt.Sprint(st.Warnings, err)
			}
			for i, w := range want {
				if !strings.HasPrefix(st.Warnings[i], n+": ") || !strings.Contains(st.Warnings[i], w) {
					return false, fmt.Sprint(st.Warnings)
				}
			}
			return true, ""
		}
	}
	if err := c.poll(ctx, "the status warns", warns("systemctl disable", "Restart=always")); err != nil {
		t.Error(err)
	}
	out, _ := c.Hactl(ctx, "witness", "status") // exit code 1: degraded
	t.Log(out)
	if _, err := c.Shell(ctx, n, "sh", "-c", "rm "+file+" && systemctl disable "+Unit); err != nil {
		t.Fatal(err)
	}
	if err := c.poll(ctx, "the status no longer warns", warns()); err != nil {
		t.Error(err)
	}
}

// stopsSlowly stops an agent whose service takes longer to stop than the agent's watchdog interval.
func stopsSlowly(ctx context.Context, t *testing.T, c *Cluster) {
	t.Helper()
	owner, err := c.Owner(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for unit, text := range map[string]string{AgentUnit: "WatchdogSec=1", Unit: "ExecStop=/bin/sleep 3"} {
		if err := c.System(owner).WriteFile("/etc/systemd/system/"+unit+".d/90-test.conf", []byte("[Service]\n"+text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, verb := range []string{"daemon-reload", "restart", "stop"} {
		args := []string{"systemctl", verb, AgentUnit}
		if verb == "daemon-reload" {
			args = args[:2]
		}
		began := time.Now()
		if _, err := c.Shell(ctx, owner, args...); err != nil {
			t.Fatal(err)
		}
		if verb == "stop" && time.Since(began) < 2*time.Second {
			t.Errorf("the service was not stopped before the agent ended")
		}
		if verb == "restart" {
			if err := c.WaitReady(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	says(ctx, t, c, owner, "Result=success", "systemctl", "show", "--property=Result", AgentUnit)
	says(ctx, t, c, owner, "inactive", "systemctl", "is-active", Unit)
	if err := c.without(owner); err != nil {
		t.Error(err)
	}
}
