package fence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/internal/boottime"
)

// watchdogVar tells the agent which watchdog stands behind it.
const watchdogVar = "HAD_WATCHDOG"

func (i WatchdogInfo) encode() string {
	text, _ := json.Marshal(i) // strings, numbers and truth values: cannot fail
	return string(text)
}

// keep feeds the watchdog until ctx ends.
func (d *DeadMan) keep(ctx context.Context) {
	d.pulse.Beat(boottime.Now()) // an agent needs a moment to its first word
	Keep(ctx, d.Watchdog, KeepOptions{Every: feedEvery(d.Watchdog.Info().Timeout), Now: boottime.Now, Log: d.Log, Refuse: d.refuse})
}

func (d *DeadMan) refuse(now time.Time) string {
	silent := d.pulse.Age(now)
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.clock.starving(now, Patience(d.exclusive()), silent)
}

// endWatchdog disarms the watchdog if nothing is held. Else it stays armed: a successor feeds it, or the executor disarms it
// when it has taken everything away, or the machine is reset.
func (d *DeadMan) endWatchdog() {
	if d.Watchdog == nil {
		return
	}
	d.mu.Lock()
	held := !d.clock.until.IsZero() && !d.clock.proven
	d.mu.Unlock()
	var err error
	if held {
		d.Log.Warn("something is still held: the watchdog stays armed", "reset_in", d.Watchdog.Info().Timeout)
		err = d.Watchdog.Close()
	} else {
		err = d.Watchdog.Disarm()
		_ = os.Remove(d.Will) // nothing is held that a successor could inherit
	}
	switch {
	case errors.Is(err, ErrWatchdogStaysArmed):
		d.Log.Error("this machine will be reset unless had or another program feeds the watchdog", "reset_in", d.Watchdog.Info().Timeout, "err", err)
	case err != nil:
		d.Log.Error("ending the use of the watchdog", "err", err)
	}
}

// heir is the watchdog in the hands of an executor. It opens the device only for the moment of feeding it: whoever starts the
// agent again must be able to.
type heir struct {
	Device  string        `json:"device,omitempty"` // empty: there is none
	Timeout time.Duration `json:"timeout_ns,omitempty"`

	theirs bool // a successor has it
}

// touch feeds the device, and disarms it when the lease is over and nothing is left of what it covered.
func (h *heir) touch(disarm bool) error {
	if h.Device == "" || h.theirs {
		return nil
	}
	w, err := OpenWatchdog(h.Device, h.Timeout) // feeds
	if errors.Is(err, unix.EBUSY) {
		h.theirs = true
		return nil
	}
	if err != nil {
		return fmt.Errorf("feeding the watchdog of an agent that has ended: %w", err)
	}
	if disarm {
		return w.Disarm()
	}
	return w.Close()
}

// openRetry is for how long OpenWatchdogFor waits for a device that is busy: an executor or the process before lets go of it.
const openRetry = 3 * time.Second

// OpenWatchdogFor arms the watchdog as the configuration says: nil without an error where it is off, or auto and there is none
// that can be used; why says so then. With required every such case is an error, also a device that its driver disarms when
// the process that feeds it dies: it would prove nothing.
func OpenWatchdogFor(mode WatchdogMode, device string, timeout time.Duration) (w *Watchdog, why string, err error) {
	if mode == WatchdogOff {
		return nil, "", nil
	}
	for end := time.Now().Add(openRetry); ; time.Sleep(50 * time.Millisecond) {
		w, err = OpenWatchdog(device, timeout)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			break
		}
	}
	switch {
	case errors.Is(err, unix.EBUSY):
		err = fmt.Errorf("%w: another program feeds it, systemd for one (RuntimeWatchdogSec= in system.conf)", err)
	case err == nil && mode == WatchdogRequired && !w.Info().Lasting():
		err = errors.Join(fmt.Errorf("watchdog %s (%s): its driver has no magic close: it is disarmed when the process that feeds it dies", device, w.Info().Identity), w.Disarm())
	}
	if err != nil && mode != WatchdogRequired {
		return nil, err.Error(), nil
	}
	if err != nil {
		return nil, "", err
	}
	return w, "", nil
}
