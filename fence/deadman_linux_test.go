package fence

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/internal/boottime"
	"hacluster/resources"
)

// The test binary plays the agent: FENCE_AGENT says how it behaves.
func TestMain(m *testing.M) {
	if os.Getenv("FENCE_EXECUTOR") != "" && len(os.Args) > 1 && os.Args[1] == "execute" {
		if err := Execute(os.Stdin, slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if how := os.Getenv("FENCE_AGENT"); how != "" {
		os.Exit(playAgent(how))
	}
	if os.Getenv("FENCE_PARENT") != "" {
		os.Exit(playParent())
	}
	os.Exit(m.Run())
}

// service does not end when it is asked to: a polite stop would take all of its budget.
func service(dir string) resources.Spec {
	return resources.Spec{Group: "g", Name: "svc", Kind: resources.KindProcess, Command: []string{"/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done"}, StateDir: dir,
		PendingTimeout: time.Minute, StopBudget: 5 * time.Second}
}

// playAgent starts an exclusive service under a lease of 700 ms and then does what it is told.
func playAgent(how string) int {
	dir := os.Getenv("FENCE_DIR")
	line, err := OpenLine()
	if err != nil || line == nil {
		fmt.Fprintln(os.Stderr, "no line", err)
		return 1
	}
	note(dir, "started")
	if AfterBrokenStore() {
		note(dir, "warned")
	}
	if _, err := os.Stat(filepath.Join(dir, "once")); err == nil && how != "renews" { // the second life holds nothing
		line.Ready()
		if how == "knows nothing" {
			line.Exclusive(nil)
			line.Deadline(time.Time{})
		}
		for {
			line.Alive()
			time.Sleep(50 * time.Millisecond)
		}
	}
	os.WriteFile(filepath.Join(dir, "once"), nil, 0o600)
	line.Exclusive([]resources.Spec{service(dir)})
	line.Deadline(boottime.Now().Add(700 * time.Millisecond))
	drv, err := resources.New(service(dir), slog.New(slog.DiscardHandler))
	if err == nil {
		err = drv.Start(context.Background(), 1)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	line.Ready()
	note(dir, "holds")
	switch how {
	case "dies":
		return 3
	case "breaks":
		return 74
	case "ends for good":
		return 78
	case "ends with a word unsaid": // its newest lease is written down, and the dead man was not told
		now := boottime.Now()
		will, _ := OpenWill(filepath.Join(dir, "will"), now, time.Minute)
		will.Leave(now.Add(time.Minute))
		will.Close()
		return 78
	case "stalls": // speaks, but never renews
		for {
			line.Alive()
			time.Sleep(50 * time.Millisecond)
		}
	case "renews":
		for i := 0; ; i++ {
			line.Deadline(boottime.Now().Add(700 * time.Millisecond))
			select {
			case <-line.Gone():
				note(dir, "orphaned")
				return 0
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	syscall.Kill(os.Getpid(), syscall.SIGSTOP) // "freezes"
	return 4
}

func note(dir, what string) {
	f, err := os.OpenFile(filepath.Join(dir, "notes"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		fmt.Fprintf(f, "%s %d\n", what, os.Getpid())
		f.Close()
	}
}

func playParent() int {
	os.Setenv("FENCE_AGENT", os.Getenv("FENCE_PARENT"))
	os.Unsetenv("FENCE_PARENT")
	os.Setenv("FENCE_EXECUTOR", "1")
	d := &DeadMan{Agent: []string{os.Args[0]}, Final: []int{78}, Broken: 74, Executor: []string{os.Args[0], "execute"}, Will: filepath.Join(os.Getenv("FENCE_DIR"), "will"), Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	code, err := d.Run(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return code
}

// guarded starts a dead man with such an agent, in a network namespace of its own: it drops addresses.
func guarded(t *testing.T, how string) (dir string, parent *exec.Cmd) {
	t.Helper()
	dir = t.TempDir()
	return dir, guardedIn(t, dir, how)
}

// guardedIn is guarded on the node whose files are in dir.
func guardedIn(t *testing.T, dir, how string) (parent *exec.Cmd) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	parent = exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), "FENCE_PARENT="+how, "FENCE_DIR="+dir)
	parent.Stdout, parent.Stderr = os.Stdout, os.Stderr
	parent.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		parent.Process.Kill()
		parent.Wait()
		for _, line := range notes(dir) { // agents that outlived it
			if pid, err := strconv.Atoi(line[1]); err == nil && alive(pid) && isOurs(pid) {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		drv, err := resources.New(service(dir), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Error(err)
			return
		}
		if err := drv.Kill(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return parent
}

func isOurs(pid int) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	self, err2 := os.Executable()
	return err == nil && err2 == nil && exe == self
}

func alive(pid int) bool { return !errors.Is(unix.Kill(pid, 0), unix.ESRCH) }

func notes(dir string) [][]string {
	text, _ := os.ReadFile(filepath.Join(dir, "notes"))
	var out [][]string
	for _, l := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		if f := strings.Fields(l); len(f) == 2 {
			out = append(out, f)
		}
	}
	return out
}

func noted(dir, what string) int {
	n := 0
	for _, f := range notes(dir) {
		if f[0] == what {
			n++
		}
	}
	return n
}

func running(t *testing.T, dir string) bool {
	t.Helper()
	drv, err := resources.New(service(dir), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	st, err := drv.Status(t.Context())
	return err == nil && st.Running
}

func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	begun := time.Now()
	for !ok() {
		if time.Since(begun) > limit {
			t.Fatalf("%s: not within %s", what, limit)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(begun)
}

// S2: at the end of the lease what is exclusive is killed, whatever became of the agent.
func TestExclusiveEndsWithTheLease(t *testing.T) {
	for _, how := range []string{"dies", "freezes", "stalls"} {
		t.Run(how, func(t *testing.T) {
			dir, _ := guarded(t, how)
			eventually(t, 10*time.Second, "the agent holds the service", func() bool { return noted(dir, "holds") == 1 })
			if !running(t, dir) {
				t.Fatal("the service ended before the lease")
			}
			took := eventually(t, 3*time.Second, "the service is gone", func() bool { return !running(t, dir) })
			t.Logf("gone %s after the agent held it (lease 700ms)", took.Round(time.Millisecond))
		})
	}
}

// S2: a dead man that ends before the lease does leaves an executor behind, unless a successor has a later lease.
func TestLeaseIsExecutedAfterTheDeadMansOwnEnd(t *testing.T) {
	dir, parent := guarded(t, "ends for good")
	if err := parent.Wait(); err == nil {
		t.Fatal("the dead man did not end with the agent's code")
	}
	if !running(t, dir) {
		t.Fatal("the service ended before the lease")
	}
	took := eventually(t, 3*time.Second, "the service is gone", func() bool { return !running(t, dir) })
	t.Logf("gone %s after the dead man", took.Round(time.Millisecond))
}

// S2: what the ended agent wrote down last is not taken for a successor's lease, or nothing would ever end what it held.
func TestTheEndedAgentsOwnLeaseIsNoSuccessors(t *testing.T) {
	dir, parent := guarded(t, "ends with a word unsaid")
	if err := parent.Wait(); err == nil {
		t.Fatal("the dead man did not end with the agent's code")
	}
	eventually(t, 3*time.Second, "the service is gone", func() bool { return !running(t, dir) })
}

func TestSuccessorsLeaseIsNotExecuted(t *testing.T) {
	dir, parent := guarded(t, "ends for good")
	if err := parent.Wait(); err == nil {
		t.Fatal("the dead man did not end with the agent's code")
	}
	now := boottime.Now()
	will, _ := OpenWill(filepath.Join(dir, "will"), now, time.Minute)
	will.Leave(now.Add(time.Minute))
	will.Close()
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if !running(t, dir) {
			t.Fatal("the executor ended what a successor holds")
		}
	}
}

// L3: an agent that died is started again at once, and what runs is left alone meanwhile.
func TestDeadAgentIsStartedAgain(t *testing.T) {
	dir, _ := guarded(t, "dies")
	took := eventually(t, 10*time.Second, "a second agent", func() bool { return noted(dir, "started") == 2 })
	if !running(t, dir) {
		t.Error("the service was ended with the agent")
	}
	t.Log("started again", took.Round(time.Millisecond))
}

func TestAnAgentIsToldThatTheStoreWasBroken(t *testing.T) {
	dir, _ := guarded(t, "breaks")
	eventually(t, 10*time.Second, "a second agent", func() bool { return noted(dir, "started") == 2 && noted(dir, "warned") == 1 })
	other, _ := guarded(t, "dies")
	eventually(t, 10*time.Second, "a second agent", func() bool { return noted(other, "started") == 2 })
	if noted(other, "warned") != 0 {
		t.Error("an agent was told of a broken store after an ordinary death")
	}
}

func TestFrozenAgentIsKilledAndStartedAgain(t *testing.T) {
	dir, _ := guarded(t, "freezes")
	eventually(t, 15*time.Second, "a second agent", func() bool { return noted(dir, "started") == 2 })
}

// The agent learns of the dead man's end at once, and a lease that is renewed never fires.
func TestAgentLearnsOfItsParentsEnd(t *testing.T) {
	dir, parent := guarded(t, "renews")
	eventually(t, 10*time.Second, "the agent holds the service", func() bool { return noted(dir, "holds") == 1 })
	deadline := time.Now().Add(1500 * time.Millisecond)
	for time.Now().Before(deadline) {
		if !running(t, dir) {
			t.Fatal("the service ended under a renewed lease")
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, 2*time.Second, "the agent knows", func() bool { return noted(dir, "orphaned") == 1 })
	t.Log("known after", took.Round(time.Millisecond))
	runtime.KeepAlive(parent)
}
