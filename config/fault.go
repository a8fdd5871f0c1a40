package config

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Fault is one thing that is wrong in a file, and what to do about it.
type Fault struct {
	File   string
	Line   int    // from 1; 0: the fault belongs to no line
	Key    string // dotted, without indices: group.resource.unit; empty: syntax
	Reason string
	Hint   string // what to do; may be empty
}

// Error renders the fault on one line: file:line: key: reason: hint.
func (f Fault) Error() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		b.WriteString(":" + strconv.Itoa(f.Line))
	}
	for _, part := range []string{f.Key, f.Reason, f.Hint} {
		if part != "" {
			b.WriteString(": " + part)
		}
	}
	return oneLine(b.String())
}

// oneLine escapes what would break a message into lines, or drive the terminal that shows it.
func oneLine(s string) string {
	if !strings.ContainsFunc(s, unicode.IsControl) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unicode.IsControl(r) {
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

// Faults returns the faults inside an error of this package, ordered by line; nil for errors of other kinds, such as a
// file that cannot be read.
func Faults(err error) []Fault {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		var all []Fault
		for _, e := range joined.Unwrap() {
			all = append(all, Faults(e)...)
		}
		return all
	}
	var f Fault
	if errors.As(err, &f) {
		return []Fault{f}
	}
	return nil
}

// joinFaults orders the faults by line and joins them; nil when there are none.
func joinFaults(faults []Fault) error {
	sort.SliceStable(faults, func(i, j int) bool { return faults[i].Line < faults[j].Line })
	var errs []error
	for i, f := range faults {
		if i > 0 && f == faults[i-1] {
			continue
		}
		errs = append(errs, f)
	}
	return errors.Join(errs...)
}

// show renders a decoded TOML value for a message.
func show(v any) string {
	switch v := v.(type) {
	case string:
		if utf8.RuneCountInString(v) > 60 {
			v = string([]rune(v)[:57]) + "..."
		}
		return strconv.Quote(v)
	case time.Time:
		return "a date"
	case map[string]any:
		return "a table"
	case []any, []map[string]any:
		return "an array"
	default:
		return fmt.Sprint(v)
	}
}

// nearest returns the candidate that looks most like name, or "" when none is close. Ties go to the first.
func nearest(name string, candidates []string) string {
	best, bestDistance := "", max(2, len(name)/3)+1
	for _, c := range candidates {
		if d := distance(strings.ToLower(name), c); d < bestDistance && d < len(c) {
			best, bestDistance = c, d
		}
	}
	return best
}

// didYouMean is the hint for a word that is not among the candidates.
func didYouMean(name string, candidates []string) string {
	if n := nearest(name, candidates); n != "" {
		return fmt.Sprintf("did you mean %q?", n)
	}
	return ""
}

// distance is the optimal string alignment distance of two words in bytes: insertions, deletions, substitutions and swaps of neighbours.
func distance(a, b string) int {
	if len(a) > 100 || len(b) > 100 {
		return 100
	}
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}

// human renders a duration the way it is written in a file: 1h, not 1h0m0s.
func human(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// orList renders words for a sentence: a, b or c.
func orList[S ~string](words []S) string {
	all := make([]string, len(words))
	for i, w := range words {
		all[i] = string(w)
	}
	if len(all) < 2 {
		return strings.Join(all, "")
	}
	return strings.Join(all[:len(all)-1], ", ") + " or " + all[len(all)-1]
}

// contains is slices.Contains for an enum and the word in the file.
func contains[S ~string](all []S, word string) bool { return slices.Contains(all, S(word)) }
