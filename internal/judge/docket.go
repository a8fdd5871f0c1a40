package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// event is one of test2json's (go doc test2json).
type event struct {
	Time                          time.Time
	Action, Package, Test, Output string
	Elapsed                       float64 // seconds
}

// rules say which skips are no fault.
type rules struct {
	root bool // with root, nothing may be skipped for want of it
	list []rule
}

type rule struct {
	pkg  string // "-" is any
	test *regexp.Regexp
	why  string
}

// readRules reads "PACKAGE PATTERN REASON" lines.
func readRules(file string, root bool) (out rules, err error) {
	out.root = root
	if file == "" {
		return out, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return out, err
	}
	for line := range strings.Lines(string(text)) {
		w := strings.SplitN(strings.TrimSpace(line), " ", 3)
		if len(w) < 3 {
			return out, fmt.Errorf("%s: %q is not a package, a pattern and a reason", file, line)
		}
		test, err := regexp.Compile(w[1])
		if err != nil {
			return out, fmt.Errorf("%s: %w", file, err)
		}
		out.list = append(out.list, rule{w[0], test, w[2]})
	}
	return out, nil
}

// excuse says why a skip is no fault; empty when it is one.
func (r rules) excuse(pkg, test, reason string) string {
	if !strings.HasPrefix(reason, "needs ") {
		return "says: " + reason
	}
	for _, one := range r.list {
		if (one.pkg == "-" || one.pkg == pkg) && one.test.MatchString(test) {
			return one.why
		}
	}
	if !r.root && (strings.HasPrefix(reason, "needs root") || strings.HasPrefix(reason, "needs real root")) {
		return "needs root"
	}
	return ""
}

type tally struct{ passed, failed, skipped int }

// name of a test, or of a package when test is empty.
type name struct{ pkg, test string }

// docket takes the events of one go test: it prints what matters as it comes and keeps what each test came to.
type docket struct {
	rules  rules
	out    io.Writer
	source func(pkg, file string, line int) string // what is written there

	logs    map[name]*strings.Builder // until the test has ended
	results map[name]*result          // of tests that are no subtests; with an empty test of the package besides
	order   []*result
	grave   map[string]string // by package: what makes all its failures final
	ran     map[string]int    // passed, by package
	notes   []string          // skips, for the end
	bad     []string
	build   []string // what the compiler said
}

func newDocket(r rules, out io.Writer) *docket {
	return &docket{rules: r, out: out, source: sourceLine, logs: map[name]*strings.Builder{}, results: map[name]*result{},
		grave: map[string]string{}, ran: map[string]int{}}
}

// read takes a stream of events to its end.
func (j *docket) read(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				fmt.Fprintf(j.out, "%s", line)
			} else {
				j.take(e)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the events of the tests: %w", err)
		}
	}
}

func (j *docket) take(e event) {
	if e.Action == "build-output" {
		fmt.Fprint(j.out, e.Output)
		j.build = append(j.build, e.Output)
		return
	}
	r := j.result(e.Package, e.Test)
	switch e.Action {
	case "output":
		j.says(r, e)
		return
	case "run", "cont":
		if e.Test == r.name {
			r.began = e.Time
		}
		return
	case "pause":
		r.pause(e)
		return
	}
	if e.Test == "" {
		j.ended(e, r)
		return
	}
	r.pause(e)
	log := j.log(e.Package, e.Test)
	switch e.Action {
	case "pass":
		r.passed++
		j.ran[e.Package]++
	case "skip":
		j.skipped(r, e, lastSaid(log))
	case "fail":
		r.failed++
		fmt.Fprint(j.out, log)
		r.why = append(r.why, why(e.Package, log, j.source)...)
	default:
		return
	}
	delete(j.logs, name{e.Package, e.Test})
}

// result is that of the test that a subtest belongs to.
func (j *docket) result(pkg, test string) *result {
	top, _, _ := strings.Cut(test, "/")
	key := name{pkg, top}
	if j.results[key] == nil {
		j.results[key] = &result{pkg: pkg, name: top}
		j.order = append(j.order, j.results[key])
	}
	return j.results[key]
}

// says keeps output, and what in it makes a failure final.
func (j *docket) says(r *result, e event) {
	key := name{e.Package, e.Test}
	if j.logs[key] == nil {
		j.logs[key] = &strings.Builder{}
	}
	j.logs[key].WriteString(e.Output)
	text := strings.TrimSpace(e.Output)
	switch {
	case strings.Contains(text, "(S1)"):
		r.grave = "two nodes answered"
	case strings.Contains(text, "DATA RACE"), strings.Contains(text, "race detected during execution"):
		j.grave[e.Package] = "a data race" // it may be reported with another test than its own
	case strings.HasPrefix(text, "panic: "), strings.HasPrefix(text, "fatal error: "):
		j.grave[e.Package] = "a crash"
	}
}

func (j *docket) log(pkg, test string) string {
	if b := j.logs[name{pkg, test}]; b != nil {
		return b.String()
	}
	return ""
}

func (j *docket) skipped(r *result, e event, reason string) {
	why := j.rules.excuse(e.Package, e.Test, reason)
	if why != "" {
		r.skipped++
		j.notes = append(j.notes, fmt.Sprintf("    skipped %s: %s\n", e.Test, why))
		return
	}
	r.failed++
	r.grave = "a skip" // a second time would be none the better
	text := fmt.Sprintf("    skipped, but must run: %s %s: %s\n", e.Package, e.Test, reason)
	j.bad = append(j.bad, text)
	r.why = append(r.why, text)
}

// ended is the end of a package.
func (j *docket) ended(e event, r *result) {
	switch e.Action {
	case "pass":
		fmt.Fprintf(j.out, "  ok    %-34s %6.1f s  %d tests\n", e.Package, e.Elapsed, j.ran[e.Package])
	case "fail":
		broke := false
		for _, one := range j.order {
			broke = broke || one.pkg == e.Package && one.failed > 0 && one.grave != "a skip"
		}
		if !broke { // a crash, a time limit, or it does not build: what is left tells
			r.failed++
			r.why = append(r.why, j.build...)
			for _, key := range slices.SortedFunc(maps.Keys(j.logs), func(a, b name) int { return strings.Compare(a.test, b.test) }) {
				if key.pkg == e.Package {
					fmt.Fprint(j.out, j.logs[key])
					r.why = append(r.why, why(e.Package, j.logs[key].String(), j.source)...)
				}
			}
		}
		fmt.Fprintf(j.out, "  FAIL  %-34s\n", e.Package)
	}
}

// close prints what was skipped, and settles which failures are final.
func (j *docket) close() {
	fmt.Fprint(j.out, strings.Join(j.notes, ""), strings.Join(j.bad, ""))
	for _, r := range j.order {
		if g := j.grave[r.pkg]; g != "" {
			r.grave = g
		}
		if r.name == "" && r.failed > 0 {
			r.grave = "a crash"
		}
	}
}

func (j *docket) sum() (out tally) {
	for _, r := range j.order {
		out.passed += r.passed
		out.failed += r.failed
		out.skipped += r.skipped
	}
	return out
}

func (j *docket) failed() (out []*result) {
	for _, r := range j.order {
		if r.failed > 0 {
			out = append(out, r)
		}
	}
	return out
}

// reasons is a short block for each failure, for the end of a log.
func (j *docket) reasons() string {
	var b strings.Builder
	for _, r := range j.failed() {
		fmt.Fprintf(&b, "FAIL %s %s\n", r.pkg, r.name)
		if len(r.why) == 0 {
			b.WriteString("    see its output above\n")
		}
		for i, line := range r.why {
			if i == mostReasons {
				fmt.Fprintf(&b, "    ... and %d lines more\n", len(r.why)-i)
				break
			}
			b.WriteString(line)
		}
	}
	return b.String()
}
