package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Move is where the time of one change of owner went, as `hactl why GROUP -o json` tells it (docs/cli.md).
type Move struct {
	Seq    uint64        `json:"seq"` // of its event
	From   string        `json:"from,omitempty"`
	To     string        `json:"to,omitempty"`
	Epoch  uint64        `json:"epoch"`
	Leader string        `json:"leader,omitempty"` // that decided it
	Rule   string        `json:"rule,omitempty"`   // why it was
	Done   bool          `json:"done"`             // its end has been reported
	Part   bool          `json:"part,omitempty"`   // some phases are lost: the leader changed meanwhile
	Total  time.Duration `json:"total_ns"`         // sum of the phases
	Phases []Phase       `json:"phases"`           // those that were measured, each greater than zero
}

// Phase is one part of a move.
type Phase struct {
	Name string        `json:"name"`
	Node string        `json:"node,omitempty"` // by whose clock; empty: by more than one
	Took time.Duration `json:"took_ns"`
}

// phaseNames are all phases that hactl knows, in the order in which they are stacked.
var phaseNames = []string{"detected", "decided", "committed", "released", "handed-on", "acquired", "announced", "online", "underway"}

// firstAnswer is what the client's outage is longer than the sum of the phases: no node sees that.
const firstAnswer = "first answer"

// stack are the parts of a bar, from left to right.
var stack = append(slices.Clone(phaseNames), firstAnswer)

// readMove reads what `hactl why GROUP -o json` prints; nil when there was no move yet. What could not be stacked is an error:
// a phase that nobody here knows, or phases that do not add up.
func readMove(text []byte) (*Move, error) {
	var out struct {
		Move *struct {
			Move
			Reason struct{ Rule string }
		}
	}
	if err := json.Unmarshal(text, &out); err != nil {
		return nil, fmt.Errorf("hactl why: %w", err)
	}
	if out.Move == nil {
		return nil, nil
	}
	m := out.Move.Move
	m.Rule = out.Move.Reason.Rule
	var sum time.Duration
	for _, p := range m.Phases {
		if !slices.Contains(phaseNames, p.Name) {
			return nil, fmt.Errorf("hactl why: unknown phase %q", p.Name)
		}
		sum += p.Took
	}
	if sum != m.Total {
		return nil, fmt.Errorf("hactl why: the phases of event %d take %s together, not %s", m.Seq, sum, m.Total)
	}
	return &m, nil
}

// newer tells that the move came after another one; nil: there was none.
func (m *Move) newer(than *Move) bool { return m != nil && (than == nil || m.Seq > than.Seq) }

// whole tells that the move of a run is known from end to end, so that its phases may be compared with the outage.
func (r Run) whole() bool { return r.Move != nil && r.Move.Done && !r.Move.Part && !r.Lost }

// Parts are the medians of where the moves of one system in one scenario spent their time.
type Parts struct {
	N, Runs int                      // moves that are known from end to end; runs
	Took    map[string]time.Duration // by phase, or firstAnswer; those that at least half of the moves have
	Total   time.Duration            // sum of a move's phases
	Outage  time.Duration            // of the same runs
}

// PartsOf sums up the phases of one system in one scenario. A phase that a move has not is not taken for zero.
func (rs Runs) PartsOf(system, scenario string) Parts {
	p := Parts{Took: map[string]time.Duration{}}
	var totals, outages []time.Duration
	took := map[string][]time.Duration{}
	for _, r := range rs {
		if r.System != system || r.Scenario != scenario {
			continue
		}
		p.Runs++
		if !r.whole() {
			continue
		}
		p.N++
		totals, outages = append(totals, r.Move.Total), append(outages, r.Outage)
		for _, x := range r.Move.Phases {
			took[x.Name] = append(took[x.Name], x.Took)
		}
		if rest := r.Outage - r.Move.Total; rest > 0 {
			took[firstAnswer] = append(took[firstAnswer], rest)
		}
	}
	for name, list := range took {
		if 2*len(list) >= p.N {
			p.Took[name] = median(list)
		}
	}
	p.Total, p.Outage = median(totals), median(outages)
	return p
}

// bar is one row of the table and of the picture.
type bar struct {
	Parts
	scenario, system string
}

// bars are all systems and scenarios of which moves are known, in the order of the report.
func (rs Runs) bars() (out []bar) {
	for _, sc := range rs.Scenarios() {
		for _, system := range rs.Systems() {
			if p := rs.PartsOf(system, sc.Name); p.N > 0 {
				out = append(out, bar{p, sc.Name, system})
			}
		}
	}
	return out
}

// PhaseTable is a table in Markdown of where the time of the moves went, "" where no move is known.
func (rs Runs) PhaseTable() string {
	bars := rs.bars()
	if len(bars) == 0 {
		return ""
	}
	names := slices.DeleteFunc(slices.Clone(phaseNames), func(name string) bool { // a column that nobody fills says nothing
		return !slices.ContainsFunc(bars, func(b bar) bool { return b.Took[name] > 0 })
	})
	var t strings.Builder
	fmt.Fprintf(&t, "| scenario | system | n | %s | total | %s | outage |\n|---|---|%s\n", strings.Join(names, " | "), firstAnswer, strings.Repeat("---|", len(names)+4))
	for _, b := range bars {
		n := fmt.Sprint(b.N)
		if b.N < b.Runs {
			n = fmt.Sprintf("%d of %d", b.N, b.Runs)
		}
		fmt.Fprintf(&t, "| %s | %s | %s |", b.scenario, b.system, n)
		for _, name := range names {
			fmt.Fprintf(&t, " %s |", b.cell(name))
		}
		fmt.Fprintf(&t, " %s | %s | %s |\n", tenth(b.Total), b.cell(firstAnswer), tenth(b.Outage))
	}
	return t.String()
}

func (p Parts) cell(name string) string {
	if p.Took[name] == 0 {
		return "-"
	}
	return tenth(p.Took[name])
}

// phases writes the part of the section about the moves; nothing where no move is known.
func (rs Runs) phases(b *bytes.Buffer, picture string) {
	table := rs.PhaseTable()
	if table == "" {
		return
	}
	fmt.Fprintf(b, "\n### Where the time of a move goes\n\n![phases](%s)\n\n", picture)
	b.WriteString("Medians in ms of the moves that are known from end to end (n). The *outage* of the same runs is the client's; *total* is the nodes' sum.\n\n")
	b.WriteString(table)
}

// median of durations in any order; 0 of none.
func median(list []time.Duration) time.Duration {
	n := len(list)
	if n == 0 {
		return 0
	}
	list = slices.Sorted(slices.Values(list))
	return (list[(n-1)/2] + list[n/2]) / 2
}

// tenth is a time in milliseconds, down to a tenth; what is less than that but not nothing is told so.
func tenth(d time.Duration) string {
	if d > 0 && d < 50*time.Microsecond {
		return "<0.1"
	}
	return fmt.Sprintf("%.1f", float64(d)/float64(time.Millisecond))
}

// caused tells that a move is the one that a run caused: newer than what was there before, and from and to the same nodes.
func (r Run) caused(m, before *Move) bool {
	return m.newer(before) && m.From == r.From && m.To == r.To
}
