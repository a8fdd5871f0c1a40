// Command simrun runs clusters in simulated time from seeds, on all processors, and says how far it is; scripts/sim builds and
// calls it. It ends with 1 when a guarantee was broken.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"hacluster/internal/sim"
)

const (
	every   = 5 * time.Second // between two lines about the progress
	maxFail = 20              // seeds that are reported; more say no more
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, out, errs io.Writer) int {
	flags := flag.NewFlagSet("sim", flag.ContinueOnError)
	flags.SetOutput(errs)
	n := flags.Uint64("n", 10_000, "clusters to run")
	first := flags.Uint64("seed", 0, "first seed")
	weak := flags.String("weak", "", "weaken the code on purpose")
	storm := flags.String("storm", "", "run this kind of storm only")
	trace := flags.Bool("trace", false, "print what happened in the first seed, and run no other")
	write := flags.Bool("write", false, "write the figures into docs/reliability.md")
	doc := flags.String("doc", "docs/reliability.md", "file that -write changes")
	if err := flags.Parse(args); err != nil {
		return 64
	}
	if flags.NArg() > 0 || *n == 0 {
		fmt.Fprintln(errs, "usage: sim -n N [-seed S] [-write]")
		return 64
	}
	o := sim.Options{Weak: sim.Weak(*weak), Storm: sim.Storm(*storm)}
	if *trace {
		return one(o, *first, out)
	}
	debug.SetGCPercent(2000) // a cluster is small and soon over
	r := sweep(ctx, o, *first, *n, out)
	if r.n < *n {
		fmt.Fprintf(out, "stopped after %s of %s seeds\n", group(r.n), group(*n))
	}
	r.print(out)
	if *write && len(r.failed) == 0 && r.n > 0 {
		if err := r.write(*doc); err != nil {
			fmt.Fprintln(errs, err)
			return 1
		}
		fmt.Fprintf(out, "the figures are in %s\n", *doc)
	}
	if len(r.failed) > 0 {
		return 1
	}
	return 0
}

// one runs a single seed with everything that happened in it.
func one(o sim.Options, seed uint64, out io.Writer) int {
	o.Seed, o.Trace = seed, 100_000
	stats, trace, err := sim.Run(o)
	fmt.Fprintf(out, "%s\n%s\n", trace, stats)
	if err != nil {
		fmt.Fprintf(out, "seed %d: %v\n", seed, err)
		return 1
	}
	return 0
}

// result is what came of a sweep.
type result struct {
	first, n uint64
	stats    sim.Stats
	done     uint64
	broken   uint64 // seeds that broke a guarantee
	failed   []failure
	begun    time.Time
	took     time.Duration
}

type failure struct {
	seed uint64
	err  error
}

// sweep runs n seeds on all processors, or the first of them when ctx ends earlier. Failures are reported as they come, and do
// not end it.
func sweep(ctx context.Context, o sim.Options, first, n uint64, out io.Writer) *result {
	r := &result{first: first, n: n, begun: time.Now()}
	var mu sync.Mutex
	var workers sync.WaitGroup
	next := uint64(0)
	const batch = 16
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for {
				mu.Lock()
				if ctx.Err() != nil {
					n = min(n, next) // all before this one are run to their end
				}
				from, to := next, min(next+batch, n)
				next = max(from, to)
				mu.Unlock()
				if from >= to {
					return
				}
				for i := from; i < to; i++ {
					o := o
					o.Seed = first + i
					stats, _, err := sim.Run(o)
					mu.Lock()
					r.add(o.Seed, stats, err, out)
					mu.Unlock()
				}
			}
		})
	}
	quit, reported := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(reported)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				mu.Lock()
				r.progress(out)
				mu.Unlock()
			}
		}
	}()
	workers.Wait()
	close(quit)
	<-reported
	r.n = n
	r.took = time.Since(r.begun)
	return r
}

func (r *result) add(seed uint64, stats sim.Stats, err error, out io.Writer) {
	r.done++
	r.stats.Add(stats)
	if err == nil {
		return
	}
	if r.broken++; len(r.failed) < maxFail {
		r.failed = append(r.failed, failure{seed, err})
		fmt.Fprintf(out, "seed %d: %v\n", seed, err)
	}
}

func (r *result) progress(out io.Writer) {
	took := time.Since(r.begun)
	rate := float64(r.done) / took.Seconds()
	left := time.Duration(float64(r.n-r.done) / max(rate, 0.001) * float64(time.Second))
	fmt.Fprintf(out, "%9d of %d seeds, %5.0f per second, %s to go, %d broken\n", r.done, r.n, rate, left.Round(time.Second), r.broken)
}
