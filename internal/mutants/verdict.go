package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// verdict is what one run of tests said.
type verdict struct {
	failed  bool
	passed  int      // top-level tests
	leaves  []string // failed tests none of whose subtests failed
	skipped string   // why the last one that was skipped was
	output  string   // end of what was printed
}

// maxOutput bounds what is kept of the tests' output, in bytes.
const maxOutput = 2000

// event is one line of test2json (go doc test2json).
type event struct{ Action, Test, Output string }

// judge reads the events of a test binary.
func judge(events []byte) (v verdict, err error) {
	var lost []string
	last := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(events))
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return v, fmt.Errorf("reading the events of a test: %w", err)
		}
		top := e.Test != "" && !strings.Contains(e.Test, "/")
		switch {
		case e.Action == "output":
			v.output += e.Output
			if text := strings.TrimSpace(e.Output); text != "" && !strings.HasPrefix(text, "---") && !strings.HasPrefix(text, "===") {
				last[e.Test] = text
			}
		case e.Action == "pass" && top:
			v.passed++
		case e.Action == "skip" && top:
			v.skipped = last[e.Test]
		case e.Action == "fail" && e.Test != "":
			lost = append(lost, e.Test)
		}
	}
	v.failed = len(lost) > 0
	for _, name := range lost {
		if !slices.ContainsFunc(lost, func(o string) bool { return strings.HasPrefix(o, name+"/") }) {
			v.leaves = append(v.leaves, name)
		}
	}
	if len(v.output) > maxOutput {
		v.output = v.output[len(v.output)-maxOutput:]
	}
	return v, lines.Err()
}

// blame names the tests that failed: the one, the parent that all of them have, or the first two.
func (v verdict) blame() string {
	if len(v.leaves) == 0 {
		return "(the test binary ended)"
	}
	common := strings.Split(v.leaves[0], "/")
	for _, l := range v.leaves[1:] {
		parts := strings.Split(l, "/")
		n := 0
		for n < min(len(common), len(parts)) && common[n] == parts[n] {
			n++
		}
		common = common[:n]
	}
	if len(common) > 0 {
		return strings.Join(common, "/")
	}
	var tops []string
	for _, l := range v.leaves {
		top, _, _ := strings.Cut(l, "/")
		if !slices.Contains(tops, top) {
			tops = append(tops, top)
		}
	}
	if len(tops) > 2 {
		return fmt.Sprintf("%s, %s and %d more", tops[0], tops[1], len(tops)-2)
	}
	return strings.Join(tops, ", ")
}

func printOutput(w io.Writer, events []byte) {
	for line := range bytes.Lines(events) {
		var e event
		if json.Unmarshal(line, &e) == nil && e.Action == "output" {
			io.WriteString(w, e.Output)
		}
	}
}
