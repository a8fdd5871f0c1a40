package resources

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

const (
	runtimeUnits = "/run/systemd/system" // gone after a reboot, like all that the cluster has decided about a unit
	dropInName   = "50-had.conf"
	dropInText   = "# Written by had: the cluster decides about restarts of this unit.\n[Service]\nRestart=no\n"
)

var manageMu sync.Mutex // one daemon-reload at a time

func dropIn(unit string) string { return filepath.Join(runtimeUnits, unit+".d", dropInName) }

// Manage keeps systemd from restarting the unit behind the cluster's back: where Restart= is not "no" it writes a runtime
// drop-in and reloads systemd. It does nothing when that is so already, and is called at adoption and before each start.
// The error says which drop-in is in the way when the setting does not take effect.
func Manage(ctx context.Context, unit string) error {
	unit = unitName(unit)
	manageMu.Lock()
	defer manageMu.Unlock()
	s, p, err := showUnit(ctx, unit)
	if err != nil {
		return fmt.Errorf("managing unit %s: %w", unit, err)
	}
	if p.Load != "loaded" || p.Restart == "" || p.Restart == "no" {
		return nil
	}
	file := dropIn(unit)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("managing unit %s: %w", unit, err)
	}
	if err := os.WriteFile(file, []byte(dropInText), 0o644); err != nil {
		return fmt.Errorf("managing unit %s: %w", unit, err)
	}
	if err := s.ReloadContext(ctx); err != nil {
		return fmt.Errorf("managing unit %s: reloading systemd: %w", unit, err)
	}
	if _, p, err = showUnit(ctx, unit); err != nil {
		return fmt.Errorf("managing unit %s: %w", unit, err)
	}
	if p.Restart != "no" {
		return fmt.Errorf("managing unit %s: Restart=%s stays in force; remove it from one of %s",
			unit, p.Restart, strings.Join(p.DropIns, ", "))
	}
	return nil
}

// Unmanage takes the drop-in away and reloads systemd, if there is one.
func Unmanage(ctx context.Context, unit string) error {
	unit = unitName(unit)
	manageMu.Lock()
	defer manageMu.Unlock()
	file := dropIn(unit)
	if err := os.Remove(file); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("releasing unit %s: %w", unit, err)
	}
	_ = os.Remove(filepath.Dir(file)) // others may have drop-ins there too
	s, err := connect(ctx)
	if err == nil {
		err = s.ReloadContext(ctx)
	}
	if err != nil {
		return fmt.Errorf("releasing unit %s: reloading systemd: %w", unit, err)
	}
	return nil
}

// UnmanageAll takes away every drop-in that Manage wrote on this machine and returns the units. systemd must be reloaded
// afterwards, by the caller.
func UnmanageAll() (units []string, err error) {
	manageMu.Lock()
	defer manageMu.Unlock()
	files, err := filepath.Glob(filepath.Join(runtimeUnits, "*.d", dropInName))
	for _, f := range files {
		if e := os.Remove(f); e != nil {
			err = errors.Join(err, fmt.Errorf("removing a drop-in: %w", e))
			continue
		}
		_ = os.Remove(filepath.Dir(f)) // others may have drop-ins there too
		units = append(units, strings.TrimSuffix(filepath.Base(filepath.Dir(f)), ".d"))
	}
	return units, err
}

// Adopt implements Adopter.
func (d *systemd) Adopt(ctx context.Context) error { return Manage(ctx, d.unit) }

// Disown implements Adopter.
func (d *systemd) Disown(ctx context.Context) error { return Unmanage(ctx, d.unit) }

// Warnings names the settings by which systemd would run the unit behind the cluster's back.
func (d *systemd) Warnings(ctx context.Context) []string {
	_, p, err := d.show(ctx)
	if err != nil {
		return []string{oneLine(err.Error())}
	}
	return p.warnings(d.unit, d.spec.EveryNode)
}

func (p unitProps) warnings(unit string, everyNode bool) []string {
	var w []string
	switch p.Load {
	case "loaded", "":
	case "not-found":
		return []string{fmt.Sprintf("Unit %s is not found on this node; install it, or take the node out of possible_owners.", unit)}
	case "masked":
		return []string{fmt.Sprintf("Unit %s is masked and cannot be started; run: systemctl unmask %s", unit, unit)}
	default:
		return []string{fmt.Sprintf("Unit %s cannot be loaded (%s: %s); run: systemctl status %s", unit, p.Load, oneLine(p.LoadError), unit)}
	}
	if !everyNode && (p.FileState == "enabled" || p.FileState == "enabled-runtime") {
		w = append(w, fmt.Sprintf("Unit %s is %s and would start at boot on every node, outside of the cluster; run: systemctl disable %s",
			unit, p.FileState, unit))
	}
	if p.Restart != "" && p.Restart != "no" {
		w = append(w, fmt.Sprintf("Unit %s has Restart=%s: systemd would restart it behind the cluster's back; write the two lines "+
			"[Service] and Restart=no to /etc/systemd/system/%s.d/%s, then run: systemctl daemon-reload", unit, p.Restart, unit, dropInName))
	}
	if len(p.TriggeredBy) > 0 && !everyNode {
		w = append(w, fmt.Sprintf("Unit %s can be started by %s, outside of the cluster; run: systemctl disable --now %s",
			unit, strings.Join(p.TriggeredBy, ", "), strings.Join(p.TriggeredBy, " ")))
	}
	return w
}
