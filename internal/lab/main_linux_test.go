package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// holderEnv makes the test binary a process that holds a lab, to be killed.
const holderEnv = "HAD_LAB_TEST_HOLDER"

var serviceBin string // testservice, built once

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	code, done, err := Reexec()
	if done {
		return code
	}
	if err != nil && !errors.Is(err, ErrNotPermitted) {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if os.Getenv(holderEnv) != "" {
		return holdLab()
	}
	dir, err := os.MkdirTemp("", "had-lab-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	serviceBin = filepath.Join(dir, "testservice")
	return m.Run()
}

// newLab makes a lab or skips where the machine permits none.
func newLab(t *testing.T, o Options) *Lab {
	t.Helper()
	if o.Nodes == nil {
		o.Nodes = []string{"n1", "n2", "n3"}
	}
	l, err := New(t.Context(), o)
	if errors.Is(err, ErrNotPermitted) {
		t.Skip("needs root or user namespaces: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("closing the lab: %v", err)
		}
		for _, ns := range l.rec.NetNS {
			if _, err := os.Lstat(filepath.Join(netnsDir, ns)); err == nil {
				t.Errorf("network namespace %s is left", ns)
			}
		}
		if l.rec.Cgroup != "" {
			if _, err := os.Stat(l.rec.Cgroup); err == nil {
				t.Errorf("cgroup %s is left", l.rec.Cgroup)
			}
		}
	})
	return l
}

// startService runs the test service on a node.
func startService(t *testing.T, n *Node, args ...string) *Proc {
	t.Helper()
	if _, err := os.Stat(serviceBin); err != nil {
		if _, err := exec.LookPath("go"); err != nil {
			t.Skip("needs the go tool: ", err)
		}
		if err := Build(t.Context(), filepath.Dir(serviceBin), TestService); err != nil {
			t.Fatal(err)
		}
	}
	p, err := n.Start(ProcOptions{Name: "service", Args: append([]string{serviceBin, "-name", n.Name, "-ajp", ":8009"}, args...)})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// eventually polls a condition until it holds.
func eventually(t *testing.T, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, limit)
		}
	}
}

// stays checks that a condition holds for a while.
func stays(t *testing.T, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if !cond() {
			t.Fatalf("%s: no longer so", what)
		}
	}
}
