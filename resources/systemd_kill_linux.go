package resources

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	sdbus "github.com/coreos/go-systemd/v22/dbus"
	"golang.org/x/sys/unix"
)

// bootedBySystemd exists where systemd is the service manager (sd_booted(3)).
var bootedBySystemd = "/run/systemd/system"

// busConnect is connect; a test puts a systemd in its place that does not answer.
var busConnect = connect

// Kill ends every process of the unit, by systemd while it answers: a queued stop job keeps it from restarting the unit. A
// systemd that says nothing for a quarter of the budget is left aside: the kernel is told itself, and asked whether the
// unit's cgroup is empty. That proof is as good, but for a systemd that is alive, deaf, and about to run the unit's
// ExecStopPost= commands.
func (d *systemd) Kill(ctx context.Context) error {
	budget := d.spec.StopBudget
	if budget <= 0 {
		budget = defaultStopBudget
	}
	if end, ok := ctx.Deadline(); ok {
		budget = min(budget, time.Until(end))
	}
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	said, done := make(chan struct{}, 1), make(chan error, 1)
	go func() { done <- d.killByBus(ctx, said) }() // it may hang in the bus longer than its context: nothing waits for it
	silence := time.NewTimer(budget / 4)
	defer silence.Stop()
	var err error
	for waiting := true; waiting; {
		select {
		case err = <-done:
			if err == nil {
				return nil
			}
			waiting = false
		case <-said:
			silence.Reset(budget / 4)
		case <-silence.C:
			err, waiting = fmt.Errorf("killing unit %s: systemd does not answer", d.unit), false
		}
	}
	if _, none := os.Stat(bootedBySystemd); ctx.Err() != nil || none != nil { // where systemd never was, an empty cgroup proves nothing
		return err
	}
	d.log.Warn("systemd does not kill the unit, killing what is in its cgroup", "err", err)
	if direct := killUnitCgroups(ctx, d.unit); direct != nil {
		return errors.Join(err, direct)
	}
	return nil
}

// killByBus sends SIGKILL to all processes of the unit's cgroup, again until none is there. What its ExecStop commands bring up
// is killed in the next round. Each answer of systemd is told to said.
func (d *systemd) killByBus(ctx context.Context, said chan<- struct{}) error {
	answer := func() {
		select {
		case said <- struct{}{}:
		default:
		}
	}
	s, err := busConnect(ctx)
	if err != nil {
		return fmt.Errorf("killing unit %s: %w", d.unit, err)
	}
	answer()
	if _, err := s.StopUnitContext(ctx, d.unit, "replace", nil); err != nil && !isNoSuchUnit(err) {
		d.log.Warn("stop job was refused, killing without it", "err", err)
	}
	for wait := 2 * time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		killErr := s.KillUnitWithTarget(ctx, d.unit, sdbus.All, int32(unix.SIGKILL))
		if isNothingToKill(killErr) {
			killErr = nil
		}
		left, err := d.left(ctx)
		if err == nil {
			answer()
		}
		if err == nil && left.none() {
			return nil
		}
		if left.state == "" { // systemd is done with the unit and no longer kills what is left
			for _, p := range left.procs {
				err = errors.Join(err, p.signal(unix.SIGKILL))
			}
		}
		if !pause(ctx, wait) {
			return fmt.Errorf("killing unit %s: %w", d.unit, errors.Join(killErr, err, left.err(), ctx.Err()))
		}
		if again, err := busConnect(ctx); err == nil {
			s = again
		}
	}
}

// cgroupMounts are where systemd keeps units, by hierarchy: version 2, or beside version 1, or version 1.
var cgroupMounts = []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"}

// unitCgroups finds the directories of a service without asking systemd: it is in a slice below the cgroup that systemd itself
// lives in. None is there when the service has no process.
func unitCgroups(unit string) ([]string, error) {
	if !strings.HasSuffix(unit, ".service") {
		return nil, fmt.Errorf("unit %s is no service: what it runs is not in one cgroup", unit)
	}
	var dirs []string
	name, mounted := strings.ReplaceAll(unit, "/", "_"), false
	for _, mount := range cgroupMounts {
		root := filepath.Join(mount, systemdCgroup())
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
			continue
		}
		mounted = true
		err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil
			case err != nil:
				return err
			case !e.IsDir():
				return nil
			case filepath.Base(p) == name:
				dirs = append(dirs, p)
				return fs.SkipDir
			case p != root && !strings.HasSuffix(p, ".slice"):
				return fs.SkipDir
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("looking for the cgroup of unit %s: %w", unit, err)
		}
	}
	if !mounted {
		return nil, fmt.Errorf("looking for the cgroup of unit %s: no hierarchy with systemd's units is mounted", unit)
	}
	return dirs, nil
}

// systemdCgroup is the cgroup below which process 1 keeps its units: that of process 1 without its init.scope.
func systemdCgroup() string {
	b, err := os.ReadFile("/proc/1/cgroup")
	if err != nil {
		return "/"
	}
	own := "/"
	for line := range strings.Lines(string(b)) {
		for _, mark := range []string{"0::", ":name=systemd:"} {
			if _, p, ok := strings.Cut(strings.TrimSpace(line), mark); ok && (own == "/" || mark != "0::") {
				own = p
			}
		}
	}
	return strings.TrimSuffix(filepath.Clean("/"+own), "/init.scope")
}

// killUnitCgroups kills what is in the cgroup of a service until the kernel says that it is empty, or ctx ends.
func killUnitCgroups(ctx context.Context, unit string) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 25*time.Millisecond) {
		dirs, err := unitCgroups(unit)
		if err != nil {
			return err
		}
		left := 0
		for _, dir := range dirs {
			n, err := killDir(dir)
			if err != nil {
				return err
			}
			left += n
		}
		if left == 0 {
			return nil
		}
		if !pause(ctx, wait) {
			return fmt.Errorf("the cgroup of unit %s is not empty: %w: %w", unit, ErrStillRunning, ctx.Err())
		}
	}
}

// killDir kills what is in one cgroup and below, and returns how much of it is left, 0 when the kernel calls it empty.
func killDir(dir string) (left int, err error) {
	procs, err := cgroupProcs(dir)
	if err != nil {
		return 0, err
	}
	if len(procs) > 0 && !orderKill(dir) { // version 1, or before Linux 5.14: one by one
		for _, p := range procs {
			err = errors.Join(err, p.signal(unix.SIGKILL))
		}
	}
	if err != nil || len(procs) > 0 {
		return len(procs), err
	}
	if !isCgroup2(dir) { // version 1 has no word for empty; its list of processes names also those that are about to end
		return 0, nil
	}
	empty, err := cgroupEmpty(dir)
	if err == nil && !empty {
		left = 1
	}
	return left, err
}
