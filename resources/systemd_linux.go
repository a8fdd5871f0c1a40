package resources

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	sdbus "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"

	"hacluster/internal/boottime"
)

// systemd runs a resource that is a unit. What is true is what systemd says, but for one case: a main process whose
// death we saw by pidfd is dead even if systemd has not looked yet.
type systemd struct {
	unit string
	spec Spec
	log  *slog.Logger
	died atomic.Int64 // the main process whose end Watch has seen last

	mu    sync.Mutex
	begin beginning // of what runs, as seen last
}

func newSystemd(s Spec, log *slog.Logger) *systemd {
	u := unitName(s.Unit)
	return &systemd{unit: u, spec: s, log: log.With("unit", u)}
}

// unitName adds .service to a name without a type, as systemctl does.
func unitName(name string) string {
	switch path.Ext(name) {
	case ".service", ".socket", ".target", ".mount", ".automount", ".timer", ".path", ".slice", ".scope", ".swap", ".device":
		return name
	}
	return name + ".service"
}

// unitProps are the properties this package reads (org.freedesktop.systemd1(5)).
type unitProps struct {
	Load, LoadError, Active, Sub, FileState string
	Job                                     uint32 // 0: none is queued
	TriggeredBy                             []string
	DropIns                                 []string
	// of a service:
	Result, Restart, PIDFile, ExitType string
	Slice, Cgroup                      string
	RemainAfterExit                    bool
	MainPID                            uint32
	Begun                              uint64 // when it became active or its main process was executed, the later; microseconds of CLOCK_MONOTONIC
}

// beginning is a start in systemd's clock and in ours. It is translated once: a suspend later on would shift it.
type beginning struct {
	micros uint64
	at     time.Time
}

// since is when what runs was started. systemd counts without the time in suspend.
func (d *systemd) since(p unitProps) time.Time {
	if p.Begun == 0 {
		return time.Time{}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.begin.micros != p.Begun {
		d.begin = beginning{p.Begun, boottime.At(time.Duration(p.Begun)*time.Microsecond + boottime.Asleep())}
	}
	return d.begin.at
}

// parseProps reads GetAll answers. A value of another type than expected counts as missing: the other side may be newer.
func parseProps(unit, service map[string]any) unitProps {
	str := func(m map[string]any, k string) string { s, _ := m[k].(string); return s }
	p := unitProps{
		Load: str(unit, "LoadState"), Active: str(unit, "ActiveState"), Sub: str(unit, "SubState"),
		FileState: str(unit, "UnitFileState"), Result: str(service, "Result"), Restart: str(service, "Restart"),
		PIDFile: str(service, "PIDFile"), ExitType: str(service, "ExitType"),
		Slice: str(service, "Slice"), Cgroup: str(service, "ControlGroup"),
	}
	p.RemainAfterExit, _ = service["RemainAfterExit"].(bool)
	p.MainPID, _ = service["MainPID"].(uint32)
	active, _ := unit["ActiveEnterTimestampMonotonic"].(uint64)
	main, _ := service["ExecMainStartTimestampMonotonic"].(uint64)
	p.Begun = max(active, main)
	p.TriggeredBy, _ = unit["TriggeredBy"].([]string)
	p.DropIns, _ = unit["DropInPaths"].([]string)
	if job, ok := unit["Job"].([]any); ok && len(job) > 0 {
		p.Job, _ = job[0].(uint32)
	}
	if e, ok := unit["LoadError"].([]any); ok && len(e) > 1 {
		p.LoadError, _ = e[1].(string)
	}
	return p
}

// settled says that systemd has nothing of the unit running.
func (p unitProps) settled() bool { return p.Active == "inactive" || p.Active == "failed" }

// status maps systemd's words. Unknown words are neither running nor failed, but pending: nobody may build on them.
func (p unitProps) status() Status {
	s := Status{PID: int(p.MainPID), Detail: p.Active + " (" + p.Sub + ")"}
	bad := p.Result != "" && p.Result != "success"
	if bad {
		s.Detail += ", result " + p.Result
	}
	if p.Load != "" && p.Load != "loaded" {
		s.Detail += ", unit is " + p.Load
	}
	switch p.Active {
	case "active", "reloading", "refreshing":
		s.Running = true
	case "inactive":
	case "failed", "maintenance":
		s.Failed = true
	case "activating":
		s.Pending, s.Failed = true, strings.HasPrefix(p.Sub, "auto-restart")
	case "deactivating":
		s.Pending, s.Failed = true, bad
	default:
		s.Pending = true
	}
	return s
}

// show asks for the unit's properties; for a service also for its own. Asking loads the unit, as systemctl show does.
func (d *systemd) show(ctx context.Context) (*session, unitProps, error) {
	return showUnit(ctx, d.unit)
}

func showUnit(ctx context.Context, unit string) (*session, unitProps, error) {
	s, err := connect(ctx)
	if err != nil {
		return nil, unitProps{}, err
	}
	u, err := s.GetUnitPropertiesContext(ctx, unit)
	if err != nil {
		return nil, unitProps{}, fmt.Errorf("asking for unit %s: %w", unit, err)
	}
	var service map[string]any
	if strings.HasSuffix(unit, ".service") {
		if service, err = s.GetUnitTypePropertiesContext(ctx, unit, "Service"); err != nil {
			return nil, unitProps{}, fmt.Errorf("asking for unit %s: %w", unit, err)
		}
	}
	return s, parseProps(u, service), nil
}

// Status says Running for an active unit. That is systemd's word and no sign that the service answers. A unit that ended
// by itself without an error looks like one that was stopped.
func (d *systemd) Status(ctx context.Context) (Status, error) {
	_, p, err := d.show(ctx)
	if err != nil {
		return Status{Detail: oneLine(err.Error())}, err
	}
	st := p.status()
	if d.mainDied(p) {
		st.Running, st.Failed = false, true
		st.Detail = fmt.Sprintf("main process %d has died, systemd has not noticed yet", p.MainPID)
	}
	if st.Running {
		st.Since = d.since(p)
	}
	return st, nil
}

// mainDied reports a death that systemd does not show yet. Units whose life is not that of one main process are left to
// systemd: it may find another one in the pid file, wait for the rest, or stay active without any.
func (d *systemd) mainDied(p unitProps) bool {
	if p.Active != "active" || p.MainPID == 0 || d.died.Load() != int64(p.MainPID) {
		return false
	}
	if p.RemainAfterExit || p.PIDFile != "" || p.ExitType == "cgroup" {
		return false
	}
	st, err := readStat(int(p.MainPID))
	return err != nil || st.dead()
}

// Start clears old failures, so that systemd's own start limit does not count the cluster's starts, sees to it that
// systemd will not restart the unit by itself, and awaits the start job.
func (d *systemd) Start(ctx context.Context, _ uint64) error {
	ctx, cancel := bound(ctx, d.spec.PendingTimeout, defaultPending)
	defer cancel()
	if err := Manage(ctx, d.unit); err != nil {
		return err
	}
	s, err := connect(ctx)
	if err != nil {
		return fmt.Errorf("starting unit %s: %w", d.unit, err)
	}
	_ = s.ResetFailedUnitContext(ctx, d.unit) // an error means: not loaded, so nothing failed
	err = d.job(ctx, s, s.StartUnitContext, func(p unitProps) bool { return p.Active == "active" })
	if err != nil {
		return fmt.Errorf("starting unit %s: %w", d.unit, err)
	}
	return nil
}

// Stop awaits the stop job and makes sure that the unit has left no process behind.
func (d *systemd) Stop(ctx context.Context, _ uint64) error {
	ctx, cancel := bound(ctx, d.spec.PendingTimeout, defaultPending)
	defer cancel()
	s, p, err := d.show(ctx)
	if err != nil {
		return fmt.Errorf("stopping unit %s: %w", d.unit, err)
	}
	if !p.settled() || p.Job != 0 {
		if err := d.job(ctx, s, s.StopUnitContext, unitProps.settled); err != nil && !isNoSuchUnit(err) {
			return fmt.Errorf("stopping unit %s: %w", d.unit, err)
		}
	}
	left, err := d.left(ctx)
	if err != nil {
		return fmt.Errorf("stopping unit %s: %w", d.unit, err)
	}
	for wait := time.Millisecond; left.exiting && len(left.procs) == 0 && left.state == "" && pause(ctx, wait); wait *= 2 {
		if left, err = d.left(ctx); err != nil {
			return fmt.Errorf("stopping unit %s: %w", d.unit, err)
		}
	}
	if err := left.err(); err != nil {
		return fmt.Errorf("stopping unit %s: %w", d.unit, err)
	}
	return nil
}

// remains is what there still is of a unit.
type remains struct {
	state   string // "" when systemd calls the unit inactive or failed
	procs   []proc // in its cgroup
	exiting bool   // the cgroup holds a process that is about to end
}

func (r remains) none() bool { return r.state == "" && len(r.procs) == 0 && !r.exiting }

// err says what remains, for a caller that wanted nothing to.
func (r remains) err() error {
	if r.none() {
		return nil
	}
	what := "unit is " + r.state
	if r.state == "" {
		what = "a process is about to end"
		if len(r.procs) > 0 {
			what = fmt.Sprintf("unit has ended but left behind %d of its processes, %d for one (its KillMode= allows that)", len(r.procs), r.procs[0].PID)
		}
	}
	return fmt.Errorf("%s: %w", what, ErrStillRunning)
}

// left asks systemd for the state and the kernel for processes: systemd forgets the cgroup of a unit that has ended, also
// when processes are left in it (KillMode=process).
func (d *systemd) left(ctx context.Context) (remains, error) {
	_, p, err := d.show(ctx)
	if err != nil {
		return remains{}, err
	}
	var r remains
	if !p.settled() {
		r.state = p.status().Detail
	}
	for _, dir := range p.cgroupDirs(d.unit) {
		procs, err := cgroupProcs(dir)
		if err != nil {
			return r, err
		}
		empty, err := cgroupEmpty(dir)
		if err != nil {
			return r, err
		}
		for _, q := range procs { // each is in one directory per hierarchy
			if !slices.Contains(r.procs, q) {
				r.procs = append(r.procs, q)
			}
		}
		r.exiting = r.exiting || !empty
	}
	return r, nil
}

// cgroupDirs are the directories the unit's cgroup has, or had: one per hierarchy in which systemd keeps units.
func (p unitProps) cgroupDirs(unit string) []string {
	rel := p.Cgroup
	if rel == "" {
		if p.Slice == "" { // no service, so nothing that has processes
			return nil
		}
		rel = path.Join(slicePath(p.Slice), strings.ReplaceAll(unit, "/", "_"))
	}
	if !strings.HasSuffix(rel, ".service") { // never the root or a slice
		return nil
	}
	var dirs []string
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"} {
		if st, err := os.Stat(path.Join(root, rel)); err == nil && st.IsDir() {
			dirs = append(dirs, path.Join(root, rel))
		}
	}
	return dirs
}

// slicePath is where systemd puts a slice: a-b.slice is /a.slice/a-b.slice (systemd.slice(5)).
func slicePath(slice string) string {
	name := strings.TrimSuffix(slice, ".slice")
	if name == "-" || name == "" {
		return "/"
	}
	p := "/"
	for i := range name {
		if name[i] == '-' {
			p = path.Join(p, name[:i]+".slice")
		}
	}
	return path.Join(p, slice)
}

type jobCall func(ctx context.Context, unit, mode string, result chan<- string) (int, error)

// job queues one and awaits its result. When the connection is lost meanwhile it asks systemd until the job is gone and
// judges by goal.
func (d *systemd) job(ctx context.Context, s *session, call jobCall, goal func(unitProps) bool) error {
	result := make(chan string, 1)
	if _, err := call(ctx, d.unit, "replace", result); err != nil {
		return err
	}
	select {
	case r := <-result:
		if r == "done" {
			return nil
		}
		return d.jobFault(ctx, r)
	case <-ctx.Done():
		return fmt.Errorf("job is not finished: %w", ctx.Err())
	case <-s.lost[0]:
	case <-s.lost[1]:
	}
	d.log.Info("connection to systemd was lost during a job, asking again")
	for {
		if _, p, err := d.show(ctx); err == nil && p.Job == 0 {
			if goal(p) {
				return nil
			}
			return d.jobFault(ctx, "unknown")
		}
		if !pause(ctx, 100*time.Millisecond) {
			return fmt.Errorf("job is not finished: %w", ctx.Err())
		}
	}
}

// jobFault explains a job that did not end well.
func (d *systemd) jobFault(ctx context.Context, result string) error {
	state := ""
	if _, p, err := d.show(ctx); err == nil {
		state = ", unit is " + p.status().Detail
	}
	return fmt.Errorf("%w: result %s%s (see: journalctl -u %s)", ErrJob, result, state, d.unit)
}

// unitObject is where the unit's signals come from.
func unitObject(unit string) dbus.ObjectPath {
	return systemdPath + "/unit/" + dbus.ObjectPath(sdbus.PathBusEscape(unit))
}
