package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"hacluster/internal/bench"
	"hacluster/internal/lab"
)

// order is one run; the fields are its flags.
type order struct {
	n, slowEvery       int
	systems, scenarios string
	json, svg, doc     string
	bin, from          string
	write, list        bool
	missing            bool
	load               time.Duration
	out, progress      io.Writer
}

func parse(args []string, stderr io.Writer) (*order, error) {
	o := &order{}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.IntVar(&o.n, "n", 1, "rounds: each system goes through each scenario this often")
	fs.IntVar(&o.slowEvery, "slow-every", 1, "pacemaker takes part in each so-manieth round only: its rounds take minutes")
	fs.StringVar(&o.systems, "systems", "", "these `SYSTEMS` only, separated by commas; had, keepalived, pacemaker stand for all that begin so")
	fs.StringVar(&o.scenarios, "scenarios", "", "these `SCENARIOS` only, separated by commas; -list lists them")
	fs.StringVar(&o.json, "json", "", "write all runs to this `FILE`")
	fs.StringVar(&o.svg, "svg", "", "write the picture to this `FILE`, and that of the phases beside it as FILE-phases.svg")
	fs.DurationVar(&o.load, "load", 0, "no faults: all systems at once for `DURATION` (1h), while every node has more to compute than it can")
	fs.StringVar(&o.from, "from", "", "run nothing: take the runs of this `FILE`, written with -json")
	fs.BoolVar(&o.write, "write", false, "write the results into the manual, and the pictures beside it")
	fs.StringVar(&o.doc, "doc", "docs/performance.md", "the `FILE` that -write changes")
	fs.StringVar(&o.bin, "bin", "", "`DIR` with had, hactl and testservice (default: built anew)")
	fs.BoolVar(&o.list, "list", false, "list systems and scenarios, and end")
	fs.BoolVar(&o.missing, "missing", false, "print the Debian packages that are needed and not installed, and end")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	var errs []error
	if fs.NArg() > 0 {
		errs = append(errs, fmt.Errorf("unexpected argument %q", fs.Arg(0)))
	}
	if o.n < 1 || o.slowEvery < 1 {
		errs = append(errs, fmt.Errorf("-n and -slow-every are 1 or more, not %d and %d", o.n, o.slowEvery))
	}
	if o.load < 0 || o.load > 0 && o.scenarios != "" {
		errs = append(errs, errors.New("-load is a duration, and goes without -scenarios"))
	}
	return o, errors.Join(errs...)
}

// pick takes those of a list whose name is, or begins with, one of the words; all without words.
func pick(list []string, words string) (out []string, err error) {
	if words == "" {
		return list, nil
	}
	for word := range strings.SplitSeq(words, ",") {
		word = strings.TrimSpace(word)
		before := len(out)
		for _, name := range list {
			if (name == word || strings.HasPrefix(name, word+" ")) && !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
		if len(out) == before {
			err = errors.Join(err, fmt.Errorf("%q is none of: %s", word, strings.Join(list, ", ")))
		}
	}
	return out, err
}

func run(args []string, stdout, stderr io.Writer) int {
	if os.Geteuid() == 0 { // else there is nothing to do again
		if code, done, err := lab.Reexec(); done { // it was started as a stall meter
			return code
		} else if err != nil {
			fmt.Fprintln(stderr, "bench:", err)
			return 1
		}
	}
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 64
	}
	o.out, o.progress = stdout, stderr
	var scenarios []string
	for _, s := range bench.Scenarios {
		scenarios = append(scenarios, s.Name)
	}
	plan := bench.Plan{N: o.n, SlowEvery: o.slowEvery}
	plan.Systems, err = pick(bench.SystemNames, o.systems)
	var errScenarios error
	plan.Scenarios, errScenarios = pick(scenarios, o.scenarios)
	if err := errors.Join(err, errScenarios); err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 64
	}
	if o.missing {
		if !o.list && o.from == "" {
			fmt.Fprintln(stdout, strings.Join(bench.Missing(plan.Systems...), " "))
		}
		return 0
	}
	if o.list {
		fmt.Fprintf(stdout, "systems:   %s\nscenarios: %s\n", strings.Join(bench.SystemNames, ", "), strings.Join(scenarios, ", "))
		return 0
	}
	// Root of a user namespace will not do: keepalived hears of processes in the machine's own namespaces only.
	if os.Geteuid() != 0 && o.from == "" {
		fmt.Fprintln(stderr, "bench: run it as root")
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err = o.run(ctx, plan)
	if ctx.Err() != nil {
		fmt.Fprintln(stderr, "bench: interrupted; everything is removed")
		return 130
	}
	if err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 1
	}
	return 0
}

func (o *order) run(ctx context.Context, plan bench.Plan) (err error) {
	if o.from != "" {
		text, err := os.ReadFile(o.from)
		if err != nil {
			return err
		}
		r, err := bench.Read(text)
		if err != nil {
			return fmt.Errorf("%s: %w", o.from, err)
		}
		return o.results(r)
	}
	if plan.Bin, err = o.programs(ctx); err != nil {
		return err
	}
	if o.bin == "" {
		defer os.RemoveAll(plan.Bin)
	}
	if plan.Stalls, err = lab.MeterStalls(); err != nil {
		fmt.Fprintf(o.progress, "no stall meter: %v\n", err)
	} else {
		defer plan.Stalls.Close()
	}
	plan.Say = func(format string, args ...any) { fmt.Fprintf(o.progress, format+"\n", args...) }
	if o.load > 0 {
		return o.loaded(ctx, plan)
	}
	r := bench.Report{Date: time.Now(), Rounds: plan.N, Command: o.command(), Machine: bench.ThisMachine(ctx, plan.Systems)}
	var done bench.Runs
	plan.Done = func(x bench.Run) {
		fmt.Fprintln(o.progress, x)
		if last := len(done) - 1; o.json != "" && last >= 0 && done[last].System != x.System { // hours of work are not to be lost
			r.Runs, r.Took = done, time.Since(r.Date)
			if err := o.keep(r); err != nil {
				fmt.Fprintln(o.progress, err)
			}
		}
		done = append(done, x)
	}
	r.Runs, err = plan.Run(ctx)
	r.Took = time.Since(r.Date)
	fmt.Fprintf(o.progress, "%d runs in %s\n\n", len(r.Runs), r.Took.Round(time.Second))
	if err != nil || ctx.Err() != nil {
		o.write = false // a run that ended early is no result for the manual
	}
	return errors.Join(err, o.results(r))
}

// loaded is the run under load.
func (o *order) loaded(ctx context.Context, plan bench.Plan) error {
	r := bench.Report{Date: time.Now(), Command: o.command(), Machine: bench.ThisMachine(ctx, plan.Systems)}
	l, err := bench.Load{For: o.load, Systems: plan.Systems, Options: plan.Options, Stalls: plan.Stalls, Say: plan.Say}.Run(ctx)
	r.Took, r.Load = time.Since(r.Date), &l
	if err != nil || ctx.Err() != nil {
		o.write = false
	}
	return errors.Join(err, o.results(r))
}

// command is how to repeat a run.
func (o *order) command() string {
	t := fmt.Sprintf("scripts/bench -n %d", o.n)
	if o.load > 0 {
		t = "scripts/bench -load " + o.load.String()
	}
	if o.slowEvery > 1 {
		t += fmt.Sprintf(" -slow-every %d", o.slowEvery)
	}
	if o.systems != "" {
		t += fmt.Sprintf(" -systems %q", o.systems)
	}
	if o.scenarios != "" {
		t += fmt.Sprintf(" -scenarios %q", o.scenarios)
	}
	return t
}

// results prints and writes what came out.
func (o *order) results(r bench.Report) error {
	if r.Load != nil {
		return o.loadResults(r)
	}
	fmt.Fprint(o.out, r.Runs.Table())
	if t := r.Runs.PhaseTable(); t != "" {
		fmt.Fprintf(o.out, "\nWHERE THE TIME OF A MOVE GOES, median, ms\n%s", t)
	}
	var errs []error
	if o.json != "" {
		errs = append(errs, o.keep(r))
	}
	picture := o.svg
	if o.write && picture == "" {
		picture = strings.TrimSuffix(o.doc, ".md") + ".svg"
	}
	if picture != "" {
		errs = append(errs, os.WriteFile(picture, []byte(r.Runs.SVG()), 0o644))
		if text := r.Runs.PhaseSVG(); text != "" {
			errs = append(errs, os.WriteFile(beside(picture), []byte(text), 0o644))
		}
	}
	if o.write {
		errs = append(errs, o.document(r, picture))
	}
	return errors.Join(errs...)
}

// loadResults is results of a run under load: there are no pictures of it.
func (o *order) loadResults(r bench.Report) error {
	fmt.Fprint(o.out, r.Load.Table())
	var errs []error
	if o.json != "" {
		errs = append(errs, o.keep(r))
	}
	if o.write {
		errs = append(errs, o.rewrite("load", r.LoadSection()))
	}
	return errors.Join(errs...)
}

// beside is the name of the picture of the phases.
func beside(picture string) string { return strings.TrimSuffix(picture, ".svg") + "-phases.svg" }

// keep writes the runs.
func (o *order) keep(r bench.Report) error {
	text, err := r.JSON()
	if err != nil {
		return err
	}
	return os.WriteFile(o.json, text, 0o644)
}

// document writes the section of the faults.
func (o *order) document(r bench.Report, picture string) error {
	link, err := filepath.Rel(filepath.Dir(o.doc), picture)
	if err != nil {
		return err
	}
	return o.rewrite("bench", r.Section(link, beside(link)))
}

// rewrite replaces what stands between the markers of a section of the manual.
func (o *order) rewrite(section string, put []byte) error {
	text, err := os.ReadFile(o.doc)
	if err != nil {
		return err
	}
	out, err := bench.Between(text, section, put)
	if err != nil {
		return fmt.Errorf("%s: %w", o.doc, err)
	}
	return os.WriteFile(o.doc, out, 0o644)
}

// programs is the folder with what the systems run.
func (o *order) programs(ctx context.Context) (string, error) {
	if o.bin != "" {
		return filepath.Abs(o.bin) // the nodes have other working directories
	}
	dir, err := os.MkdirTemp("", "had-bench-bin-")
	if err != nil {
		return "", err
	}
	return dir, lab.Build(ctx, dir, "hacluster/cmd/had", "hacluster/cmd/hactl", lab.TestService)
}
