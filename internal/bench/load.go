package bench

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"
)

// LoadMove is one change of who serves the address.
type LoadMove struct {
	After time.Duration `json:"after_ns"` // since the load began
	From  string        `json:"from,omitempty"`
	To    string        `json:"to,omitempty"`
	Why   string        `json:"why,omitempty"` // the rule, where the system keeps records
}

// LoadResult is what one system did under load. Nothing was wrong with any node, so each move is a false one.
type LoadResult struct {
	System   string        `json:"system"`
	Moves    []LoadMove    `json:"moves"`
	Recorded bool          `json:"recorded"` // the moves are the system's own records; else who answered the client
	Requests int           `json:"requests"`
	Failed   int           `json:"failed"`
	Gap      time.Duration `json:"gap_ns"`    // longest time between two answers
	P99      time.Duration `json:"p99_ns"`    // of the answered requests
	Double   time.Duration `json:"double_ns"` // two nodes answered, all times together
	Trouble  string        `json:"trouble,omitempty"`
}

// LoadReport is all systems side by side under one load.
type LoadReport struct {
	Lasted  time.Duration `json:"lasted_ns"`
	Hogs    int           `json:"hogs"`     // processes that only compute
	Nodes   int           `json:"nodes"`    // of all systems together
	Idle    float64       `json:"idle"`     // share of the processors' time in which nobody wanted them, 0 to 1
	Hogged  float64       `json:"hogged"`   // share of the processors' time that the hogs had, 0 to 1
	Every   time.Duration `json:"every_ns"` // between two connections of each client
	Stall   time.Duration `json:"stall_ns"` // longest time in which the machine itself stood still
	Systems []LoadResult  `json:"systems"`
}

// Of is the result of one system; ok is false where it took no part.
func (r LoadReport) Of(system string) (LoadResult, bool) {
	i := slices.IndexFunc(r.Systems, func(x LoadResult) bool { return x.System == system })
	if i < 0 {
		return LoadResult{}, false
	}
	return r.Systems[i], true
}

// Table is the result in text.
func (r LoadReport) Table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s OF LOAD: %d hogs, %d nodes, %d systems at once\nprocessors: hogs %.1f %%, idle %.1f %%\n", r.Lasted.Round(time.Second), r.Hogs, r.Nodes, len(r.Systems), 100*r.Hogged, 100*r.Idle)
	fmt.Fprintf(&b, "%-20s %6s %8s %8s %9s %9s %8s\n", "", "moves", "two, ms", "failed", "of", "gap, ms", "p99, ms")
	for _, x := range r.Systems {
		fmt.Fprintf(&b, "%-20s %6d %8d %8d %9d %9s %8s%s\n", x.System, len(x.Moves), ceilMS(x.Double), x.Failed, x.Requests, ms(x.Gap), ms(x.P99), x.note())
	}
	return b.String()
}

func (x LoadResult) note() string {
	if x.Trouble == "" {
		return ""
	}
	return "  " + x.Trouble
}

// line is one line of progress.
func (r LoadReport) line() string {
	parts := make([]string, 0, len(r.Systems))
	for _, x := range r.Systems {
		parts = append(parts, fmt.Sprintf("%s %d moves, two %d ms, %d failed, gap %s ms%s", x.System, len(x.Moves), ceilMS(x.Double), x.Failed, ms(x.Gap), x.note()))
	}
	return fmt.Sprintf("%s: %s", r.Lasted.Round(time.Second), strings.Join(parts, "; "))
}

// LoadSection is the part of docs/performance.md that comes from a run under load.
func (r Report) LoadSection() []byte {
	var b bytes.Buffer
	l := r.Load
	fmt.Fprintf(&b, "Measured on %s, for %s, on %s, %d processors, Linux %s; %s. %d hogs, which had %.1f %% of the processors' time; idle %.1f %%;\n"+
		"a connection each %s for each system; the machine itself stood still for %s ms at most. Again:\n\n    %s\n\n",
		r.Date.Format("2 January 2006"), spell(l.Lasted), r.Machine.CPU, r.Machine.Processors, r.Machine.Kernel, r.Machine.versions(), l.Hogs, 100*l.Hogged, 100*l.Idle, l.Every, ms(l.Stall), r.Command)
	b.WriteString("| system | false moves | two nodes answered, ms | failed requests | of | longest gap, ms | p99, ms | moves by |\n|---|---|---|---|---|---|---|---|\n")
	for _, x := range l.Systems {
		by := "who answers"
		if x.Recorded {
			by = "its records"
		}
		if x.Trouble != "" {
			by += "; " + x.Trouble
		}
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d | %s | %s | %s |\n", x.System, len(x.Moves), ceilMS(x.Double), x.Failed, x.Requests, ms(x.Gap), ms(x.P99), by)
	}
	if why := l.whys(); why != "" {
		fmt.Fprintf(&b, "\nWhy, where the system says it: %s.\n", why)
	}
	return b.Bytes()
}

// whys counts the reasons of the moves of each system, in order of their names.
func (r LoadReport) whys() string {
	var out []string
	for _, x := range r.Systems {
		n := map[string]int{}
		for _, m := range x.Moves {
			if m.Why != "" {
				n[m.Why]++
			}
		}
		for _, why := range sortedKeys(n) {
			out = append(out, fmt.Sprintf("%s: %s %d", x.System, why, n[why]))
		}
	}
	return strings.Join(out, "; ")
}

func sortedKeys(m map[string]int) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// spell is a duration of whole seconds without the zeros of its own notation: 1h and not 1h0m0s.
func spell(d time.Duration) string {
	t := d.Round(time.Second).String()
	if strings.HasSuffix(t, "m0s") {
		t = strings.TrimSuffix(t, "0s")
	}
	if strings.HasSuffix(t, "h0m") {
		t = strings.TrimSuffix(t, "0m")
	}
	return t
}

// turns counts how often another node serves, by the answers in the order in which their requests began. Single answers of another
// node are none: only steady in a row are another server.
type turns struct {
	serving, next string
	row           int
	since         time.Time // when the first request of the row began
}

// steadyAnswers make another server.
const steadyAnswers = 3

// add takes an answer; moved is true when it makes another server of the node, since the instant at.
func (t *turns) add(node string, began time.Time) (from string, at time.Time, moved bool) {
	switch {
	case node == t.serving:
		t.row = 0
		return "", at, false
	case node != t.next || t.row == 0:
		t.next, t.row, t.since = node, 0, began
	}
	if t.row++; t.row < steadyAnswers {
		return "", at, false
	}
	from, at, t.serving, t.row = t.serving, t.since, node, 0
	return from, at, from != ""
}
