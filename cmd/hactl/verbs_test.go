package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hacluster/api"
	"hacluster/api/apitest"
	"hacluster/placement"
)

func TestExitCodes(t *testing.T) {
	refuse := func(code api.Code) func(*apitest.World, api.Write) (api.Reply, error) {
		return func(*apitest.World, api.Write) (api.Reply, error) { return api.Reply{}, api.Errorf(code, "", "no") }
	}
	for _, c := range []struct {
		args  string
		world func(*api.Status)
		write func(*apitest.World, api.Write) (api.Reply, error)
		want  int
	}{
		{args: "", want: 0},
		{args: "help", want: 0},
		{args: "status --help", want: 0},
		{args: "status", want: 0},
		{args: "status", world: func(s *api.Status) { s.Health = api.HealthDegraded }, want: 1},
		{args: "status", world: func(s *api.Status) { s.Health = api.HealthDown }, want: 2},
		{args: "status -o json", world: func(s *api.Status) { s.Health = "a word of a newer agent" }, want: 2},
		{args: "group list", world: func(s *api.Status) { s.Health = api.HealthDown }, want: 0},
		{args: "group show nope", want: 1},
		{args: "why", want: 64},
		{args: "why nope", want: 1},
		{args: "group move web", want: 0},
		{args: "group move web", write: refuse(api.CodeRefused), want: 1},
		{args: "group move web", write: refuse(api.CodeInvalid), want: 1},
		{args: "group move web", write: refuse(api.CodeUnauthorized), want: 1},
		{args: "group move web", write: refuse(api.CodeNotFound), want: 1},
		{args: "group move web", write: refuse(api.CodeInternal), want: 1},
		{args: "group move web", write: refuse(api.CodeNoQuorum), want: 2},
		{args: "group move web", write: refuse(api.CodeTimeout), want: 124},
		{args: "--socket /nonexistent/s status", want: 69},
		{args: "check testdata/cluster.toml", want: 0},
		{args: "check testdata/faulty.toml", want: 1},
		{args: "check testdata/none.toml", want: 1},
		{args: "version", want: 0},
		{args: "completion bash", want: 0},
		{args: "group", want: 64},
		{args: "gruop list", want: 64},
		{args: "group move", want: 64},
		{args: "group move web shop", want: 64},
		{args: "group move web --nope", want: 64},
		{args: "group move web --to", want: 64},
		{args: "status -o xml", want: 64},
		{args: "status --timeout never", want: 64},
		{args: "status --timeout 0s", want: 64},
		{args: "events --since tuesday", want: 64},
		{args: "timing --profile warp", want: 64},
		{args: "timing --profile lan --kernel-lease clock", want: 64},
		{args: "timing --kernel-lease gate", want: 64},
		{args: "validate now", want: 64},
		{args: "validate", want: 0},
		{args: "validate", world: func(s *api.Status) { s.Nodes[1].State = "paused" }, want: 1},
		{args: "validate", world: func(s *api.Status) { s.Nodes[1].State = "down" }, want: 2},
		{args: "validate -o json", world: func(s *api.Status) { s.Stale = true }, want: 2},
		{args: "token --role king", want: 64},
		{args: "node fence", want: 64},
		{args: "node fence n2", want: 64}, // and nobody is there to ask
		{args: "node fence n9 --yes", want: 1},
		{args: "node fence n2 --yes", want: 1}, // an agent that knows no fencing
		{args: "node fence n2 --yes", write: refuse(api.CodeTimeout), want: 124},
		{args: "node fence n2 --yes", write: refuse(api.CodeNoQuorum), want: 2},
		{args: "node fence n2 --yes", write: fencing(true), want: 0},
		{args: "node fence n2 --action reset", want: 64},
		{args: "node fence --check --action off", want: 64},
		{args: "completion tcsh", want: 64},
		{args: "help gruop", want: 64},
		{args: "init", want: 64},
		{args: "init --cluster c --name n1", want: 64},
		{args: "init --cluster c --name n1 --address 10.0.0.0/8", want: 64},
		{args: "join", want: 64},
		{args: "join 10.0.0.1 --token x", want: 64},
	} {
		t.Run(c.args, func(t *testing.T) {
			w := tomcats()
			if c.world != nil {
				w.Update(c.world)
			}
			if c.write != nil {
				w.OnWrite = c.write
			}
			d := sit(t, w)
			e := d.env()
			args := strings.Fields(c.args)
			if got := e.run(bounded(t), args); got != c.want {
				t.Fatalf("got %d, want %d: %s", got, c.want, d.Err)
			}
			if said := d.Err.String(); c.want > 2 || c.want > 0 && args[0] != "status" && args[0] != "validate" {
				if !strings.HasPrefix(said, "hactl: ") || !strings.Contains(said, "\n  what to do: ") {
					t.Errorf("no message, or no word of what to do: %q", said)
				}
			}
		})
	}
}

func TestEventsFollowShowsWhatHappensUntilTheTimeout(t *testing.T) {
	w := tomcats()
	history(w)
	d := sit(t, w)
	for _, asJSON := range []bool{false, true} {
		e := d.env()
		args := []string{"events", "--follow", "--since", "2"}
		want := "note n9"
		if asJSON {
			args, want = append(args, "-o", "json"), `"node":"n9"`
		}
		ctx, stop := context.WithCancel(bounded(t))
		done := make(chan int, 1)
		go func() { done <- e.run(ctx, args) }()
		wait := func(text string) {
			t.Helper()
			for !strings.Contains(d.Out.String(), text) {
				if ctx.Err() != nil {
					t.Fatalf("never saw %q: %s", text, d.Out)
				}
				time.Sleep(time.Millisecond) // polling a condition, bounded by ctx
			}
		}
		wait("node-lost")
		w.Happen(placement.Event{Time: noon, Kind: "note", Node: "n9", Reason: placement.Reason{Text: "hello"}})
		wait(want)
		stop() // Ctrl-C
		if code := <-done; code != 0 {
			t.Fatalf("exit %d: %s", code, d.Err)
		}
		if asJSON {
			for line := range strings.Lines(d.Out.String()) {
				if !json.Valid([]byte(line)) {
					t.Errorf("not JSON: %s", line)
				}
			}
		}
	}
	if code := d.hactl(bounded(t), "events", "-f", "--timeout", "30ms"); code != exitTimeout {
		t.Fatalf("exit %d: %s", code, d.Err)
	}
}

func TestEventsThatAreNoLongerKeptAreMissedAloud(t *testing.T) {
	w := tomcats()
	w.Happen(placement.Event{Seq: 5, Time: noon, Kind: "note"})
	d := sit(t, w)
	e := d.env()
	ctx, stop := context.WithCancel(bounded(t))
	done := make(chan int, 1)
	go func() { done <- e.run(ctx, []string{"events", "-f"}) }()
	for !strings.Contains(d.Out.String(), "    5  ") && ctx.Err() == nil {
		time.Sleep(time.Millisecond) // polling a condition, bounded by ctx
	}
	w.Happen(placement.Event{Seq: 9, Time: noon, Kind: "note"})
	for !strings.Contains(d.Err.String(), "3 events between 5 and 9 are no longer kept") && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	stop()
	<-done
	if !strings.Contains(d.Err.String(), "no longer kept") {
		t.Fatal(d.Err)
	}
}

func TestVersionWithoutAnAgentIsNoError(t *testing.T) {
	d := lone()
	if code := d.hactl(bounded(t), "version"); code != 0 || !strings.Contains(d.Out.String(), "had    unknown: ") {
		t.Fatal(code, d.Out)
	}
	d = sit(t, tomcats())
	if code := d.hactl(bounded(t), "version", "-o", "json"); code != 0 || !strings.Contains(d.Out.String(), `"node": "n1"`) {
		t.Fatal(code, d.Out)
	}
}

func TestColoursAreForTerminalsOnlyAndCarryNoMeaningAlone(t *testing.T) {
	d := sit(t, tomcats())
	if d.hactl(bounded(t), "status"); strings.Contains(d.Out.String(), "\x1b") {
		t.Fatal("colours without a terminal")
	}
	bare := d.Out.String()
	d.color = true
	d.hactl(bounded(t), "status")
	colored := d.Out.String()
	if !strings.Contains(colored, green+"HEALTHY"+plain) {
		t.Fatalf("no colours: %q", colored)
	}
	for _, c := range []string{red, green, yellow, bold, faint, plain} {
		colored = strings.ReplaceAll(colored, c, "")
	}
	if d := cmp.Diff(bare, colored); d != "" {
		t.Fatalf("colours change the text: %s", d)
	}
	for _, flag := range []string{"--no-color", "-o=json"} {
		if d.hactl(bounded(t), "status", flag); strings.Contains(d.Out.String(), "\x1b") {
			t.Fatalf("colours in spite of %s", flag)
		}
	}
	t.Setenv("NO_COLOR", "1")
	if newEnv(os.Stdout, os.Stderr).Color {
		t.Fatal("colours in spite of NO_COLOR")
	}
}

func TestFlagsMayStandAnywhere(t *testing.T) {
	app := newEnv(&buffer{}, &buffer{}).app()
	app.Setup()
	for _, c := range []struct{ in, want string }{
		{"group move web --to n2 -o json", "-o json group move --to n2 web"},
		{"-o json group --timeout 5s move web --wait", "-o json --timeout 5s group move --wait web"},
		{"group move --to=n2 web", "group move --to=n2 web"},
		{"group move web -- --to", "group move -- web --to"},
		{"group move web --nope", "group move --nope web"},
		{"group move web --to", "group move --to"},
		{"group move web -o", "-o"},
		{"status --help", "status --help"},
		{"node show node", "node show node"},
	} {
		if got := strings.Join(arrange(app, strings.Fields(c.in)), " "); got != c.want {
			t.Errorf("%q: got %q, want %q", c.in, got, c.want)
		}
	}
}

// FuzzArrange gives any command line to the rearrangement: no word is lost but the "--" that ended the flags.
func FuzzArrange(f *testing.F) {
	f.Add("group move web --to n2 -o json")
	f.Add("-- -- -")
	f.Add("--to\n-o\n=\n--=")
	app := newEnv(&buffer{}, &buffer{}).app()
	app.Setup()
	f.Fuzz(func(t *testing.T, line string) {
		in := strings.Fields(line)
		seen := map[string]int{}
		for _, w := range arrange(app, in) {
			seen[w]++
		}
		if len(in) > 0 && strings.HasPrefix(in[len(in)-1], "-") {
			return // its value is missing: the line is refused
		}
		for _, w := range in {
			if seen[w]--; seen[w] < 0 && w != "--" {
				t.Fatalf("%q lost %q", line, w)
			}
		}
	})
}

func TestCompletionOffersWhatFits(t *testing.T) {
	d := sit(t, tomcats())
	for _, c := range []struct {
		words []string
		want  string
	}{
		{[]string{"st"}, "status"},
		{[]string{"group", ""}, "list show move online offline"},
		{[]string{"group", "move", ""}, "web"},
		{[]string{"group", "move", "web", "--t"}, "--to --timeout"},
		{[]string{"group", "move", "web", "--to", ""}, "n1 n2 w1"},
		{[]string{"group", "move", "web", ""}, ""},
		{[]string{"-o", ""}, "table json"},
		{[]string{"-o", "json", "node", "drain", "n"}, "n1 n2"},
		{[]string{"events", "--group", "w"}, "web"},
		{[]string{"why", ""}, "web"},
		{[]string{"completion", ""}, "bash zsh fish"},
		{[]string{"timing", "--profile", "l"}, "lan"},
		{[]string{"apply", ""}, ""},
		{[]string{"--socket", "/nonexistent", "group", "move", ""}, ""},
		{[]string{"--socket=" + d.sock, "group", "move", ""}, "web"},
		{[]string{""}, "status group node resource why events timing apply check validate init token join quorum version completion help"},
	} {
		d.hactl(bounded(t), append([]string{"__complete", "--"}, c.words...)...)
		if got := strings.Join(strings.Fields(d.Out.String()), " "); got != c.want {
			t.Errorf("%q: got %q, want %q", c.words, got, c.want)
		}
	}
}

func TestCompletionScriptsAreAcceptedByTheirShells(t *testing.T) {
	for shell, script := range shells {
		t.Run(shell, func(t *testing.T) {
			path, err := exec.LookPath(shell)
			if err != nil {
				t.Skipf("needs %s", shell)
			}
			cmd := exec.CommandContext(bounded(t), path, "-n")
			cmd.Stdin = strings.NewReader(script)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		})
	}
}

func TestDurationsForPeople(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-3 * time.Second: "-3.0s", 0: "0ms", 90 * time.Millisecond: "90ms", 1300 * time.Millisecond: "1.3s", 12 * time.Second: "12s",
		185 * time.Second: "3m05s", 130 * time.Minute: "2h10m", time.Hour: "1h00m", 123 * time.Hour: "5d3h",
	} {
		if got := short(d); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}

// FuzzTable renders anything: no line is wider than the terminal and none moves the cursor.
func FuzzTable(f *testing.F) {
	f.Add("online", "a\x1b[2J", "ééé\n", 3)
	f.Add("", strings.Repeat("x", 200), strings.Repeat("y ", 100), 9)
	f.Fuzz(func(t *testing.T, a, b, c string, n int) {
		out := &buffer{}
		e := newEnv(out, out)
		tab := table{head: []string{"A", "B", "C", "D"}, shrink: []string{"C"}}
		tab.add(a, b, c, fmt.Sprint(n))
		e.render(tab)
		e.item("Label", a+" "+b+" "+c)
		for line := range strings.Lines(out.String()) {
			line = strings.TrimSuffix(line, "\n")
			if len([]rune(line)) > width {
				t.Fatalf("%d columns: %q", len([]rune(line)), line)
			}
			if strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				t.Fatalf("a control character: %q", line)
			}
		}
	})
}
