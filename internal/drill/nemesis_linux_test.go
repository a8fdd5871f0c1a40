package drill

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/internal/lab"
)

var (
	nemesisRounds = flag.Int("nemesis.rounds", 4, "rounds of TestNemesis; scripts/test does 30")
	nemesisSeed   = flag.Uint64("nemesis.seed", 20260, "seed of TestNemesis")
)

// TestNemesis checks S1 and S2 under faults drawn from a seed, and that the cluster is whole again after each: L1.
func TestNemesis(t *testing.T) {
	n := Nemesis{Seed: *nemesisSeed, Parallel: 2, Bin: t.TempDir(), Keep: filepath.Join(os.TempDir(), "had-nemesis"),
		Done: func(o Round) { t.Log(o) }, Say: func(s string) { t.Log(s) }}
	for r := range *nemesisRounds {
		n.Rounds = append(n.Rounds, r+1)
	}
	t.Logf("seed %d; one round again: scripts/nemesis -seed %d -round N", n.Seed, n.Seed)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	if err := BuildNemesis(ctx, n.Bin); err != nil {
		t.Fatal(err)
	}
	tally, err := n.Run(ctx)
	if errors.Is(err, lab.ErrNotPermitted) {
		t.Skip("needs root or user namespaces: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range tally.Rounds {
		if r.Stuck != "" {
			t.Errorf("round %d does not converge (L1): %s", r.Round, r.Stuck)
		}
		if r.two() > 0 {
			t.Errorf("round %d: two nodes answered for %s (S1)", r.Round, r.two())
		}
		if r.Twice > 0 && r.Excuse == "" {
			t.Errorf("round %d: the exclusive service ran twice for %s (S2)", r.Round, r.Twice)
		}
	}
	if got := len(tally.Rounds); got != *nemesisRounds {
		t.Errorf("%d of %d rounds", got, *nemesisRounds)
	}
	var b bytes.Buffer
	tally.Print(&b)
	t.Logf("\n%s", b.String())
}

func TestEveryKindOfFaultIsBuilt(t *testing.T) {
	var names []string
	for _, k := range Kinds {
		names = append(names, k.Name)
	}
	slices.Sort(names)
	if built := slices.Sorted(maps.Keys(faults)); !slices.Equal(names, built) {
		t.Errorf("drawn are %v, built are %v", names, built)
	}
}

// TestTwiceSeesTwoRuns: the stretches in which processes say that they ran tell whether two did.
func TestTwiceSeesTwoRuns(t *testing.T) {
	ms := func(from, to int) stretch {
		return stretch{from: time.Duration(from) * time.Millisecond, to: time.Duration(to) * time.Millisecond}
	}
	for name, c := range map[string]struct {
		list []stretch
		want int
	}{
		"none":                      {nil, 0},
		"one after the other":       {[]stretch{ms(0, 10), ms(10, 20), ms(25, 30)}, 0},
		"beside":                    {[]stretch{ms(0, 10), ms(7, 20)}, 3},
		"within, twice":             {[]stretch{ms(0, 100), ms(10, 20), ms(30, 35)}, 15},
		"three count once":          {[]stretch{ms(0, 10), ms(0, 10), ms(2, 12)}, 10},
		"in whatever order is read": {[]stretch{ms(50, 60), ms(0, 55)}, 5},
	} {
		if got := twice(c.list); got != time.Duration(c.want)*time.Millisecond {
			t.Errorf("%s: %s, want %d ms", name, got, c.want)
		}
	}
}

// TestTheExclusiveServiceSaysWhenItRuns: what it wrote tells its life, a standstill in it, and its refusal to stop.
func TestTheExclusiveServiceSaysWhenItRuns(t *testing.T) {
	bin, dir := t.TempDir(), t.TempDir()
	if out, err := exec.Command("go", "build", "-o", bin+"/", "hacluster/internal/drill/nemesis").CombinedOutput(); err != nil {
		t.Skipf("needs the go tool: %v: %s", err, out)
	}
	cmd := exec.Command(filepath.Join(bin, "nemesis"), "exclusive", dir)
	cmd.Env = append(os.Environ(), "HAD_NODE=n1", "HAD_EPOCH=4")
	begun := monotonic()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	until := func(what string, ok func(list []stretch) bool) []stretch {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			list, err := stretches(dir, begun)
			if err != nil {
				t.Fatal(err)
			}
			if ok(list) {
				return list
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %+v", what, list)
			}
		}
	}
	until("it begins", func(list []stretch) bool { return len(list) == 1 })
	stop := monotonic()
	if err := cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(4 * standstill) // the standstill itself, not a wait for something
	if err := cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	list := until("it goes on", func(list []stretch) bool {
		return slices.ContainsFunc(list, func(s stretch) bool { return s.from > stop+3*standstill })
	})
	if s := list[0]; s.node != "n1" || s.pid != cmd.Process.Pid {
		t.Errorf("%+v", s)
	}
	for _, s := range list {
		if s.from < stop+2*standstill && s.to > stop+3*standstill {
			t.Errorf("it says that it ran while it was stopped: %+v", list)
		}
	}
	refuse := filepath.Join(dir, "refuse-n1")
	if err := os.WriteFile(refuse, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	last := monotonic()
	until("it refuses", func(list []stretch) bool { return list[len(list)-1].to > last+10*tick })
	if err := os.Remove(refuse); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
