package urgency

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// runsAs is the scheduling policy and the nice value of a process that is started so.
func runsAs(t *testing.T, run func(*exec.Cmd) error) string {
	t.Helper()
	cmd := exec.Command("cat", "/proc/self/stat")
	var out strings.Builder
	cmd.Stdout = &out
	if err := run(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(out.String()[strings.LastIndex(out.String(), ")"):])
	if len(f) < 40 {
		t.Fatalf("/proc/self/stat: %q", out.String())
	}
	return fmt.Sprintf("policy %s, real-time priority %s, nice %s", f[39], f[38], f[17]) // proc_pid_stat(5), fields 41, 40, 19
}

const (
	urgent   = "policy 2, real-time priority 1, nice 0"
	ordinary = "policy 0, real-time priority 0, nice 0"
)

func raised(t *testing.T) {
	t.Helper()
	if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: priority}, 0); err != nil {
		t.Skip("needs the right to a real-time policy: ", err)
	}
	if err := Raise(); err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsStartedOrdinarilyHasNoPrecedence(t *testing.T) {
	raised(t)
	if got := runsAs(t, (*exec.Cmd).Start); got != urgent {
		t.Errorf("a plain child of a raised process: %s, want %s", got, urgent)
	}
	if got := runsAs(t, func(c *exec.Cmd) error { return Ordinary(c.Start) }); got != ordinary {
		t.Errorf("an ordinary child: %s, want %s", got, ordinary)
	}
	// The thread that was lowered has ended: those that are left start children with precedence as before.
	for range 20 {
		if got := runsAs(t, (*exec.Cmd).Start); got != urgent {
			t.Fatalf("after an ordinary child a plain one: %s", got)
		}
	}
}

// Every thread has it, those that were there before and those that come later.
func TestEveryThreadIsRaised(t *testing.T) {
	raised(t)
	done := make(chan struct{})
	for range 8 { // threads that are in a call of the system while Raise looks, and others that begin then
		go func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				_ = unix.Nanosleep(&unix.Timespec{Nsec: int64(time.Millisecond)}, nil)
			}
		}()
	}
	defer close(done)
	if err := Raise(); err != nil {
		t.Fatal(err)
	}
	seen := 0
	if err := threads(func(id int) error {
		a, err := unix.SchedGetAttr(id, 0)
		if err == nil && (a.Policy != unix.SCHED_RR || a.Priority != priority) {
			err = fmt.Errorf("thread %d: policy %d, priority %d", id, a.Policy, a.Priority)
		}
		seen++
		return err
	}); err != nil || seen < 2 {
		t.Errorf("%d threads, %v", seen, err)
	}
}

// asSession is set in the process that TestWithoutRealTimeANiceValueIsLeft starts.
const asSession = "HAD_TEST_SESSION"

// Without the right to real time a process runs at a nice value, and against other sessions, too. In a session of its own: that of the
// test may be the machine's first, which has no group (a CI runner that is the child of init).
func TestWithoutRealTimeANiceValueIsLeft(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := os.Stat("/proc/self/autogroup"); err != nil {
		t.Skip("needs a kernel that groups processes by session")
	}
	if os.Getenv(asSession) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env, cmd.SysProcAttr = append(os.Environ(), asSession+"=1"), &syscall.SysProcAttr{Setsid: true}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	if err := session(-3); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("/proc/self/autogroup")
	if err != nil || !strings.HasSuffix(strings.TrimSpace(string(text)), "nice -3") {
		t.Errorf("%q, %v", text, err)
	}
}

// A session without a group of its own is no fault: the nice value of the process is enough there. The kernel says the same of it as
// of a nice value that does not exist.
func TestASessionWithoutAGroupIsNoFault(t *testing.T) {
	const none = 99
	if _, err := os.Stat("/proc/self/autogroup"); err != nil {
		t.Skip("needs a kernel that groups processes by session")
	}
	if err := os.WriteFile("/proc/self/autogroup", []byte(strconv.Itoa(none)), 0o644); !errors.Is(err, unix.EINVAL) {
		t.Fatalf("nice value %d: %v", none, err)
	}
	if err := session(none); err != nil {
		t.Error(err)
	}
}
