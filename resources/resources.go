package resources

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Errors a caller may want to tell apart. Test with errors.Is.
var (
	// ErrNoSystemd: there is no systemd to talk to.
	ErrNoSystemd = errors.New("systemd is not reachable on the system bus")
	// ErrStillRunning: the resource was killed and the operating system still shows something of it.
	ErrStillRunning = errors.New("still running")
	// ErrJob: systemd ended the start or stop job with another result than done.
	ErrJob = errors.New("systemd job did not succeed")
)

// Bounds that hold where neither the caller's context nor the Spec gives one.
const (
	defaultPending        = 3 * time.Minute // SEMANTICS.md: pending_timeout
	defaultStopBudget     = time.Second     // bound of a kill, part of the takeover wait
	defaultStatusInterval = 5 * time.Second
	statusBound           = 10 * time.Second // one call of a status command
)

// ProgressFactor bounds a start that keeps reporting progress, in pending_timeouts: progress without end is none.
const ProgressFactor = 10

// New gives the driver for s. It asks the operating system nothing: a driver for a unit that does not exist is fine, its
// Start says so. The error names what is missing in s, or wraps errors.ErrUnsupported where this platform has no such
// driver.
func New(s Spec, log *slog.Logger) (Driver, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if err := validName(s.Name); err != nil {
		return nil, fmt.Errorf("resource %q: %w", s.Name, err)
	}
	log = log.With("group", s.Group, "resource", s.Name)
	d, err := newDriver(s, log)
	if err != nil {
		return nil, fmt.Errorf("resource %q of type %s: %w", s.Name, s.Kind, err)
	}
	return d, nil
}

// validName refuses names that would leave StateDir when they become part of a file name.
func validName(name string) error {
	if name == "" || name[0] == '.' || strings.ContainsAny(name, "/\\\x00\n") {
		return errors.New("a name must not be empty, begin with a dot or contain a slash")
	}
	return nil
}

// check says what a Spec lacks for its Kind. Config has checked all this with line numbers; this is for other callers.
func (s Spec) check() error {
	var errs []error
	need := func(ok bool, what string) {
		if !ok {
			errs = append(errs, errors.New(what))
		}
	}
	switch s.Kind {
	case KindSystemd:
		need(s.Unit != "", "unit is missing")
		need(!strings.ContainsAny(s.Unit, "/\x00\n"), "unit must be a name, not a path")
	case KindProcess:
		need(len(s.Command) > 0, "command is missing")
		need(s.StateDir != "", "state directory is missing")
	case KindScript:
		need(len(s.Start) > 0, "start is missing")
		need(len(s.Stop) > 0, "stop is missing")
		need(len(s.Status) > 0, "status is missing")
	case KindAddress:
		errs = append(errs, errors.New("addresses are run by package vip"))
	default:
		errs = append(errs, errors.New("unknown type"))
	}
	need(!strings.ContainsAny(s.Group, "\x00\n"), "group must be one line")
	return errors.Join(errs...)
}

// bound limits ctx to limit, or to fallback where limit is not set.
func bound(ctx context.Context, limit, fallback time.Duration) (context.Context, context.CancelFunc) {
	if limit <= 0 {
		limit = fallback
	}
	return context.WithTimeout(ctx, limit)
}

// pause waits d or until ctx ends and reports whether ctx still lives.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
