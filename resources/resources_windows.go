package resources

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
)

// newDriver has no driver yet on Windows: services and job objects come with the Windows port.
func newDriver(s Spec, _ *slog.Logger) (Driver, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("not available on Windows: %w", errors.ErrUnsupported)
}

// Manage is for systemd units only.
func Manage(context.Context, string) error {
	return fmt.Errorf("managing a systemd unit: %w", errors.ErrUnsupported)
}

// Unmanage is for systemd units only.
func Unmanage(context.Context, string) error {
	return fmt.Errorf("releasing a systemd unit: %w", errors.ErrUnsupported)
}

// UnmanageAll has nothing to take away on Windows.
func UnmanageAll() ([]string, error) { return nil, nil }

// Close has nothing to close on Windows.
func Close() {}
