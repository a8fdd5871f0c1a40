package drill

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Outcomes of any drills, in the order they were run.
type Outcomes []Outcome

// Summary of the outcomes of one drill.
type Summary struct {
	N                int
	Median, Min, Max time.Duration // of the outage
	Failed           float64       // requests, on average
	Double           time.Duration // all together
	Present          time.Duration // the longest
	Layers           []string      // kernel leases in force
}

// Of sums up one drill; the zero Summary when it was not run.
func (o Outcomes) Of(fault string) (s Summary) {
	var outages []time.Duration
	for _, x := range o {
		if x.Fault != fault {
			continue
		}
		s.N++
		s.Failed += float64(x.Failed)
		s.Double += x.Double
		s.Present = max(s.Present, x.Present)
		outages = append(outages, x.Outage)
		if !slices.Contains(s.Layers, x.Layer) {
			s.Layers = append(s.Layers, x.Layer)
		}
	}
	if s.N == 0 {
		return s
	}
	slices.Sort(outages)
	s.Median, s.Min, s.Max, s.Failed = outages[s.N/2], outages[0], outages[s.N-1], s.Failed/float64(s.N)
	return s
}

// Table is the results of drills in markdown, one row each, with an outage, lost requests and double ownership for each profile.
func Table(list []Drill, profiles []string, seen map[string]Outcomes) string {
	var b strings.Builder
	head, rule := "| fault |", "|---|"
	for _, p := range profiles {
		var layers []string
		for _, o := range seen[p] {
			layers = append(layers, o.Layer)
		}
		slices.Sort(layers)
		head += fmt.Sprintf(" %s (%s): outage, median (least to most) | failed requests | two answer |", p, cmp.Or(strings.Join(slices.Compact(layers), ", "), "not run"))
		rule += "---|---|---|"
	}
	fmt.Fprintf(&b, "%s\n%s\n", head, rule)
	for _, d := range list {
		fmt.Fprintf(&b, "| %s |", d.Name)
		for _, p := range profiles {
			s := seen[p].Of(d.Name)
			if s.N == 0 {
				b.WriteString(" - | - | - |")
				continue
			}
			fmt.Fprintf(&b, " %d ms (%d to %d, n=%d) | %.1f | %d ms |", s.Median.Milliseconds(), s.Min.Milliseconds(), s.Max.Milliseconds(), s.N, s.Failed,
				(s.Double + time.Millisecond - 1).Milliseconds()) // rounded up: nothing but 0 is none
		}
		b.WriteString("\n")
	}
	return b.String()
}
