package main

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// width is what every line of a table and every paragraph fits into: a terminal of 80 columns.
const width = 80

// Colours (ECMA-48 SGR). They never carry meaning alone: the word is always there.
const (
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	bold   = "\x1b[1m"
	faint  = "\x1b[2m"
	plain  = "\x1b[0m"
)

// paint colours a text that is already padded.
func (e *env) paint(color, s string) string {
	if !e.Color || color == "" || s == "" {
		return s
	}
	return color + s + plain
}

// stateColor is the colour of a state's or verdict's word.
func stateColor(word string) string {
	switch word {
	case "online", "up", "healthy", "ok":
		return green
	case "failed", "down", "dead", "hung", "no", "fault":
		return red
	case "partial-online", "pending", "paused", "joining", "degraded", "starting", "online-pending", "offline-pending", "unknown", "warn":
		return yellow
	case "offline":
		return faint
	}
	return ""
}

// table is rows under a header. Columns named in shrink give way, first to last, when a line would be too wide.
type table struct {
	head   []string
	rows   [][]string
	shrink []string
}

func (t *table) add(cells ...string) {
	for i := range cells {
		cells[i] = clean(cells[i])
	}
	t.rows = append(t.rows, cells)
}

// least is what a column keeps at least.
const least = 8

// render writes the table; a column that is empty in all rows is left out.
func (e *env) render(t table) {
	keep := t.used()
	widths := make([]int, len(t.head))
	total := 0
	for _, i := range keep {
		widths[i] = utf8.RuneCountInString(t.head[i])
		for _, r := range t.rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(r[i]))
		}
		total += widths[i] + 2
	}
	total -= 2
	// Named columns first, then whatever is widest.
	for _, name := range t.shrink {
		if i := slices.Index(t.head, name); i >= 0 && widths[i] > 0 && total > width {
			w := max(min(widths[i], least), widths[i]-(total-width))
			total, widths[i] = total-widths[i]+w, w
		}
	}
	for total > width {
		i := slices.Index(widths, slices.Max(widths))
		widths[i]--
		total--
	}
	line := func(cells []string, color func(string) string) {
		var b strings.Builder
		for n, i := range keep {
			cell := cut(cells[i], widths[i])
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2)
			if n == len(keep)-1 {
				pad = ""
			}
			b.WriteString(e.paint(color(cells[i]), cell) + pad)
		}
		e.printf("%s\n", strings.TrimRight(b.String(), " "))
	}
	line(t.head, func(string) string { return bold })
	for _, r := range t.rows {
		line(r, stateColor)
	}
}

// used returns the columns that have any content.
func (t *table) used() []int {
	var keep []int
	for i := range t.head {
		if slices.ContainsFunc(t.rows, func(r []string) bool { return r[i] != "" }) {
			keep = append(keep, i)
		}
	}
	return keep
}

// cut shortens s to n characters.
func cut(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	r := []rune(s)
	return string(r[:max(0, n-1)]) + "…"
}

// clean makes one line of a text from elsewhere: a probe's output must not move the cursor of who reads it.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case r == utf8.RuneError || !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, s)
}

// wrap breaks a text into lines: the first after first characters that stand there already, the others indented.
func wrap(text string, first, indent int) string {
	var b strings.Builder
	col := first
	for i, w := range strings.Fields(clean(text)) {
		n := utf8.RuneCountInString(w)
		switch {
		case i == 0:
		case col+1+n > width:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			col = indent
		default:
			b.WriteByte(' ')
			col++
		}
		for col+n > width && width-col > 0 { // a word longer than a line
			r := []rune(w)
			b.WriteString(string(r[:width-col]) + "\n" + strings.Repeat(" ", indent))
			w, n, col = string(r[width-col:]), n-(width-col), indent
		}
		b.WriteString(w)
		col += n
	}
	return b.String()
}

// item prints "label  text", the text wrapped under itself.
func (e *env) item(label, text string) { e.itemColor("", label, text) }

func (e *env) itemColor(color, label, text string) {
	label = clean(label)
	pad := max(1, 9-utf8.RuneCountInString(label))
	at := utf8.RuneCountInString(label) + pad
	e.printf("%s%s%s\n", e.paint(bold, label), strings.Repeat(" ", pad), e.paint(color, wrap(text, at, min(at, 9))))
}
