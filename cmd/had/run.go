package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/urfave/cli/v2"

	"hacluster/config"
	"hacluster/fence"
	"hacluster/internal/identity"
	"hacluster/internal/urgency"
	"hacluster/node"
	"hacluster/raft"
)

// leaveTimeout bounds how long a stopping agent waits for its groups to come online elsewhere; TimeoutStopSec of the unit
// is longer.
const leaveTimeout = 45 * time.Second

// runVerb is `had run`.
type runVerb struct {
	config string
	alone  bool
}

func (v *runVerb) command() *cli.Command {
	return &cli.Command{Name: "run", Usage: "run the agent in the foreground",
		Flags:  []cli.Flag{configFlag(&v.config), &cli.BoolFlag{Name: "alone", Usage: "without the dead man, for debugging", Destination: &v.alone}},
		Action: func(c *cli.Context) error { return v.run(c.Context, c.App.ErrWriter) },
		Description: "A small parent, the dead man, starts the agent, starts it again when it dies or freezes, and takes away\n" +
			"what this node holds when its lease ends.\n" +
			"SIGTERM hands over what this node owns and ends the agent; while systemd restarts it, it only ends:\n" +
			"what runs goes on under its lease. SIGUSR1 always only ends it."}
}

func (v *runVerb) run(ctx context.Context, logTo io.Writer) error {
	cfg, err := config.LoadNode(v.config)
	if err != nil {
		return configError{err}
	}
	log := logger(cfg.Log, logTo)
	if err := urgency.Raise(); err != nil {
		log.Info("had runs without real-time priority; on a busy machine it may lose its lease", "err", err)
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, stopSignals...)
	defer signal.Stop(signals)
	line, err := fence.OpenLine()
	if err != nil {
		return err
	}
	if line == nil && !v.alone {
		if code, done, err := guard(ctx, v.config, cfg, log, signals); done {
			return exitCode(code, err)
		}
	}
	if line == nil && cfg.Watchdog.Mode == fence.WatchdogRequired {
		return configError{fmt.Errorf("%s: watchdog.mode is required, and there is no dead man here to feed one", v.config)}
	}
	return v.agent(ctx, cfg, line, log, signals)
}

// agent is the child of the dead man, or the only process where there is none.
func (v *runVerb) agent(ctx context.Context, cfg config.Node, line *fence.Line, log *slog.Logger, signals chan os.Signal) error {
	oneThread()
	rareCollections()
	if fence.AfterBrokenStore() {
		if err := raft.Writable(cfg.DataDir); err != nil {
			return err
		}
	}
	o := node.Options{Config: cfg, Version: version, Log: log}
	if line != nil {
		o.DeadMan, o.Watchdog = line, line.Watchdog()
	}
	n, err := node.Open(o)
	if err != nil {
		err = fmt.Errorf("starting node %s: %w", cfg.Name, err)
		if errors.Is(err, identity.ErrWiped) || errors.Is(err, identity.ErrMismatch) || errors.Is(err, identity.ErrNotMember) ||
			errors.Is(err, identity.ErrIncarnation) || errors.Is(err, raft.ErrDamaged) || errors.Is(err, raft.ErrWiped) {
			return configError{err}
		}
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	beat := newHeartbeat(line)
	beat.ready()
	timer := time.NewTicker(beat.every)
	defer timer.Stop()
	for {
		select {
		case err := <-ended:
			if errors.Is(err, node.ErrStartAgain) {
				return childExit(exitAgain) // the node has said why
			}
			return err
		case <-timer.C:
			beat.alive(n.Progress())
		case <-parentGone(line):
			line = nil
			n.Abandon(errors.New("the dead man has died"))
		case sig := <-signals:
			beat.stopping()
			if sig != keepSignal && !restarting(ctx) {
				v.leave(ctx, n, log, signals)
			}
			stop()
			return <-ended
		}
	}
}

// parentGone is closed when the dead man has died; it blocks for ever where there was none.
func parentGone(line *fence.Line) <-chan struct{} {
	if line == nil {
		return nil
	}
	return line.Gone()
}

// oneThread lets one thread at a time run Go code. The agent mostly waits; what it does takes microseconds, and with more
// threads the runtime spends a third of the agent's CPU time on waking and parking them. Moves take no longer.
func oneThread() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
}

// rareCollections trades memory for computing: what lives in an agent is a few megabytes, and collecting when it has doubled, as the
// runtime does by itself, is a tenth of what it computes with a hundred groups.
func rareCollections() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(200)
	}
}

// leave hands the groups over; a second signal ends the waiting.
func (v *runVerb) leave(ctx context.Context, n *node.Node, log *slog.Logger, signals <-chan os.Signal) {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	go func() {
		select {
		case <-signals:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := n.Leave(ctx); err != nil {
		log.Warn("stopping without having handed everything over; the lease will end by itself", "err", err)
	}
}

func logger(l config.Log, to io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.Level)); err != nil {
		level = slog.LevelInfo
	}
	o := &slog.HandlerOptions{Level: level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(to, o))
	}
	return slog.New(slog.NewTextHandler(to, o))
}
