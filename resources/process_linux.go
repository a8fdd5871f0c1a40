package resources

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process runs one program in a session and, where possible, a cgroup of its own. All that it knows of a running program
// is in the pid file and in the kernel, so that any later process object over the same StateDir can go on.
type process struct {
	spec Spec
	log  *slog.Logger
	sig  unix.Signal
	boot string

	turn chan struct{} // holds one token while a start or a kill is at work: a kill must not miss a fork

	mu      sync.Mutex
	changed chan struct{}   // closed and replaced at each start, stop and kill made here
	exits   map[proc]string // how children of this object ended: for Detail only
}

func newProcess(s Spec, log *slog.Logger) (*process, error) {
	sig := unix.SIGTERM
	if s.StopSignal != "" {
		name := strings.ToUpper(s.StopSignal)
		if !strings.HasPrefix(name, "SIG") {
			name = "SIG" + name
		}
		if sig = unix.SignalNum(name); sig == 0 {
			return nil, fmt.Errorf("stop_signal %q is not a signal", s.StopSignal)
		}
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	return &process{spec: s, log: log, sig: sig, boot: boot, turn: make(chan struct{}, 1), changed: make(chan struct{}), exits: map[proc]string{}}, nil
}

func (d *process) file(ext string) string { return filepath.Join(d.spec.StateDir, d.spec.Name+ext) }

// read gives the record of the last start. It is nil when there is none, or only one of an earlier boot.
func (d *process) read() (*record, error) {
	b, err := os.ReadFile(d.file(".pid"))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(b) == 0 { // empty: a power cut between rename and data
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the pid file: %w", err)
	}
	r, err := parseRecord(b)
	if err != nil {
		return nil, fmt.Errorf("reading pid file %s (make sure that the program does not run, then remove the file): %w", d.file(".pid"), err)
	}
	if r.Group != d.spec.Group || r.Resource != d.spec.Name {
		return nil, fmt.Errorf("pid file %s belongs to resource %q of group %q", d.file(".pid"), r.Resource, r.Group)
	}
	if r.Boot != d.boot {
		return nil, nil
	}
	return &r, nil
}

// write replaces the record in one step.
func (d *process) write(r record) error {
	tmp := d.file(".pid.new")
	if err := os.WriteFile(tmp, r.marshal(), 0o644); err != nil {
		return fmt.Errorf("writing the pid file: %w", err)
	}
	if err := os.Rename(tmp, d.file(".pid")); err != nil {
		return fmt.Errorf("writing the pid file: %w", err)
	}
	return nil
}

// found is what is left of a start.
type found struct {
	rec     *record // nil: nothing was started, or all of it was stopped
	main    proc    // PID 0 when there was none
	alive   bool    // main runs
	members []proc  // all processes of the start, main included
}

// look asks the OS for everything that belongs to the record.
func (d *process) look() (found, error) {
	r, err := d.read()
	if err != nil || r == nil {
		return found{}, err
	}
	f := found{rec: r, main: proc{r.PID, r.Start}}
	if r.PID > 0 {
		if f.alive, err = f.main.alive(); err != nil {
			return found{}, err
		}
		if !f.alive {
			reapChild(f.main)
		}
	}
	if f.members, err = membersOf(*r); err != nil {
		return found{}, err
	}
	if r.PID == 0 && len(f.members) > 0 { // the agent ended between fork and write: the eldest is main
		f.main, f.alive = f.members[0], true
		for _, m := range f.members {
			if m.Start < f.main.Start || m.Start == f.main.Start && m.PID < f.main.PID {
				f.main = m
			}
		}
	}
	return f, nil
}

// membersOf lists all processes of a start: those in its cgroup, or without one those that descend from it.
func membersOf(r record) ([]proc, error) {
	if r.Cgroup != "" && isCgroup2(r.Cgroup) {
		return cgroupProcs(r.Cgroup)
	}
	return kin(proc{r.PID, r.Start}, instanceVar+"="+r.Instance)
}

// gone asks whether nothing of a start is left.
func gone(r record) (bool, error) {
	if r.Cgroup != "" {
		if empty, err := cgroupEmpty(r.Cgroup); err != nil || !empty {
			return false, err
		}
	}
	m, err := membersOf(r)
	if err == nil && len(m) == 0 && r.Cgroup == "" {
		// For a moment within execve a process shows no environment, so one empty look proves nothing.
		time.Sleep(execWindow)
		m, err = membersOf(r)
	}
	return err == nil && len(m) == 0, err
}

// execWindow is far more than an execve takes between giving up the old memory and placing the new environment.
const execWindow = 10 * time.Millisecond

// reapChild takes the exit status of a child that an earlier program image of this same process started.
func reapChild(p proc) {
	if st, err := readStat(p.PID); err == nil && st.Start == p.Start && st.dead() && st.Parent == os.Getpid() {
		_, _ = unix.Wait4(p.PID, nil, unix.WNOHANG, nil) // ECHILD: the start's own waiter was faster
	}
}

// Status reads the pid file and asks the kernel about exactly that process.
func (d *process) Status(context.Context) (Status, error) {
	r, err := d.read()
	if err != nil {
		return Status{Detail: err.Error()}, err
	}
	if r == nil {
		return Status{Detail: "not started"}, nil
	}
	main := proc{r.PID, r.Start}
	if r.PID > 0 {
		alive, err := main.alive()
		if err != nil {
			return Status{Detail: err.Error()}, fmt.Errorf("asking for process %d: %w", r.PID, err)
		}
		if alive {
			return Status{Running: true, PID: r.PID, Since: main.since(), Detail: fmt.Sprintf("process %d runs", r.PID)}, nil
		}
	}
	f, err := d.look()
	if err != nil {
		return Status{Detail: err.Error()}, err
	}
	switch {
	case f.rec == nil:
		return Status{Detail: "not started"}, nil
	case f.alive:
		return Status{Running: true, PID: f.main.PID, Since: f.main.since(), Detail: fmt.Sprintf("process %d runs", f.main.PID)}, nil
	case f.main.PID == 0:
		return Status{Failed: true, Detail: "the start was interrupted"}, nil
	}
	detail := fmt.Sprintf("process %d has ended", f.main.PID)
	d.mu.Lock()
	if how := d.exits[f.main]; how != "" {
		detail += ": " + how
	}
	d.mu.Unlock()
	if n := len(f.members); n > 0 {
		detail += fmt.Sprintf(", %d of its processes are left", n)
	}
	return Status{Failed: true, Detail: detail}, nil
}

// Start is done when the program has been executed; whether it serves is for health to say. What is left of an earlier
// start is killed first. A program that runs already is adopted.
func (d *process) Start(ctx context.Context, epoch uint64) error {
	if err := d.takeTurn(ctx); err != nil {
		return fmt.Errorf("starting %s: %w", d.spec.Command[0], err)
	}
	defer d.endTurn()
	f, err := d.look()
	if err != nil {
		return fmt.Errorf("starting %s: %w", d.spec.Command[0], err)
	}
	if f.alive {
		if f.rec.PID == 0 {
			return d.adopt(f)
		}
		return nil
	}
	if f.rec != nil {
		if err := d.kill(ctx); err != nil {
			return fmt.Errorf("clearing what an earlier start left: %w", err)
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("starting %s: %w", d.spec.Command[0], err)
	}
	if err := d.launch(epoch); err != nil {
		return fmt.Errorf("starting %s: %w", d.spec.Command[0], err)
	}
	d.notify()
	return nil
}

// adopt completes the record of a start that the agent did not live to write down.
func (d *process) adopt(f found) error {
	r := *f.rec
	r.PID, r.Start = f.main.PID, f.main.Start
	d.log.Info("adopting the process of an interrupted start", "pid", r.PID)
	defer d.notify()
	return d.write(r)
}

// Stop asks the process group to end, then all that is left, and kills what is still there when ctx or pending_timeout
// runs out. A ctx that is cancelled, not expired, ends the wait and kills nothing.
func (d *process) Stop(ctx context.Context, _ uint64) error {
	bctx, cancel := bound(ctx, d.spec.PendingTimeout, defaultPending)
	defer cancel()
	f, err := d.look()
	if err != nil {
		return fmt.Errorf("stopping %s: %w", d.spec.Name, err)
	}
	if f.rec == nil {
		return nil
	}
	if f.alive {
		d.signalGroup(f.main)
		if w, err := watchDeath(f.main); err == nil {
			select {
			case <-w.done():
			case <-bctx.Done():
			}
			w.stop()
		} else if !errors.Is(err, unix.ESRCH) { // a kernel without pidfd
			d.waitEmpty(bctx, *f.rec)
		}
	}
	// What has left the process group has not heard of the stop yet. It gets the same signal and the budget of a kill.
	if rest, err := membersOf(*f.rec); err == nil && bctx.Err() == nil {
		for _, p := range rest {
			_ = p.signal(d.sig) // a process that cannot be told is killed below
		}
		gctx, stop := bound(bctx, d.spec.StopBudget, defaultStopBudget)
		d.waitEmpty(gctx, *f.rec)
		stop()
	}
	if err := ctx.Err(); errors.Is(err, context.Canceled) {
		return fmt.Errorf("stopping %s: %w", d.spec.Name, err)
	}
	if ok, err := gone(*f.rec); !ok {
		d.log.Warn("stop overran, killing", "err", err)
	}
	kctx, stop := bound(context.WithoutCancel(ctx), d.spec.StopBudget, defaultStopBudget)
	defer stop()
	return d.Kill(kctx)
}

// signalGroup sends the stop signal to main's process group, and wakes it up to hear it.
func (d *process) signalGroup(main proc) {
	for _, s := range []unix.Signal{d.sig, unix.SIGCONT} {
		if err := unix.Kill(-main.PID, s); err != nil { // main may have made itself no group leader: then only main
			_ = main.signal(s)
		}
	}
}

// Kill ends every process of the start with SIGKILL and returns nil only when none is left.
func (d *process) Kill(ctx context.Context) error {
	ctx, cancel := bound(ctx, d.spec.StopBudget, defaultStopBudget)
	defer cancel()
	if err := d.takeTurn(ctx); err != nil {
		return fmt.Errorf("killing %s: a start or another kill hangs: %w", d.spec.Name, err)
	}
	defer d.endTurn()
	return d.kill(ctx)
}

// kill is Kill for a caller that has the turn.
func (d *process) kill(ctx context.Context) error {
	f, err := d.look()
	if err != nil {
		return fmt.Errorf("killing %s: %w", d.spec.Name, err)
	}
	if f.rec == nil {
		return nil
	}
	defer d.notify()
	if err := d.killAll(ctx, *f.rec); err != nil {
		return fmt.Errorf("killing %s: %w", d.spec.Name, err)
	}
	if f.rec.Cgroup != "" {
		if err := removeCgroup(f.rec.Cgroup); err != nil {
			d.log.Warn("empty cgroup stays", "err", err)
		}
	}
	if err := d.drop(*f.rec); err != nil {
		return fmt.Errorf("removing the pid file: %w", err)
	}
	return nil
}

// drop removes the record of a start of which nothing is left, and no other: the dead man and the agent may kill at the same
// time, and whoever is first may have started it again meanwhile. Without its record that start would run unseen, and a
// kill would prove that nothing runs. No lock: the dead man must not wait for an agent that is frozen with it.
func (d *process) drop(r record) error {
	if now, err := d.read(); err == nil && (now == nil || now.Instance != r.Instance) {
		return nil
	}
	aside := d.file(".pid." + newInstance()[:12])
	if err := os.Rename(d.file(".pid"), aside); err != nil {
		if os.IsNotExist(err) {
			return nil
		}
		return err
	}
	b, err := os.ReadFile(aside)
	if err != nil {
		return err
	}
	// A link replaces nothing: where a newer record of that start is there by now, it stays.
	if now, err := parseRecord(b); err == nil && now.Instance != r.Instance {
		if err := os.Link(aside, d.file(".pid")); err != nil && !os.IsExist(err) {
			return err
		}
	}
	return removeFile(aside)
}

func (d *process) takeTurn(ctx context.Context) error {
	select {
	case d.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *process) endTurn() { <-d.turn }

// killAll repeats the kill until nothing is left: what forks between the listing and the signal is met in the next round.
func (d *process) killAll(ctx context.Context, r record) error {
	known := map[proc]bool{}
	if r.PID > 0 {
		known[proc{r.PID, r.Start}] = true
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 25*time.Millisecond) {
		if r.Cgroup != "" {
			killCgroup(r.Cgroup) // else, or for a process that has left the cgroup, one by one below
		}
		members, err := membersOf(r)
		if err != nil {
			return err
		}
		for _, m := range members {
			known[m] = true
		}
		left := 0
		for p := range known { // seen once is ours for good, whatever it does to its session or parent
			alive, err := p.alive()
			if err != nil {
				return err
			}
			if !alive {
				reapChild(p)
				delete(known, p)
				continue
			}
			left++
			if err := p.signal(unix.SIGKILL); err != nil {
				return err
			}
		}
		if left == 0 {
			if ok, err := gone(r); ok || err != nil {
				return err
			}
		}
		if !pause(ctx, wait) {
			return fmt.Errorf("%d processes are left, or some that are about to end: %w: %w", left, ErrStillRunning, ctx.Err())
		}
	}
}

// waitEmpty waits until nothing of the start is left or ctx ends.
func (d *process) waitEmpty(ctx context.Context, r record) {
	for wait := 2 * time.Millisecond; ; wait = min(2*wait, 25*time.Millisecond) {
		if ok, err := gone(r); err != nil || ok || !pause(ctx, wait) {
			return
		}
	}
}

// notify tells Watch that the pid file has changed.
func (d *process) notify() {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.changed)
	d.changed = make(chan struct{})
}

// Watch wakes at the death of the program, known by its pidfd, and at each start, stop and kill made here. It also keeps
// the log bounded. An error means that the kernel gives no pidfd.
func (d *process) Watch(ctx context.Context, wake func()) error {
	size := time.NewTicker(logCheck)
	defer size.Stop()
	for ctx.Err() == nil {
		d.mu.Lock()
		changed := d.changed
		d.mu.Unlock()
		f, err := d.look()
		var end *death
		if err == nil && f.alive {
			end, err = watchDeath(f.main)
			if errors.Is(err, errors.ErrUnsupported) {
				return fmt.Errorf("watching process %d: %w", f.main.PID, err)
			}
		}
		if err != nil && !errors.Is(err, unix.ESRCH) {
			d.log.Warn("cannot watch", "err", err)
		}
		wake()
		again := false
		for !again {
			select {
			case <-ctx.Done():
				again = true
			case <-changed:
				again = true
			case <-end.done():
				wake()
				end.stop()
				end = nil
			case <-size.C:
				if err := rotate(d.file(".log"), logMax); err != nil {
					d.log.Warn("log cannot be rotated", "err", err)
				}
			}
		}
		end.stop()
	}
	return nil
}

// newInstance is a random mark of one start.
func newInstance() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return hex.EncodeToString(b)
}

// describe says how a child ended.
func describe(st *os.ProcessState) string {
	ws, ok := st.Sys().(syscall.WaitStatus)
	if ok && ws.Signaled() {
		return "killed by " + unix.SignalName(ws.Signal())
	}
	return fmt.Sprintf("exit status %d", st.ExitCode())
}
