package health

import (
	"context"
	"fmt"
	"os"

	"github.com/coreos/go-systemd/v22/dbus"
)

// newSystemd asks systemd for the state of a unit. "active" means that systemd thinks so, never that the service
// serves: use it beside a probe that asks the service.
func newSystemd(s Spec) (asker, error) {
	if s.Unit == "" {
		return nil, fmt.Errorf("unit: %w", ErrMissing)
	}
	return func(ctx context.Context) answer {
		// sd_booted(3): the same question, without waiting for a bus that will never come.
		if _, err := os.Lstat("/run/systemd/system"); err != nil {
			return say(Skip, "systemd does not run here: %v", err)
		}
		conn, err := dbus.NewWithContext(ctx)
		if err != nil {
			return say(Skip, "connecting to systemd: %v", err)
		}
		defer conn.Close()
		var state [3]string
		for i, name := range [...]string{"ActiveState", "SubState", "LoadState"} {
			p, err := conn.GetUnitPropertyContext(ctx, s.Unit, name)
			if err != nil {
				return say(Skip, "asking systemd for %s of %s: %v", name, s.Unit, err)
			}
			state[i], _ = p.Value.Value().(string)
		}
		return judgeUnit(s.Unit, state[0], state[1], state[2])
	}, nil
}

// judgeUnit maps org.freedesktop.systemd1.Unit's states. "activating" is no pass (it includes auto-restart); while the
// resource starts, the fold's grace covers it.
func judgeUnit(unit, active, sub, load string) answer {
	switch {
	case load == "not-found":
		return say(Fail, "unit %s is not installed", unit)
	case active == "active", active == "reloading", active == "refreshing":
		return say(Pass, "unit %s is %s (%s)", unit, active, sub)
	case active == "maintenance":
		return say(Warn, "unit %s is in maintenance (%s)", unit, sub)
	case active == "":
		return say(Skip, "systemd gave no state for %s", unit)
	}
	return say(Fail, "unit %s is %s (%s)", unit, active, sub)
}
