// Command judge is how scripts/test runs tests: it runs `go test`, or reads the events of a test that ran elsewhere (test2json),
// says what passed, failed and was skipped without an excuse, and counts.
//
//	judge [FLAGS] -packages "PACKAGE..." -- GO-TEST-FLAGS...
//	judge [FLAGS] <EVENTS
//
// A failure is judged again only if the machine itself stood still during it, as `labctl stalls` sees it, and never when two
// nodes answered for one address (S1), with a data race, or with a panic.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// bench is what a run of the judge was asked for.
type bench struct {
	rules    rules
	flags    []string // of go test
	out      io.Writer
	packages []string
	watch    *watch // nil: nobody watches for stalls, so nothing is run again
}

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("judge", flag.ContinueOnError)
	fs.SetOutput(stderr)
	packages := fs.String("packages", "", "what go test is to run; without it the events come on standard input")
	skips := fs.String("skips", "", "`file` of the skips that are no fault: package or -, pattern, reason")
	root := fs.Bool("root", false, "a skip that needs root is a fault")
	labctl := fs.String("labctl", "", "`program` that watches for stalls")
	counts := fs.String("counts", "", "`file` to write to: passed, failed, skipped, run again")
	reasons := fs.String("reasons", "", "`file` to append to: why tests failed")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	allowed, err := readRules(*skips, *root)
	if err != nil {
		fmt.Fprintln(stderr, "judge:", err)
		return 2
	}
	b := bench{rules: allowed, flags: fs.Args(), out: stdout, packages: strings.Fields(*packages)}
	j := newDocket(allowed, stdout)
	failed := false
	if len(b.packages) == 0 {
		err = j.read(stdin)
	} else {
		if *labctl != "" {
			if b.watch = startWatch(ctx, *labctl); b.watch != nil {
				defer b.watch.close()
			}
		}
		err = b.test(ctx, j, b.packages)
	}
	if err != nil && j.sum().failed == 0 { // no test failed, but the command did
		failed = true
		fmt.Fprintln(stdout, err)
	}
	j.close()
	again := b.again(ctx, j)
	sum := j.sum()
	if err := writeAll(*counts, *reasons, sum, again, j.reasons()); err != nil {
		fmt.Fprintln(stderr, "judge:", err)
		return 2
	}
	if failed || sum.failed > 0 || sum.passed == 0 {
		return 1
	}
	return 0
}

// test runs go test and takes its events. The error has what it said besides.
func (b bench) test(ctx context.Context, j *docket, packages []string, more ...string) error {
	args := append([]string{"test", "-json", "-count=1"}, packages...)
	args = append(append(args, b.flags...), more...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it ends its tests
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = j.read(out)
	if end := cmd.Wait(); err == nil && end != nil {
		err = fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), end, said.Bytes())
	}
	return err
}

// again runs again what failed while the machine stood still, and says how many tests that were.
func (b bench) again(ctx context.Context, j *docket) (tests int) {
	if b.watch == nil {
		return 0
	}
	for _, r := range j.failed() {
		for tries := 0; tries < mostTries && ctx.Err() == nil; tries++ {
			all := b.watch.stalls()
			if !r.mayRetry(all) {
				break
			}
			worst := r.worst(all)
			if tries == 0 {
				tests++
			}
			fmt.Fprintf(b.out, "  %s failed while the machine stood still for %d ms at %s; once more\n", r.name, worst.length().Milliseconds(), worst.Start.Format("15:04:05"))
			next := newDocket(b.rules, b.out)
			err := b.test(ctx, next, []string{r.pkg}, "-run", "^"+r.name+"$")
			next.close()
			r.retried(next, err)
			if r.failed == 0 {
				break
			}
		}
	}
	return tests
}

// watch collects what labctl stalls says.
type watch struct {
	cmd    *exec.Cmd
	reader sync.WaitGroup
	mu     sync.Mutex
	seen   []stall
}

// startWatch returns nil where it is not permitted to watch.
func startWatch(ctx context.Context, labctl string) *watch {
	cmd := exec.CommandContext(ctx, labctl, "stalls")
	out, err := cmd.StdoutPipe()
	if err != nil || cmd.Start() != nil {
		return nil
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() { // the first says that it watches
		_ = cmd.Wait()
		return nil
	}
	w := &watch{cmd: cmd}
	w.reader.Go(func() {
		for lines.Scan() {
			var s stall
			if json.Unmarshal(lines.Bytes(), &s) == nil {
				w.mu.Lock()
				w.seen = append(w.seen, s)
				w.mu.Unlock()
			}
		}
	})
	return w
}

func (w *watch) close() {
	_ = w.cmd.Process.Kill()
	w.reader.Wait()
	_ = w.cmd.Wait() // killed
}

func (w *watch) stalls() []stall {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]stall(nil), w.seen...)
}

// writeAll writes the two files; an empty name is none.
func writeAll(counts, reasons string, sum tally, again int, why string) error {
	if counts != "" {
		if err := os.WriteFile(counts, fmt.Appendln(nil, sum.passed, sum.failed, sum.skipped, again), 0o644); err != nil {
			return err
		}
	}
	if reasons == "" {
		return nil
	}
	f, err := os.OpenFile(reasons, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(why)
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}
