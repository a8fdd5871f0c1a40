package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"hacluster/api"
	"hacluster/config"
)

// Exit codes. They are part of the interface: docs/cli.md and the help list them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitDown        = 2
	exitUsage       = 64
	exitUnreachable = 69
	exitTimeout     = 124
)

// How long a command may take when --timeout does not say it.
const (
	defaultTimeout = 10 * time.Second
	defaultWait    = 2 * time.Minute
	electionWait   = 6 * time.Second // for a leader to be there; one is elected within seconds, if there is a majority
)

// env is what verbs share: where to write, the clock, the global flags. A test builds one and sets what it needs.
type env struct {
	In       io.Reader
	Asks     bool // a person is at In
	Out, Err io.Writer
	Now      func() time.Time
	Zone     *time.Location
	Color    bool
	Fold     bool // stderr is a terminal: long messages are wrapped
	JSON     bool
	Config   string        // had.toml
	Socket   string        // empty: from had.toml
	Remote   string        // --node; empty: the socket
	Timeout  time.Duration // 0: the default of the verb
	Poll     time.Duration // between two looks while waiting
	Elects   time.Duration // how long a moment without a leader is waited out

	client *api.Client
}

func newEnv(stdout, stderr io.Writer) *env {
	return &env{
		In: os.Stdin, Asks: term.IsTerminal(int(os.Stdin.Fd())), Out: stdout, Err: stderr, Now: time.Now, Zone: time.Local, Poll: 200 * time.Millisecond, Elects: electionWait,
		Config: "/etc/had/had.toml", Fold: isTerminal(stderr), Color: isTerminal(stdout) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb",
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// globals reads the global flags.
func (e *env) globals(c *cli.Context) error {
	e.Config, e.Remote = c.String("config"), c.String("node")
	if c.IsSet("socket") {
		e.Socket = c.String("socket")
	}
	if c.IsSet("node") && c.IsSet("socket") {
		return usagef("use one of them", "--node and --socket exclude each other")
	}
	switch o := c.String("output"); o {
	case "table":
	case "json":
		e.JSON, e.Color = true, false
	default:
		return usagef("use -o table or -o json", "the output format %q is unknown", o)
	}
	if e.Timeout = c.Duration("timeout"); e.Timeout < 0 || c.IsSet("timeout") && e.Timeout == 0 {
		return usagef("use a time like 30s or 5m", "--timeout %v is not positive", e.Timeout)
	}
	if c.Bool("no-color") {
		e.Color = false
	}
	return nil
}

// bounded returns a context that ends with --timeout, or after def.
func (e *env) bounded(ctx context.Context, def time.Duration) (context.Context, context.CancelFunc) {
	if e.Timeout > 0 {
		def = e.Timeout
	}
	return context.WithTimeout(ctx, def)
}

// connect returns the client for the agent that the flags name.
func (e *env) connect() (*api.Client, error) {
	if e.client != nil {
		return e.client, nil
	}
	var err error
	if e.Remote != "" {
		e.client, err = e.remote(e.Remote)
		return e.client, err
	}
	path := e.Socket
	if path == "" {
		// The agent may run with a had.toml that this user cannot read, or hactl on a machine that has none.
		path = config.DefaultNode().Socket
		if n, err := config.LoadNode(e.Config); err == nil {
			path = n.Socket
		}
	}
	e.client = api.NewSocketClient(path)
	return e.client, nil
}

func (e *env) close() {
	if e.client != nil {
		e.client.Close()
	}
}

// status asks for the status within the time a read may take.
func (e *env) status(ctx context.Context) (api.Status, error) {
	c, err := e.connect()
	if err != nil {
		return api.Status{}, err
	}
	ctx, cancel := e.bounded(ctx, defaultTimeout)
	defer cancel()
	return c.Status(ctx)
}

// write sends one write within the time it may take.
func (e *env) write(ctx context.Context, w api.Write) (api.Reply, error) {
	c, err := e.connect()
	if err != nil {
		return api.Reply{}, err
	}
	ctx, cancel := e.bounded(ctx, defaultTimeout)
	defer cancel()
	return whenLed(ctx, e, func() (api.Reply, error) { return c.Write(ctx, w) })
}

// whenLed repeats what was refused before anything was begun, in case an election is under way. It leaves a last call the time to be
// answered: one that is interrupted may have taken effect.
func whenLed[T any](ctx context.Context, e *env, call func() (T, error)) (T, error) {
	patience := e.Elects
	if end, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(end)*3/4)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	begun, said := time.Now(), e.JSON
	for {
		r, err := call()
		var refusal *api.Error
		if err == nil || !errors.As(err, &refusal) || !refusal.Untried {
			return r, err
		}
		select {
		case <-time.After(e.Poll):
		case <-ctx.Done():
			return r, err
		}
		if !said && time.Since(begun) >= time.Second {
			e.progress("waiting for a leader: %s", clean(refusal.Message))
			said = true
		}
	}
}

// printJSON writes v to stdout.
func (e *env) printJSON(v any) error {
	enc := json.NewEncoder(e.Out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("writing the output: %w", err)
	}
	return nil
}

func (e *env) printf(format string, args ...any) { fmt.Fprintf(e.Out, format, args...) }

// progress tells a person who waits; stdout stays clean for scripts.
func (e *env) progress(format string, args ...any) { fmt.Fprintf(e.Err, format+"\n", args...) }

// finish prints the error, if any, and returns the exit code.
func (e *env) finish(err error) int {
	if err == nil {
		return exitOK
	}
	if code, ok := isExit(err); ok {
		return code
	}
	code, shown := explain(err)
	if e.JSON {
		json.NewEncoder(e.Err).Encode(map[string]*api.Error{"error": shown})
		return code
	}
	fold := func(s string, first int) string {
		if e.Fold {
			return wrap(s, first, first)
		}
		return clean(s)
	}
	fmt.Fprintf(e.Err, "hactl: %s\n", fold(shown.Message, 7))
	for _, f := range shown.Faults {
		fmt.Fprintf(e.Err, "  %s\n", clean(f))
	}
	if shown.Hint != "" {
		fmt.Fprintf(e.Err, "  what to do: %s\n", fold(shown.Hint, 14))
	}
	return code
}

// codeUsage is shown with -o json for a wrong command line; agents never send it.
const codeUsage api.Code = "usage"

// explain turns any error into an exit code and what to show.
func explain(err error) (int, *api.Error) {
	var usage *usageError
	if errors.As(err, &usage) {
		return exitUsage, &api.Error{Code: codeUsage, Message: usage.message, Hint: usage.hint}
	}
	var local *localError
	if errors.As(err, &local) {
		code := api.CodeRefused
		if local.invalid {
			code = api.CodeInvalid
		}
		return exitFailed, &api.Error{Code: code, Message: local.Error(), Hint: local.hint, Faults: local.faults}
	}
	shown := api.AsError(err)
	var refused *api.Error
	if !errors.As(err, &refused) && shown.Code == api.CodeInternal {
		shown.Code, shown.Hint = api.CodeRefused, "check the disk and the permissions, then try again" // not the agent's: a file, a disk
		switch {
		case errors.Is(err, fs.ErrNotExist):
			shown.Hint = "check the path"
		case errors.Is(err, fs.ErrPermission):
			shown.Hint = "run hactl as root"
		}
	}
	switch shown.Code {
	case api.CodeUnreachable:
		return exitUnreachable, shown
	case api.CodeTimeout:
		return exitTimeout, shown
	case api.CodeNoQuorum:
		return exitDown, shown
	}
	return exitFailed, shown
}

// localError is a refusal of hactl itself.
type localError struct {
	err     error
	hint    string
	faults  []string
	invalid bool // the input is wrong
}

func (l *localError) Error() string { return l.err.Error() }
func (l *localError) Unwrap() error { return l.err }

func refusef(hint, format string, args ...any) error {
	return &localError{err: fmt.Errorf(format, args...), hint: hint}
}

// oneArg returns the single argument of a verb.
func oneArg(c *cli.Context, what string) (string, error) {
	switch c.Args().Len() {
	case 0:
		return "", usagef(helpHint(c), "%s: name the %s", c.Command.Name, what)
	case 1:
		return c.Args().First(), nil
	}
	return "", usagef(helpHint(c), "%s takes one %s, not also %q", c.Command.Name, what, strings.Join(c.Args().Tail(), " "))
}

// noArgs refuses arguments of a verb that takes none.
func noArgs(c *cli.Context) error {
	if c.Args().Present() {
		return usagef(helpHint(c), "%s takes no argument, not %q", c.Command.Name, strings.Join(c.Args().Slice(), " "))
	}
	return nil
}
