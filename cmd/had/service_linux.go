package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"

	"github.com/urfave/cli/v2"

	"hacluster/config"
	"hacluster/fence"
)

const unitName = "had.service"

// keepSignal ends the agent and leaves everything as it is, for an upgrade by hand.
var keepSignal os.Signal = syscall.SIGUSR1

var stopSignals = []os.Signal{syscall.SIGTERM, syscall.SIGINT, keepSignal}

// stalled is how long the act loop may be silent before systemd's watchdog is no longer fed (it restarts us then).
const stalled = 15 * time.Second

// heartbeat tells the dead man how the agent is, and where there is none systemd itself (sd_notify(3); outside of systemd
// that does nothing).
type heartbeat struct {
	every time.Duration
	line  *fence.Line
}

func newHeartbeat(line *fence.Line) heartbeat { return heartbeat{watchdogEvery(), line} }

// watchdogEvery is how often systemd wants to hear of us.
func watchdogEvery() time.Duration {
	if limit, err := daemon.SdWatchdogEnabled(false); err == nil && limit > 0 {
		return limit / 3
	}
	return 5 * time.Second
}

func (h heartbeat) ready() {
	if h.line != nil {
		h.line.Ready()
		return
	}
	daemon.SdNotify(false, daemon.SdNotifyReady)
}

func (h heartbeat) stopping() {
	if h.line != nil {
		h.line.Ending()
		return
	}
	daemon.SdNotify(false, daemon.SdNotifyStopping)
}

// alive feeds the watchdog, but only while the act loop makes progress.
func (h heartbeat) alive(silent time.Duration) {
	if h.line == nil && silent < stalled { // the dead man hears of the act loop directly
		daemon.SdNotify(false, daemon.SdNotifyWatchdog)
	}
}

// guard is the parent's part of had run: it keeps an agent running until that ends for good.
func guard(ctx context.Context, file string, cfg config.Node, log *slog.Logger, signals <-chan os.Signal) (code int, done bool, err error) {
	bin, err := os.Executable()
	if err != nil {
		return exitFailed, true, err
	}
	dog, err := openWatchdog(cfg.Watchdog, log)
	if err != nil {
		return exitConfig, true, configError{fmt.Errorf("%s: watchdog.mode is required: %w", file, err)}
	}
	every, fed := watchdogEvery(), time.Time{}
	d := &fence.DeadMan{Agent: []string{bin, "run", "--config", file}, Log: log.With("process", "dead man"), Final: []int{exitConfig, exitUsage}, Again: exitAgain, Broken: exitBroken, Signals: signals,
		Executor: []string{bin, "execute"}, Will: fence.WillPath(cfg.Socket), Watchdog: dog,
		Ready:  func() { daemon.SdNotify(false, daemon.SdNotifyReady) },
		Ending: func() { daemon.SdNotify(false, daemon.SdNotifyStopping) },
		Alive: func() {
			if now := time.Now(); now.Sub(fed) > every {
				fed = now
				daemon.SdNotify(false, daemon.SdNotifyWatchdog)
			}
		}}
	code, err = d.Run(ctx)
	return code, true, err
}

// openWatchdog arms the watchdog device that the dead man feeds; nil: none is used.
func openWatchdog(c config.Watchdog, log *slog.Logger) (*fence.Watchdog, error) {
	dog, why, err := fence.OpenWatchdogFor(c.Mode, c.Device, c.Timeout)
	if err != nil {
		return nil, err
	}
	if why != "" {
		log.Info("no watchdog is used", "device", c.Device, "reason", why)
	}
	if dog == nil {
		return nil, nil
	}
	i := dog.Info()
	log.Info("watchdog armed", "device", c.Device, "identity", i.Identity, "timeout", i.Timeout)
	if i.NoWayOut {
		log.Warn("the watchdog cannot be disarmed (nowayout): this machine resets when had is stopped and nothing else feeds it", "device", c.Device)
	}
	if !i.Lasting() {
		log.Warn("the watchdog's driver disarms it when the dead man dies: it covers a frozen machine only", "device", c.Device)
	}
	return dog, nil
}

// restarting says that systemd will start the agent again as soon as it has ended: the pending job of our unit is a
// restart, or it ended by itself and Restart= applies. Where the answer is not certain it is no.
func restarting(ctx context.Context) bool {
	if os.Getenv("INVOCATION_ID") == "" {
		return false
	}
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return false
	}
	defer conn.Close()
	p, err := conn.GetUnitPropertyContext(ctx, unitName, "Job")
	if err != nil {
		return false
	}
	job, ok := p.Value.Value().([]any)
	if !ok || len(job) == 0 {
		return false
	}
	if id, ok := job[0].(uint32); ok && id == 0 {
		// Nobody asked for a stop. In ExecStopPost=, the only place with this variable (systemd.exec(5)), the agent has ended by
		// itself and Restart=always follows; where it does not, as after exit code 78, what is here serves until its lease ends.
		return os.Getenv("SERVICE_RESULT") != ""
	}
	jobs, err := conn.ListJobsContext(ctx)
	if err != nil {
		return false
	}
	path, _ := job[1].(godbus.ObjectPath)
	for _, j := range jobs {
		if j.JobPath == path {
			return j.JobType == "restart" || j.JobType == "start"
		}
	}
	return false
}

// executeVerb is `had execute`: what a dead man leaves behind when it ends before its lease does. Not for people.
type executeVerb struct{}

func (executeVerb) command() *cli.Command {
	return &cli.Command{Name: "execute", Hidden: true, Action: func(c *cli.Context) error {
		return fence.Execute(os.Stdin, logger(config.Log{Level: "info"}, c.App.ErrWriter).With("process", "executor"))
	}}
}
