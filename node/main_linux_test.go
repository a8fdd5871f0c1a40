package node

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// ownNetwork is set in the test process that has a network namespace of its own: there every port is free, the sweep of
// floating addresses can meet none of this machine, and nothing that listens is reached from outside.
const ownNetwork = "HAD_TEST_OWN_NETWORK"

func TestMain(m *testing.M) {
	if os.Getenv(ownNetwork) == "" && os.Geteuid() == 0 {
		os.Exit(again())
	}
	if os.Getenv(ownNetwork) != "" {
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "bringing lo up: %v\n%s", err, out)
			os.Exit(1)
		}
	}
	// memberlist does not join its probes at the end; each ends with its own timeout.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).triggerFunc"))
}

// again runs this test binary in a new network namespace.
func again() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), ownNetwork+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	var exit *exec.ExitError
	switch err := cmd.Run(); {
	case errors.As(err, &exit):
		return max(1, exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "running the tests in a network namespace:", err)
		return 1
	}
	return 0
}

// needNetwork skips where a test cannot have a network namespace of its own.
func needNetwork(t *testing.T) {
	t.Helper()
	if os.Getenv(ownNetwork) == "" {
		t.Skip("needs root")
	}
}
