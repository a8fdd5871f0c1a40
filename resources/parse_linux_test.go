package resources

import (
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func FuzzStat(f *testing.F) {
	own, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(own)
	f.Add([]byte("5 (a) b) R) S 1 5 5 0 -1 0 0 0 0 0 0 0 0 0 20 0 3 0 4242 0"))
	f.Add([]byte(")("))
	f.Fuzz(func(t *testing.T, b []byte) {
		if st, err := parseStat(b); err == nil && st.PID < 1 {
			t.Fatalf("got %+v", st)
		}
	})
}

func TestStatWithAHostileName(t *testing.T) {
	got, err := parseStat([]byte("5 (a) Z 1 (b) R) S 1 6 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 3 0 4242 0"))
	want := procStat{PID: 5, State: 'S', Parent: 1, Session: 7, Threads: 3, Start: 4242}
	if err != nil || got != want {
		t.Fatalf("got %+v, %v, want %+v", got, err, want)
	}
}

func TestUnitStates(t *testing.T) {
	for name, c := range map[string]struct {
		in   unitProps
		want Status
	}{
		"running":             {unitProps{Active: "active", Sub: "running", Result: "success", MainPID: 5}, Status{Running: true, PID: 5, Detail: "active (running), result success"}},
		"starting":            {unitProps{Active: "activating", Sub: "start-pre"}, Status{Pending: true}},
		"waiting for restart": {unitProps{Active: "activating", Sub: "auto-restart", Result: "signal"}, Status{Pending: true, Failed: true}},
		"stopping":            {unitProps{Active: "deactivating", Sub: "stop-sigterm", Result: "success"}, Status{Pending: true}},
		"dying":               {unitProps{Active: "deactivating", Sub: "stop-post", Result: "signal"}, Status{Pending: true, Failed: true}},
		"stopped":             {unitProps{Active: "inactive", Sub: "dead", Result: "success"}, Status{}},
		"failed":              {unitProps{Active: "failed", Sub: "failed", Result: "exit-code"}, Status{Failed: true}},
		"reloading":           {unitProps{Active: "reloading", Sub: "reload"}, Status{Running: true}},
		"not there":           {unitProps{Load: "not-found", Active: "inactive", Sub: "dead"}, Status{}},
		"a word of tomorrow":  {unitProps{Active: "dreaming"}, Status{Pending: true}},
	} {
		t.Run(name, func(t *testing.T) {
			got := c.in.status()
			got.Detail, c.want.Detail = "", ""
			if got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestUnitWhoseMainProcessWasSeenToDie(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	dead, alive := uint32(gone.Process.Pid), uint32(os.Getpid())
	for name, c := range map[string]struct {
		seen uint32
		in   unitProps
		want bool
	}{
		"seen dead, systemd says active":      {dead, unitProps{Active: "active", MainPID: dead}, true},
		"seen dead, but there is another now": {dead, unitProps{Active: "active", MainPID: alive}, false},
		"the id is alive again":               {alive, unitProps{Active: "active", MainPID: alive}, false},
		"not seen":                            {0, unitProps{Active: "active", MainPID: dead}, false},
		"systemd knows":                       {dead, unitProps{Active: "failed", MainPID: dead}, false},
		"stays active without a process":      {dead, unitProps{Active: "active", MainPID: dead, RemainAfterExit: true}, false},
		"systemd may find another by file":    {dead, unitProps{Active: "active", MainPID: dead, PIDFile: "/run/x.pid"}, false},
		"lives as long as its cgroup":         {dead, unitProps{Active: "active", MainPID: dead, ExitType: "cgroup"}, false},
	} {
		d := newSystemd(Spec{Unit: "a"}, slog.New(slog.DiscardHandler))
		d.died.Store(int64(c.seen))
		if got := d.mainDied(c.in); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

func TestSlicePath(t *testing.T) {
	for in, want := range map[string]string{
		"system.slice": "/system.slice", "-.slice": "/", "a-b-c.slice": "/a.slice/a-b.slice/a-b-c.slice",
	} {
		if got := slicePath(in); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

func TestUnitWarningsSayWhatToDo(t *testing.T) {
	for name, c := range map[string]struct {
		in    unitProps
		every bool
		want  []string
	}{
		"nothing to say":         {in: unitProps{Load: "loaded", FileState: "disabled", Restart: "no"}},
		"enabled on every node":  {in: unitProps{Load: "loaded", FileState: "enabled", Restart: "no"}, every: true},
		"not found":              {in: unitProps{Load: "not-found"}, want: []string{"Unit a.service is not found on this node; install it, or take the node out of possible_owners."}},
		"masked":                 {in: unitProps{Load: "masked"}, want: []string{"Unit a.service is masked and cannot be started; run: systemctl unmask a.service"}},
		"enabled, with restarts": {in: unitProps{Load: "loaded", FileState: "enabled", Restart: "on-abort"}, want: []string{"Unit a.service is enabled and would start at boot on every node, outside of the cluster; run: systemctl disable a.service", "Unit a.service has Restart=on-abort: systemd would restart it behind the cluster's back; write the two lines [Service] and Restart=no to /etc/systemd/system/a.service.d/50-had.conf, then run: systemctl daemon-reload"}},
		"activated by a socket":  {in: unitProps{Load: "loaded", TriggeredBy: []string{"a.socket"}}, want: []string{"Unit a.service can be started by a.socket, outside of the cluster; run: systemctl disable --now a.socket"}},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(c.want, c.in.warnings("a.service", c.every)); d != "" {
				t.Error(d)
			}
		})
	}
}

// FuzzUnitProps feeds the property maps with values of wrong types and unknown words.
func FuzzUnitProps(f *testing.F) {
	f.Add("active", "running", uint32(5), "on-abort", uint8(0))
	f.Add("x\ny", "", uint32(0), "", uint8(3))
	f.Fuzz(func(t *testing.T, active, sub string, pid uint32, restart string, shape uint8) {
		unit := map[string]any{"ActiveState": active, "SubState": sub, "LoadState": "loaded"}
		service := map[string]any{"MainPID": pid, "Restart": restart, "RemainAfterExit": pid}
		if shape&1 != 0 {
			unit["Job"], unit["LoadError"], unit["TriggeredBy"] = []any{sub}, []any{}, sub
		}
		if shape&2 != 0 {
			service["MainPID"], unit["ActiveState"] = active, []string{active}
		}
		p := parseProps(unit, service)
		if st := p.status(); st.Running && st.Pending || st.Running && p.settled() {
			t.Fatalf("got %+v", st)
		}
		_ = p.warnings("a.service", false)
	})
}

func FuzzOutput(f *testing.F) {
	f.Add("one\x00two\n\x1b[31m", 10)
	f.Fuzz(func(t *testing.T, s string, n int) {
		out := &tail{max: 16}
		for rest := s; rest != ""; {
			k := min(len(rest), 1+max(0, n%32))
			out.Write([]byte(rest[:k]))
			rest = rest[k:]
		}
		if got := out.String(); len(out.b) > 16 || strings.ContainsAny(got, "\n\x00\x1b") || !utf8.ValidString(got) {
			t.Fatalf("got %q", got)
		}
	})
}
