package fence

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"hacluster/internal/urgency"
)

// metadataTimeout bounds the actions that only make the agent describe or check itself.
const metadataTimeout = 20 * time.Second

// waitDelay bounds the wait for a pipe that a process outside the agent's group still holds.
const waitDelay = 100 * time.Millisecond

// maxSecret bounds a file with a secret, in bytes.
const maxSecret = 16 << 10

// agentDirs are where the fence-agents package of the common distributions puts its agents.
var agentDirs = []string{"/usr/sbin", "/sbin", "/usr/local/sbin"}

var agentName = regexp.MustCompile(`^[a-z][a-z0-9_-]*$`)

// Agent is an installed agent that has described itself.
type Agent struct {
	Path     string
	Metadata Metadata
}

// LoadAgent finds an agent by its name, in the folders of the fence-agents package, or by its absolute path, and asks it
// for its metadata.
func LoadAgent(ctx context.Context, name string) (*Agent, error) {
	path, err := findAgent(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, metadataTimeout)
	defer cancel()
	out := execute(ctx, path, "action="+string(metadata)+"\n", nil)
	if out.err == nil && out.exit != 0 {
		out.err = fmt.Errorf("exit code %d: %s", out.exit, masker{}.evidence(&out.stdout, &out.stderr))
	}
	if out.err != nil {
		return nil, fmt.Errorf("asking %s for its metadata: %w", path, out.err)
	}
	text, _ := out.stdout.text()
	m, err := ParseMetadata([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &Agent{Path: path, Metadata: m}, nil
}

func findAgent(name string) (string, error) {
	if filepath.IsAbs(name) {
		info, err := os.Stat(name)
		if err == nil && info.IsDir() {
			err = fs.ErrInvalid
		}
		if err != nil {
			return "", fmt.Errorf("looking for the agent: %w", err)
		}
		return name, nil
	}
	if !agentName.MatchString(name) {
		return "", fmt.Errorf("agent %q is neither a name like fence_ipmilan nor an absolute path", name)
	}
	for _, dir := range agentDirs {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && !info.IsDir() {
			return path, nil
		}
	}
	return "", fmt.Errorf("agent %s is not installed on this node (looked in %s): install the package fence-agents: %w",
		name, strings.Join(agentDirs, ", "), fs.ErrNotExist)
}

// call is one action for one node.
type call struct {
	agent  *Agent
	device Device
	action Action
	node   string // target; empty: the device itself (monitor, list)
	epoch  uint64
}

// answer is what came of a call.
type answer struct {
	exit     int // -1: the agent did not end by itself
	state    State
	evidence string // end of the output, masked, on one line
	stdout   string // masked; for list
	took     time.Duration
	err      error // why the action did not succeed; nil for status also when the node is off
}

// do runs the action once. The options go to standard input, never to the command line, which every user can read.
func (c call) do(ctx context.Context) answer {
	params, err := c.params()
	if err != nil {
		return answer{exit: -1, state: StateUnknown, err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, c.device.Timeout)
	defer cancel()
	start := time.Now()
	out := execute(ctx, c.agent.Path, options(c.action, params), []string{
		"HAD_NODE=" + c.node, "HAD_EPOCH=" + strconv.FormatUint(c.epoch, 10), "HAD_FENCE_DEVICE=" + c.device.Name,
		"HAD_FENCE_ACTION=" + string(c.action)})
	m := newMasker(params)
	a := answer{exit: out.exit, state: StateUnknown, took: time.Since(start), evidence: m.evidence(&out.stdout, &out.stderr), err: out.err}
	stdout, _ := out.stdout.text()
	stderr, _ := out.stderr.text()
	a.stdout = m.clean(stdout)
	switch {
	case a.err != nil:
	case c.action == Status:
		a.state, a.err = judgeStatus(out.exit, stdout, stderr)
	case out.exit != 0:
		a.err = fmt.Errorf("exit code %d", out.exit)
	}
	if a.err != nil && a.evidence != "" {
		a.err = fmt.Errorf("%w: %s", a.err, a.evidence)
	}
	return a
}

// statusLine is how agents print a state.
var statusLine = regexp.MustCompile(`(?im)^\s*status:\s*(on|off)\s*$`)

// judgeStatus reads the state from the exit code (0 on, 2 off) and from the text, where there is one: they must agree.
// Exit code 2 is also what interpreters and option parsers end with when they cannot even start, and then they complain
// on standard error: without the word, it counts only when nobody complained. A wrong "off" here means two owners.
func judgeStatus(exit int, stdout, stderr string) (State, error) {
	word := StateUnknown
	for _, match := range statusLine.FindAllStringSubmatch(stdout, -1) {
		state := State(strings.ToLower(match[1]))
		if word != StateUnknown && word != state {
			return StateUnknown, errors.New("status says both on and off")
		}
		word = state
	}
	code := map[int]State{0: StateOn, 2: StateOff}[exit]
	switch {
	case code == "":
		return StateUnknown, fmt.Errorf("status ended with exit code %d, neither 0 (on) nor 2 (off)", exit)
	case word != StateUnknown && word != code:
		return StateUnknown, fmt.Errorf("status prints %s and ends with exit code %d", word, exit)
	case word == StateUnknown && code == StateOff && strings.TrimSpace(stderr) != "":
		return StateUnknown, errors.New("status ended with exit code 2 and a complaint, without saying off")
	}
	return code, nil
}

// options renders the agent's standard input.
func options(action Action, p Params) string {
	var b strings.Builder
	b.WriteString("action=" + string(action) + "\n")
	for _, name := range slices.Sorted(maps.Keys(p)) {
		b.WriteString(name + "=" + p[name] + "\n")
	}
	return b.String()
}

// params merges what the agent gets for the node: the device's, the node's, the secrets, and the node's name where the
// agent needs to know the target and nobody said otherwise.
func (c call) params() (Params, error) {
	p := c.device.plain(c.node)
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(c.device.Secrets)) {
		value, err := readSecret(c.device.Secrets[name])
		if err == nil && strings.ContainsAny(value, "\r\x00") {
			err = errors.New("the first line contains a carriage return or NUL")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("reading the secret %s: %w", name, err))
			continue
		}
		p[name] = value
	}
	c.agent.Metadata.target(p, c.node)
	return p, errors.Join(errs...)
}

// plain is the device's parameters for a node without the secrets.
func (d Device) plain(node string) Params {
	p := Params{}
	maps.Copy(p, d.Params)
	maps.Copy(p, d.Nodes[node])
	return p
}

// target names the node to the agent: as nodename where the agent knows that, and as the plug where one is required.
func (m Metadata) target(p Params, node string) {
	if node == "" {
		return
	}
	set := func(name string) bool { _, ok := p[name]; return ok }
	if _, ok := m.Parameter("nodename"); ok && !set("nodename") {
		p["nodename"] = node
	}
	for _, name := range []string{"plug", "port"} {
		if q, ok := m.Parameter(name); ok && q.Required && !set("plug") && !set("port") {
			p[name] = node
		}
	}
}

// readSecret returns the first line of a file that only the agent's user and group may read.
func readSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%s is not a regular file", path)
	case info.Mode().Perm()&0o007 != 0:
		return "", fmt.Errorf("%s may be read by every user of this node: chmod o= %s", path, path)
	}
	buf := make([]byte, maxSecret)
	n, err := f.Read(buf)
	if n == 0 {
		return "", fmt.Errorf("%s is empty: %w", path, err)
	}
	line, _, _ := strings.Cut(string(buf[:n]), "\n")
	return strings.TrimSuffix(line, "\r"), nil
}

// output is how a program ended.
type output struct {
	exit           int // -1: it did not end by itself
	stdout, stderr capture
	err            error // it could not be started, or was killed at its timeout
}

// execute runs a program in a process group of its own, which is killed whole when the program ends or its time is up,
// so that no late command of it reaches a node that was fenced, rebooted and is in use again.
func execute(ctx context.Context, path, stdin string, env []string) *output {
	out := &output{exit: -1}
	cmd := exec.CommandContext(ctx, path)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Stdout, cmd.Stderr = &out.stdout, &out.stderr
	cmd.WaitDelay = waitDelay
	group := newGroup(cmd, env)
	defer group.close()
	if err := urgency.Ordinary(cmd.Start); err != nil {
		out.err = fmt.Errorf("starting the agent: %w", err)
		return out
	}
	group.started()
	group.reap()
	err := cmd.Wait()
	var exit *exec.ExitError
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		out.err = fmt.Errorf("the agent was killed at its timeout: %w", context.DeadlineExceeded)
	case ctx.Err() != nil:
		out.err = fmt.Errorf("the agent was killed: %w", ctx.Err())
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		out.exit = cmd.ProcessState.ExitCode()
	case errors.As(err, &exit) && exit.Exited():
		out.exit = exit.ExitCode()
	default:
		out.err = fmt.Errorf("the agent did not end by itself: %w", err)
	}
	return out
}
