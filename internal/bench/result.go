package bench

import (
	"fmt"
	"slices"
	"time"
)

// Run is what one system did in one scenario once.
type Run struct {
	System   string    `json:"system"`
	Scenario string    `json:"scenario"`
	Round    int       `json:"round"`
	At       time.Time `json:"at"`
	From     string    `json:"from"` // owner before
	To       string    `json:"to"`   // who answers afterwards

	Outage time.Duration `json:"outage_ns"` // longest time between two answers
	Failed int           `json:"failed"`    // requests
	Double time.Duration `json:"double_ns"` // two nodes answered for the address, until the way back began
	// Endless says that two still answered when the way back began, so that Double is only how long anybody looked.
	Endless bool          `json:"endless,omitempty"`
	Present time.Duration `json:"present_ns"`         // two nodes that clients hear had the address, answering or not
	Lost    bool          `json:"lost,omitempty"`     // nobody served again while anybody looked: Outage is a lower bound
	Back    Back          `json:"back"`               // the way back: power on, cable in, thawed
	Stall   time.Duration `json:"stall_ns,omitempty"` // the whole machine stood still, and repeating did not help
	Repeats int           `json:"repeated,omitempty"` // runs thrown away because the machine stood still
	Trouble []string      `json:"trouble,omitempty"`  // tries that came to nothing, and why
	Move    *Move         `json:"move,omitempty"`     // where the time went, as the cluster tells it; nil: it tells nothing, or nothing moved
}

// Back is what clients lost while the fault was undone.
type Back struct {
	Outage time.Duration `json:"outage_ns"`
	Failed int           `json:"failed"`
	Double time.Duration `json:"double_ns"`
}

// Runs of any systems.
type Runs []Run

// Summary of one system in one scenario.
type Summary struct {
	N                int
	Median, Min, Max time.Duration // of the outage
	Failed           float64       // requests, median
	Double           time.Duration // the longest
	Endless          int           // runs in which two answered without end
	DoubleRuns       int           // runs in which two answered
	Lost             int
}

// Of sums up one system in one scenario; the zero Summary when there is no run.
func (rs Runs) Of(system, scenario string) (s Summary) {
	var outages []time.Duration
	var failed []int
	for _, r := range rs {
		if r.System != system || r.Scenario != scenario {
			continue
		}
		s.N++
		outages = append(outages, r.Outage)
		failed = append(failed, r.Failed)
		s.Double = max(s.Double, r.Double)
		if r.Double > 0 {
			s.DoubleRuns++
		}
		if r.Endless {
			s.Endless++
		}
		if r.Lost {
			s.Lost++
		}
	}
	if s.N == 0 {
		return s
	}
	slices.Sort(failed)
	s.Min, s.Max, s.Median = slices.Min(outages), slices.Max(outages), median(outages)
	s.Failed = float64(failed[(s.N-1)/2]+failed[s.N/2]) / 2
	return s
}

// Systems are those that ran, in the order of the report.
func (rs Runs) Systems() []string {
	return slices.DeleteFunc(slices.Clone(SystemNames), func(name string) bool {
		return !slices.ContainsFunc(rs, func(r Run) bool { return r.System == name })
	})
}

// Scenarios are those that were run, in the order of the report.
func (rs Runs) Scenarios() []Scenario {
	return slices.DeleteFunc(slices.Clone(Scenarios), func(s Scenario) bool {
		return !slices.ContainsFunc(rs, func(r Run) bool { return r.Scenario == s.Name })
	})
}

// Fastest is the peer with the smallest median outage in a scenario, "" without one. With clean, only peers count of which two
// nodes never answered at once, and which always served again.
func (rs Runs) Fastest(scenario string, clean bool) (name string, best Summary) {
	for _, system := range rs.Systems() {
		s := rs.Of(system, scenario)
		if !peer(system) || s.N == 0 || clean && (s.DoubleRuns > 0 || s.Lost > 0) {
			continue
		}
		if name == "" || s.Median < best.Median {
			name, best = system, s
		}
	}
	return name, best
}

// Count gives the smallest and the greatest number of runs that any system had in any scenario it took part in.
func (rs Runs) Count() (least, most int) {
	for _, system := range rs.Systems() {
		for _, sc := range rs.Scenarios() {
			if n := rs.Of(system, sc.Name).N; n > 0 {
				if least == 0 || n < least {
					least = n
				}
				most = max(most, n)
			}
		}
	}
	return least, most
}

// Repeated is how many runs were thrown away because the machine stood still.
func (rs Runs) Repeated() (n int) {
	for _, r := range rs {
		n += r.Repeats
	}
	return n
}

// Troubled is how many tries came to nothing, by system.
func (rs Runs) Troubled() map[string]int {
	n := map[string]int{}
	for _, r := range rs {
		if len(r.Trouble) > 0 {
			n[r.System] += len(r.Trouble)
		}
	}
	return n
}

// String is one line of progress.
func (r Run) String() string {
	t := fmt.Sprintf("%-20s %-17s outage %7s, %4d failed, double %6s", r.System, r.Scenario, r.Outage.Round(time.Millisecond), r.Failed, r.Double.Round(time.Millisecond))
	for _, note := range []struct {
		is   bool
		what string
	}{{r.Endless, " without end"}, {r.Lost, ", not served again"}, {r.From == r.To, ", stays on " + r.To}, {r.From != r.To, ", " + r.From + " -> " + r.To + r.movedIn()},
		{r.Back.Failed > 0 || r.Back.Double > 0, fmt.Sprintf(", back: %s, %d failed, double %s", r.Back.Outage.Round(time.Millisecond), r.Back.Failed, r.Back.Double.Round(time.Millisecond))},
		{r.Repeats > 0, fmt.Sprintf(", repeated %d", r.Repeats)}} {
		if note.is {
			t += note.what
		}
	}
	return t
}

// movedIn is the sum of the phases, as far as they are known.
func (r Run) movedIn() string {
	if r.Move == nil {
		return ""
	}
	note := ""
	if !r.whole() {
		note = " known"
	}
	return fmt.Sprintf(" (%s ms%s)", tenth(r.Move.Total), note)
}
