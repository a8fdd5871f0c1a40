package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/internal/drill"
	"hacluster/internal/lab"
)

// campaign is one run; the fields are its flags.
type campaign struct {
	rounds, first, one   int
	seed                 uint64
	parallel             int
	timing, layer, only  string
	bound                time.Duration
	bin, keep, form, doc string
	list, faults, write  bool
	out, progress        io.Writer
}

func parse(args []string, stderr io.Writer) (*campaign, error) {
	c := &campaign{}
	fs := flag.NewFlagSet("nemesis", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.IntVar(&c.rounds, "rounds", 100, "number of rounds")
	fs.IntVar(&c.first, "first", 1, "number of the first round")
	fs.IntVar(&c.one, "round", 0, "this round only")
	fs.Uint64Var(&c.seed, "seed", 0, "`SEED` the faults are drawn from (default: another one each time)")
	fs.IntVar(&c.parallel, "parallel", 2, "clusters side by side")
	fs.StringVar(&c.timing, "timing", "", "lan or fast (default: drawn for each round)")
	fs.StringVar(&c.layer, "kernel-lease", "", "gate or address (default: drawn for each round)")
	fs.StringVar(&c.only, "only", "", "these `FAULTS` only, separated by commas; -faults lists them")
	fs.DurationVar(&c.bound, "bound", 30*time.Second, "a cluster that has not converged so long after everything was healed is stuck")
	fs.StringVar(&c.bin, "bin", "", "`DIR` with the programs (default: built anew)")
	fs.StringVar(&c.keep, "keep", filepath.Join(os.TempDir(), "had-nemesis"), "`DIR` for the logs of rounds that went wrong")
	fs.StringVar(&c.form, "o", "text", "text or json")
	fs.BoolVar(&c.list, "list", false, "show what the rounds would do, and end")
	fs.BoolVar(&c.faults, "faults", false, "list the faults, and end")
	fs.BoolVar(&c.write, "write", false, "write the tables into docs/reliability.md")
	fs.StringVar(&c.doc, "doc", "docs/reliability.md", "the `FILE` that -write changes")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	var errs []error
	if fs.NArg() > 0 {
		errs = append(errs, fmt.Errorf("unexpected argument %q", fs.Arg(0)))
	}
	if c.form != "text" && c.form != "json" {
		errs = append(errs, fmt.Errorf("-o is text or json, not %q", c.form))
	}
	if c.timing != "" && c.timing != "lan" && c.timing != "fast" {
		errs = append(errs, fmt.Errorf("-timing is lan or fast, not %q", c.timing))
	}
	if c.layer != "" && c.layer != "gate" && c.layer != "address" {
		errs = append(errs, fmt.Errorf("-kernel-lease is gate or address, not %q", c.layer))
	}
	for _, name := range c.names() {
		if _, ok := drill.FindKind(name); !ok {
			errs = append(errs, fmt.Errorf("no fault %q; -faults lists them", name))
		}
	}
	if c.seed == 0 {
		c.seed = uint64(time.Now().UnixNano()) % 1_000_000
	}
	return c, errors.Join(errs...)
}

func (c *campaign) names() (out []string) {
	for name := range strings.SplitSeq(c.only, ",") {
		if name = strings.TrimSpace(name); name != "" {
			out = append(out, name)
		}
	}
	return out
}

func run(args []string, stdout, stderr io.Writer) int {
	if len(args) == 2 && args[0] == "exclusive" { // the service of the clusters
		return drill.Exclusive(args[1], stderr)
	}
	c, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "nemesis:", err)
		return 64
	}
	c.out, c.progress = stdout, stderr
	if c.form == "text" {
		c.progress = stdout
	}
	if c.look() {
		return 0
	}
	if code, done, err := lab.Reexec(); done {
		return code
	} else if err != nil {
		fmt.Fprintf(stderr, "nemesis: %v\n  what to do: run it as root\n", err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err := c.run(ctx)
	if err != nil {
		fmt.Fprintln(stderr, "nemesis:", err)
		code = 1
	}
	if ctx.Err() != nil {
		fmt.Fprintln(stderr, "nemesis: interrupted; the clusters are removed")
		return 130
	}
	return code
}

// look answers what needs no cluster.
func (c *campaign) look() bool {
	if c.faults {
		for _, k := range drill.Kinds {
			fmt.Fprintln(c.out, k.Name)
		}
	}
	if c.list {
		for _, r := range c.numbers() {
			fmt.Fprintln(c.out, drill.Draw(c.seed, r, c.timing, c.layer, c.names()))
		}
	}
	return c.faults || c.list
}

func (c *campaign) numbers() (out []int) {
	if c.one > 0 {
		return []int{c.one}
	}
	for i := range c.rounds {
		out = append(out, c.first+i)
	}
	return out
}

func (c *campaign) run(ctx context.Context) (code int, err error) {
	if c.bin == "" {
		if c.bin, err = os.MkdirTemp("", "had-nemesis-bin-"); err != nil {
			return 1, err
		}
		defer os.RemoveAll(c.bin)
		if err := drill.BuildNemesis(ctx, c.bin); err != nil {
			return 1, err
		}
	}
	if c.bin, err = filepath.Abs(c.bin); err != nil { // the nodes have other working directories
		return 1, err
	}
	numbers := c.numbers()
	c.parallel = min(c.parallel, len(numbers))
	fmt.Fprintf(c.progress, "seed %d, %d round(s), %d cluster(s); one of them again: scripts/nemesis -seed %d -round N%s\n", c.seed, len(numbers), c.parallel, c.seed, c.restrictions())
	begun := time.Now()
	n := drill.Nemesis{Seed: c.seed, Rounds: numbers, Timing: c.timing, Layer: c.layer, Only: c.names(), Parallel: c.parallel, Bound: c.bound, Bin: c.bin, Keep: c.keep,
		Done: func(o drill.Round) { fmt.Fprintln(c.progress, o) }, Say: func(s string) { fmt.Fprintln(c.progress, s) }}
	tally, err := n.Run(ctx)
	if err != nil {
		err = fmt.Errorf("the campaign ended early: %w", err)
	}
	sum := tally.Totals()
	if c.form == "json" {
		e := json.NewEncoder(c.out)
		e.SetIndent("", "  ")
		err = errors.Join(err, e.Encode(map[string]any{"seed": c.seed, "totals": sum, "rounds": tally.Rounds}))
	} else if sum.Rounds > 0 {
		fmt.Fprintln(c.out)
		tally.Print(c.out)
	}
	fmt.Fprintf(c.progress, "\n%d rounds in %s, seed %d: two answered for %s, the exclusive service ran twice for %s (and %s where that is documented), %d stuck\n",
		sum.Rounds, time.Since(begun).Round(time.Second), c.seed, sum.Double, sum.Twice, sum.Excused, sum.Stuck)
	if c.write && err == nil && ctx.Err() == nil {
		err = c.document(tally)
	}
	if len(sum.Wrong) > 0 {
		fmt.Fprintf(c.progress, "rounds that went wrong: %v\n", sum.Wrong)
		return 1, err
	}
	return 0, err
}

// restrictions are the flags that change what is drawn.
func (c *campaign) restrictions() string {
	t := ""
	if c.timing != "" {
		t += " -timing " + c.timing
	}
	if c.layer != "" {
		t += " -kernel-lease " + c.layer
	}
	if c.only != "" {
		t += fmt.Sprintf(" -only %q", c.only)
	}
	return t
}

// document replaces what stands between the markers of the manual.
func (c *campaign) document(t drill.Tally) error {
	text, err := os.ReadFile(c.doc)
	if err != nil {
		return err
	}
	out, err := drill.Between(text, "nemesis", c.section(t))
	if err != nil {
		return fmt.Errorf("%s: %w", c.doc, err)
	}
	return os.WriteFile(c.doc, out, 0o644)
}

// section is what the manual says of a campaign.
func (c *campaign) section(t drill.Tally) []byte {
	var b bytes.Buffer
	b.WriteString(`A round draws from the seed a fault (one round of three: a second one that overlaps it), whom it hits by role, when and for how long; profile
(fast, lan) and kernel lease (gate, address) are drawn for blocks of rounds. The clusters are kept from round to round: three agents in
namespaces of their own, a hot group with an address and a service that a client asks every 5 ms, and a cold group with an address and an
exclusive service that writes down when it runs. Then everything is healed at once, and the cluster must converge: every agent speaks and knows
the leader, both groups are online with a ready standby, the exclusive service runs once, the client is answered.

"elsewhere" are rounds that hit another node than the one that clients were asking. *double* is the time in which two nodes answered for one
address (S1; where the lifetime of the address is the kernel lease, also the time in which two had it), *twice* the time in which the exclusive service ran
twice (S2), with an x the part of it in rounds where design.md says that it may: agent and dead man both gone, or all of user space frozen.

`)
	numbers := c.numbers()
	fmt.Fprintf(&b, "`scripts/nemesis -rounds %d -first %d -seed %d -parallel %d%s`, on Linux %s with %d processors:\n\n```\n", len(numbers), numbers[0], c.seed, c.parallel,
		c.restrictions(), release(), runtime.NumCPU())
	t.Print(&b)
	b.WriteString("```\n")
	sum := t.Totals()
	fmt.Fprintf(&b, "\n%d rounds: two nodes answered for one address for %d ms; an exclusive service ran twice for %d ms where it must not, and for %d ms where\n"+
		"that is documented; %d rounds did not converge within %s.\n", sum.Rounds, sum.Double.Milliseconds(), sum.Twice.Milliseconds(), sum.Excused.Milliseconds(), sum.Stuck, c.bound)
	return b.Bytes()
}

// release is the kernel's, without what its builder appended.
func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "?"
	}
	version, _, _ := strings.Cut(unix.ByteSliceToString(u.Release[:]), "-")
	return version
}
