package fence

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"hacluster/resources"
)

// WatchdogMode says whether the agent uses the watchdog device.
type WatchdogMode string

const (
	WatchdogOff      WatchdogMode = "off"
	WatchdogAuto     WatchdogMode = "auto"     // use it where there is one
	WatchdogRequired WatchdogMode = "required" // refuse to own anything without it
)

// WatchdogModes in the order they are documented.
var WatchdogModes = []WatchdogMode{WatchdogOff, WatchdogAuto, WatchdogRequired}

// Defaults of [watchdog].
const (
	DefaultWatchdogDevice  = "/dev/watchdog"
	DefaultWatchdogTimeout = 10 * time.Second
)

// ErrWatchdogStaysArmed says that the driver cannot be told to stop: the node resets at the timeout.
var ErrWatchdogStaysArmed = errors.New("the watchdog cannot be disarmed (nowayout): the node resets at its timeout unless something feeds it")

// WatchdogInfo is what the driver says about itself.
type WatchdogInfo struct {
	Identity   string        `json:"identity"`
	Timeout    time.Duration `json:"timeout"`              // in force, which may be longer than what was asked for
	Pretimeout time.Duration `json:"pretimeout,omitempty"` // in force; 0: none
	MagicClose bool          `json:"magic_close"`          // closing without Disarm leaves it armed; without it every close disarms
	NoWayOut   bool          `json:"no_way_out"`           // the kernel will not disarm it
}

// feeder is what Keep must know of a watchdog.
type feeder interface{ Feed() error }

// Pulse is the sign of life of the act loop: the loop beats, and the watchdog is fed only while it does.
type Pulse struct{ last atomic.Int64 } // ns of the caller's clock

// Beat notes progress at now. The clock is the caller's; boot time keeps counting while the machine sleeps, so that a
// machine that wakes up too late is reset.
func (p *Pulse) Beat(now time.Time) { p.last.Store(now.UnixNano()) }

// Age is how long ago the last beat was; before the first it is longer than any limit.
func (p *Pulse) Age(now time.Time) time.Duration {
	last := p.last.Load()
	if last == 0 {
		return 1<<63 - 1
	}
	return now.Sub(time.Unix(0, last))
}

// Silent refuses to feed once the last beat is older than limit; it fits KeepOptions.Refuse.
func (p *Pulse) Silent(limit time.Duration) func(now time.Time) string {
	return func(now time.Time) string {
		if age := p.Age(now); age > limit {
			return fmt.Sprintf("the act loop makes no progress (limit %s)", limit)
		}
		return ""
	}
}

// KeepOptions are what Keep needs; all fields but Log are required.
type KeepOptions struct {
	Refuse func(now time.Time) string // why the watchdog must not be fed now; empty: it is fed
	Every  time.Duration              // between two looks; at most a third of the watchdog's timeout
	Now    func() time.Time           // boot time: it counts on while the machine sleeps
	Log    *slog.Logger               // optional
}

// Keep feeds the watchdog while nothing stands against it, until ctx ends. It does not disarm: whoever ends ctx in good order
// does that afterwards. A node that may be fed again is, if it still lives.
//
// A node is reset at the latest Every + the watchdog's timeout after Refuse began to refuse.
func Keep(ctx context.Context, w feeder, o KeepOptions) {
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	t := time.NewTicker(o.Every)
	defer t.Stop()
	starving, failing := false, false
	for {
		why := o.Refuse(o.Now())
		if (why != "") != starving {
			if starving = why != ""; starving {
				log.Error("not feeding the watchdog: this machine will be reset", "reason", why)
			} else {
				log.Warn("feeding the watchdog again")
			}
		}
		if !starving {
			err := w.Feed()
			if err != nil && !failing {
				log.Error("the watchdog refuses to be fed", "err", err)
			}
			failing = err != nil
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// Bounds of the timeout of [watchdog]. A restart of had leaves the device armed and unfed for as long as it takes, a second
// or two on a busy machine, so a shorter timeout would reset healthy machines.
const (
	MinWatchdogTimeout = 5 * time.Second
	MaxWatchdogTimeout = 10 * time.Minute
)

// CheckWatchdog reports a timeout that no device can be set to. No takeover waits for the watchdog, so nothing forces it below
// the takeover wait: it is what becomes of a machine on which every other layer failed (DESIGN.md).
func CheckWatchdog(timeout time.Duration) error {
	if timeout < time.Second || timeout > MaxWatchdogTimeout {
		return fmt.Errorf("watchdog timeout %v is not between 1s and %v", timeout, MaxWatchdogTimeout)
	}
	return nil
}

// WatchdogPatience is how long after the end of a lease the proof may be missing that what it covered is gone, at least.
// WatchdogStale is how long the act loop may be silent while something is held.
const (
	WatchdogPatience = 5 * time.Second
	WatchdogStale    = 15 * time.Second
)

// Patience is how long after the end of a lease these exclusive resources may take to be proven gone before a watchdog is
// no longer fed.
func Patience(exclusive []resources.Spec) time.Duration {
	p := WatchdogPatience
	for _, s := range exclusive {
		p = max(p, s.StopBudget+time.Second)
	}
	return p
}

// ResetWithin is how long after the end of its lease a node is reset, at the latest, on which something may still run that the
// lease covered.
func (i WatchdogInfo) ResetWithin(patience time.Duration) time.Duration {
	return patience + feedEvery(i.Timeout) + i.Timeout
}

// Lasting says that the device stays armed when the process that feeds it dies. Only then it is a proof of anything.
func (i WatchdogInfo) Lasting() bool { return i.MagicClose || i.NoWayOut }

// feedEvery is how often a watchdog is fed.
func feedEvery(timeout time.Duration) time.Duration { return timeout / 4 }
