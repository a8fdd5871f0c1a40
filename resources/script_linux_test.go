package resources

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// newTestScript is a resource whose truth is a file: present means running. %D in a command stands for its folder.
func newTestScript(t *testing.T, start, stop, status string) (*script, string) {
	t.Helper()
	dir := t.TempDir()
	sh := func(cmd string) []string { return []string{"sh", "-c", strings.ReplaceAll(cmd, "%D", dir)} }
	d, err := New(Spec{Group: "g", Name: "s", Kind: KindScript, Start: sh(start), Stop: sh(stop), Status: sh(status),
		Env: map[string]string{"COLOUR": "blue"}, StatusInterval: 10 * time.Millisecond}, logTo(t))
	if err != nil {
		t.Fatal(err)
	}
	return d.(*script), dir
}

const (
	touchUp  = `echo "$HAD_EPOCH $HAD_GROUP $HAD_RESOURCE $COLOUR" > %D/up`
	removeUp = `rm -f %D/up`
	askUp    = `test -f %D/up || exit 3`
)

func TestScriptStartsAndStopsWithEpochAndConfirmation(t *testing.T) {
	d, dir := newTestScript(t, touchUp, removeUp, askUp)
	wantStatus(t, d, false, false)
	mustStart(t, d)
	wantStatus(t, d, true, false)
	if b, _ := os.ReadFile(filepath.Join(dir, "up")); string(b) != "7 g s blue\n" {
		t.Fatalf("environment: got %q", b)
	}
	if err := d.Stop(context.Background(), 8); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, d, false, false)
}

func TestScriptStatusCodes(t *testing.T) {
	for code, want := range map[string]struct {
		running, failed bool
		err             string
	}{
		"0": {running: true}, "1": {failed: true}, "2": {failed: true}, "3": {},
		"4":                              {err: "exit status 4: output: who knows"},
		"77":                             {err: "exit status 77"},
		"0; kill -9 $$":                  {err: "killed by SIGKILL"},
		"0; exec /nonexistent/x 2>&1 #'": {err: "exit status 127"},
	} {
		t.Run(code, func(t *testing.T) {
			cmd := "echo who knows; exit " + code
			if rest, ok := strings.CutPrefix(code, "0; "); ok {
				cmd = rest
			}
			d, _ := newTestScript(t, touchUp, removeUp, cmd)
			st, err := d.Status(context.Background())
			if want.err != "" {
				isErr(t, err, nil, want.err)
				return
			}
			if err != nil || st.Running != want.running || st.Failed != want.failed {
				t.Fatalf("got %+v, %v, want %+v", st, err, want)
			}
		})
	}
}

func TestScriptThatHangsIsKilledAsAGroup(t *testing.T) {
	d, dir := newTestScript(t, `sh -c 'echo $$ > %D/pid; sleep 100' & echo waiting; wait`, removeUp, askUp)
	began := time.Now()
	err := d.Start(within(t, 500*time.Millisecond), 1)
	isErr(t, err, context.DeadlineExceeded, "not finished in time, killed: output: waiting")
	if took := time.Since(began); took > 5*time.Second {
		t.Fatalf("took %v", took)
	}
	b, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid := number(t, strings.TrimSpace(string(b)))
	eventually(t, "the child to end", func() bool { return !pidAlive(pid) })
}

func TestScriptMayLeaveADaemonWithItsOutputOpen(t *testing.T) {
	d, dir := newTestScript(t, `setsid sleep 100 & echo $! > %D/pid; `+touchUp, `kill $(cat %D/pid); rm %D/up`, askUp)
	mustStart(t, d)
	if err := d.Stop(context.Background(), 8); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "up")); err == nil {
		t.Fatal("still up")
	}
}

func TestScriptErrorCarriesTheEndOfItsOutput(t *testing.T) {
	d, _ := newTestScript(t, `i=0; while [ $i -lt 3000 ]; do echo "line $i"; i=$((i+1)); done; echo no such disk >&2; exit 5`, removeUp, askUp)
	err := d.Start(context.Background(), 1)
	isErr(t, err, nil, "line 2999 no such disk")
	if n := len(err.Error()); n > outputMax+200 {
		t.Fatalf("error has %d bytes", n)
	}
}

func TestScriptStartThatStatusDenies(t *testing.T) {
	d, _ := newTestScript(t, "true", "true", "exit 1")
	isErr(t, d.Start(context.Background(), 1), nil, "confirming start: status says: status: dead")
	d, _ = newTestScript(t, "true", "true", "exit 3")
	isErr(t, d.Start(within(t, 2*time.Second), 1), context.DeadlineExceeded, "status: stopped")
}

// S2: what cannot be shown to be down is never reported as killed.
func TestScriptKillBelievesOnlyStatus(t *testing.T) {
	for name, c := range map[string]struct {
		stop, status string
		want         error
		text         string
	}{
		"stop works":                        {removeUp, askUp, nil, ""},
		"stop fails but it is down":         {removeUp + "; exit 1", askUp, nil, ""},
		"stop claims success, still there":  {"true", askUp, ErrStillRunning, "status: running"},
		"stop hangs, still there":           {"sleep 100", askUp, ErrStillRunning, "not finished in time"},
		"stop works, status does not know":  {removeUp, "exit 4", nil, "exit status 4"},
		"stop hangs but it is down already": {removeUp + "; sleep 100", askUp, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, dir := newTestScript(t, touchUp, c.stop, c.status)
			if err := os.WriteFile(filepath.Join(dir, "up"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			err := d.Kill(within(t, 300*time.Millisecond))
			if c.text == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			isErr(t, err, c.want, c.text)
		})
	}
}

func TestScriptWatchWakesOnlyAtChanges(t *testing.T) {
	d, dir := newTestScript(t, touchUp, removeUp, askUp)
	wakes := startWatch(t, d)
	<-wakes // the first answer
	select {
	case <-wakes:
		t.Fatal("a wake without a change")
	case <-time.After(100 * time.Millisecond):
	}
	if err := os.WriteFile(filepath.Join(dir, "up"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	select {
	case <-wakes:
	case <-time.After(10 * time.Second):
		t.Fatal("no wake")
	}
}

// pending_timeout begins anew with each line that a start command prints, and not for ever.
func TestAScriptThatPrintsProgressMayTakeLonger(t *testing.T) {
	for name, c := range map[string]struct {
		start string
		ok    bool
		least time.Duration
		limit time.Duration // pending_timeout
	}{
		"silent":            {"sleep 30", false, 0, 600 * time.Millisecond},
		"with progress":     {"for i in 1 2 3 4 5 6 7 8 9 10; do echo deploying $i; sleep 0.4; done", true, 4 * time.Second, 3 * time.Second},
		"without a newline": {"for i in 1 2 3 4 5 6; do printf .; sleep 0.2; done", false, 0, 600 * time.Millisecond},
		"progress no end":   {"while :; do echo more; sleep 0.1; done", false, 3 * time.Second, 600 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newScript(Spec{Name: "s", Start: []string{"sh", "-c", c.start}, Stop: []string{"true"}, Status: []string{"true"},
				PendingTimeout: c.limit}, logTo(t))
			begun := time.Now()
			err := d.Start(t.Context(), 1)
			took := time.Since(begun)
			if (err == nil) != c.ok || took < c.least || took > 10*time.Second {
				t.Errorf("took %v, ended with %v", took, err)
			}
			if !c.ok && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("ended with %v", err)
			}
		})
	}
}
