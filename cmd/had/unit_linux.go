package main

import (
	"context"
	"fmt"

	"github.com/coreos/go-systemd/v22/dbus"
)

func withSystemd(ctx context.Context, do func(*dbus.Conn) error) error {
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return fmt.Errorf("systemd is not reachable on the system bus (use --root in an image): %w", err)
	}
	defer conn.Close()
	return do(conn)
}

func reloadUnits(ctx context.Context) error {
	return withSystemd(ctx, func(c *dbus.Conn) error { return c.ReloadContext(ctx) })
}

// enableUnit has systemd start the agent at boot, and now if asked to.
func enableUnit(ctx context.Context, now bool) error {
	return withSystemd(ctx, func(c *dbus.Conn) error {
		if err := c.ReloadContext(ctx); err != nil {
			return fmt.Errorf("reloading units: %w", err)
		}
		if _, _, err := c.EnableUnitFilesContext(ctx, []string{unitName}, false, true); err != nil {
			return fmt.Errorf("enabling %s: %w", unitName, err)
		}
		if !now {
			return nil
		}
		done := make(chan string, 1)
		if _, err := c.RestartUnitContext(ctx, unitName, "replace", done); err != nil {
			return fmt.Errorf("starting %s: %w", unitName, err)
		}
		if result := <-done; result != "done" {
			return fmt.Errorf("starting %s: %s: see journalctl -u had", unitName, result)
		}
		return nil
	})
}

func disableUnit(ctx context.Context) error {
	return withSystemd(ctx, func(c *dbus.Conn) error {
		done := make(chan string, 1)
		if _, err := c.StopUnitContext(ctx, unitName, "replace", done); err == nil {
			<-done
		}
		if _, err := c.DisableUnitFilesContext(ctx, []string{unitName}, false); err != nil {
			return fmt.Errorf("disabling %s: %w", unitName, err)
		}
		return nil
	})
}
