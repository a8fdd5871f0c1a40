package drill

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// buckets are the upper bounds of the histogram's columns; what is beyond the last has a column of its own. The client asks
// every 5 ms, and a machine that does other things too has gaps of some 20 ms without any fault.
var buckets = []time.Duration{25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 1500 * time.Millisecond, 2 * time.Second, 3 * time.Second, 5 * time.Second}

// Tally sums up rounds.
type Tally struct {
	Rounds []Round `json:"rounds"`
}

// row is one line of the histogram.
type row struct {
	rounds, stuck int
	outages       []time.Duration
	counts        []int
	double, twice time.Duration
	excused       time.Duration
	slowest       time.Duration // to converge
}

func (r *row) add(o Round) {
	r.rounds++
	r.slowest = max(r.slowest, o.Converged)
	r.double += o.two()
	if o.Excuse == "" {
		r.twice += o.Twice
	} else {
		r.excused += o.Twice
	}
	if o.Stuck != "" {
		r.stuck++
		return // how long it hurt is not known
	}
	r.outages = append(r.outages, o.Outage)
	if r.counts == nil {
		r.counts = make([]int, len(buckets)+1)
	}
	i := slices.IndexFunc(buckets, func(b time.Duration) bool { return o.Outage < b })
	if i < 0 {
		i = len(buckets)
	}
	r.counts[i]++
}

func (r *row) quantile(percent int) string {
	if len(r.outages) == 0 {
		return "-"
	}
	s := slices.Sorted(slices.Values(r.outages))
	return fmt.Sprint(s[min(len(s)-1, len(s)*percent/100)].Milliseconds())
}

// rows sorts the rounds by fault and by whether it hit the node that clients were asking. Pairs have one row for all.
func (t Tally) rows() (single map[string]*row, pairs, all *row) {
	single, pairs, all = map[string]*row{}, &row{}, &row{}
	for _, r := range t.Rounds {
		all.add(r)
		if len(r.Strikes) != 1 {
			pairs.add(r)
			continue
		}
		key := r.Strikes[0].Fault
		if r.Strikes[0].Node != r.From {
			key += ", elsewhere"
		}
		if single[key] == nil {
			single[key] = &row{}
		}
		single[key].add(r)
	}
	return single, pairs, all
}

// Totals are the figures that decide.
type Totals struct {
	Rounds  int           `json:"rounds"`
	Stuck   int           `json:"stuck"`
	Double  time.Duration `json:"double_ns"`
	Twice   time.Duration `json:"twice_ns"`
	Excused time.Duration `json:"twice_excused_ns"`
	Wrong   []int         `json:"wrong"` // rounds
}

// Totals sums up.
func (t Tally) Totals() Totals {
	_, _, all := t.rows()
	s := Totals{Rounds: all.rounds, Stuck: all.stuck, Double: all.double, Twice: all.twice, Excused: all.excused, Wrong: []int{}}
	for _, r := range t.Rounds {
		if r.Wrong() {
			s.Wrong = append(s.Wrong, r.Round)
		}
	}
	return s
}

// Print writes the tables.
func (t Tally) Print(w io.Writer) {
	single, pairs, all := t.rows()
	wide := len("cut from one peer, elsewhere")
	for k := range single {
		wide = max(wide, len(k))
	}
	fmt.Fprintf(w, "%-*s %6s | %s | %5s %5s %5s | %9s | %6s %5s %5s\n", wide, "fault", "rounds", "rounds with an outage of less than ... ms          ", "med.", "90 %", "max", "converged", "double", "twice", "stuck")
	var head strings.Builder
	for _, b := range buckets {
		fmt.Fprintf(&head, "%4d ", b.Milliseconds())
	}
	fmt.Fprintf(&head, "%4s", "more")
	fmt.Fprintf(w, "%-*s %6s | %s |                ms | max ms    | %6s %5s\n", wide, "", "", head.String(), "ms", "ms")
	names := slices.Collect(maps.Keys(single))
	slices.SortFunc(names, func(a, b string) int { // as in Kinds, the owner first
		return order(a) - order(b)
	})
	for _, k := range names {
		single[k].print(w, wide, k)
	}
	if pairs.rounds > 0 {
		pairs.print(w, wide, "two faults at once")
	}
	all.print(w, wide, "all")
}

func order(key string) int {
	name, elsewhere := strings.CutSuffix(key, ", elsewhere")
	i := 2 * slices.IndexFunc(Kinds, func(k Kind) bool { return k.Name == name })
	if elsewhere {
		i++
	}
	return i
}

func (r *row) print(w io.Writer, wide int, name string) {
	var cells strings.Builder
	for i := range len(buckets) + 1 {
		n := 0
		if r.counts != nil {
			n = r.counts[i]
		}
		cell := "." // an empty cell is seen at once
		if n > 0 {
			cell = fmt.Sprint(n)
		}
		fmt.Fprintf(&cells, "%4s ", cell)
	}
	twice := fmt.Sprint(ceilMS(r.twice))
	if r.excused > 0 {
		twice += "+" + fmt.Sprint(ceilMS(r.excused)) + "x"
	}
	fmt.Fprintf(w, "%-*s %6d | %s| %5s %5s %5s | %9d | %6d %5s %5d\n", wide, name, r.rounds, cells.String(), r.quantile(50), r.quantile(90), r.quantile(100),
		r.slowest.Milliseconds(), ceilMS(r.double), twice, r.stuck)
}

// ceilMS rounds up: half a millisecond with two owners is not none.
func ceilMS(d time.Duration) int64 { return int64((d + time.Millisecond - 1) / time.Millisecond) }

// Between replaces what stands between a document's lines "<!-- begin NAME..." and "<!-- end NAME -->".
func Between(text []byte, name string, put []byte) ([]byte, error) {
	head, rest, ok := bytes.Cut(text, []byte("<!-- begin "+name))
	first, rest, ok2 := bytes.Cut(rest, []byte("\n"))
	_, tail, ok3 := bytes.Cut(rest, []byte("<!-- end "+name+" -->"))
	if !ok || !ok2 || !ok3 {
		return nil, fmt.Errorf("no lines <!-- begin %s ... --> and <!-- end %s -->", name, name)
	}
	return slices.Concat(head, []byte("<!-- begin "+name), first, []byte("\n"), put, []byte("<!-- end "+name+" -->"), tail), nil
}
