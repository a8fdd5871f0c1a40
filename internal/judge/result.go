package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	leastStall  = 100 * time.Millisecond // shorter ones excuse nothing
	mostTries   = 2                      // beyond the first
	mostReasons = 15                     // lines of each failure
)

// stall is a time in which the machine stood still (labctl stalls).
type stall struct{ Start, End time.Time }

func (s stall) length() time.Duration { return s.End.Sub(s.Start) }

// result is what a test with its subtests came to.
type result struct {
	pkg, name string
	tally
	began time.Time
	spans []stall // in which it ran, without those in which others did
	grave string  // why it is not judged again
	why   []string
}

// pause notes that the test itself, no subtest, has stopped running.
func (r *result) pause(e event) {
	if e.Test == r.name && !r.began.IsZero() {
		r.spans = append(r.spans, stall{r.began, e.Time})
		r.began = time.Time{}
	}
}

// worst is the longest stall that overlapped the test.
func (r *result) worst(all []stall) (out stall) {
	for _, s := range all {
		for _, span := range r.spans {
			if s.Start.Before(span.End) && s.End.After(span.Start) && s.length() > out.length() {
				out = s
			}
		}
	}
	return out
}

// mayRetry says whether the failure may be the machine's.
func (r *result) mayRetry(all []stall) bool {
	return r.grave == "" && r.worst(all).length() >= leastStall
}

// retried replaces the result by that of another run. One that ran nothing, or in which go test itself failed, is no pass.
func (r *result) retried(next *docket, err error) {
	sum := next.sum()
	n := next.result(r.pkg, r.name)
	if sum.failed == 0 && (err != nil || n.passed == 0) {
		r.grave = "it cannot be run alone"
		return
	}
	r.tally, r.spans, r.grave = sum, n.spans, n.grave
	if sum.failed > 0 {
		r.why = append(r.why, "    and once more:\n")
		for _, one := range next.failed() {
			r.why = append(r.why, one.why...)
			if one.grave != "" {
				r.grave = one.grave
			}
		}
	}
}

var (
	saidLine  = regexp.MustCompile(`^ *([A-Za-z0-9_]+_test\.go):([0-9]+): (.*)`)
	justLogs  = regexp.MustCompile(`^[^"]*\.Logf?\(`)
	crashLine = regexp.MustCompile(`^\s*(panic|fatal error): |WARNING: DATA RACE`)
)

// lastSaid is the last thing that a test said in its log, which is why it was skipped.
func lastSaid(log string) (out string) {
	for line := range strings.Lines(log) {
		if m := saidLine.FindStringSubmatch(line); m != nil {
			out = m[3]
		}
	}
	return out
}

// why picks from the log of a failed test the lines that tell why: what it said where the source does not just log, with a few
// lines of what follows, and how a crash begins.
func why(pkg, log string, source func(pkg, file string, line int) string) (out []string) {
	more := 0
	for line := range strings.Lines(log) {
		m := saidLine.FindStringSubmatch(line)
		switch {
		case m != nil:
			more = 0
			n, _ := strconv.Atoi(m[2])
			if justLogs.MatchString(source(pkg, m[1], n)) {
				continue
			}
			more = 3
		case crashLine.MatchString(line):
			more = 12
		case more == 0 || strings.HasPrefix(strings.TrimSpace(line), "---"):
			more = 0
			continue
		default:
			more--
		}
		if len(line) > 400 {
			line = line[:400] + "...\n"
		}
		out = append(out, line)
	}
	return out
}

// sourceLine is a line of a file of this module, for a run from its top; empty when it cannot be read.
func sourceLine(pkg, file string, line int) string {
	_, dir, _ := strings.Cut(pkg, "/")
	text, err := os.ReadFile(filepath.Join(filepath.FromSlash(dir), file))
	if err != nil {
		return ""
	}
	for s := range strings.Lines(string(text)) {
		if line--; line == 0 {
			return s
		}
	}
	return ""
}
