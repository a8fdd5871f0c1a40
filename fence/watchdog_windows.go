package fence

import (
	"errors"
	"fmt"
	"time"
)

// Watchdog does not exist on Windows.
type Watchdog struct{}

var errNoWatchdog = fmt.Errorf("watchdog devices are used on Linux only: %w", errors.ErrUnsupported)

// OpenWatchdog returns an error that is errors.ErrUnsupported.
func OpenWatchdog(string, time.Duration) (*Watchdog, error) { return nil, errNoWatchdog }

// Info is empty.
func (w *Watchdog) Info() WatchdogInfo { return WatchdogInfo{} }

// SetPretimeout returns an error that is errors.ErrUnsupported.
func (w *Watchdog) SetPretimeout(time.Duration) error { return errNoWatchdog }

// Feed returns an error that is errors.ErrUnsupported.
func (w *Watchdog) Feed() error { return errNoWatchdog }

// Disarm does nothing.
func (w *Watchdog) Disarm() error { return nil }

// Close does nothing.
func (w *Watchdog) Close() error { return nil }
