package resources

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/internal/boottime"
)

// needSystemd skips a test where systemd is not PID 1. The lab runs this test binary in a node where it is.
func needSystemd(t *testing.T) {
	t.Helper()
	if _, err := connect(within(t, 5*time.Second)); err != nil {
		t.Skip("needs systemd as PID 1: ", err)
	}
}

func sh(t *testing.T, cmd string) string {
	t.Helper()
	c := exec.Command("sh", "-c", cmd)
	c.Dir = "/"
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", cmd, err, out)
	}
	return strings.TrimSpace(string(out))
}

// newTestUnit installs a unit until the test ends. %D stands for a folder of its own, %U for the unit's name.
func newTestUnit(t *testing.T, service string) (*systemd, string) {
	t.Helper()
	needSystemd(t)
	dir, unit := t.TempDir(), fmt.Sprintf("had-test-%d-%d.service", os.Getpid(), time.Now().UnixNano())
	fill := strings.NewReplacer("%D", dir, "%U", unit).Replace
	file := filepath.Join("/etc/systemd/system", unit)
	text := fill("[Service]\n" + service + "\n[Install]\nWantedBy=multi-user.target\n")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	sh(t, "systemctl daemon-reload")
	d, err := New(Spec{Group: "g", Name: "u", Kind: KindSystemd, Unit: strings.TrimSuffix(unit, ".service"), StopBudget: 10 * time.Second}, logTo(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := errors.Join(d.Kill(context.Background()), Unmanage(context.Background(), unit), os.Remove(file))
		sh(t, "systemctl disable --quiet "+unit+" 2>/dev/null; systemctl daemon-reload; systemctl reset-failed 2>/dev/null || true")
		if err != nil {
			t.Errorf("cleaning up: %v", err)
		}
	})
	return d.(*systemd), unit
}

func TestWithoutABusTheErrorIsClear(t *testing.T) {
	if _, err := connect(within(t, 5*time.Second)); err == nil {
		t.Skip("needs a machine without systemd")
	}
	d, err := New(Spec{Name: "u", Kind: KindSystemd, Unit: "x"}, logTo(t))
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Status(context.Background())
	isErr(t, err, ErrNoSystemd, "systemd is not reachable on the system bus: ")
	for name, err := range map[string]error{
		"Start": d.Start(context.Background(), 1), "Stop": d.Stop(context.Background(), 1), "Kill": d.Kill(context.Background()),
		"Manage": Manage(context.Background(), "x"),
	} {
		t.Log(name, err)
		isErr(t, err, ErrNoSystemd, "")
	}
}

func TestSystemdStartsAndStops(t *testing.T) {
	d, _ := newTestUnit(t, "ExecStart=sleep 1000")
	wantStatus(t, d, false, false)
	mustStart(t, d)
	mustStart(t, d)
	st := wantStatus(t, d, true, false)
	if !pidAlive(st.PID) {
		t.Fatalf("pid %d does not run", st.PID)
	}
	if age := boottime.Now().Sub(st.Since); age < 0 || age > time.Minute {
		t.Errorf("it was started %v ago", age)
	}
	if err := d.Stop(context.Background(), 8); err != nil {
		t.Fatal(err)
	}
	if err := d.Stop(context.Background(), 8); err != nil {
		t.Fatalf("stopping what is stopped: %v", err)
	}
	wantStatus(t, d, false, false)
	if pidAlive(st.PID) {
		t.Fatal("alive after Stop")
	}
}

func TestSystemdJobThatFailsSaysWhy(t *testing.T) {
	d, unit := newTestUnit(t, "Type=oneshot\nExecStart=/bin/false")
	err := d.Start(context.Background(), 1)
	isErr(t, err, ErrJob, "result failed, unit is failed (failed), result exit-code (see: journalctl -u "+unit+")")
	wantStatus(t, d, false, true)
}

func TestSystemdOwnStartLimitDoesNotCountTheClustersStarts(t *testing.T) {
	d, _ := newTestUnit(t, "Type=oneshot\nExecStart=/bin/false")
	for range 12 { // systemd's default limit is 5 in 10 s
		if err := d.Start(context.Background(), 1); !strings.Contains(err.Error(), "exit-code") {
			t.Fatal(err)
		}
	}
}

func TestSystemdStartIsBoundByTheContext(t *testing.T) {
	d, _ := newTestUnit(t, "Type=oneshot\nExecStart=sleep 1000")
	isErr(t, d.Start(within(t, 500*time.Millisecond), 1), context.DeadlineExceeded, "job is not finished")
	if st, err := d.Status(context.Background()); err != nil || !st.Pending || st.Running {
		t.Fatalf("got %+v, %v, want pending", st, err)
	}
	if err := d.Kill(context.Background()); err != nil {
		t.Fatal(err)
	}
	if st, err := d.Status(context.Background()); err != nil || st.Pending || st.Running {
		t.Fatalf("got %+v, %v, want nothing running", st, err)
	}
}

func TestSystemdDeathWakesAtOnce(t *testing.T) {
	d, _ := newTestUnit(t, "ExecStart=sleep 1000")
	wakes := startWatch(t, d)
	var took, seen []time.Duration
	for range 10 {
		mustStart(t, d)
		quiet(wakes)
		pid := wantStatus(t, d, true, false).PID
		began := time.Now()
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		select {
		case at := <-wakes:
			took = append(took, at.Sub(began))
		case <-time.After(10 * time.Second):
			t.Fatal("no wake after kill -9")
		}
		// The first wake must already show the death, or the loop that it woke would go to sleep again.
		wantStatus(t, d, false, true)
		seen = append(seen, time.Since(began))
		eventually(t, "systemd to notice", func() bool {
			st, err := d.Status(context.Background())
			return err == nil && !st.Pending && st.PID == 0
		})
	}
	t.Logf("kill -9 to wake: median %v of %v", median(took), took)
	t.Logf("kill -9 to a status that says failed: median %v of %v", median(seen), seen)
	if m := median(took); m > 20*time.Millisecond {
		t.Errorf("median %v, want under 20 ms", m)
	}
}

// The signals alone must do too, for a unit whose main process cannot be watched.
func TestSystemdSignalsWakeWithoutPidfd(t *testing.T) {
	d, _ := newTestUnit(t, "Type=oneshot\nRemainAfterExit=yes\nExecStart=true")
	wakes := startWatch(t, d)
	quiet(wakes)
	mustStart(t, d)
	<-wakes
	quiet(wakes)
	wantStatus(t, d, true, false)
	var took []time.Duration
	for range 10 {
		began := time.Now()
		if err := d.Stop(context.Background(), 1); err != nil {
			t.Fatal(err)
		}
		at := <-wakes
		took = append(took, at.Sub(began))
		wantStatus(t, d, false, false)
		quiet(wakes)
		mustStart(t, d)
		quiet(wakes)
	}
	t.Logf("stop call to wake: median %v", median(took))
}

func TestSystemdWatchSurvivesReexecAndBusRestart(t *testing.T) {
	d, _ := newTestUnit(t, "ExecStart=sleep 1000")
	wakes := startWatch(t, d)
	for name, disturb := range map[string]string{
		"daemon-reload": "systemctl daemon-reload", "daemon-reexec": "systemctl daemon-reexec", "bus": "systemctl restart dbus",
	} {
		t.Run(name, func(t *testing.T) {
			quiet(wakes)
			if out, err := exec.Command("sh", "-c", disturb).CombinedOutput(); err != nil {
				t.Logf("%s: %v %s", disturb, err, out) // the caller may lose its own connection by it
			}
			eventually(t, "systemd to be back", func() bool { _, err := d.Status(context.Background()); return err == nil })
			select {
			case <-wakes:
			case <-time.After(15 * time.Second):
				t.Fatal("no wake for what may have been missed")
			}
			quiet(wakes)
			mustStart(t, d)
			quiet(wakes)
			if err := unix.Kill(wantStatus(t, d, true, false).PID, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			<-wakes
			eventually(t, "failed", func() bool { st, err := d.Status(context.Background()); return err == nil && st.Failed && !st.Pending })
		})
	}
}

// Root reaches systemd by its own socket while there is no bus at all.
func TestSystemdWithoutABusDaemon(t *testing.T) {
	d, _ := newTestUnit(t, "ExecStart=sleep 1000")
	sh(t, "systemctl stop dbus.socket dbus.service")
	t.Cleanup(func() { sh(t, "systemctl start dbus.socket dbus.service") })
	Close()
	for range 5 { // several connections: how their first bytes are split is chance
		began := time.Now()
		wakes := startWatch(t, d)
		<-wakes
		quiet(wakes)
		mustStart(t, d)
		quiet(wakes)
		if err := unix.Kill(wantStatus(t, d, true, false).PID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-wakes
		wantStatus(t, d, false, true)
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("took %v, want no wait for a bus that is not there", took)
		}
		if err := d.Kill(context.Background()); err != nil {
			t.Fatal(err)
		}
		Close()
	}
}

func TestSystemdDoesNotRestartAManagedUnit(t *testing.T) {
	d, unit := newTestUnit(t, "ExecStart=sleep 1000\nRestart=always\nRestartSec=50ms")
	sh(t, "systemctl start "+unit) // by someone else, before the cluster knew it
	w := strings.Join(d.Warnings(context.Background()), "\n")
	if !strings.Contains(w, "has Restart=always") || strings.Contains(w, "enabled") {
		t.Fatalf("warnings: got %q", w)
	}
	pid := wantStatus(t, d, true, false).PID
	began := time.Now()
	if err := Manage(context.Background(), unit); err != nil {
		t.Fatal(err)
	}
	first := time.Since(began)
	stamp := func() string { return sh(t, "stat -c %y "+dropIn(unit)) }
	written := stamp()
	began = time.Now()
	if err := Manage(context.Background(), unit); err != nil {
		t.Fatal(err)
	}
	t.Logf("Manage took %v, the second time %v", first, time.Since(began))
	if stamp() != written {
		t.Fatal("the second Manage wrote again")
	}
	if w := d.Warnings(context.Background()); len(w) > 0 {
		t.Fatalf("warnings while managed: %q", w)
	}
	if now := wantStatus(t, d, true, false).PID; now != pid {
		t.Fatal("Manage restarted the unit")
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "failed for good", func() bool { st, _ := d.Status(context.Background()); return st.Failed && !st.Pending && st.PID == 0 })
	if st, _ := d.Status(context.Background()); st.Running {
		t.Fatal("restarted behind the cluster's back")
	}
	if err := errors.Join(Unmanage(context.Background(), unit), Unmanage(context.Background(), unit)); err != nil {
		t.Fatal(err)
	}
	if got := sh(t, "systemctl show -p Restart "+unit); got != "Restart=always" {
		t.Fatalf("after Unmanage: got %s", got)
	}
	if _, err := os.Stat(filepath.Dir(dropIn(unit))); err == nil {
		t.Fatal("Unmanage left its folder")
	}
}

func TestSystemdManageNamesTheDropInThatIsInTheWay(t *testing.T) {
	d, unit := newTestUnit(t, "ExecStart=sleep 1000")
	dir := filepath.Join("/etc/systemd/system", unit+".d")
	t.Cleanup(func() { os.RemoveAll(dir) })
	sh(t, fmt.Sprintf("mkdir %s && printf '[Service]\nRestart=always\n' > %s/override.conf && systemctl daemon-reload", dir, dir))
	isErr(t, Manage(context.Background(), unit), nil, "Restart=always stays in force; remove it from one of")
	isErr(t, d.Start(context.Background(), 1), nil, "override.conf")
}

func TestSystemdKillLeavesNothing(t *testing.T) {
	for name, service := range map[string]string{
		"deaf":                         "ExecStart=sh -c 'trap \"\" TERM; while :; do sleep 1; done'",
		"restarted by systemd":         "ExecStart=sleep 1000\nRestart=always\nRestartSec=0\n[Unit]\nStartLimitIntervalSec=0",
		"a stop command that hangs":    "ExecStart=sleep 1000\nExecStop=sleep 1000\nExecStopPost=sleep 1000",
		"children in their own groups": "ExecStart=sh -c 'setsid sleep 1000 & setsid sleep 1000 & exec sleep 1000'",
		"KillMode=process":             "KillMode=process\nExecStart=sh -c 'setsid sleep 1000 & exec sleep 1000'",
	} {
		t.Run(name, func(t *testing.T) {
			d, unit := newTestUnit(t, service)
			sh(t, "systemctl start "+unit)
			_, p, err := d.show(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			dirs := p.cgroupDirs(unit)
			if len(dirs) == 0 {
				t.Fatalf("no cgroup for %+v", p)
			}
			eventually(t, "processes", func() bool { ps, err := cgroupProcs(dirs[0]); return err == nil && len(ps) > 0 })
			ps, err := cgroupProcs(dirs[0])
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Kill(int(p.MainPID), unix.SIGSTOP); err != nil { // frozen as well
				t.Fatal(err)
			}
			began := time.Now()
			if err := d.Kill(context.Background()); err != nil {
				t.Fatal(err)
			}
			t.Logf("Kill took %v for %d processes", time.Since(began), len(ps))
			for _, q := range ps {
				if alive, _ := q.alive(); alive {
					t.Errorf("process %d is alive", q.PID)
				}
			}
			if st, err := d.Status(context.Background()); err != nil || st.Running || st.Pending {
				t.Fatalf("got %+v, %v", st, err)
			}
		})
	}
}

func TestSystemdStopReportsWhatAUnitLeavesBehind(t *testing.T) {
	d, _ := newTestUnit(t, "KillMode=process\nExecStart=sh -c 'setsid sleep 1000 & echo $! > %D/pid; exec sleep 1000'")
	mustStart(t, d)
	var file string
	eventually(t, "the child", func() bool {
		m, _ := filepath.Glob(filepath.Join(filepath.Dir(t.TempDir()), "*", "pid"))
		if len(m) == 1 {
			b, _ := os.ReadFile(m[0])
			file = strings.TrimSpace(string(b))
		}
		return file != ""
	})
	isErr(t, d.Stop(context.Background(), 1), ErrStillRunning, "left behind 1 of its processes")
	wantStatus(t, d, false, false)
	fresh, err := New(d.spec, logTo(t)) // the agent was restarted in between
	if err != nil {
		t.Fatal(err)
	}
	if err := fresh.Kill(context.Background()); err != nil {
		t.Fatal(err)
	}
	if pidAlive(number(t, file)) {
		t.Fatal("the child is alive after Kill")
	}
}

// L3, as installed: the agent is a unit with KillMode=process, and what it started outlives its restart.
func TestSystemdRestartOfTheAgentKeepsItsProcesses(t *testing.T) {
	needSystemd(t)
	d := newTestProcess(t, "wait", nil)
	agent, unit := newTestUnit(t, fmt.Sprintf("KillMode=process\nDelegate=yes\nEnvironment=%s=agent-service\nExecStart=%s %s %s",
		helperVar, self(t), d.spec.Name, d.spec.StateDir))
	mustStart(t, agent)
	eventually(t, "the resource", func() bool { st, err := d.Status(context.Background()); return err == nil && st.Running })
	pid, first := wantStatus(t, d, true, false).PID, wantStatus(t, agent, true, false).PID
	for _, how := range []string{"systemctl restart " + unit, "systemctl kill --kill-who=main -s KILL " + unit + "; sleep 0.2; systemctl restart " + unit} {
		sh(t, how)
		if now := wantStatus(t, agent, true, false).PID; now == first {
			t.Fatalf("%s: the agent was not restarted", how)
		}
		if now := wantStatus(t, d, true, false).PID; now != pid || !pidAlive(pid) {
			t.Fatalf("%s: got pid %d, want %d still", how, now, pid)
		}
	}
	if err := d.Kill(context.Background()); err != nil {
		t.Fatal(err)
	}
	if pidAlive(pid) || !pidAlive(wantStatus(t, agent, true, false).PID) {
		t.Fatal("want the resource dead and the agent alive")
	}
}

func TestSystemdWarnings(t *testing.T) {
	d, unit := newTestUnit(t, "ExecStart=sleep 1000")
	sh(t, "systemctl enable "+unit)
	if w := strings.Join(d.Warnings(context.Background()), "\n"); !strings.Contains(w, "is enabled and would start at boot") {
		t.Errorf("enabled: got %q", w)
	}
	none := newSystemd(Spec{Unit: "had-no-such-unit"}, logTo(t))
	if w := strings.Join(none.Warnings(context.Background()), "\n"); !strings.Contains(w, "had-no-such-unit.service is not found on this node") {
		t.Errorf("not found: got %q", w)
	}
	isErr(t, none.Start(context.Background(), 1), nil, "not found")
	if err := errors.Join(none.Stop(context.Background(), 1), none.Kill(context.Background())); err != nil {
		t.Errorf("nothing runs of a unit that is not there: got %v", err)
	}
	sh(t, "systemctl mask --runtime had-masked.service")
	t.Cleanup(func() { sh(t, "systemctl unmask --runtime had-masked.service") })
	masked := newSystemd(Spec{Unit: "had-masked"}, logTo(t))
	if w := strings.Join(masked.Warnings(context.Background()), "\n"); !strings.Contains(w, "is masked and cannot be started") {
		t.Errorf("masked: got %q", w)
	}
	isErr(t, masked.Start(context.Background(), 1), nil, "masked")
}
