package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"hacluster/internal/boottime"
)

// kennel is one whole node, the real programs in a network namespace, whose watchdog device is a file that keeps book
// (fence/watchdog_pseudo_linux.go). Its group has a script resource that a test can make unkillable.
type kennel struct {
	t      *testing.T
	dir    string
	device string
	cmd    *exec.Cmd
	log    logFile // of the newest had
	runs   int
	ended  chan error
}

// logFile is where had writes: a file, since the end of a pipe would wait for the executor that had leaves behind.
type logFile string

func (l logFile) String() string {
	text, _ := os.ReadFile(string(l))
	return string(text)
}

func (k *kennel) path(name string) string { return filepath.Join(k.dir, name) }

func (k *kennel) must(name string, args ...string) string {
	k.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		k.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func (k *kennel) hactl(args ...string) string {
	k.t.Helper()
	return k.must(k.path("hactl"), append([]string{"--socket", k.path("run/had.sock")}, args...)...)
}

// newKennel builds the programs and founds a cluster of one node.
func newKennel(t *testing.T) *kennel {
	t.Helper()
	if os.Getenv(ownNetwork) == "" {
		t.Skip("needs root")
	}
	if testing.Short() {
		t.Skip("builds programs and takes a minute")
	}
	k := &kennel{t: t, dir: t.TempDir()}
	k.device = k.path("watchdog")
	if bin := os.Getenv("HAD_TEST_BIN"); bin != "" { // built already, had with that tag
		k.must("cp", filepath.Join(bin, "had"), filepath.Join(bin, "hactl"), k.dir)
	} else {
		k.must("go", "build", "-tags", "pseudowatchdog", "-o", k.path("had"), ".")
		k.must("go", "build", "-o", k.path("hactl"), "../hactl")
	}
	for _, args := range [][]string{{"link", "set", "lo", "up"}, {"link", "add", "k0", "type", "veth", "peer", "name", "k1"},
		{"addr", "add", "198.18.7.9/24", "dev", "k0"}, {"link", "set", "k0", "up"}, {"link", "set", "k1", "up"}} {
		k.must("ip", args...)
	}
	t.Cleanup(func() { exec.Command("ip", "link", "del", "k0").Run() })
	k.hactl("init", "--cluster", "kennel", "--name", "n1", "--address", "198.18.7.9", "--dir", k.path("etc"), "--data-dir", k.path("var"))
	text, err := os.ReadFile(k.path("etc/had.toml"))
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{"socket": k.path("run/had.sock"), "mode": "required", "device": k.device, "timeout": "5s"} {
		line := regexp.MustCompile(`(?m)^` + key + ` = ".*"$`)
		if !line.Match(text) {
			t.Fatalf("no %s in\n%s", key, text)
		}
		text = line.ReplaceAll(text, []byte(key+" = "+strconv.Quote(value)))
	}
	k.write("etc/had.toml", string(text), 0o600)
	k.write("svc", "#!/bin/sh\ncase $1 in\nstart) touch "+k.path("runs")+";;\nstop) [ -e "+k.path("stuck")+" ] || rm -f "+k.path("runs")+
		";;\nstatus) [ -e "+k.path("runs")+" ] || exit 3;;\nesac\n", 0o755)
	k.write("cluster.toml", fmt.Sprintf(`name = "kennel"
timing = "lan"
nodes = ["n1"]

[[group]]
name = "web"

[[group.resource]]
name = "svc"
type = "script"
start = [%[1]q, "start"]
stop = [%[1]q, "stop"]
status = [%[1]q, "status"]
`, k.path("svc")), 0o644)
	return k
}

func (k *kennel) write(name, text string, mode os.FileMode) {
	k.t.Helper()
	if err := os.WriteFile(k.path(name), []byte(text), mode); err != nil {
		k.t.Fatal(err)
	}
}

// run starts had and returns when the service is online.
func (k *kennel) run() {
	k.t.Helper()
	k.runs++
	k.log, k.ended = logFile(k.path(fmt.Sprintf("log%d", k.runs))), make(chan error, 1)
	out, err := os.Create(string(k.log))
	if err != nil {
		k.t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(k.path("had"), "run", "--config", k.path("etc/had.toml"))
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	k.cmd = cmd
	ended, log := k.ended, k.log
	go func() { ended <- cmd.Wait() }()
	k.t.Cleanup(func() {
		if child := k.agent(cmd.Process.Pid); child > 0 {
			syscall.Kill(child, syscall.SIGKILL)
		}
		cmd.Process.Kill()
		if k.t.Failed() {
			k.t.Logf("had:\n%s", log)
		}
	})
	applied := false
	k.until(30*time.Second, "the service is online", func() bool {
		if !applied {
			applied = exec.Command(k.path("hactl"), "--socket", k.path("run/had.sock"), "apply", k.path("cluster.toml")).Run() == nil
		}
		_, err := os.Stat(k.path("runs"))
		return applied && err == nil
	})
}

// agent is the child of a dead man; 0: it has none.
func (k *kennel) agent(parent int) int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	all := strings.Fields(string(text))
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	for _, f := range tasks {
		text, _ := os.ReadFile(f)
		all = append(all, strings.Fields(string(text))...)
	}
	if len(all) == 0 {
		return 0
	}
	pid, _ := strconv.Atoi(all[0])
	return pid
}

func (k *kennel) until(limit time.Duration, what string, ok func() bool) {
	k.t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			k.t.Fatalf("%s: not within %s\nbook:\n%s\nhad:\n%s", what, limit, strings.Join(k.book(), "\n"), k.log)
		}
	}
}

// book is what the device was asked, one line each, oldest first.
func (k *kennel) book() []string {
	text, err := os.ReadFile(k.device)
	if err != nil {
		k.t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// unfed is how long ago the device was fed last.
func (k *kennel) unfed() time.Duration {
	last := int64(0)
	for _, line := range k.book() {
		if at, what, _ := strings.Cut(line, " "); what == "feed" {
			last, _ = strconv.ParseInt(at, 10, 64)
		}
	}
	return time.Duration(boottime.Now().UnixMilli()-last) * time.Millisecond
}

func (k *kennel) stop(sig syscall.Signal) {
	k.t.Helper()
	if err := k.cmd.Process.Signal(sig); err != nil {
		k.t.Fatal(err)
	}
	select {
	case <-k.ended:
	case <-time.After(30 * time.Second):
		k.t.Fatalf("had does not end\n%s", k.log)
	}
}

// neverUnfed checks the whole book: armed, the device was never left alone for its timeout; the machine would have been reset.
func (k *kennel) neverUnfed() {
	k.t.Helper()
	armed, last := false, int64(0)
	for _, line := range k.book() {
		text, what, _ := strings.Cut(line, " ")
		at, _ := strconv.ParseInt(text, 10, 64)
		if armed && at-last > 5000 {
			k.t.Errorf("not fed for %d ms before %q: this machine was reset", at-last, line)
		}
		switch what {
		case "open", "feed":
			armed, last = true, at
		case "write V":
			armed = false
		}
	}
}

// The watchdog of a whole node: fed while it is healthy, through restarts of the agent and of had, while the agent is gone and
// everything is released; not while something may live on past its lease; disarmed by an orderly stop.
func TestTheWatchdogOfANode(t *testing.T) {
	k := newKennel(t)
	// required: without a device had does not start.
	out, err := exec.Command(k.path("had"), "run", "--config", k.path("etc/had.toml")).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitConfig || !strings.Contains(string(out), "watchdog.mode is required") {
		t.Fatalf("without a device: %v, want exit code %d\n%s", err, exitConfig, out)
	}
	out, err = exec.Command(k.path("had"), "run", "--alone", "--config", k.path("etc/had.toml")).CombinedOutput()
	if !errors.As(err, &exit) || exit.ExitCode() != exitConfig {
		t.Fatalf("without a dead man: %v, want exit code %d\n%s", err, exitConfig, out)
	}
	k.write("watchdog", "", 0o600)
	k.run()
	if list := k.hactl("node", "list", "-o", "json"); !strings.Contains(list, "watchdog (pseudo, 5s)") {
		t.Errorf("the node does not say that it has a watchdog:\n%s", list)
	}
	k.until(5*time.Second, "fed while healthy", func() bool { return len(k.book()) > 5 })

	// The agent dies: its dead man goes on, and starts another.
	first := k.agent(k.cmd.Process.Pid)
	syscall.Kill(first, syscall.SIGKILL)
	k.until(20*time.Second, "another agent with a lease", func() bool { return strings.Count(k.log.String(), "this agent may act") == 2 })
	time.Sleep(300 * time.Millisecond) // it tells its dead man what it holds in the next round of its act loop

	// had is restarted under its lease, as an upgrade does: the device stays armed, and the successor feeds it.
	k.stop(syscall.SIGUSR1)
	if last := k.book()[len(k.book())-1]; !strings.HasSuffix(last, "close") || strings.Contains(strings.Join(k.book(), "\n"), "write V") {
		t.Errorf("a restart under the lease must leave the device armed: %q", last)
	}
	k.run()
	time.Sleep(2 * time.Second) // the executor of the first is through by then
	k.neverUnfed()
	if strings.Contains(strings.Join(k.book(), "\n"), "write V") {
		t.Error("somebody disarmed the device under its successor")
	}

	k.frozen()
	k.stop(syscall.SIGTERM)
	if book := strings.Join(k.book(), "\n"); !strings.HasSuffix(strings.TrimSpace(book), "close") || strings.Count(book, "write V") != 1 {
		t.Errorf("an orderly stop must disarm the device, once:\n%s", book)
	}
}

// frozen goes through an agent that stands still and cannot be started again: first with a service that cannot be proven
// stopped, then with one that can.
func (k *kennel) frozen() {
	k.t.Helper()
	k.neverUnfed()
	k.write("stuck", "", 0o600)
	if err := os.Rename(k.path("had"), k.path("had.away")); err != nil {
		k.t.Fatal(err)
	}
	syscall.Kill(k.agent(k.cmd.Process.Pid), syscall.SIGSTOP)
	k.until(30*time.Second, "it starves", func() bool { return k.unfed() > 5*time.Second }) // the machine would be reset now
	if !strings.Contains(k.log.String(), "not feeding the watchdog") {
		k.t.Errorf("nothing says why:\n%s", k.log)
	}
	os.Remove(k.path("stuck"))
	k.until(10*time.Second, "it is fed again when everything is gone, although there is no agent", func() bool { return k.unfed() < time.Second })
	if _, err := os.Stat(k.path("runs")); err == nil {
		k.t.Error("fed although the service still runs")
	}
	if err := os.Rename(k.path("had.away"), k.path("had")); err != nil {
		k.t.Fatal(err)
	}
	k.until(30*time.Second, "the next agent starts the service again", func() bool { _, err := os.Stat(k.path("runs")); return err == nil })
	k.until(10*time.Second, "what the dead man did is in the history", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		out, _ := exec.CommandContext(ctx, k.path("hactl"), "--socket", k.path("run/had.sock"), "events", "--long").CombinedOutput()
		return strings.Contains(string(out), "the dead man acted for svc on n1")
	})
}
