package health

import (
	"context"
	"fmt"
	"net"
	"net/netip"
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
)

// eventually polls until ok or a generous deadline.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// sleeper starts a process with a name of its own.
func sleeper(t *testing.T) (cmd *exec.Cmd, name string) {
	t.Helper()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip("needs sleep")
	}
	b, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	name = fmt.Sprintf("hp%d", os.Getpid()) + strconv.Itoa(int(time.Now().UnixNano()%10000))
	path := filepath.Join(t.TempDir(), "sleep-"+name)
	if err := os.WriteFile(path, b, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command(path, "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd, filepath.Base(path) // longer than a comm: cut by the kernel and by the probe
}

func TestProcess(t *testing.T) {
	cmd, name := sleeper(t)
	pid := cmd.Process.Pid
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "pid")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pidFile := file(fmt.Sprintf("%d\n", pid))
	byFile, byName := Spec{Kind: KindProcess, PIDFile: pidFile}, Spec{Kind: KindProcess, Process: name}
	eventually(t, "the exec of the child", func() bool { return check(t, byName).Outcome == Pass })

	expect(t, check(t, byFile), Pass, fmt.Sprintf("process %d", pid))
	expect(t, check(t, byName), Pass, fmt.Sprintf("process %d", pid))
	expect(t, check(t, Spec{Kind: KindProcess, PIDFile: pidFile, Process: name}), Pass, "")
	expect(t, check(t, Spec{Kind: KindProcess, PIDFile: pidFile, Process: "java"}), Fail, "and not")
	expect(t, check(t, Spec{Kind: KindProcess, PIDFile: pidFile + ".none"}), Fail, "not there")
	expect(t, check(t, Spec{Kind: KindProcess, PIDFile: file("")}), Fail, "no process id")
	expect(t, check(t, Spec{Kind: KindProcess, PIDFile: file("-1")}), Fail, "no process id")
	expect(t, check(t, Spec{Kind: KindProcess, PIDFile: t.TempDir()}), Skip, "reading the pid file")
	expect(t, check(t, Spec{Kind: KindProcess, Process: "no-such-process"}), Fail, "no process")

	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the stop", func() bool { return check(t, byFile).Outcome == Warn })
	expect(t, check(t, byName), Warn, "stopped")

	if err := cmd.Process.Kill(); err != nil { // and not reaped: a zombie
		t.Fatal(err)
	}
	eventually(t, "the zombie", func() bool { return check(t, byFile).Outcome == Fail })
	expect(t, check(t, byFile), Fail, "zombie")
	expect(t, check(t, byName), Fail, "zombie")
	cmd.Wait()
	expect(t, check(t, byFile), Fail, "gone")
	expect(t, check(t, byName), Fail, "no process")
}

func shell(text string) []string { return []string{"/bin/sh", "-c", text} }

func TestScript(t *testing.T) {
	tests := []struct {
		name    string
		command []string
		timeout time.Duration
		want    Outcome
		detail  string
	}{
		{"exit 0 passes with the first line", shell("echo 'OK - fine | a=1'; echo more"), 0, Pass, "OK - fine"},
		{"exit 1 warns", shell("echo WARNING; exit 1"), 0, Warn, "WARNING"},
		{"exit 2 fails", shell("echo CRITICAL >&2; exit 2"), 0, Fail, "CRITICAL"},
		{"exit 3 is no evidence", shell("echo UNKNOWN; exit 3"), 0, Skip, "UNKNOWN"},
		{"any other exit code is no evidence", shell("echo odd; exit 77"), 0, Skip, "77"},
		{"a script that is missing is no evidence", []string{"/no/such/script"}, 0, Skip, "starting"},
		{"a script that is killed is no evidence", shell("kill -9 $$"), 0, Skip, "did not end by itself"},
		{"a script that sleeps times out", shell("echo begun; sleep 60"), brief, Timeout, "begun"},
		{"a script that ignores TERM times out", shell("trap '' TERM; echo begun; while :; do sleep 1; done"), brief, Timeout, "begun"},
		{"endless output is bounded and times out", shell("exec yes"), brief, Timeout, "so far: y"},
		{"much output does not block the script", shell("head -c 1000000 /dev/zero | tr '\\0' x; exit 0"), 0, Pass, "xxx"},
		{"a child that holds the pipe is not waited for", shell("echo quick; sleep 60 & exit 0"), 0, Pass, "quick"},
		{"nor one outside of the group", shell("echo quick; setsid sleep 4 & sleep 0.1; exit 0"), 0, Pass, "quick"},
		{"the agent's environment stays out", shell(`echo "[$HAD_SECRET]"`), 0, Pass, "[]"},
	}
	t.Setenv("HAD_SECRET", "secret")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := check(t, Spec{Kind: KindScript, Command: tt.command, Timeout: tt.timeout})
			expect(t, r, tt.want, tt.detail)
			if tt.timeout == 0 && r.Latency > 2*time.Second {
				t.Errorf("took %v", r.Latency)
			}
		})
	}
}

func TestAScriptLeavesNeitherProcessesNorZombies(t *testing.T) {
	for name, text := range map[string]string{
		"at its timeout":   "sleep 600 & echo $! $$; sleep 600",
		"at a normal exit": "sleep 600 & echo $! $$; exit 0",
	} {
		t.Run(name, func(t *testing.T) {
			r := check(t, Spec{Kind: KindScript, Command: shell(text), Timeout: time.Second})
			detail := r.Detail[strings.LastIndex(r.Detail, ":")+1:]
			pids := strings.Fields(detail)
			if len(pids) != 2 {
				t.Fatalf("got %q, want two process ids", r.Detail)
			}
			for _, p := range pids {
				pid, err := strconv.Atoi(p)
				if err != nil {
					t.Fatal(err)
				}
				// The grandchild is init's to reap: a zombie of it is gone for us.
				eventually(t, "process "+p+" to be gone", func() bool {
					st, err := readStat(pid)
					return err != nil || st.gone()
				})
			}
			self, _ := strconv.Atoi(pids[1])
			if _, err := readStat(self); err == nil {
				t.Errorf("the script itself (%d) was not reaped", self)
			}
		})
	}
}

func TestJudgeUnit(t *testing.T) {
	tests := []struct {
		active, sub, load string
		want              Outcome
	}{
		{"active", "running", "loaded", Pass},
		{"reloading", "reload", "loaded", Pass},
		{"activating", "start", "loaded", Fail},
		{"activating", "auto-restart", "loaded", Fail},
		{"deactivating", "stop-sigterm", "loaded", Fail},
		{"inactive", "dead", "loaded", Fail},
		{"failed", "failed", "loaded", Fail},
		{"maintenance", "cleaning", "loaded", Warn},
		{"inactive", "dead", "not-found", Fail},
		{"", "", "", Skip},
	}
	for _, tt := range tests {
		t.Run(tt.active+" "+tt.sub+" "+tt.load, func(t *testing.T) {
			if got := judgeUnit("a.service", tt.active, tt.sub, tt.load); got.outcome != tt.want {
				t.Errorf("got %s (%s), want %s", got.outcome, got.detail, tt.want)
			}
		})
	}
}

func TestSystemd(t *testing.T) {
	if _, err := os.Lstat("/run/systemd/system"); err != nil {
		t.Run("without systemd nothing is known", func(t *testing.T) {
			expect(t, check(t, Spec{Kind: KindSystemd, Unit: "a.service"}), Skip, "systemd does not run here")
		})
		t.Skip("needs systemd")
	}
	expect(t, check(t, Spec{Kind: KindSystemd, Unit: "-.slice"}), Pass, "active")
	expect(t, check(t, Spec{Kind: KindSystemd, Unit: "no-such-unit.service"}), Fail, "not installed")
}

// inNamespace runs f on a thread in a network namespace of its own, with loopback up, which ends with the thread.
func inNamespace(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is thrown away with its namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		if err := exec.Command("ip", "link", "set", "lo", "up").Run(); err != nil {
			done <- err
			return
		}
		f()
		close(done)
	}()
	if err := <-done; err != nil {
		t.Skipf("needs root, network namespaces and ip: %v", err)
	}
}

func TestPing(t *testing.T) {
	ask := func(to string) answer {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		return ping(ctx, netip.MustParseAddr(to)) // not through New: the guard would change the thread
	}
	tests := []struct {
		name, ranges, to string
		before           [][]string
		want             Outcome
	}{
		{"an unprivileged socket hears IPv4", "0 2147483647", "127.0.0.1", nil, Pass},
		{"an unprivileged socket hears IPv6", "0 2147483647", "::1", nil, Pass},
		{"a raw socket hears IPv4", "1 0", "127.0.0.1", nil, Pass},
		{"a raw socket hears IPv6", "1 0", "::1", nil, Pass},
		{"without a route nothing is known", "1 0", "198.18.9.9", nil, Skip},
		{"a silent host times out", "1 0", "198.18.9.9", [][]string{
			{"ip", "addr", "add", "198.18.9.1/32", "dev", "lo"},
			{"ip", "tuntap", "add", "dev", "had-health0", "mode", "tun"},
			{"ip", "link", "set", "had-health0", "up"},
			{"ip", "route", "add", "198.18.9.9/32", "dev", "had-health0"},
		}, Timeout},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inNamespace(t, func() {
				if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte(tt.ranges), 0); err != nil {
					t.Logf("setting ping_group_range: %v", err)
				}
				for _, c := range tt.before {
					if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
						t.Errorf("%v: %v: %s", c, err, out)
					}
				}
				if f, raw, err := openICMP(netip.MustParseAddr("127.0.0.1")); err != nil || raw != (tt.ranges == "1 0") {
					t.Errorf("got raw %v, %v with the range %s", raw, err, tt.ranges)
				} else {
					f.Close()
				}
				if got := ask(tt.to); got.outcome != tt.want {
					t.Errorf("got %s (%s), want %s", got.outcome, got.detail, tt.want)
				}
			})
		})
	}
}

func TestNoInterfaceNoEvidence(t *testing.T) {
	if _, err := net.InterfaceByName("no-such-nic"); err == nil {
		t.Skip("needs an interface name that is free")
	}
	expect(t, check(t, Spec{Kind: KindPing, Host: "fe80::1%no-such-nic"}), Skip, "")
}
