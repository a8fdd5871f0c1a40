package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// arrange reorders a command line so that flags may stand anywhere: the parser of package cli ends at the first argument
// that is no flag, but people write `hactl group move web --to n2 -o json`. Global flags go in front of the command, its own flags
// in front of its arguments. What follows "--" stays where it is. Flags that nobody knows go to the command, which refuses them.
func arrange(app *cli.App, args []string) []string {
	var globals, path, local, rest []string
	commands, flags := app.Commands, []cli.Flag(nil)
	leaf := false
	for i := 0; i < len(args); i++ {
		a := args[i]
		if a == "--" {
			rest = append(rest, args[i+1:]...)
			break
		}
		if len(a) < 2 || a[0] != '-' {
			if sub := command(commands, a); sub != nil && !leaf {
				path, commands, flags = append(path, a), sub.Subcommands, sub.Flags
				leaf = len(commands) == 0
			} else {
				leaf = true
				rest = append(rest, a)
			}
			continue
		}
		name, _, hasValue := strings.Cut(strings.TrimLeft(a, "-"), "=")
		f, to := lookup(flags, name), &local
		if f == nil && name != "help" && name != "h" {
			if f = lookup(app.Flags, name); f != nil {
				to = &globals
			}
		}
		*to = append(*to, a)
		if f != nil && takesValue(f) && !hasValue {
			if i++; i == len(args) {
				// The parser misses the value of the last flag, and says so.
				if to == &globals {
					return globals
				}
				return slices.Concat(globals, path, local)
			}
			*to = append(*to, args[i])
		}
	}
	out := slices.Concat(globals, path, local)
	if len(rest) > 0 {
		if len(path) > 0 && leaf && slices.ContainsFunc(rest, func(s string) bool { return strings.HasPrefix(s, "-") }) {
			out = append(out, "--")
		}
		out = append(out, rest...)
	}
	return out
}

func command(commands []*cli.Command, name string) *cli.Command {
	for _, c := range commands {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

func lookup(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

func takesValue(f cli.Flag) bool {
	v, ok := f.(cli.DocGenerationFlag)
	return ok && v.TakesValue()
}

// nearest returns the word that is at most two edits away, or "".
func nearest(word string, words []string) string {
	best, found := 3, ""
	for _, w := range words {
		if d := distance(word, w); d < best && d < len(w) {
			best, found = d, w
		}
	}
	return found
}

// distance is the Levenshtein distance.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost = 1 + min(diag, row[j], row[j+1])
			}
			diag, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
