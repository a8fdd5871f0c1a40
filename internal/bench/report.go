package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Machine is where the runs were made, and with what.
type Machine struct {
	CPU        string            `json:"cpu"`
	Processors int               `json:"processors"`
	Kernel     string            `json:"kernel"`
	Versions   map[string]string `json:"versions"` // of the peers and tools, by Debian package
}

// versions names all that is known, in order.
func (m Machine) versions() string {
	list := make([]string, 0, len(m.Versions))
	for name, v := range m.Versions {
		list = append(list, name+" "+v)
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// Report is a whole benchmark, as -json writes it.
type Report struct {
	Date    time.Time     `json:"date"`
	Took    time.Duration `json:"took_ns"`
	Rounds  int           `json:"rounds"`
	Command string        `json:"command"` // what repeats it
	Machine Machine       `json:"machine"`
	Runs    Runs          `json:"runs"`
	Load    *LoadReport   `json:"load,omitempty"` // instead of runs
}

// JSON is the report with all runs.
func (r Report) JSON() ([]byte, error) {
	text, err := json.MarshalIndent(r, "", " ")
	return append(text, '\n'), err
}

// Read takes a report back that JSON wrote.
func Read(text []byte) (r Report, err error) {
	err = json.Unmarshal(text, &r)
	return r, err
}

// Section is the part of docs/performance.md that comes from the runs; picture and phases are the names of the pictures beside it.
func (r Report) Section(picture, phases string) []byte {
	var b bytes.Buffer
	least, most := r.Runs.Count()
	n := fmt.Sprintf("n = %d", least)
	if most != least {
		n = fmt.Sprintf("n = %d to %d", least, most)
	}
	fmt.Fprintf(&b, "Measured on %s, %s for each system and scenario, in %s, on %s, %d processors, Linux %s; %s.\n", r.Date.Format("2 January 2006"), n,
		r.Took.Round(time.Minute), r.Machine.CPU, r.Machine.Processors, r.Machine.Kernel, r.Machine.versions())
	fmt.Fprintf(&b, "%d runs were repeated because the whole machine stood still during them for more than %d ms.", r.Runs.Repeated(), stallLimit.Milliseconds())
	troubled := r.Runs.Troubled()
	for _, system := range r.Runs.Systems() {
		if n := troubled[system]; n > 0 {
			fmt.Fprintf(&b, "\n%d tries with %s came to nothing (not ready in time, or an order was refused) and were made again.", n, system)
		}
	}
	fmt.Fprintf(&b, " Again:\n\n    %s\n\n", r.Command)
	fmt.Fprintf(&b, "![outages](%s)\n\n```\n%s```\n", picture, r.Runs.Table())
	b.WriteString("\nMedian (least to most) of the outage in ms, failed requests, and how long two nodes answered:\n\n")
	r.Runs.markdown(&b)
	r.Runs.phases(&b, phases)
	return b.Bytes()
}

// markdown writes one table for each group of systems, so that it stays readable.
func (rs Runs) markdown(b *bytes.Buffer) {
	systems := rs.Systems()
	b.WriteString("| scenario |")
	rule := "|---|"
	for _, s := range systems {
		fmt.Fprintf(b, " %s |", s)
		rule += "---|"
	}
	fmt.Fprintf(b, "\n%s\n", rule)
	for _, sc := range rs.Scenarios() {
		fmt.Fprintf(b, "| %s |", sc.Name)
		for _, system := range systems {
			s := rs.Of(system, sc.Name)
			if s.N == 0 {
				b.WriteString(" - |")
				continue
			}
			fmt.Fprintf(b, " %s (%s to %s), %s failed", outageCell(s), ms(s.Min), ms(s.Max), trimmed(s.Failed))
			switch {
			case s.Endless > 0:
				b.WriteString(", **two answer without end**")
			case s.Double > 0:
				fmt.Fprintf(b, ", **two answer %d ms**", ceilMS(s.Double))
			}
			b.WriteString(" |")
		}
		b.WriteString("\n")
	}
}

// stallLimit is how long the whole machine may stand still during a run that counts.
const stallLimit = 60 * time.Millisecond

// Between replaces what stands between a document's lines "<!-- begin NAME -->" and "<!-- end NAME -->".
func Between(text []byte, name string, put []byte) ([]byte, error) {
	begin, end := []byte("<!-- begin "+name+" -->\n"), []byte("<!-- end "+name+" -->")
	head, rest, ok := bytes.Cut(text, begin)
	_, tail, ok2 := bytes.Cut(rest, end)
	if !ok || !ok2 {
		return nil, fmt.Errorf("no lines <!-- begin %s --> and <!-- end %s -->", name, name)
	}
	return slices.Concat(head, begin, put, end, tail), nil
}
