package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"hacluster/internal/lab"
)

// options are the flags.
type options struct {
	nodes, groups []int
	most, step    int
	span, settle  time.Duration
	profile, bin  string
	moves, write  bool
	json, bench   string
}

// list parses "3,9".
func list(to *[]int) func(string) error {
	return func(text string) error {
		*to = nil
		for _, f := range strings.Split(text, ",") {
			n, err := strconv.Atoi(f)
			if err != nil || n < 1 {
				return fmt.Errorf("%q is no list of numbers", text)
			}
			*to = append(*to, n)
		}
		slices.Sort(*to)
		return nil
	}
}

func run(args []string, stdout, stderr io.Writer) int {
	if code, done, err := lab.Reexec(); done {
		return code
	} else if err != nil {
		fmt.Fprintln(stderr, "scale:", err)
		return 1
	}
	o := options{nodes: []int{3, 9, 16}, groups: []int{1, 10, 100}}
	f := flag.NewFlagSet("scale", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Func("nodes", "numbers of nodes (default 3,9,16)", list(&o.nodes))
	f.Func("groups", "numbers of groups (default 1,10,100)", list(&o.groups))
	f.IntVar(&o.most, "most", 0, "leave out cells with more than so many nodes x groups (default: none)")
	f.DurationVar(&o.span, "span", 30*time.Second, "how long to measure at rest")
	f.DurationVar(&o.settle, "settle", 10*time.Second, "how long to wait before that")
	f.StringVar(&o.profile, "timing", "lan", "profile of timing")
	f.StringVar(&o.bin, "bin", "", "folder with had and hactl (default: built anew)")
	f.IntVar(&o.step, "step", 200, "groups that start at once when the cluster is filled, and that move at once before a death")
	f.BoolVar(&o.moves, "moves", true, "cut the power of a node that owns all groups, at the end of each cell")
	f.BoolVar(&o.write, "write", false, "write docs/scale.md and docs/scale-curves.svg")
	f.StringVar(&o.bench, "bench", "", "file with what go test -bench Scale ./placement printed, for the report")
	f.StringVar(&o.json, "json", "", "file for the figures")
	if err := f.Parse(args); err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := o.measure(ctx, stdout, stderr); err != nil {
		fmt.Fprintln(stderr, "scale:", err)
		return 1
	}
	return 0
}

// measure goes through the cells; one that does not succeed is told, and the next begins. An interrupt ends the measuring; what was measured
// before is reported.
func (o options) measure(ctx context.Context, stdout, stderr io.Writer) error {
	bin := o.bin
	if bin == "" {
		dir, err := os.MkdirTemp("", "scale")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		if err := lab.Build(ctx, dir, "hacluster/cmd/had", "hacluster/cmd/hactl"); err != nil {
			return err
		}
		bin = dir
	}
	var cells []Cell
	for _, nodes := range o.nodes {
		cells = append(cells, o.cluster(ctx, bin, nodes, stderr)...)
	}
	if len(cells) == 0 {
		return cmp.Or(ctx.Err(), errors.New("nothing was measured"))
	}
	text := table(cells, o.profile, machine())
	if o.bench != "" {
		printed, err := os.ReadFile(o.bench)
		if err != nil {
			return err
		}
		text += decisions(string(printed))
	}
	fmt.Fprint(stdout, text)
	if o.json != "" {
		body, err := json.MarshalIndent(cells, "", "  ")
		if err == nil {
			err = os.WriteFile(o.json, append(body, '\n'), 0o644)
		}
		if err != nil {
			return err
		}
	}
	if !o.write {
		return nil
	}
	text = strings.Replace(text, "\n| nodes | groups | part", "\n![curves](scale-curves.svg)\n\n| nodes | groups | part", 1)
	if err := os.WriteFile(filepath.Join("docs", "scale-curves.svg"), []byte(curves(cells)), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join("docs", "scale.md"), []byte(text), 0o644)
}

// cluster measures all numbers of groups with one number of nodes. A death costs the cluster a node, so each cell has a
// cluster of its own where the death of a node is measured.
func (o options) cluster(ctx context.Context, bin string, nodes int, stderr io.Writer) (cells []Cell) {
	var c *cluster
	end := func() {
		if c != nil {
			if err := c.lab.Close(); err != nil {
				fmt.Fprintln(stderr, "scale: closing the lab:", err)
			}
			c = nil
		}
	}
	defer end()
	for _, groups := range o.groups {
		if ctx.Err() != nil || o.most > 0 && nodes*groups > o.most {
			continue
		}
		cell := Cell{Nodes: nodes, Groups: groups}
		begun := time.Now()
		err := func() (err error) {
			if err := neighbours(nodes, neighboursFile); err != nil {
				return err
			}
			if c == nil {
				if c, err = form(ctx, bin, o.profile, nodes); err != nil {
					return err
				}
			}
			if err := c.fill(ctx, c.names[0], groups, o.step); err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(o.settle):
			}
			if err := c.rest(ctx, o.span, &cell); err != nil || !o.moves {
				return err
			}
			return c.die(ctx, groups, o.step, &cell)
		}()
		if ctx.Err() != nil {
			return cells // of this one nothing is known
		}
		if err != nil {
			cell.Failed = why(err)
		}
		fmt.Fprintf(stderr, "scale: %d nodes, %d groups: %s, all agents together %.0f %% of a core %s\n", nodes, groups, time.Since(begun).Round(time.Second), cell.Total, cell.Failed)
		cells = append(cells, cell)
		if err != nil || o.moves {
			end()
		}
	}
	return cells
}

var token = regexp.MustCompile(`--token[ =]\S+`)

// why is the first line of an error, without the command that ended with it where that said why, and without its token.
func why(err error) string {
	line, _, _ := strings.Cut(token.ReplaceAllString(err.Error(), "--token ..."), "\n")
	if at := strings.LastIndex(line, "hactl: "); at >= 0 {
		line = line[at:]
	}
	return line
}

// machine says what it was measured on.
func machine() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	_, model, _ := strings.Cut(string(text), "model name")
	model, _, _ = strings.Cut(strings.TrimLeft(model, "\t :"), "\n")
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%d x %s, Linux %s", runtime.NumCPU(), cmp.Or(model, runtime.GOARCH), strings.TrimSpace(string(kernel)))
}
