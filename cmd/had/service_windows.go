package main

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"hacluster/config"
	"hacluster/fence"
)

// keepSignal does not exist on Windows.
var keepSignal os.Signal = noSignal{}

type noSignal struct{}

func (noSignal) String() string { return "none" }
func (noSignal) Signal()        {}

var stopSignals = []os.Signal{os.Interrupt}

// heartbeat has nobody to speak to here.
type heartbeat struct {
	every time.Duration
}

func newHeartbeat(*fence.Line) heartbeat { return heartbeat{5 * time.Second} }

// guard: there is no dead man on Windows yet; the agent runs alone.
func guard(context.Context, string, config.Node, *slog.Logger, <-chan os.Signal) (code int, done bool, err error) {
	return 0, false, nil
}

func (heartbeat) ready()              {}
func (heartbeat) stopping()           {}
func (heartbeat) alive(time.Duration) {}

// restarting is never known here.
func restarting(context.Context) bool { return false }

// executeVerb does not exist here: there is no dead man to leave it behind.
type executeVerb struct{}

func (executeVerb) command() *cli.Command {
	return &cli.Command{Name: "execute", Hidden: true, Action: func(*cli.Context) error { return errWindows }}
}
