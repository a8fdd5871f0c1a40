package main

import (
	"fmt"
	"os"
	"strings"
)

// The table stands between these lines; what is around them is written by hand.
const (
	tableBegin = "<!-- begin mutants: written by scripts/mutants -write -->\n"
	tableEnd   = "<!-- end mutants -->"
)

// row is one line of the table.
type row struct{ name, does, file, by string }

func (r row) String() string {
	return fmt.Sprintf("| `%s` | %s | `%s` | %s |\n", r.name, r.does, r.file, r.by)
}

// split gives what is before the table, the table, and what is after it.
func split(text string) (before, table, after string, err error) {
	before, rest, ok := strings.Cut(text, tableBegin)
	table, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		return "", "", "", fmt.Errorf("the lines %q and %q are not there", strings.TrimSpace(tableBegin), tableEnd)
	}
	return before + tableBegin, table, tableEnd + after, nil
}

// rows reads the table.
func rows(table string) []row {
	var all []row
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if len(cells) != 4 || !strings.HasPrefix(strings.TrimSpace(cells[0]), "`") {
			continue
		}
		clean := func(i int) string { return strings.Trim(strings.TrimSpace(cells[i]), "`") }
		all = append(all, row{clean(0), clean(1), clean(2), strings.TrimSpace(cells[3])})
	}
	return all
}

// writeTable brings the table of the file up to date: one row for each mutant that was caught now, or before and is still
// the same. One without a row is not left out silently: a test compares the table with the list.
func writeTable(path string, results []result) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, old, after, err := split(string(text))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	by := map[string]string{}
	for _, r := range rows(old) {
		by[r.name] = r.by
	}
	for _, r := range results {
		delete(by, r.m.name)
		if r.outcome == caught {
			by[r.m.name] = "`" + strings.Join(r.by, "`, `") + "`"
		}
	}
	var lines strings.Builder
	n := 0
	for _, m := range mutants() {
		if by[m.name] != "" {
			n++
			lines.WriteString(row{m.name, m.does, m.file, by[m.name]}.String())
		}
	}
	head := fmt.Sprintf("%d weakenings, each of which the tests named beside it noticed. `scripts/mutants -run NAME -v` shows one of them again.\n\n"+
		"| name | the weakened code | in | caught by |\n|---|---|---|---|\n", n)
	return os.WriteFile(path, []byte(before+head+lines.String()+after), 0o644)
}
