package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// mutant is one deliberate weakening.
type mutant struct {
	name  string // short, of letters and dashes
	does  string // one sentence for the table: what the weakened code does
	file  string // from the root, with slashes
	old   string // must be found exactly once in the file: else the list is stale
	new   string
	tests []command // each of them must fail
}

// command is a choice of tests of one package.
type command struct {
	pkg  string // from the root, with slashes
	run  string // as -test.run
	args string // further arguments of the test binary, separated by spaces
}

func (c command) String() string {
	return strings.TrimSpace("./" + c.pkg + " -run '" + c.run + "' " + c.args)
}

func describe(tests []command) string {
	var all []string
	for _, c := range tests {
		all = append(all, c.String())
	}
	return strings.Join(all, "; ")
}

// tests is one command: what most mutants have.
func tests(pkg, run string, args ...string) []command {
	return []command{{pkg: pkg, run: run, args: strings.Join(args, " ")}}
}

// mutants are all of them, in the order of the table.
func mutants() []mutant {
	return slices.Concat(leaseMutants, pulseMutants, pulseNodeMutants, placementMutants, leaderMutants, nodeMutants, addressMutants, gateMutants, drainMutants, tickleMutants, deadManMutants, fencingMutants, storeMutants)
}

// apply gives the weakened text of the mutant's file, which is read below root.
func (m mutant) apply(root string) (string, error) {
	text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(m.file)))
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(text), m.old); n != 1 {
		return "", fmt.Errorf("the mutant is stale: its old text is %d times in %s, must be once: %q", n, m.file, m.old)
	}
	return strings.Replace(string(text), m.old, m.new, 1), nil
}
