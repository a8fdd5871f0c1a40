// Command mutants weakens the code on purpose, one safeguard at a time, and runs the tests that must notice. A test that
// has never been seen to fail proves nothing; this is the list of what was seen, and it can be seen again.
//
// It works on a copy of the tree: what is mutated is only ever what the compiler is shown.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

const usage = `Weakens the code on purpose, one safeguard at a time, and runs the tests that must notice.
  scripts/mutants [-run REGEXP] [-sample N [-seed S]] [-p JOBS] [-list] [-v] [-write]
`

// options are the flags.
type options struct {
	run       string
	sample    int
	seed      uint64
	jobs      int
	list      bool
	verbose   bool
	write     bool
	root      string
	reference string // where the table stands, below root
}

// run is main with its surroundings as arguments. It returns 0 when every mutant was caught, 1 when one survived or could
// not be judged, 64 for a wrong call.
func run(ctx context.Context, args []string, out, errs io.Writer) int {
	o, code := parse(args, errs)
	if code != 0 {
		return code
	}
	chosen, err := choose(mutants(), o)
	if err != nil {
		fmt.Fprintln(errs, "mutants:", err)
		return 64
	}
	if o.list {
		for _, m := range chosen {
			fmt.Fprintf(out, "%-32s %-24s %s\n", m.name, m.file, m.does)
		}
		return 0
	}
	if o.sample > 0 {
		fmt.Fprintf(out, "%d mutants of %d, seed %d\n", len(chosen), len(mutants()), o.seed)
	}
	results, err := judgeAll(ctx, chosen, o, out)
	if err != nil {
		fmt.Fprintln(errs, "mutants:", err)
		return 1
	}
	code = 0
	if !summary(results, out) {
		code = 1
	}
	if o.write {
		if err := writeTable(filepath.Join(o.root, o.reference), results); err != nil {
			fmt.Fprintln(errs, "mutants:", err)
			code = 1
		}
	}
	return code
}

func parse(args []string, errs io.Writer) (o options, code int) {
	f := flag.NewFlagSet("mutants", flag.ContinueOnError)
	f.SetOutput(errs)
	f.Usage = func() { fmt.Fprint(errs, usage); f.PrintDefaults() }
	f.StringVar(&o.run, "run", "", "only mutants whose name matches this regular expression")
	f.IntVar(&o.sample, "sample", 0, "only so many, chosen at random; 0: all")
	f.Uint64Var(&o.seed, "seed", 0, "of the random choice; 0: another each time")
	f.IntVar(&o.jobs, "p", runtime.NumCPU(), "mutants at once")
	f.BoolVar(&o.list, "list", false, "only list them")
	f.BoolVar(&o.verbose, "v", false, "show what the tests printed")
	f.BoolVar(&o.write, "write", false, "write those that were caught into the table of docs/reliability.md; the other rows stay")
	f.StringVar(&o.root, "C", ".", "root of the tree")
	if err := f.Parse(args); err != nil {
		return o, 64
	}
	if f.NArg() > 0 || o.jobs < 1 || o.sample < 0 {
		f.Usage()
		return o, 64
	}
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano()) % 1_000_000
	}
	o.reference = filepath.Join("docs", "reliability.md")
	return o, 0
}

// choose applies -run and -sample.
func choose(all []mutant, o options) ([]mutant, error) {
	pattern, err := regexp.Compile(o.run)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(slices.Clone(all), func(m mutant) bool { return !pattern.MatchString(m.name) })
	if len(all) == 0 {
		return nil, fmt.Errorf("no mutant matches %q", o.run)
	}
	if o.sample > 0 && o.sample < len(all) {
		r := rand.New(rand.NewPCG(o.seed, 0))
		r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		all = all[:o.sample]
	}
	return all, nil
}

// summary prints what became of all of them; false when one was not caught.
func summary(results []result, out io.Writer) bool {
	count := map[outcome]int{}
	for _, r := range results {
		count[r.outcome]++
	}
	for _, r := range results {
		switch r.outcome {
		case survived:
			fmt.Fprintf(out, "survived: %s: %s (%s)\n  nothing of this noticed: %s\n", r.m.name, r.m.does, r.m.file, describe(r.m.tests))
		case failed:
			fmt.Fprintf(out, "not judged: %s: %v\n", r.m.name, r.err)
		}
	}
	fmt.Fprintf(out, "%d mutants: %d caught, %d survived, %d not judged\n", len(results), count[caught], count[survived], count[failed])
	return count[caught] == len(results)
}
