package resources

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// Watch wakes at each change of the unit's properties and at the death of its main process. Signals are subscribed on a
// connection of its own; when that is lost (bus restarted), or systemd has executed itself anew, it subscribes again and
// wakes once for what may have been missed. It ends only with ctx.
func (d *systemd) Watch(ctx context.Context, wake func()) error {
	quiet := false
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		began := time.Now()
		err := d.watch(ctx, wake)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > 5*time.Second { // it did work for a while
			wait, quiet = 50*time.Millisecond, false
		}
		if !quiet {
			d.log.Warn("subscription to systemd was lost, trying again", "err", err)
			quiet = true
		}
		wake()
		if !pause(ctx, wait) {
			return nil
		}
	}
}

// subscribe opens a connection on which the unit's signals arrive.
func (d *systemd) subscribe(ctx context.Context) (*dbus.Conn, chan *dbus.Signal, error) {
	c, direct, err := dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	// The buffer only smooths bursts: godbus queues without bound behind it, so no signal is dropped.
	signals := make(chan *dbus.Signal, 64)
	c.Signal(signals)
	if direct { // signals come unasked there
		return c, signals, nil
	}
	for _, match := range [][]dbus.MatchOption{
		{dbus.WithMatchSender(systemdName), dbus.WithMatchObjectPath(unitObject(d.unit)),
			dbus.WithMatchInterface("org.freedesktop.DBus.Properties"), dbus.WithMatchMember("PropertiesChanged")},
		{dbus.WithMatchSender(systemdName), dbus.WithMatchInterface(managerIf), dbus.WithMatchMember("Reloading")},
		{dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, systemdName)},
	} {
		if err := c.AddMatchSignalContext(ctx, match...); err != nil {
			c.Close()
			return nil, nil, fmt.Errorf("subscribing to unit %s: %w", d.unit, err)
		}
	}
	if err := c.Object(systemdName, systemdPath).CallWithContext(ctx, managerIf+".Subscribe", 0).Err; err != nil {
		c.Close()
		return nil, nil, fmt.Errorf("subscribing to systemd: %w", err)
	}
	return c, signals, nil
}

// watch serves one subscription until it is lost.
func (d *systemd) watch(ctx context.Context, wake func()) error {
	c, signals, err := d.subscribe(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	var end *death
	defer func() { end.stop() }()
	pid := uint32(0)
	follow := func(now uint32) {
		if now != pid {
			end.stop()
			pid, end = now, d.mainDeath(now)
		}
	}
	_, p, err := d.show(ctx)
	if err != nil {
		return err
	}
	follow(p.MainPID)
	wake() // what happened before the subscription
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end.done():
			d.died.Store(int64(pid))
			end.stop()
			end = nil
			wake()
		case sig, ok := <-signals:
			if !ok {
				return errors.New("connection closed")
			}
			ev, err := readSignal(sig, unitObject(d.unit))
			if err != nil {
				return err // subscribe anew
			}
			if ev.hasPID {
				follow(ev.pid)
			}
			if ev.ours {
				wake()
			}
		}
	}
}

// mainDeath waits for the end of a main process. Where that is not possible the signals must do.
func (d *systemd) mainDeath(pid uint32) *death {
	if pid == 0 {
		return nil
	}
	st, err := readStat(int(pid))
	if err == nil {
		var end *death
		if end, err = watchDeath(proc{st.PID, st.Start}); err == nil {
			return end
		}
	}
	if !errors.Is(err, unix.ESRCH) {
		d.log.Debug("main process cannot be watched", "pid", pid, "err", err)
	}
	return nil
}

// event is what one signal means for a unit.
type event struct {
	ours   bool // Status may show something new
	hasPID bool
	pid    uint32
}

// readSignal sorts one signal. The error says that systemd is a new one, which knows nothing of our subscription.
func readSignal(sig *dbus.Signal, unit dbus.ObjectPath) (event, error) {
	switch sig.Name {
	case "org.freedesktop.DBus.NameOwnerChanged":
		if len(sig.Body) > 0 && sig.Body[0] == systemdName {
			return event{}, errors.New("systemd has a new connection to the bus")
		}
	case managerIf + ".Reloading":
		return event{ours: true}, nil
	case "org.freedesktop.DBus.Properties.PropertiesChanged":
		if sig.Path != unit {
			return event{}, nil
		}
		ev := event{ours: true}
		if len(sig.Body) > 1 {
			if m, ok := sig.Body[1].(map[string]dbus.Variant); ok {
				ev.pid, ev.hasPID = m["MainPID"].Value().(uint32)
			}
		}
		return ev, nil
	}
	return event{}, nil
}
