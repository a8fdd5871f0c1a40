package main

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// step is what a benchmark of package placement measures, as people would say it.
var steps = []struct{ name, text string }{
	{"decide-rest", "decide, at rest"}, {"decide-dead", "decide, the owner of all groups is dead"}, {"decide-start", "decide, no group has an owner"},
	{"reconcile", "reconcile, on each node"}, {"check", "check the invariants, on each node"}, {"apply-takeover", "apply one takeover, on each node"},
	{"apply-config", "apply a configuration, on each node"}, {"state", "encode the state (snapshot)"}, {"report", "encode a report"},
}

var benchLine = regexp.MustCompile(`^Benchmark\w+/([a-z-]+)/nodes=(\d+)/groups=(\d+)\S*\s+\d+\s+([0-9.e+]+) ns/op(?:\s+(\d+) bytes)?`)

// decisions makes a table of what "go test -bench Scale ./placement" printed; empty where there is nothing.
func decisions(text string) string {
	type size struct{ nodes, groups int }
	var sizes []size
	took, long := map[string]map[size]time.Duration{}, map[string]map[size]string{}
	for _, line := range strings.Split(text, "\n") {
		m := benchLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		nodes, _ := strconv.Atoi(m[2])
		groups, _ := strconv.Atoi(m[3])
		ns, _ := strconv.ParseFloat(m[4], 64)
		s := size{nodes, groups}
		if !slices.Contains(sizes, s) {
			sizes = append(sizes, s)
		}
		if took[m[1]] == nil {
			took[m[1]], long[m[1]] = map[size]time.Duration{}, map[size]string{}
		}
		took[m[1]][s], long[m[1]][s] = time.Duration(ns), m[5]
	}
	if len(sizes) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("\n## Time to decide\n\nMilliseconds for one call of package placement, without a network; of encodings also the size in kB. By nodes x groups.\n\n| step |")
	for _, s := range sizes {
		fmt.Fprintf(&b, " %dx%d |", s.nodes, s.groups)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(sizes)) + "\n")
	for _, step := range steps {
		fmt.Fprintf(&b, "| %s |", step.text)
		for _, s := range sizes {
			d, ok := took[step.name][s]
			switch n, _ := strconv.Atoi(long[step.name][s]); {
			case !ok:
				b.WriteString(" |")
			case n > 0:
				fmt.Fprintf(&b, " %.2f, %.1f kB |", d.Seconds()*1000, float64(n)/1000)
			default:
				fmt.Fprintf(&b, " %.2f |", d.Seconds()*1000)
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}
