package resources

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/internal/urgency"
)

// script runs a resource by three commands. What is running is what the status command says, with the exit codes of LSB
// (Linux Standard Base, init script actions).
type script struct {
	spec Spec
	log  *slog.Logger
}

func newScript(s Spec, log *slog.Logger) *script { return &script{spec: s, log: log} }

const (
	outputMax    = 4096 // bytes of a command's output that are kept: its end
	confirmBound = 10 * time.Second
	// pipeDelay bounds how long a daemon that a start command left behind may keep our end of its output open.
	pipeDelay = 100 * time.Millisecond
)

// Start runs the start command, then asks status until it confirms. pending_timeout begins anew with each line that the command
// prints, for ProgressFactor times as long at most.
func (d *script) Start(ctx context.Context, epoch uint64) error {
	limit := d.spec.PendingTimeout
	if limit <= 0 {
		limit = defaultPending
	}
	ctx, cancel := context.WithTimeout(ctx, limit*ProgressFactor)
	defer cancel()
	ctx, silent := context.WithCancelCause(ctx)
	defer silent(nil)
	watch := time.AfterFunc(limit, func() {
		silent(fmt.Errorf("%w: no line of output for %s", context.DeadlineExceeded, limit))
	})
	defer watch.Stop()
	err := d.runTold(ctx, d.spec.Start, epoch, func() { watch.Reset(limit) })
	if why := context.Cause(ctx); err != nil && why != nil && !errors.Is(err, why) {
		err = fmt.Errorf("%w (%w)", err, why)
	}
	if err != nil {
		return fmt.Errorf("running start: %w", err)
	}
	return d.confirm(ctx, epoch, "start", true)
}

// Stop runs the stop command, then asks status until it confirms.
func (d *script) Stop(ctx context.Context, epoch uint64) error {
	ctx, cancel := bound(ctx, d.spec.PendingTimeout, defaultPending)
	defer cancel()
	if err := d.run(ctx, d.spec.Stop, epoch); err != nil {
		return fmt.Errorf("running stop: %w", err)
	}
	return d.confirm(ctx, epoch, "stop", false)
}

// confirm gives a daemon a moment between the end of the command and the effect, which LSB scripts do not promise.
func (d *script) confirm(ctx context.Context, epoch uint64, verb string, want bool) error {
	ctx, cancel := context.WithTimeout(ctx, confirmBound)
	defer cancel()
	var said error // what status said last; one that is interrupted at the end says nothing
	for {
		st, err := d.status(ctx, epoch)
		switch {
		case err == nil && st.Running == want:
			return nil
		case err == nil && want && st.Failed:
			return fmt.Errorf("confirming %s: status says: %s", verb, st.Detail)
		case err == nil && st.Running:
			said = fmt.Errorf("%w: status says: %s", ErrStillRunning, st.Detail)
		case err == nil:
			said = fmt.Errorf("status says: %s", st.Detail)
		case ctx.Err() == nil || said == nil:
			said = err
		}
		if !pause(ctx, 100*time.Millisecond) {
			return fmt.Errorf("confirming %s: %w: %w", verb, said, ctx.Err())
		}
	}
}

// Kill has nothing but the stop command, with the budget of a kill, and believes only status.
func (d *script) Kill(ctx context.Context) error {
	ctx, cancel := bound(ctx, d.spec.StopBudget, defaultStopBudget)
	defer cancel()
	stopErr := d.run(ctx, d.spec.Stop, 0)
	// The command may have used up the whole budget: what is true must be asked all the same.
	sctx, stop := context.WithTimeout(context.WithoutCancel(ctx), defaultStopBudget)
	defer stop()
	st, err := d.status(sctx, 0)
	for err == nil && st.Running && stopErr == nil && pause(ctx, 20*time.Millisecond) {
		st, err = d.status(sctx, 0)
	}
	switch {
	case err != nil:
		return fmt.Errorf("killing %s: %w", d.spec.Name, errors.Join(stopErr, err))
	case st.Running:
		return fmt.Errorf("killing %s: status says: %s: %w", d.spec.Name, st.Detail, errors.Join(ErrStillRunning, stopErr))
	}
	return nil
}

// Status runs the status command. An error means that it gave no answer: exit 4 (unknown), any other code LSB does not
// define for status, or no end within 10 s.
func (d *script) Status(ctx context.Context) (Status, error) { return d.status(ctx, 0) }

func (d *script) status(ctx context.Context, epoch uint64) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, statusBound)
	defer cancel()
	err := d.run(ctx, d.spec.Status, epoch)
	code := 0
	var exit *exitError
	if errors.As(err, &exit) {
		code = exit.code
	} else if err != nil {
		return Status{Detail: oneLine(err.Error())}, fmt.Errorf("running status: %w", err)
	}
	st, known := lsbStatus(code)
	if !known {
		return Status{Detail: oneLine(err.Error())}, fmt.Errorf("running status: no answer: %w", err)
	}
	return st, nil
}

// lsbStatus maps the exit code of a status command; known is false for 4 and all that LSB leaves open.
func lsbStatus(code int) (st Status, known bool) {
	switch code {
	case 0:
		return Status{Running: true, Detail: "status: running"}, true
	case 1:
		return Status{Failed: true, Detail: "status: dead, its pid file is left (exit 1)"}, true
	case 2:
		return Status{Failed: true, Detail: "status: dead, its lock file is left (exit 2)"}, true
	case 3:
		return Status{Detail: "status: stopped"}, true
	}
	return Status{}, false
}

// Watch asks status at each interval and wakes when the answer has changed, or was none.
func (d *script) Watch(ctx context.Context, wake func()) error {
	every := d.spec.StatusInterval
	if every <= 0 {
		every = defaultStatusInterval
	}
	t := time.NewTicker(every)
	defer t.Stop()
	last, lastErr := Status{}, error(nil)
	for first := true; ; first = false {
		st, err := d.Status(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if first || st != last || (err == nil) != (lastErr == nil) {
			wake()
		}
		last, lastErr = st, err
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// exitError is a command that ended by itself with a code other than 0.
type exitError struct {
	code int
	text string
}

func (e *exitError) Error() string { return e.text }

// run executes one command in its own session until it ends or ctx does; then its whole process group is killed.
func (d *script) run(ctx context.Context, argv []string, epoch uint64) error {
	return d.runTold(ctx, argv, epoch, nil)
}

// runTold is run that calls line, if there is one, at each line of output.
func (d *script) runTold(ctx context.Context, argv []string, epoch uint64, line func()) error {
	path, err := lookPath(argv[0])
	if err != nil {
		return err
	}
	out := &tail{max: outputMax, line: line}
	cmd := exec.CommandContext(ctx, path, argv[1:]...)
	cmd.Args[0] = argv[0]
	cmd.Dir, cmd.Env = d.spec.Dir, environment(d.spec, epoch, []string{"HOME=" + homeOr("/")})
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.WaitDelay = pipeDelay
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	if err = urgency.Ordinary(cmd.Start); err == nil {
		err = cmd.Wait()
	}
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s: not finished in time, killed%s: %w", argv[0], out, ctx.Err())
	case errors.As(err, &exit) && exit.Exited():
		return &exitError{exit.ExitCode(), fmt.Sprintf("%s: exit status %d%s", argv[0], exit.ExitCode(), out)}
	case errors.As(err, &exit):
		return fmt.Errorf("%s: %s%s", argv[0], describe(exit.ProcessState), out)
	}
	return err
}

func homeOr(fallback string) string {
	if h, err := os.UserHomeDir(); err == nil {
		return h
	}
	return fallback
}

// tail keeps the end of what is written to it.
type tail struct {
	max int
	cut bool
	b   []byte

	line func() // optional: called when a line has ended
}

func (t *tail) Write(p []byte) (int, error) {
	if t.line != nil && bytes.IndexByte(p, '\n') >= 0 {
		t.line()
	}
	t.b = append(t.b, p...)
	if n := len(t.b) - t.max; n > 0 {
		t.b, t.cut = append(t.b[:0], t.b[n:]...), true
	}
	return len(p), nil
}

// String is what is kept, ready to follow a message, on one line.
func (t *tail) String() string {
	s := oneLine(string(t.b))
	if s == "" {
		return ""
	}
	if t.cut {
		s = "..." + s
	}
	return ": output: " + s
}

// oneLine folds text from outside into one line without control characters.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return strings.Join(strings.Fields(s), " ")
}
