package fence

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"time"

	"hacluster/internal/boottime"
	"hacluster/resources"
)

// order is what an executor is to carry out: at the end of the lease everything goes, unless a successor holds a later one.
type order struct {
	Until int64            `json:"until"` // boot time in ns since the clock's base
	Kill  []resources.Spec `json:"kill"`
	Will  string           `json:"will"` // file that tells of a successor's lease
	Last  int64            `json:"last"` // what it told when the agent had ended: the agent's own newest lease, which nobody holds any more
	Heir  heir             `json:"heir"`
}

// bequeath leaves an executor behind when the dead man ends while a lease is still running: nobody else would be there to
// take away what is held when no successor comes. It outlives this process and systemd's stop of the unit (KillMode=process).
func (d *DeadMan) bequeath() {
	d.mu.Lock()
	o := order{Kill: d.exclusive(), Will: d.Will}
	held := !d.clock.until.IsZero() && !d.clock.fired
	if d.clock.until.IsZero() || d.clock.proven {
		_ = os.Remove(heldPath(d.Will)) // nothing is held that a successor could inherit
	}
	if held {
		o.Until = d.clock.until.UnixNano()
		if d.Watchdog != nil {
			o.Heir = heir{Device: d.Watchdog.path, Timeout: d.Watchdog.Info().Timeout}
		}
	}
	d.mu.Unlock()
	if !held || len(d.Executor) == 0 {
		return
	}
	if last := ReadWill(o.Will); !last.IsZero() {
		o.Last = last.UnixNano()
	}
	if err := startExecutor(d.Executor, o); err != nil {
		d.Log.Error("no executor can be started; taking everything away at once", "err", err)
		d.release(o.Kill)
	}
}

func startExecutor(command []string, o order) error {
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if _, err := in.Write(text); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return fmt.Errorf("giving the executor its order: %w", err)
	}
	if err := in.Close(); err != nil {
		return err
	}
	return cmd.Process.Release()
}

// Execute is the executor: it waits for the end of the lease and takes everything away, unless by then a successor of this
// agent has a lease of its own: then that one answers for what is held.
func Execute(in io.Reader, log *slog.Logger) error {
	text, err := io.ReadAll(io.LimitReader(in, maxHeld+4096))
	if err != nil {
		return err
	}
	var o order
	if err := json.Unmarshal(text, &o); err != nil {
		return fmt.Errorf("reading the order: %w", err)
	}
	until := time.Unix(0, o.Until).UTC()
	for left := until.Sub(boottime.Now()); left > 0; left = until.Sub(boottime.Now()) {
		if o.Heir.Device != "" {
			left = min(left, feedEvery(o.Heir.Timeout)) // the first feeding can wait as long: the dead man was the last to feed
		}
		time.Sleep(left)
		if err := o.Heir.touch(false); err != nil {
			log.Error("the lease of an ended agent still runs", "err", err)
		}
	}
	return o.carryOut(until, log)
}

// carryOut takes everything away at the end of the lease, again and again until that is proven, as long as no successor answers
// for it: at most for the time a watchdog would give.
func (o *order) carryOut(until time.Time, log *slog.Logger) error {
	d := &DeadMan{Log: log}
	for end := time.Now().Add(max(Patience(o.Kill), o.Heir.Timeout)); ; time.Sleep(releaseRetry) {
		// The ended agent may have written a lease down that it could not tell the dead man of any more. It is no successor's.
		if next := ReadWill(o.Will); next.After(until) && next.UnixNano() > o.Last {
			return nil
		}
		if d.release(o.Kill) {
			return o.Heir.touch(true)
		}
		if time.Now().After(end) {
			return fmt.Errorf("what the lease covered cannot be proven gone: a human is needed")
		}
	}
}
