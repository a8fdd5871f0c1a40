// Command had is the agent of the failover cluster: it runs on every node as a service. See docs/ and `had help`.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"hacluster/raft"
)

// version is set by the linker: -ldflags "-X main.version=v1.2.3".
var version = "dev"

// Exit codes; the numbers follow sysexits(3).
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 64
	exitBroken = 74 // of an agent: its store cannot be written; the dead man lets it rest before it starts it again
	exitAgain  = 75 // of an agent: the dead man is to start it again at once
	exitConfig = 78 // the unit does not restart on this one: only a person can mend it
)

// errConfig marks faults of the configuration or of this installation that no restart mends.
var errConfig = errors.New("configuration")

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	usage := false
	wrong := func(_ *cli.Context, err error, _ bool) error {
		usage = true
		return err
	}
	app := &cli.App{
		Name:                 "had",
		Usage:                "agent of the failover cluster; hactl controls it",
		Version:              version,
		HideVersion:          true,
		Writer:               stdout,
		ErrWriter:            stderr,
		EnableBashCompletion: true,
		ExitErrHandler:       func(*cli.Context, error) {},
		OnUsageError:         wrong,
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				return cli.ShowAppHelp(c)
			}
			return wrong(c, fmt.Errorf("command %q is unknown", c.Args().First()), false)
		},
		Commands: []*cli.Command{
			(&runVerb{}).command(), (&checkVerb{}).command(), (&installVerb{}).command(), (&uninstallVerb{}).command(), (&releaseVerb{}).command(), executeVerb{}.command(),
			{Name: "version", Usage: "print the version", Action: func(c *cli.Context) error {
				fmt.Fprintln(c.App.Writer, "had", version)
				return nil
			}},
		},
	}
	for _, c := range app.Commands {
		c.OnUsageError = wrong
	}
	err := app.Run(append([]string{"had"}, args...))
	var child childExit
	switch {
	case err == nil:
		return exitOK
	case usage:
		fmt.Fprintf(stderr, "had: %v\n  what to do: see had help\n", err)
		return exitUsage
	case errors.As(err, &child):
		return int(child) // the agent has said why
	case errors.Is(err, errConfig):
		fmt.Fprintf(stderr, "had: %v\n", errors.Unwrap(err))
		return exitConfig
	}
	fmt.Fprintf(stderr, "had: %v\n", err)
	if errors.Is(err, raft.ErrStorage) {
		return exitBroken
	}
	return exitFailed
}

// childExit is the exit code of an agent that ended for good.
type childExit int

func (e childExit) Error() string { return fmt.Sprintf("the agent ended with code %d", int(e)) }

// exitCode is the error of a parent whose agent ended with a code.
func exitCode(code int, err error) error {
	if err == nil && code != exitOK {
		return childExit(code)
	}
	return err
}

// configError is an error with exit code 78; its text is the text of the error inside.
type configError struct{ error }

func (e configError) Unwrap() error        { return e.error }
func (e configError) Is(target error) bool { return target == errConfig }

const defaultConfig = "/etc/had/had.toml"

func configFlag(dst *string) cli.Flag {
	return &cli.StringFlag{Name: "config", Aliases: []string{"c"}, Value: defaultConfig, Usage: "this node's `FILE`", Destination: dst}
}
