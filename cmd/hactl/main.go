// Command hactl shows and steers a cluster. It decides nothing: it asks an agent, over the local socket or over mutual TLS,
// and renders what it is told. Only `init`, `join`, `check`,
// `node rejoin` and `quorum force` read and write files of this machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"
)

// version is set by the linker.
var version = "dev"

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is hactl: the arguments without the program's name, where to write, and the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return newEnv(stdout, stderr).run(ctx, args)
}

// run executes one command line in this environment.
func (e *env) run(ctx context.Context, args []string) int {
	app := e.app()
	app.Setup()
	defer e.close()
	err := app.RunContext(ctx, append([]string{app.Name}, arrange(app, args)...))
	return e.finish(err)
}

// app is the whole command tree.
func (e *env) app() *cli.App {
	app := &cli.App{
		Name:           "hactl",
		Usage:          "show and steer a failover cluster",
		Writer:         e.Out,
		ErrWriter:      e.Err,
		HideVersion:    true,
		Suggest:        false,                        // noCommand does it, for all levels
		ExitErrHandler: func(*cli.Context, error) {}, // only main exits
		OnUsageError:   onUsage,
		Action:         noCommand,
		Before:         e.globals,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Value: e.Config, Usage: "had.toml of this node: its socket and certificates"},
			&cli.StringFlag{Name: "socket", Usage: "local socket of the agent (default: from had.toml)"},
			&cli.StringFlag{Name: "node", Aliases: []string{"n"}, Usage: "ask the agent at `ADDR[:PORT]` by mutual TLS instead"},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "table or json"},
			&cli.DurationFlag{Name: "timeout", Usage: "bound on the whole command (default: 10s, with --wait 2m)"},
			&cli.BoolFlag{Name: "no-color", Usage: "no colours (also: NO_COLOR)"},
		},
		Commands: []*cli.Command{
			statusCommand(e), groupCommand(e), nodeCommand(e), resourceCommand(e), whyCommand(e), eventsCommand(e), timingCommand(e),
			applyCommand(e), checkCommand(e), validateCommand(e), initCommand(e), tokenCommand(e), joinCommand(e), quorumCommand(e),
			versionCommand(e), completionCommand(e), helpCommand(e), completeCommand(e),
		},
	}
	var finish func(cs []*cli.Command)
	finish = func(cs []*cli.Command) {
		for _, c := range cs {
			c.OnUsageError, c.HideHelpCommand = onUsage, true
			if len(c.Subcommands) > 0 {
				c.Action = noCommand
			}
			finish(c.Subcommands)
		}
	}
	finish(app.Commands)
	setHelp(app)
	return app
}

// onUsage turns what the flag parser says into a usage error.
func onUsage(c *cli.Context, err error, _ bool) error {
	return usagef(helpHint(c), "%s", strings.TrimSuffix(err.Error(), "\n"))
}

// noCommand answers a command line that names no command, or none that there is.
func noCommand(c *cli.Context) error {
	commands := c.App.Commands
	if c.Command != nil && len(c.Command.Subcommands) > 0 {
		commands = c.Command.Subcommands
	}
	var names []string
	for _, sub := range commands {
		if !sub.Hidden {
			names = append(names, sub.Name)
		}
	}
	word := c.Args().First()
	if word == "" {
		if c.App.Name == "hactl" && (c.Command == nil || c.Command.Name == "hactl" || c.Command.Name == "") {
			return cli.ShowAppHelp(c)
		}
		return usagef(helpHint(c), "say what to do: %s", strings.Join(names, ", "))
	}
	hint := "the commands are: " + strings.Join(names, ", ")
	if near := nearest(word, names); near != "" {
		hint = fmt.Sprintf("did you mean %q? %s", near, helpHint(c))
	}
	return usagef(hint, "there is no command %q", word)
}

func helpHint(c *cli.Context) string {
	name := "hactl"
	if c.Command != nil && c.Command.HelpName != "" {
		name = c.Command.HelpName
	}
	return "see `" + name + " --help`"
}

// usageError is a command line that makes no sense; exit code 64 (EX_USAGE of sysexits.h).
type usageError struct{ message, hint string }

func (u *usageError) Error() string { return u.message }

func usagef(hint, format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...), hint}
}

// exitError ends the command with a code and without another word: the output said it.
type exitError int

func (x exitError) Error() string { return fmt.Sprintf("exit code %d", int(x)) }

// isExit reports whether err only carries an exit code.
func isExit(err error) (int, bool) {
	var x exitError
	ok := errors.As(err, &x)
	return int(x), ok
}
