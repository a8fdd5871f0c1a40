package fence

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// rig is a folder of plugs for the fake agents in testdata/agents.
type rig struct {
	t   *testing.T
	dir string
	log strings.Builder
}

func newRig(t *testing.T) *rig { return &rig{t: t, dir: t.TempDir()} }

func agentPath(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", "agents", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// fake is a device for node n1, plug p1.
func (r *rig) fake(name, behaviour string) Device {
	return Device{Name: name, Agent: agentPath(r.t, "fence_fake"), Params: Params{"dir": r.dir, "behaviour": behaviour},
		Nodes: map[string]Params{"n1": {"plug": "plug-" + name}}, Timeout: 10 * time.Second}
}

func (r *rig) load(devices ...Device) *Fencer {
	r.t.Helper()
	f, err := Load(r.t.Context(), devices, Options{Self: "me", Log: slog.New(slog.NewTextHandler(&r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		r.t.Fatal(err)
	}
	return f
}

// calls is what the agents were asked, without epoch and node.
func (r *rig) calls() string {
	text, err := os.ReadFile(filepath.Join(r.dir, "calls"))
	if err != nil && !os.IsNotExist(err) {
		r.t.Fatal(err)
	}
	var all []string
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		if w := strings.Fields(line); len(w) == 5 {
			all = append(all, w[1]+" "+strings.TrimPrefix(w[2], "plug-"))
		}
	}
	return strings.Join(all, ", ")
}

func (r *rig) power(name string) string {
	text, err := os.ReadFile(filepath.Join(r.dir, "plug-"+name))
	if err != nil {
		return "ON"
	}
	return strings.TrimSpace(string(text))
}

func atLevel(level int, d Device) Device { d.Level = level; return d }

func TestRun(t *testing.T) {
	type want struct {
		confirmed bool
		level     int
		calls     string
		reason    string
	}
	for name, c := range map[string]struct {
		devices func(r *rig) []Device
		action  Action
		want    want
	}{
		"off is confirmed by status": {
			func(r *rig) []Device { return []Device{r.fake("a", "ok")} }, Off,
			want{true, 1, "off a, status a", "confirmed by a (level 1)"}},
		"a reboot is off, status, on": {
			func(r *rig) []Device { return []Device{r.fake("a", "ok")} }, Reboot,
			want{true, 1, "off a, status a, on a", "confirmed"}},
		"a cycle is the agent's own reboot": {
			func(r *rig) []Device { d := r.fake("a", "ok"); d.Method = Cycle; return []Device{d} }, Reboot,
			want{true, 1, "reboot a", "confirmed"}},
		"off by a device that cycles is off": {
			func(r *rig) []Device { d := r.fake("a", "ok"); d.Method = Cycle; return []Device{d} }, Off,
			want{true, 1, "off a, status a", "confirmed"}},
		"redundant power supplies are all off before one is on": {
			func(r *rig) []Device { return []Device{r.fake("a", "ok"), r.fake("b", "ok")} }, Reboot,
			want{true, 1, "off a, status a, off b, status b, on a, on b", "confirmed by a, b"}},
		"redundant power supplies are never cycled one by one": {
			func(r *rig) []Device {
				a, b := r.fake("a", "ok"), r.fake("b", "ok")
				a.Method, b.Method = Cycle, Cycle
				return []Device{a, b}
			}, Reboot,
			want{true, 1, "off a, status a, off b, status b, on a, on b", "confirmed by a, b"}},
		"one device of two is not confirmed": {
			func(r *rig) []Device { return []Device{r.fake("a", "ok"), r.fake("b", "fails")} }, Off,
			want{false, 0, "off a, status a, off b", "level 1: b: exit code 1: Unable to connect"}},
		"the next level is tried when one fails, and what was switched off on the way is switched on": {
			func(r *rig) []Device {
				return []Device{atLevel(1, r.fake("a", "ok")), atLevel(1, r.fake("b", "fails")), atLevel(2, r.fake("c", "ok"))}
			}, Reboot,
			want{true, 2, "off a, status a, off b, off c, status c, on a, on b, on c", "confirmed by c (level 2)"}},
		"levels are tried by number": {
			func(r *rig) []Device { return []Device{atLevel(2, r.fake("a", "ok")), atLevel(1, r.fake("b", "ok"))} }, Off,
			want{true, 1, "off b, status b", "confirmed by b (level 1)"}},
		"a device that lies about off is not believed": {
			func(r *rig) []Device {
				d := r.fake("a", "lies")
				d.Timeout = 700 * time.Millisecond
				return []Device{d}
			}, Off,
			want{false, 0, "", "the agent reported success, but status says the node is on"}},
		"a device may be late with its off": {
			func(r *rig) []Device { return []Device{r.fake("a", "late")} }, Off,
			want{true, 1, "off a, status a, status a", "confirmed"}},
		"exit code 2 of a crash is not off": {
			func(r *rig) []Device {
				d := r.fake("a", "crashes-in-status")
				d.Timeout = 300 * time.Millisecond
				return []Device{d}
			}, Off,
			want{false, 0, "", "without saying off"}},
		"a status that contradicts itself is not off": {
			func(r *rig) []Device {
				d := r.fake("a", "contradicts")
				d.Timeout = 300 * time.Millisecond
				return []Device{d}
			}, Off,
			want{false, 0, "", "status prints on and ends with exit code 2"}},
		"a failed off is retried": {
			func(r *rig) []Device { d := r.fake("a", "fails-once"); d.Retries = 1; return []Device{d} }, Off,
			want{true, 1, "off a, off a, status a", "confirmed"}},
		"without retries a failure is final": {
			func(r *rig) []Device { return []Device{r.fake("a", "fails-once")} }, Off,
			want{false, 0, "off a", "exit code 1"}},
		"a node that does not come back was fenced nevertheless": {
			func(r *rig) []Device { return []Device{r.fake("a", "on-fails")} }, Reboot,
			want{true, 1, "off a, status a, on a", "confirmed"}},
		"an agent without status is taken at its word": {
			func(r *rig) []Device {
				return []Device{{Name: "k", Agent: agentPath(r.t, "fence_nostatus"), Nodes: map[string]Params{"n1": {}}}}
			}, Reboot,
			want{true, 1, "", "confirmed by k (level 1)"}},
		"a node that no device names": {
			func(r *rig) []Device {
				d := r.fake("a", "ok")
				d.Nodes = map[string]Params{"n2": {}}
				return []Device{d}
			}, Off,
			want{false, 0, "", ErrNoDevice.Error()}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			called := 0
			got := r.load(c.devices(r)...).Run(t.Context(), Request{Node: "n1", Action: c.action, Epoch: 7, Confirmed: func(rep Report) {
				if called++; !rep.Confirmed {
					t.Error("Confirmed called with a report that is not")
				}
			}})
			if got.Confirmed != c.want.confirmed || got.Level != c.want.level || (got.Err == nil) != got.Confirmed || (called == 1) != got.Confirmed {
				t.Errorf("confirmed %v level %d err %v, callback %d times; want %v", got.Confirmed, got.Level, got.Err, called, c.want)
			}
			if calls := r.calls(); c.want.calls != "" && calls != c.want.calls {
				t.Errorf("calls: %s\nwant:  %s", calls, c.want.calls)
			}
			if !strings.Contains(got.Reason, c.want.reason) || strings.Contains(got.Reason, "\n") {
				t.Errorf("reason %q, want %q in one line", got.Reason, c.want.reason)
			}
			if got.Node != "n1" || got.Epoch != 7 || got.Took < 0 {
				t.Errorf("report %+v", got)
			}
		})
	}
}

func TestAgentLearnsTargetAndEpoch(t *testing.T) {
	r := newRig(t)
	d := r.fake("a", "ok")
	d.Nodes = map[string]Params{"n1": {}} // the required plug is the node's name then
	r.load(d).Run(t.Context(), Request{Node: "n1", Action: Off, Epoch: 42})
	text, err := os.ReadFile(filepath.Join(r.dir, "calls"))
	if want := "ok off n1 node=n1 epoch=42\n"; err != nil || !strings.HasPrefix(string(text), want) {
		t.Errorf("got %q (%v), want %q", text, err, want)
	}
}

func TestHangingAgentIsKilledWithEverythingItStarted(t *testing.T) {
	r := newRig(t)
	d := r.fake("a", "slow")
	d.Timeout = 500 * time.Millisecond
	start := time.Now()
	got := r.load(d).Run(t.Context(), Request{Node: "n1", Action: Off})
	if got.Confirmed || !strings.Contains(got.Reason, "killed at its timeout") || time.Since(start) > 5*time.Second {
		t.Fatalf("after %v: %+v", time.Since(start), got)
	}
	text, err := os.ReadFile(filepath.Join(r.dir, "escaped"))
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; { // the kill is sent; the end of the process takes a moment
		comm, err := os.ReadFile("/proc/" + strings.TrimSpace(string(text)) + "/cmdline")
		if err != nil || len(comm) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %s of the agent still runs", strings.TrimSpace(string(text)))
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestSecretsReachTheAgentAndNobodyElse(t *testing.T) {
	const secret = `s3cr&t "wörd" 'x'`
	for _, behaviour := range []string{"tells", "chatty"} {
		t.Run(behaviour, func(t *testing.T) {
			r := newRig(t)
			file := filepath.Join(r.dir, "bmc.secret")
			if err := os.WriteFile(file, []byte(secret+"\nsecond line\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			d := r.fake("a", behaviour)
			d.Params["username"] = "admin"
			d.Secrets = map[string]string{"password": file}
			got := r.load(d).Run(t.Context(), Request{Node: "n1", Action: Off})
			if len(got.Attempts) != 1 || !strings.Contains(got.Reason, "exit code 1") {
				t.Fatalf("%+v", got)
			}
			all := got.Reason + r.log.String() + got.Attempts[0].Evidence + got.Attempts[0].Err
			for _, leak := range []string{secret, "s3cr", "wörd", "YWRtaW46"} {
				if strings.Contains(all, leak) {
					t.Errorf("%q is in %s", leak, all)
				}
			}
			if behaviour == "tells" && !strings.Contains(got.Attempts[0].Evidence, "sending *** to plug-a") {
				t.Errorf("evidence %q: the agent did not get the secret, or nothing is left of what it said", got.Attempts[0].Evidence)
			}
		})
	}
}

func TestSecretFilesAreRefusedWhenEveryoneCanReadThem(t *testing.T) {
	r := newRig(t)
	d := r.fake("a", "ok")
	for name, c := range map[string]struct {
		mode os.FileMode
		text string
		want string
	}{
		"open to all":       {0o644, "x\n", "may be read by every user"},
		"empty":             {0o600, "", "is empty"},
		"a NUL":             {0o600, "a\x00b\n", "NUL"},
		"a carriage return": {0o600, "a\rb\n", "carriage return"},
		"missing":           {0, "", "no such file"},
	} {
		file := filepath.Join(t.TempDir(), "secret")
		if c.mode != 0 {
			if err := os.WriteFile(file, []byte(c.text), c.mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(file, c.mode); err != nil {
				t.Fatal(err)
			}
		}
		d.Secrets = map[string]string{"password": file}
		got := r.load(d).Run(t.Context(), Request{Node: "n1", Action: Off})
		if got.Confirmed || !strings.Contains(got.Reason, c.want) || r.calls() != "" {
			t.Errorf("%s: %q, want %q", name, got.Reason, c.want)
		}
	}
}

func TestNobodyFencesItselfOrTwice(t *testing.T) {
	r := newRig(t)
	d := r.fake("a", "ok")
	d.Nodes["me"] = Params{"plug": "mine"}
	f := r.load(d)
	if got := f.Run(t.Context(), Request{Node: "me", Action: Off}); got.Err != ErrSelf || r.calls() != "" {
		t.Errorf("fenced itself: %+v", got)
	}
	var inner Report
	outer := f.Run(t.Context(), Request{Node: "n1", Action: Reboot, Confirmed: func(Report) {
		inner = f.Run(t.Context(), Request{Node: "n1", Action: Off})
	}})
	if !outer.Confirmed || inner.Err != ErrBusy || inner.Confirmed {
		t.Errorf("outer %+v, inner %+v", outer, inner)
	}
	for _, action := range []Action{On, Status, Monitor, "", "rm"} {
		if got := f.Run(t.Context(), Request{Node: "n1", Action: action}); got.Confirmed || got.Err == nil {
			t.Errorf("action %q: %+v", action, got)
		}
	}
}

func TestEndOfContextConfirmsNothing(t *testing.T) {
	r := newRig(t)
	d := r.fake("a", "ok")
	d.Delay = time.Hour
	f := r.load(d, atLevel(2, r.fake("b", "ok")))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if got := f.Run(ctx, Request{Node: "n1", Action: Off}); got.Confirmed || r.calls() != "" {
		t.Errorf("%+v, calls %q", got, r.calls())
	}
}

func TestBrokenLevelLeavesTheNextUsable(t *testing.T) {
	r := newRig(t)
	broken := r.fake("a", "ok")
	broken.Agent = "/nonexistent/fence_gone"
	f, err := Load(t.Context(), []Device{broken, atLevel(2, r.fake("b", "ok"))}, Options{Self: "me"})
	if err == nil || !strings.Contains(err.Error(), "fence a: looking for the agent") {
		t.Errorf("Load: %v", err)
	}
	if got := f.Run(t.Context(), Request{Node: "n1", Action: Off}); !got.Confirmed || got.Level != 2 {
		t.Errorf("%+v", got)
	}
}

func TestCheckReportsEveryFault(t *testing.T) {
	r := newRig(t)
	bad := r.fake("bad", "ok")
	bad.Nodes = map[string]Params{"n1": {"plgu": "1", "ssl": "perhaps", "auth": "sha", "ipport": "x", "action": "off", "delay": "3"}, "n2": {"plgu": "2"}}
	delete(bad.Params, "dir")
	twice := r.fake("twice", "ok")
	twice.Params["ip"], twice.Params["ipaddr"], twice.Params["password"] = "10.0.0.1", "10.0.0.1", "x"
	twice.Secrets = map[string]string{"password": "/x"}
	invalid := r.fake("invalid", "invalid")
	garbage, missing := r.fake("garbage", ""), r.fake("missing", "")
	garbage.Agent, missing.Agent = agentPath(t, "fence_garbage"), "fence_does_not_exist"
	cycle := Device{Name: "cycle", Agent: agentPath(t, "fence_nostatus"), Nodes: map[string]Params{"n1": {}}, Method: Cycle}
	heuristics := Device{Name: "h", Agent: agentPath(t, "fence_heuristics_fake"), Nodes: map[string]Params{"n1": {}}, Level: 9}
	path := Device{Name: "path", Agent: "../fence_x", Nodes: map[string]Params{"n1": {}}}

	var all []string
	for _, err := range Check(t.Context(), []Device{bad, twice, invalid, garbage, missing, cycle, heuristics, path, r.fake("good", "ok")}) {
		all = append(all, err.Error())
	}
	got := strings.Join(all, "\n")
	for _, want := range []string{
		`fence bad: node n1: parameter plgu is unknown: did you mean "plug"?`,
		`fence bad: node n1: parameter ssl: "perhaps" is not a boolean`,
		`fence bad: node n1: parameter auth: "sha" is not one of md5, none`,
		`fence bad: node n1: parameter ipport: "x" is not a whole number`,
		`fence bad: node n1: parameter dir is required: where the plugs are`,
		`fence bad: node n1: parameter action is not for the configuration`,
		`fence bad: node n1: parameter delay is not for the configuration: use the key delay`,
		`fence twice: parameter password is in secrets and in params`,
		`fence twice: node n1: parameters ip and ipaddr are the same option: keep ip`,
		`fence invalid: node n1: exit code 1: ERROR: Failed: You have to enter fence address`,
		`fence garbage: ` + agentPath(t, "fence_garbage") + `: parsing metadata`,
		`fence missing: agent fence_does_not_exist is not installed on this node`,
		`fence cycle: agent ` + agentPath(t, "fence_nostatus") + ` has no reboot of its own`,
		`fence h: level 9 of node n1 fences nothing`,
		`fence path: agent "../fence_x" is neither a name`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing %s", want)
		}
	}
	if strings.Contains(got, "fence good") || t.Failed() {
		t.Logf("got:\n%s", got)
	}
	if strings.Contains(got, "fence good") {
		t.Error("the good device has a fault")
	}
}

func TestExamineAndTargets(t *testing.T) {
	r := newRig(t)
	nostatus := Device{Name: "k", Agent: agentPath(t, "fence_nostatus"), Nodes: map[string]Params{"n1": {}}, Level: 2}
	f := r.load(r.fake("a", "ok"), nostatus)
	got := f.Examine(t.Context(), "n1")
	if len(got) != 2 || got[0].State != StateOn || got[0].Err != nil || got[1].State != "" || got[1].Err == nil {
		t.Errorf("%+v", got)
	}
	lines, err := f.Targets(t.Context(), "a")
	if err != nil || strings.Join(lines, " ") != "1,web 2,db" {
		t.Errorf("%q, %v", lines, err)
	}
	if power := r.power("a"); power != "ON" {
		t.Errorf("looking switched it %s", power)
	}
}

func TestDeprecatedParametersAreNamed(t *testing.T) {
	r := newRig(t)
	d := r.fake("a", "ok")
	d.Params["ipaddr"] = "10.0.0.1"
	if got := r.load(d).Deprecated(); len(got) != 1 || got[0] != "a: ipaddr: use ip" {
		t.Errorf("%q", got)
	}
}

// Every agent that is installed here describes itself in a way that is understood, and its own defaults pass the checks.
func TestInstalledAgentsAreUnderstood(t *testing.T) {
	paths, err := filepath.Glob("/usr/sbin/fence_*")
	if err != nil || len(paths) == 0 {
		t.Skip("needs fence-agents")
	}
	for _, path := range paths {
		if filepath.Base(path) == "fence_ack_manual" {
			continue // a command for people, without metadata
		}
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			a, err := LoadAgent(t.Context(), filepath.Base(path))
			if err != nil {
				t.Fatal(err)
			}
			p := Params{}
			for _, q := range a.Metadata.Parameters {
				if q.HasDefault && !q.Deprecated && reserved[q.Name] == "" && q.Default != "" {
					p[q.Name] = q.Default
				}
			}
			for _, err := range a.Metadata.checkParams(p) {
				if !strings.Contains(err.Error(), " is required") {
					t.Error(err)
				}
			}
			if !a.Metadata.fences() {
				t.Error("neither off nor reboot")
			}
		})
	}
}

func TestRealDummyAgent(t *testing.T) {
	if _, err := os.Stat("/usr/sbin/fence_dummy"); err != nil {
		t.Skip("needs fence-agents")
	}
	dir := t.TempDir()
	d := Device{Name: "dummy", Agent: "fence_dummy", Params: Params{"status_file": filepath.Join(dir, "status")}, Nodes: map[string]Params{"n1": {}}}
	if errs := Check(t.Context(), []Device{d}); len(errs) > 0 {
		t.Fatal(errs)
	}
	f, err := Load(t.Context(), []Device{d}, Options{Self: "me"})
	if err != nil {
		t.Fatal(err)
	}
	for _, action := range []Action{Off, Reboot} {
		got := f.Run(t.Context(), Request{Node: "n1", Action: action, Epoch: 1})
		if !got.Confirmed {
			t.Errorf("%+v", got)
		}
		t.Logf("%s confirmed after %v, %d runs", action, got.Took, len(got.Attempts))
	}
	if h := f.Examine(t.Context(), "n1"); len(h) != 1 || h[0].State != StateOn {
		t.Errorf("after the reboot: %+v", h)
	}
}
