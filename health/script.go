package health

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"

	"hacluster/internal/urgency"
)

// maxOutput is how much a script's output counts, in bytes; the rest is read and dropped, so that a chatty script is not
// blocked by a full pipe.
const maxOutput = 4 << 10

// waitDelay bounds the wait for a pipe that a grandchild outside the script's process group still holds.
const waitDelay = Epsilon / 2

// newScript runs a Nagios plugin. It gets no input, a minimal environment, and a process group of its own that is killed
// whole when the script ends or its time is up, so that nothing it started outlives the check.
func newScript(s Spec) (asker, error) {
	if len(s.Command) == 0 || s.Command[0] == "" {
		return nil, fmt.Errorf("command: %w", ErrMissing)
	}
	return func(ctx context.Context) answer { return runScript(ctx, s.Command) }, nil
}

func runScript(ctx context.Context, command []string) answer {
	out := &head{}
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = out, out // the same writer: exec then uses one pipe and one goroutine
	cmd.Env = scriptEnv()
	cmd.WaitDelay = waitDelay
	group := newGroup(cmd)
	defer group.close()
	if err := urgency.Ordinary(cmd.Start); err != nil {
		return say(Skip, "starting the script: %v", err)
	}
	group.started()
	group.reap()
	err := cmd.Wait()

	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return say(Timeout, "the script was killed at its timeout; so far: %s", firstLine(out.bytes()))
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return judgeScript(cmd.ProcessState.ExitCode(), out.bytes())
	case errors.As(err, &exit) && exit.Exited():
		return judgeScript(exit.ExitCode(), out.bytes())
	}
	return say(Skip, "the script did not end by itself: %v", err)
}

// judgeScript maps the exit codes of the Nagios plugin guidelines. Anything beyond them, such as 127 for a command that
// was not found, says that the script is broken and nothing about the service.
func judgeScript(code int, out []byte) answer {
	text := firstLine(out)
	switch code {
	case 0:
		return answer{Pass, text}
	case 1:
		return answer{Warn, text}
	case 2:
		return answer{Fail, text}
	case 3:
		return answer{Skip, text}
	}
	return say(Skip, "exit code %d is not one of 0 to 3: %s", code, text)
}

// firstLine is the plugin's status text: the first line that is not empty, without the performance data after "|".
func firstLine(out []byte) string {
	text := strings.TrimSpace(string(out))
	text, _, _ = strings.Cut(text, "\n")
	text, _, _ = strings.Cut(text, "|")
	return oneLine(text)
}

// head keeps the first maxOutput bytes and accepts the rest. It is locked because exec's copying goroutine may still
// write when WaitDelay has passed.
type head struct {
	mu  sync.Mutex
	buf []byte
}

func (h *head) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buf = append(h.buf, p[:min(len(p), maxOutput-len(h.buf))]...)
	return len(p), nil
}

func (h *head) bytes() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]byte(nil), h.buf...)
}
