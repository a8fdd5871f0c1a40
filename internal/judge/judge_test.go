package main

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time { return noon.Add(time.Duration(seconds * float64(time.Second))) }

// hear takes events written as "SECONDS ACTION PACKAGE TEST OUTPUT", "-" for no test.
func hear(t *testing.T, r rules, lines string) (*docket, string) {
	t.Helper()
	var out bytes.Buffer
	j := newDocket(r, &out)
	j.source = func(_, _ string, line int) string {
		if line < 10 {
			return "\tt.Logf("
		}
		return "\tt.Errorf("
	}
	var events bytes.Buffer
	for line := range strings.Lines(lines) {
		w := strings.SplitN(strings.TrimSpace(line), " ", 5)
		if len(w) < 4 {
			continue
		}
		var seconds float64
		if _, err := fmt.Sscan(w[0], &seconds); err != nil {
			t.Fatal(line, err)
		}
		output := ""
		if len(w) == 5 {
			output = w[4] + "\\n"
		}
		fmt.Fprintf(&events, "{\"Time\":%q,\"Action\":%q,\"Package\":%q,\"Test\":%q,\"Elapsed\":1.5,\"Output\":\"%s\"}\n",
			at(seconds).Format(time.RFC3339Nano), w[1], w[2], strings.TrimPrefix(w[3], "-"), output)
	}
	if err := j.read(&events); err != nil {
		t.Fatal(err)
	}
	j.close()
	return j, out.String()
}

var needs = rules{root: true, list: []rule{{"p", regexp.MustCompile("^TestVM"), "by hand"}}}

// TestWhatIsCountedAndSaid has streams of events, what they count, what is printed and why it failed.
func TestWhatIsCountedAndSaid(t *testing.T) {
	for title, c := range map[string]struct {
		events string
		want   tally
		out    string
		why    string
	}{
		"all well": {"0 run p TestA\n0 pass p TestA\n0 run p TestA/x\n0 pass p TestA/x\n1 pass p -",
			tally{2, 0, 0}, "  ok    p                                     1.5 s  2 tests\n", ""},
		"a failure shows its log and its reason": {"0 run p TestA\n0 output p TestA     a_test.go:3: a log\n0 output p TestA     a_test.go:30: wrong\n" +
			"0 output p TestA         more of it\n0 output p TestA     a_test.go:4: --- had on n1\n0 output p TestA         noise\n0 fail p TestA\n1 fail p -",
			tally{0, 1, 0}, "    a_test.go:3: a log\n    a_test.go:30: wrong\n        more of it\n    a_test.go:4: --- had on n1\n        noise\n  FAIL  p                                 \n",
			"FAIL p TestA\n    a_test.go:30: wrong\n        more of it\n"},
		"a subtest fails with its test": {"0 run p TestA\n0 run p TestA/x\n0 output p TestA/x     a_test.go:30: wrong\n0 fail p TestA/x\n0 fail p TestA\n1 fail p -",
			tally{0, 2, 0}, "    a_test.go:30: wrong\n  FAIL  p                                 \n", "FAIL p TestA\n    a_test.go:30: wrong\n"},
		"an excused skip": {"0 run p TestVM\n0 output p TestVM     a_test.go:3: needs a VM\n0 skip p TestVM\n0 run p TestB\n0 pass p TestB\n1 pass p -",
			tally{1, 0, 1}, "  ok    p                                     1.5 s  1 tests\n    skipped TestVM: by hand\n", ""},
		"a skip that says no need": {"0 run p TestC\n0 output p TestC     a_test.go:3: later\n0 skip p TestC\n1 pass p -",
			tally{0, 0, 1}, "  ok    p                                     1.5 s  0 tests\n    skipped TestC: says: later\n", ""},
		"a skip that must run": {"0 run p TestC\n0 output p TestC     a_test.go:3: needs root\n0 skip p TestC\n1 pass p -",
			tally{0, 1, 0}, "  ok    p                                     1.5 s  0 tests\n    skipped, but must run: p TestC: needs root\n",
			"FAIL p TestC\n    skipped, but must run: p TestC: needs root\n"},
		"a crash without a failed test": {"0 output p - panic: no\n1 fail p -",
			tally{0, 1, 0}, "panic: no\n  FAIL  p                                 \n", "FAIL p \npanic: no\n"},
		"it does not build": {"0 build-output - - a.go:1: what\n1 fail p -",
			tally{0, 1, 0}, "a.go:1: what\n  FAIL  p                                 \n", "FAIL p \na.go:1: what\n"},
		"a failure without a word": {"0 run p TestA\n0 fail p TestA\n1 fail p -",
			tally{0, 1, 0}, "  FAIL  p                                 \n", "FAIL p TestA\n    see its output above\n"},
	} {
		t.Run(title, func(t *testing.T) {
			j, out := hear(t, needs, c.events)
			if got := j.sum(); got != c.want {
				t.Errorf("counted %+v, want %+v", got, c.want)
			}
			if out != c.out {
				t.Errorf("printed\n%q, want\n%q", out, c.out)
			}
			if got := j.reasons(); got != c.why {
				t.Errorf("because\n%q, want\n%q", got, c.why)
			}
		})
	}
	user, _ := hear(t, rules{}, "0 run p TestC\n0 output p TestC     a_test.go:3: needs root\n0 skip p TestC\n1 pass p -")
	if got := user.sum(); got != (tally{0, 0, 1}) {
		t.Errorf("without root %+v", got)
	}
}

// TestWhatMayBeJudgedAgain: what failed while the machine stood still, and nothing else.
func TestWhatMayBeJudgedAgain(t *testing.T) {
	const failure = "10 run p TestA\n12 output p TestA     a_test.go:30: %s\n14 fail p TestA\n15 fail p -"
	stood := stall{at(11), at(11.962)}
	for title, c := range map[string]struct {
		events string
		stall  stall
		want   bool
	}{
		"it stood still during it":           {fmt.Sprintf(failure, "late"), stood, true},
		"it stood still when it began":       {fmt.Sprintf(failure, "late"), stall{at(9), at(10.01)}, true},
		"it did not":                         {fmt.Sprintf(failure, "late"), stall{}, false},
		"it stood still before":              {fmt.Sprintf(failure, "late"), stall{at(8), at(9)}, false},
		"it stood still after":               {fmt.Sprintf(failure, "late"), stall{at(14), at(15)}, false},
		"not for long enough":                {fmt.Sprintf(failure, "late"), stall{at(11), at(11.09)}, false},
		"two nodes answered":                 {fmt.Sprintf(failure, "for 1ms (S1)"), stood, false},
		"two nodes answered in a subtest":    {"10 run p TestA\n10 run p TestA/x\n11 output p TestA/x a_test.go:30: (S1)\n12 fail p TestA/x\n14 fail p TestA\n15 fail p -", stood, false},
		"a data race, reported with another": {"9 output p TestB WARNING: DATA RACE\n9 pass p TestB\n" + fmt.Sprintf(failure, "late"), stood, false},
		"a data race in another package":     {"9 output q TestB WARNING: DATA RACE\n9 pass q TestB\n" + fmt.Sprintf(failure, "late"), stood, true},
		"it crashed":                         {"10 run p TestA\n12 output p TestA panic: no\n14 fail p TestA\n15 fail p -", stood, false},
		"the package crashed":                {"10 run p TestA\n12 output p - fatal error: no\n15 fail p -", stood, false},
		"a skip that must run":               {"10 run p TestA\n12 output p TestA a_test.go:3: needs root\n14 skip p TestA\n15 pass p -", stood, false},
		"after a subtest":                    {"10 run p TestA\n10 run p TestA/x\n10.5 pass p TestA/x\n14 fail p TestA\n15 fail p -", stood, true},
		"while others ran":                   {"9 run p TestA\n10 pause p TestA\n13 cont p TestA\n14 fail p TestA\n15 fail p -", stood, false},
		"while it ran beside others":         {"9 run p TestA\n10 pause p TestA\n11 cont p TestA\n14 fail p TestA\n15 fail p -", stood, true},
	} {
		t.Run(title, func(t *testing.T) {
			j, _ := hear(t, needs, c.events)
			if n := len(j.failed()); n != 1 {
				t.Fatalf("%d failures", n)
			}
			r := j.failed()[0]
			if got := r.mayRetry([]stall{c.stall}); got != c.want {
				t.Errorf("judged again: %v, %q, ran %v", got, r.grave, r.spans)
			}
		})
	}
}

// TestWhatASecondRunComesTo: it replaces the first, and a failure that the machine has no part in is final.
func TestWhatASecondRunComesTo(t *testing.T) {
	const first = "10 run p TestA\n10 run p TestA/x\n12 fail p TestA/x\n14 fail p TestA\n14 run p TestB\n14 pass p TestB\n15 fail p -"
	all := []stall{{at(11), at(12)}, {at(51), at(52)}}
	for title, c := range map[string]struct {
		second string
		err    error
		want   tally
		again  bool
	}{
		"it passes":                          {"20 run p TestA\n20 run p TestA/x\n21 pass p TestA/x\n21 pass p TestA\n22 pass p -", nil, tally{3, 0, 0}, false},
		"it fails without a stall":           {"20 run p TestA\n21 fail p TestA\n22 fail p -", fmt.Errorf("exit 1"), tally{1, 1, 0}, false},
		"it fails with another stall":        {"50 run p TestA\n53 fail p TestA\n54 fail p -", fmt.Errorf("exit 1"), tally{1, 1, 0}, true},
		"two nodes answered this time":       {"50 run p TestA\n51 output p TestA (S1)\n53 fail p TestA\n54 fail p -", fmt.Errorf("exit 1"), tally{1, 1, 0}, false},
		"it ran nothing":                     {"22 pass p -", nil, tally{1, 2, 0}, false},
		"it passes and the command does not": {"20 run p TestA\n21 pass p TestA\n22 pass p -", fmt.Errorf("exit 1"), tally{1, 2, 0}, false},
	} {
		t.Run(title, func(t *testing.T) {
			j, _ := hear(t, needs, first)
			r := j.failed()[0]
			if !r.mayRetry(all) {
				t.Fatal("not judged again")
			}
			next, _ := hear(t, needs, c.second)
			r.retried(next, c.err)
			if got := j.sum(); got != c.want {
				t.Errorf("counted %+v, want %+v", got, c.want)
			}
			if got := r.failed > 0 && r.mayRetry(all); got != c.again {
				t.Errorf("a third time: %v", got)
			}
		})
	}
}
