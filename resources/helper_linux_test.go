package resources

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// helperVar makes the test binary play a program under test instead of running tests.
const helperVar = "HAD_TEST_HELPER"

func TestMain(m *testing.M) {
	if mode := os.Getenv(helperVar); mode != "" {
		time.AfterFunc(2*time.Minute, func() { os.Exit(99) }) // a stray never stays
		helper(mode)
		return
	}
	code := m.Run()
	Close()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func helper(mode string) {
	args := os.Args[1:]
	switch mode {
	case "wait":
	case "env":
		fmt.Println(strings.Join(os.Environ(), "\n"))
		fmt.Println("uid", os.Getuid())
	case "chatter":
		fmt.Println(strings.Repeat("x", 1000))
	case "polite":
		ch := make(chan os.Signal, 1)
		signal.Notify(ch, syscall.SIGTERM, syscall.SIGUSR1)
		fmt.Println("ready")
		fmt.Println("got", <-ch)
		os.Exit(0)
	case "deaf":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ready")
	case "exit3":
		os.Exit(3)
	case "family", "orphans": // a child in a session of its own, which has one in its own again
		spawn("child")
		if mode == "orphans" {
			os.Exit(0)
		}
	case "child":
		signal.Ignore(syscall.SIGTERM)
		spawn("deaf")
		os.Exit(0) // so that the grandchild belongs to nobody
	case "agent", "agent-service": // starts a resource and ends, as an agent does that is upgraded
		d, err := New(Spec{Name: args[0], Group: "g", Kind: KindProcess, Command: []string{os.Args[0]}, StateDir: args[1],
			Env: map[string]string{helperVar: "wait"}}, nil)
		if err == nil {
			err = d.Start(context.Background(), 3)
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		if mode == "agent" {
			os.Exit(0)
		}
	}
	for { // not select{}: the runtime would call it a deadlock
		time.Sleep(time.Hour)
	}
}

// spawn starts this binary in another mode, detached, and prints its pid for the test.
func spawn(mode string) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperVar+"="+mode)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		os.Exit(98)
	}
	fmt.Println(mode, cmd.Process.Pid)
}

func self(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

func logTo(t *testing.T) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

// eventually waits for a condition; the deadline is generous, the machine is shared.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 15 s: %s", what)
		}
	}
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func pidAlive(pid int) bool {
	st, err := readStat(pid)
	return err == nil && !st.dead()
}

// startWatch runs Watch until the test ends and gives the channel of its wakes.
func startWatch(t *testing.T, d Driver) <-chan time.Time {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	wakes, done := make(chan time.Time, 1000), make(chan error, 1)
	go func() { done <- d.(Watcher).Watch(ctx, func() { wakes <- time.Now() }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
	return wakes
}

// quiet takes wakes away until none has come for a while.
func quiet(wakes <-chan time.Time) {
	for {
		select {
		case <-wakes:
		case <-time.After(200 * time.Millisecond):
			return
		}
	}
}

func wantStatus(t *testing.T, d Driver, running, failed bool) Status {
	t.Helper()
	st, err := d.Status(context.Background())
	if err != nil {
		t.Fatalf("Status: %v", err)
	}
	if st.Running != running || st.Failed != failed {
		t.Fatalf("Status: got %+v, want running %v, failed %v", st, running, failed)
	}
	return st
}

func mustStart(t *testing.T, d Driver) {
	t.Helper()
	if err := d.Start(context.Background(), 7); err != nil {
		t.Fatalf("Start: %v", err)
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func isErr(t *testing.T, err, want error, text string) {
	t.Helper()
	if err == nil || want != nil && !errors.Is(err, want) || !strings.Contains(err.Error(), text) {
		t.Fatalf("error: got %v, want one that is %v and says %q", err, want, text)
	}
}

func number(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
