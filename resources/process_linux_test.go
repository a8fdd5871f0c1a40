package resources

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newTestProcess is a resource that is this test binary in one of its modes; nothing of it survives the test.
func newTestProcess(t *testing.T, mode string, change func(*Spec)) *process {
	t.Helper()
	s := Spec{Group: "g", Name: "app", Kind: KindProcess, Command: []string{self(t)}, StateDir: t.TempDir(),
		Env: map[string]string{helperVar: mode}, StopBudget: 5 * time.Second}
	if change != nil {
		change(&s)
	}
	d, err := New(s, logTo(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Kill(context.Background()); err != nil {
			t.Errorf("cleaning up: %v", err)
		}
	})
	return d.(*process)
}

func (d *process) logText() string {
	b, _ := os.ReadFile(d.file(".log"))
	return string(b)
}

// logged waits until the program has written a line that begins with word, and gives the rest of the line.
func (d *process) logged(t *testing.T, word string) string {
	t.Helper()
	rest := ""
	eventually(t, "log line "+word, func() bool {
		for line := range strings.Lines(d.logText()) {
			if r, ok := strings.CutPrefix(line, word); ok && strings.HasSuffix(r, "\n") {
				rest = strings.TrimSpace(r)
				return true
			}
		}
		return false
	})
	return rest
}

func TestProcessStartsStopsAndIsAskedOfTheKernel(t *testing.T) {
	d := newTestProcess(t, "polite", nil)
	wantStatus(t, d, false, false)
	mustStart(t, d)
	d.logged(t, "ready")
	pid := wantStatus(t, d, true, false).PID
	st, err := readStat(pid)
	if err != nil || st.Session != pid {
		t.Fatalf("session: got %+v, %v, want its own", st, err)
	}
	mustStart(t, d)
	if again := wantStatus(t, d, true, false).PID; again != pid {
		t.Fatalf("a second Start: got pid %d, want %d adopted", again, pid)
	}
	if err := d.Stop(context.Background(), 8); err != nil {
		t.Fatal(err)
	}
	d.logged(t, "got terminated")
	wantStatus(t, d, false, false)
	if pidAlive(pid) {
		t.Fatal("alive after Stop")
	}
	if left, _ := filepath.Glob(d.file(".pid*")); len(left) > 0 {
		t.Fatalf("left behind: %v", left)
	}
	if err := errors.Join(d.Stop(context.Background(), 8), d.Kill(context.Background())); err != nil {
		t.Fatalf("stopping what is stopped: %v", err)
	}
}

func TestProcessStopSignalIsConfigurable(t *testing.T) {
	d := newTestProcess(t, "polite", func(s *Spec) { s.StopSignal = "usr1" })
	mustStart(t, d)
	d.logged(t, "ready")
	if err := d.Stop(context.Background(), 8); err != nil {
		t.Fatal(err)
	}
	d.logged(t, "got user defined signal 1")
	_, err := New(Spec{Name: "x", Kind: KindProcess, Command: []string{"x"}, StateDir: "/x", StopSignal: "SIGNOPE"}, nil)
	isErr(t, err, nil, `stop_signal "SIGNOPE" is not a signal`)
}

func TestProcessDeafToTheStopSignalIsKilledAtTheBound(t *testing.T) {
	d := newTestProcess(t, "deaf", nil)
	mustStart(t, d)
	d.logged(t, "ready")
	pid := wantStatus(t, d, true, false).PID
	began := time.Now()
	if err := d.Stop(within(t, 300*time.Millisecond), 8); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 300*time.Millisecond || took > 5*time.Second {
		t.Fatalf("Stop took %v, want the bound of 300 ms and the kill", took)
	}
	if pidAlive(pid) {
		t.Fatal("alive after Stop")
	}
}

func TestProcessStopThatIsCancelledKillsNothing(t *testing.T) {
	d := newTestProcess(t, "deaf", nil)
	mustStart(t, d)
	d.logged(t, "ready")
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(100*time.Millisecond, cancel)
	isErr(t, d.Stop(ctx, 8), context.Canceled, "stopping app")
	wantStatus(t, d, true, false)
}

func TestProcessThatIsStoppedBySignalCanBeStoppedAndKilled(t *testing.T) {
	for name, end := range map[string]func(*process) error{
		"Kill": func(d *process) error { return d.Kill(context.Background()) },
		"Stop": func(d *process) error { return d.Stop(context.Background(), 8) },
	} {
		t.Run(name, func(t *testing.T) {
			d := newTestProcess(t, "polite", nil)
			mustStart(t, d)
			d.logged(t, "ready")
			pid := wantStatus(t, d, true, false).PID
			if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			eventually(t, "stopped", func() bool { st, err := readStat(pid); return err == nil && st.State == 'T' })
			if err := end(d); err != nil {
				t.Fatal(err)
			}
			if pidAlive(pid) {
				t.Fatal("alive")
			}
		})
	}
}

// withoutCgroup takes the record's cgroup away, as on a machine that gives none.
func withoutCgroup(t *testing.T, d *process) {
	t.Helper()
	r, err := d.read()
	if err != nil || r == nil {
		t.Fatalf("record: %v, %v", r, err)
	}
	dir := r.Cgroup
	if dir == "" {
		return
	}
	t.Cleanup(func() {
		if err := errors.Join(d.Kill(context.Background()), removeCgroup(dir)); err != nil {
			t.Errorf("cleaning up: %v", err)
		}
	})
	r.Cgroup = ""
	if err := d.write(*r); err != nil {
		t.Fatal(err)
	}
}

func TestProcessGrandchildrenThatForkedAwayAreCaught(t *testing.T) {
	for _, mode := range []string{"family", "orphans"} {
		for _, cg := range []bool{true, false} {
			for name, end := range map[string]func(*process) error{
				"Kill": func(d *process) error { return d.Kill(context.Background()) },
				"Stop": func(d *process) error { return d.Stop(within(t, 500*time.Millisecond), 8) },
			} {
				t.Run(fmt.Sprintf("%s, cgroup %v, %s", mode, cg, name), func(t *testing.T) {
					d := newTestProcess(t, mode, func(s *Spec) { s.StopBudget = 400 * time.Millisecond })
					mustStart(t, d)
					grandchild := number(t, d.logged(t, "deaf "))
					r, err := d.read()
					if err != nil {
						t.Fatal(err)
					}
					if cg && r.Cgroup == "" {
						t.Skip("needs a writable cgroup version 2 hierarchy")
					}
					if !cg {
						withoutCgroup(t, d)
					}
					eventually(t, "the child to end", func() bool { return !pidAlive(number(t, d.logged(t, "child "))) })
					if mode == "orphans" {
						eventually(t, "main to end", func() bool { return !pidAlive(r.PID) })
						if st := wantStatus(t, d, false, true); !strings.Contains(st.Detail, "1 of its processes are left") {
							t.Fatalf("detail: got %q", st.Detail)
						}
					}
					if !pidAlive(grandchild) {
						t.Fatal("the grandchild does not run")
					}
					if err := end(d); err != nil {
						t.Fatal(err)
					}
					if pidAlive(grandchild) {
						t.Fatal("the grandchild is alive")
					}
				})
			}
		}
	}
}

func TestProcessStartClearsWhatAnEarlierStartLeft(t *testing.T) {
	d := newTestProcess(t, "orphans", nil)
	mustStart(t, d)
	first := number(t, d.logged(t, "deaf "))
	eventually(t, "main to end", func() bool { st, _ := d.Status(context.Background()); return st.Failed })
	mustStart(t, d)
	if pidAlive(first) {
		t.Fatal("two generations run")
	}
}

func TestProcessDeathWakesAtOnce(t *testing.T) {
	for name, adopt := range map[string]bool{"own child": false, "adopted process": true} {
		t.Run(name, func(t *testing.T) {
			var took []time.Duration
			for range 10 {
				d := newTestProcess(t, "wait", nil)
				if adopt {
					startByAgent(t, d)
				} else {
					mustStart(t, d)
				}
				wakes := startWatch(t, d)
				quiet(wakes)
				pid := wantStatus(t, d, true, false).PID
				began := time.Now()
				if err := unix.Kill(pid, unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
				select {
				case at := <-wakes:
					took = append(took, at.Sub(began))
				case <-time.After(10 * time.Second):
					t.Fatal("no wake after kill -9")
				}
				wantStatus(t, d, false, true)
			}
			m := median(took)
			t.Logf("kill -9 to wake: median %v of %v", m, took)
			if m > 20*time.Millisecond {
				t.Errorf("kill -9 to wake: median %v, want under 20 ms", m)
			}
		})
	}
}

func TestProcessWatchFollowsTheNextStart(t *testing.T) {
	d := newTestProcess(t, "wait", nil)
	wakes := startWatch(t, d)
	for range 3 {
		quiet(wakes)
		mustStart(t, d)
		<-wakes
		quiet(wakes)
		if err := unix.Kill(wantStatus(t, d, true, false).PID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-wakes
		wantStatus(t, d, false, true)
	}
}

// startByAgent lets another process start the resource and end, so that the program is nobody's child.
func startByAgent(t *testing.T, d *process) {
	t.Helper()
	cmd := exec.Command(self(t), d.spec.Name, d.spec.StateDir)
	cmd.Env = append(os.Environ(), helperVar+"=agent")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("agent: %v: %s", err, out)
	}
}

func TestProcessSurvivesTheAgentAndIsAdopted(t *testing.T) {
	d := newTestProcess(t, "wait", nil)
	startByAgent(t, d)
	pid := wantStatus(t, d, true, false).PID
	if st, err := readStat(pid); err != nil || st.Parent == os.Getpid() {
		t.Fatalf("got parent %d, %v, want another", st.Parent, err)
	}
	later, err := New(d.spec, logTo(t))
	if err != nil {
		t.Fatal(err)
	}
	mustStart(t, later)
	if got := wantStatus(t, later, true, false).PID; got != pid {
		t.Fatalf("got pid %d, want %d adopted", got, pid)
	}
	if err := later.Kill(context.Background()); err != nil {
		t.Fatal(err)
	}
	if pidAlive(pid) {
		t.Fatal("alive after Kill")
	}
	wantStatus(t, d, false, false)
}

func TestProcessOfAnInterruptedStartIsAdopted(t *testing.T) {
	for _, cg := range []bool{true, false} {
		t.Run(fmt.Sprintf("cgroup %v", cg), func(t *testing.T) {
			d := newTestProcess(t, "wait", nil)
			mustStart(t, d)
			pid := wantStatus(t, d, true, false).PID
			if !cg {
				withoutCgroup(t, d)
			}
			r, err := d.read()
			if err != nil {
				t.Fatal(err)
			}
			r.PID, r.Start = 0, 0 // as it was before the fork
			if err := d.write(*r); err != nil {
				t.Fatal(err)
			}
			if got := wantStatus(t, d, true, false).PID; got != pid {
				t.Fatalf("got pid %d, want %d", got, pid)
			}
			mustStart(t, d)
			if r, err = d.read(); err != nil || r.PID != pid {
				t.Fatalf("record: got %+v, %v, want pid %d", r, err, pid)
			}
		})
	}
}

// A stranger that got the id of a process of ours must never be adopted, waited for or killed.
func TestProcessStrangerWithAReusedPIDIsLeftAlone(t *testing.T) {
	stranger := exec.Command(self(t))
	stranger.Env = append(os.Environ(), helperVar+"=wait")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stranger.Process.Kill(); stranger.Wait() })
	st, err := readStat(stranger.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	boot, _ := bootID()
	for name, change := range map[string]func(*record){
		"another start time": func(r *record) { r.Start-- },
		"another boot":       func(r *record) { r.Boot = "00000000-0000-0000-0000-000000000000" },
	} {
		t.Run(name, func(t *testing.T) {
			d := newTestProcess(t, "wait", nil)
			r := record{Group: "g", Resource: "app", Instance: newInstance(), Boot: boot, PID: st.PID, Start: st.Start}
			change(&r)
			if err := d.write(r); err != nil {
				t.Fatal(err)
			}
			if s, err := d.Status(context.Background()); err != nil || s.Running || s.PID != 0 {
				t.Fatalf("Status: got %+v, %v, want not running", s, err)
			}
			if err := errors.Join(d.Stop(within(t, time.Second), 1), d.Kill(context.Background())); err != nil {
				t.Fatal(err)
			}
			if !pidAlive(st.PID) {
				t.Fatal("a stranger was killed")
			}
		})
	}
}

func TestProcessDoubtfulPIDFileIsRefused(t *testing.T) {
	d := newTestProcess(t, "wait", nil)
	t.Cleanup(func() { os.Remove(d.file(".pid")) }) // before the kill of newTestProcess
	for text, want := range map[string]string{
		"1234\n": "make sure that the program does not run",
		string(record{Group: "other", Resource: "app", Instance: newInstance()}.marshal()): `belongs to resource "app" of group "other"`,
	} {
		if err := os.WriteFile(d.file(".pid"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := d.Status(context.Background())
		isErr(t, err, nil, want)
		isErr(t, d.Start(context.Background(), 1), nil, want)
		isErr(t, d.Kill(context.Background()), nil, want)
	}
}

func TestProcessEnvironmentIsMinimalAndCarriesTheEpoch(t *testing.T) {
	t.Setenv("HAD_TEST_SECRET", "1")
	d := newTestProcess(t, "env", func(s *Spec) { s.Env["COLOUR"] = "blue" })
	mustStart(t, d)
	d.logged(t, "uid")
	text := d.logText()
	for _, want := range []string{"HAD_GROUP=g\n", "HAD_RESOURCE=app\n", "HAD_EPOCH=7\n", "COLOUR=blue\n", "PATH=" + minimalPath + "\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("environment lacks %q: %s", want, text)
		}
	}
	if strings.Contains(text, "SECRET") {
		t.Errorf("the agent's environment leaks: %s", text)
	}
}

func TestProcessRunsAsItsUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	d := newTestProcess(t, "", func(s *Spec) {
		s.User, s.Command, s.Env = "nobody", []string{"sh", "-c", "id; echo HOME $HOME; sleep 60"}, nil
	})
	mustStart(t, d)
	d.logged(t, "HOME")
	if !strings.Contains(d.logText(), "uid=65534(nobody) gid=65534(nogroup) groups=65534(nogroup)") {
		t.Fatalf("got %s", d.logText())
	}
	bad := newTestProcess(t, "wait", func(s *Spec) { s.User = "no-such-user" })
	isErr(t, bad.Start(context.Background(), 1), nil, "no-such-user")
	wantStatus(t, bad, false, false)
}

func TestProcessThatCannotBeExecutedSaysSoAndLeavesNothing(t *testing.T) {
	for cmd, want := range map[string]string{
		"no-such-program":      "is not in " + minimalPath,
		"/nonexistent/program": "no such file",
		"/etc/passwd":          "permission denied",
	} {
		d := newTestProcess(t, "wait", func(s *Spec) { s.Command = []string{cmd} })
		isErr(t, d.Start(context.Background(), 1), nil, want)
		wantStatus(t, d, false, false)
	}
}

func TestProcessStatusSaysHowItEnded(t *testing.T) {
	d := newTestProcess(t, "exit3", nil)
	mustStart(t, d)
	eventually(t, "exit status 3", func() bool {
		st, err := d.Status(context.Background())
		return err == nil && st.Failed && strings.Contains(st.Detail, "exit status 3")
	})
	r, err := d.read()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readStat(r.PID); err == nil {
		t.Fatal("left as a zombie")
	}
}

func TestLogIsRotatedWhileItIsWritten(t *testing.T) {
	name := filepath.Join(t.TempDir(), "x.log")
	w, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	size := func(n string) int64 {
		st, err := os.Stat(n)
		if err != nil {
			return -1
		}
		return st.Size()
	}
	for step, c := range []struct{ write, log, old int64 }{{100, 100, -1}, {1, 0, 101}, {40, 40, 101}, {500, 0, 200}} {
		fmt.Fprint(w, strings.Repeat("x", int(c.write)))
		if err := rotate(name, 100); err != nil {
			t.Fatal(err)
		}
		if size(name) != c.log || size(name+".1") != c.old {
			t.Fatalf("step %d: got %d and %d bytes, want %d and %d", step, size(name), size(name+".1"), c.log, c.old)
		}
	}
}
