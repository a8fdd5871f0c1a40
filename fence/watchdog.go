package fence

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
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

// KeepOptions are what Keep needs; all fields but Log are required.
type KeepOptions struct {
	Pulse *Pulse
	Stale time.Duration    // silence of the act loop after which the watchdog is not fed any more
	Every time.Duration    // between two looks; at most a third of the watchdog's timeout
	Now   func() time.Time // the clock of Beat
	Log   *slog.Logger     // optional
}

// Keep feeds the watchdog while the act loop makes progress, until ctx ends. It does not disarm: whoever ends ctx in
// good order does that afterwards. A stale loop that comes back is fed again, if the node still lives.
//
// A node is reset at the latest Stale + Every + the watchdog's timeout after the last beat.
func Keep(ctx context.Context, w feeder, o KeepOptions) {
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	t := time.NewTicker(o.Every)
	defer t.Stop()
	starving, failing := false, false
	for {
		age := o.Pulse.Age(o.Now())
		if stale := age > o.Stale; stale != starving {
			if starving = stale; stale {
				log.Error("not feeding the watchdog: the act loop makes no progress", "age", age, "stale", o.Stale)
			} else {
				log.Warn("feeding the watchdog again", "age", age)
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

// CheckWatchdog reports a timeout that does not fit: it is a layer that ends a lease, so it must be shorter than what the
// takeover waits for silence when nothing else can be trusted, and long enough for a loop on a busy machine.
func CheckWatchdog(timeout time.Duration) error {
	if timeout < time.Second || timeout > 10*time.Minute {
		return fmt.Errorf("watchdog timeout %v is not between 1s and 10m", timeout)
	}
	return nil
}
