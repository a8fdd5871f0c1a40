package bench

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// short are the two lines that stand above a system's column.
var short = map[string][2]string{
	HadFast: {"had", "fast"}, HadTight: {"had", "tight"}, HadLan: {"had", "lan"}, KeepDefault: {"keep.", "deflt"}, KeepFast: {"keep.", "fast"}, KeepExtreme: {"keep.", "extr"},
	PacemakerStock: {"pcmk", "deflt"}, PacemakerFast: {"pcmk", "300"}, ByHand: {"by", "hand"},
}

const (
	nameWidth = 16
	cellWidth = 7
)

// grid writes one table: a row per scenario, a column per system; cell is asked where there are runs.
func (rs Runs) grid(b *strings.Builder, title string, cell func(s Summary) string) {
	fmt.Fprintf(b, "%s\n", title)
	for line := range 2 {
		fmt.Fprintf(b, "%-*s", nameWidth, "")
		for _, system := range rs.Systems() {
			fmt.Fprintf(b, " %*s", cellWidth, short[system][line])
		}
		b.WriteString("\n")
	}
	for _, sc := range rs.Scenarios() {
		fmt.Fprintf(b, "%-*s", nameWidth, sc.Name)
		for _, system := range rs.Systems() {
			text := "-"
			if s := rs.Of(system, sc.Name); s.N > 0 {
				text = cell(s)
			}
			fmt.Fprintf(b, " %*s", cellWidth, text)
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
}

// Table is the results in text, 80 columns wide.
func (rs Runs) Table() string {
	var b strings.Builder
	rs.grid(&b, "OUTAGE: longest time without an answer, median, ms (> not served again)", outageCell)
	rs.grid(&b, "the same, the longest of all runs, ms", func(s Summary) string { return ms(s.Max) })
	rs.grid(&b, "FAILED REQUESTS of 200 per second, median", func(s Summary) string { return trimmed(s.Failed) })
	rs.grid(&b, "TWO NODES ANSWERED, longest time, ms (oo: without end)", doubleCell)
	rs.ratios(&b)
	return b.String()
}

func outageCell(s Summary) string {
	if s.Lost > 0 {
		return ">" + ms(s.Median)
	}
	return ms(s.Median)
}

func doubleCell(s Summary) string {
	switch {
	case s.Endless > 0:
		return "oo"
	case s.Double == 0:
		return "0"
	}
	return fmt.Sprint(ceilMS(s.Double))
}

// ratios compares had with the fastest peer and, where two nodes answered there, with the fastest one that did its job.
func (rs Runs) ratios(b *strings.Builder) {
	fmt.Fprintf(b, "AGAINST THE FASTEST PEER (median outage; below 1 had is faster)\n%-*s %-24s %8s %8s  %s\n", nameWidth, "", "fastest peer, ms", "had fast", "had lan", "two answered there")
	row := func(title, name string, best Summary, scenario, note string) {
		fmt.Fprintf(b, "%-*s %-24s %8s %8s  %s\n", nameWidth, title, name+" "+ms(best.Median), rs.ratio(HadFast, scenario, best), rs.ratio(HadLan, scenario, best), note)
	}
	for _, sc := range rs.Scenarios() {
		name, best := rs.Fastest(sc.Name, false)
		if name == "" || sc.Name == NoFault {
			continue
		}
		row(sc.Name, name, best, sc.Name, twice(best))
		clean, cleanest := rs.Fastest(sc.Name, true)
		if clean == "" {
			fmt.Fprintf(b, "%-*s no peer without two owners\n", nameWidth, "")
		} else if clean != name {
			row("  without two", clean, cleanest, sc.Name, "never")
		}
	}
	floor := rs.Of(ByHand, PlannedMove)
	if floor.N == 0 || !slices.ContainsFunc(rs, func(r Run) bool { return r.System == HadFast || r.System == HadLan }) {
		return
	}
	b.WriteString("\nAGAINST MOVING BY HAND, with nothing to find out first\n")
	for _, scenario := range []string{PlannedMove, ServiceKilled} {
		if rs.Of(HadFast, scenario).N+rs.Of(HadLan, scenario).N == 0 {
			continue
		}
		row(scenario, ByHand, floor, scenario, twice(floor))
	}
}

func twice(s Summary) string {
	if s.DoubleRuns == 0 {
		return "never"
	}
	t := fmt.Sprintf("%d of %d runs", s.DoubleRuns, s.N)
	if s.Endless > 0 {
		t += ", no end"
	}
	return t
}

func (rs Runs) ratio(system, scenario string, best Summary) string {
	s := rs.Of(system, scenario)
	if s.N == 0 || best.Median == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", float64(s.Median)/float64(best.Median))
}

func ms(d time.Duration) string { return fmt.Sprint(d.Round(time.Millisecond).Milliseconds()) }

// ceilMS rounds up: half a millisecond with two owners is not none.
func ceilMS(d time.Duration) int64 { return int64((d + time.Millisecond - 1) / time.Millisecond) }

// trimmed is a number with one digit behind the point where that says something.
func trimmed(f float64) string { return strings.TrimSuffix(fmt.Sprintf("%.1f", f), ".0") }
