package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

const (
	begin = "<!-- begin sim: written by scripts/sim -write -->\n"
	end   = "<!-- end sim -->"
)

// print says what came of it, and how to repeat what broke.
func (r *result) print(out io.Writer) {
	s := &r.stats
	fmt.Fprintf(out, "%s seeds in %s: %s of cluster time, %s events, %s takeovers, %s planned moves, %s elections\n", group(r.done),
		r.took.Round(100*time.Millisecond), years(s.Simulated), group(uint64(s.Events)), group(uint64(s.Takeovers)), group(uint64(s.Moves)), group(uint64(s.Elected)))
	for _, f := range s.Injected() {
		fmt.Fprintf(out, "%12s  %s\n", group(uint64(f.N)), f.Name)
	}
	fmt.Fprintf(out, "%s broken guarantees\n", group(r.broken))
	for _, f := range r.failed {
		fmt.Fprintf(out, "  seed %d: %v\n    repeat with: scripts/sim -trace -seed %d\n", f.seed, f.err, f.seed)
	}
}

// write replaces the simulator's section of the document.
func (r *result) write(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	from, to := bytes.Index(text, []byte(begin)), bytes.Index(text, []byte(end))
	if from < 0 || to < from {
		return fmt.Errorf("%s has no section for the simulator", file)
	}
	var b bytes.Buffer
	b.Write(text[:from+len(begin)])
	r.section(&b)
	b.Write(text[to:])
	return os.WriteFile(file, b.Bytes(), 0o644)
}

// section is the text between the marks.
func (r *result) section(b *bytes.Buffer) {
	s := &r.stats
	row := func(name, value string) { fmt.Fprintf(b, "| %s | %s |\n", name, value) }
	num := func(n int) string { return group(uint64(n)) }
	fmt.Fprintf(b, "`scripts/sim -n %d -seed %d` on %s:\n\n| | |\n|---|---:|\n", r.n, r.first, r.begun.Format(time.DateOnly))
	row("clusters (seeds)", group(r.done))
	row("simulated time", years(s.Simulated))
	row("events", num(s.Events))
	row("wall time", r.took.Round(time.Second).String())
	row("commands applied", num(s.Applied))
	row("takeovers", num(s.Takeovers))
	row("of these allowed early by confirmed fencing", num(s.Fenced))
	row("planned moves", num(s.Moves))
	row("planned moves that let open connections finish", num(s.Drained))
	row("of these begun while connections of the one before still finished", num(s.Overtaken))
	row("connections across them that their clients ended", num(s.Finished))
	row("connections that were cut: their time was over, a fault came between, or a move without a plan", num(s.Cut))
	row("elections", num(s.Elected))
	row("upgrades and deaths of an owner's agent in a cluster that is well (L3)", num(s.Upgrades))
	row("losses of a node that owns nothing (L2)", num(s.Silent))
	row("the same for a node that led: no owner lost its lease", num(s.Lossless))
	row("the same for a node that led: an election that took longer cost an owner its lease", num(s.Costly))
	row("two runs of a service that nothing could end (design.md, \"What is limited today\")", num(s.Excused))
	row("two holders of an address that nothing could end (the same place)", num(s.ExcusedHeld))
	row("**violations of S1, S2, S3, S4, L1, L2, L3**", "**"+group(r.broken)+"**")
	fmt.Fprintf(b, "\n| fault | injected |\n|---|---:|\n")
	for _, f := range s.Injected() {
		row(f.Name, num(f.N))
	}
}

// group writes a number with its thousands apart.
func group(n uint64) string {
	text := strconv.FormatUint(n, 10)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// years writes a long time in the greatest unit that fits.
func years(d time.Duration) string {
	switch days := d.Hours() / 24; {
	case days >= 730:
		return fmt.Sprintf("%.1f years", days/365.25)
	case days >= 2:
		return fmt.Sprintf("%.0f days", days)
	}
	return d.Round(time.Second).String()
}
