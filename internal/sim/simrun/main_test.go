package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hacluster/internal/sim"
)

func TestItRunsReportsAndWritesItsSection(t *testing.T) {
	file := filepath.Join(t.TempDir(), "reliability.md")
	if err := os.WriteFile(file, []byte("before\n"+begin+"of a former run\n"+end+"\nafter\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"-n", "20", "-seed", "100", "-write", "-doc", file}, &out, &errs); code != 0 {
		t.Fatalf("code %d: %s%s", code, &out, &errs)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"before\n", "\nafter\n", "`scripts/sim -n 20 -seed 100`", "| clusters (seeds) | 20 |", "**0**", "power cut"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	if strings.Contains(string(text), "of a former run") {
		t.Error("the former section is still there")
	}
}

func TestABrokenGuaranteeEndsWithOneAndTheSeed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "none.md")
	var out, errs bytes.Buffer
	code := run(t.Context(), []string{"-n", "40", "-weak", string(sim.WeakReleased), "-write", "-doc", file}, &out, &errs)
	if code != 1 || !strings.Contains(out.String(), "repeat with: scripts/sim -trace -seed") {
		t.Errorf("code %d, output\n%s", code, &out)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("figures of a run that broke something were written")
	}
}

func TestAStoppedRunTellsWhatItHasRun(t *testing.T) {
	file := filepath.Join(t.TempDir(), "reliability.md")
	if err := os.WriteFile(file, []byte(begin+end), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	out := &stopper{stop: stop}
	r := sweep(ctx, sim.Options{Weak: sim.WeakReleased}, 0, 1_000_000, out) // its first broken seed stops it
	if r.n != r.done || r.n == 0 || r.n >= 1_000_000 || r.stats.Simulated == 0 {
		t.Errorf("%d of %d seeds", r.done, r.n)
	}
	stop()
	var text bytes.Buffer
	if code := run(ctx, []string{"-n", "20", "-write", "-doc", file}, &text, &text); code != 0 || !strings.Contains(text.String(), "stopped after 0 of 20 seeds") {
		t.Errorf("code %d\n%s", code, &text)
	}
	if left, err := os.ReadFile(file); err != nil || string(left) != begin+end {
		t.Errorf("a run of nothing was written: %s %v", left, err)
	}
}

// stopper stops a run at the first line that it prints.
type stopper struct{ stop func() }

func (s *stopper) Write(b []byte) (int, error) { s.stop(); return len(b), nil }

func TestGroup(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := group(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
