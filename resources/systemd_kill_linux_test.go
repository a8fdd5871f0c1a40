package resources

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// deaf puts a systemd in place that never answers.
func deaf(t *testing.T) {
	old := busConnect
	busConnect = func(ctx context.Context) (*session, error) {
		<-ctx.Done()
		return nil, fmt.Errorf("%w: %w", ErrNoSystemd, ctx.Err())
	}
	booted := bootedBySystemd
	bootedBySystemd = t.TempDir()
	t.Cleanup(func() { busConnect, bootedBySystemd = old, booted })
}

// inMadeUnit makes the cgroup of a service in one hierarchy, as systemd would, with one process in it.
func inMadeUnit(t *testing.T, mount string) (d *systemd, dir string, running func() bool) {
	t.Helper()
	unit := fmt.Sprintf("had-test-%d.service", time.Now().UnixNano())
	root := filepath.Join(mount, systemdCgroup())
	if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
		t.Skipf("this machine has no cgroup hierarchy of systemd at %s", mount)
	}
	slice := filepath.Join(root, "hadtest.slice")
	dir = filepath.Join(slice, "hadtest-a.slice", unit)
	if err := os.MkdirAll(filepath.Join(dir, "below"), 0o755); err != nil {
		t.Skip("needs cgroups that can be made: ", err)
	}
	cmd := exec.Command("sh", "-c", "trap '' TERM; read go; setsid sleep 300 & exec sleep 300")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go cmd.Wait()
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		for range 100 {
			if os.Remove(filepath.Join(dir, "below")); os.Remove(dir) == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		os.Remove(filepath.Dir(dir))
		os.Remove(slice)
	})
	if err := os.WriteFile(filepath.Join(dir, "below", "cgroup.procs"), fmt.Append(nil, cmd.Process.Pid), 0); err != nil {
		t.Skip("needs cgroups that can be filled: ", err)
	}
	fmt.Fprintln(in, "go")
	running = func() bool {
		procs, err := cgroupProcs(dir)
		return err == nil && len(procs) > 0
	}
	for range 200 {
		if procs, _ := cgroupProcs(dir); len(procs) == 2 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	drv, err := New(Spec{Group: "g", Name: "u", Kind: KindSystemd, Unit: unit, StopBudget: 2 * time.Second}, logTo(t))
	if err != nil {
		t.Fatal(err)
	}
	return drv.(*systemd), dir, running
}

// S2: at the end of a lease a unit is killed also when systemd or the bus says nothing, within the stop budget, and what is
// said of it is what the kernel says.
func TestAUnitIsKilledWithoutSystemd(t *testing.T) {
	for _, mount := range cgroupMounts {
		t.Run(strings.ReplaceAll(strings.TrimPrefix(mount, "/sys/fs/"), "/", " "), func(t *testing.T) {
			d, _, running := inMadeUnit(t, mount)
			deaf(t)
			if !running() {
				t.Fatal("the unit does not run")
			}
			begun := time.Now()
			if err := d.Kill(t.Context()); err != nil {
				t.Error(err)
			}
			if took := time.Since(begun); took > d.spec.StopBudget {
				t.Errorf("took %v of %v", took, d.spec.StopBudget)
			} else {
				t.Log("took", took)
			}
			if running() {
				t.Error("proven dead, and something of it runs")
			}
			begun = time.Now()
			if err := d.Kill(t.Context()); err != nil || time.Since(begun) > d.spec.StopBudget {
				t.Errorf("a unit of which nothing runs: %v after %v", err, time.Since(begun))
			}
		})
	}
}

func TestWhatIsNoServiceIsNotTakenForDead(t *testing.T) {
	deaf(t)
	d, err := New(Spec{Group: "g", Name: "u", Kind: KindSystemd, Unit: "x.scope", StopBudget: 200 * time.Millisecond}, logTo(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Kill(t.Context()); err == nil {
		t.Error("a unit that nobody could ask about is said to be dead")
	}
	old := cgroupMounts
	cgroupMounts = []string{t.TempDir()}
	defer func() { cgroupMounts = old }()
	if _, err := unitCgroups("x.service"); err == nil {
		t.Error("a machine without cgroups is said to have none of the unit")
	}
}

func TestUnitCgroupsAreFoundInSlicesOnly(t *testing.T) {
	old := cgroupMounts
	cgroupMounts = []string{t.TempDir()}
	defer func() { cgroupMounts = old }()
	root := filepath.Join(cgroupMounts[0], systemdCgroup())
	want := []string{filepath.Join(root, "a.slice", "a-b.slice", "x.service"), filepath.Join(root, "system.slice", "x.service")}
	for _, dir := range append([]string{filepath.Join(root, "system.slice", "other.service", "x.service"), filepath.Join(root, "user.slice")}, want...) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "cgroup.procs"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := unitCgroups("x.service"); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v\nwant %q", got, err, want)
	}
	if got, err := unitCgroups("y.service"); err != nil || len(got) != 0 {
		t.Errorf("a unit without processes: %q, %v", got, err)
	}
}

// With the real one: systemd is deaf for us, and the unit dies all the same.
func TestSystemdUnitIsKilledWithoutTheBus(t *testing.T) {
	d, _ := newTestUnit(t, "ExecStart=sh -c 'trap \"\" TERM; setsid sleep 1000 & while :; do sleep 1; done'")
	if err := d.Start(within(t, 10*time.Second), 1); err != nil {
		t.Fatal(err)
	}
	t.Run("deaf", func(t *testing.T) {
		deaf(t)
		if err := d.Kill(within(t, 5*time.Second)); err != nil {
			t.Error(err)
		}
	})
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		left, err := d.left(within(t, 5*time.Second))
		if err == nil && left.none() {
			return
		}
		if time.Now().After(end) {
			t.Fatal("systemd says that something is left: ", errors.Join(err, left.err()))
		}
	}
}
