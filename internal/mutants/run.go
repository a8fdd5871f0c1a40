package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// testLimit bounds one run of a test binary; a mutant that hangs is caught by it.
const testLimit = 90 * time.Second

type outcome string

const (
	caught   outcome = "caught"
	survived outcome = "SURVIVED"
	failed   outcome = "ERROR" // it could not be judged
)

// result is what became of one mutant.
type result struct {
	m       mutant
	outcome outcome
	by      []string // for each command: the test that failed
	err     error
	took    time.Duration
}

// bench is where mutants are built and run: a copy of the tree that nobody else changes meanwhile.
type bench struct {
	dir     string // of everything
	tree    string // the copy
	verbose bool
	out     io.Writer
	mu      sync.Mutex // of out
}

// judgeAll runs every distinct command on the code as it is, which must pass, and every mutant, which must not. The results
// come in the order of the mutants.
func judgeAll(ctx context.Context, all []mutant, o options, out io.Writer) ([]result, error) {
	dir, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	b := &bench{dir: dir, tree: filepath.Join(dir, "tree"), verbose: o.verbose, out: out}
	if err := copyTree(ctx, o.root, b.tree); err != nil {
		return nil, fmt.Errorf("copying the tree: %w", err)
	}
	results := make([]result, len(all))
	sound := newBaseline(b)
	var work sync.WaitGroup
	turn := make(chan struct{}, o.jobs)
	for i, m := range all {
		select {
		case turn <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		work.Go(func() {
			defer func() { <-turn }()
			results[i] = b.judge(ctx, m, i, sound)
			b.report(results[i])
		})
	}
	work.Wait()
	return results, ctx.Err()
}

func (b *bench) report(r result) {
	b.mu.Lock()
	defer b.mu.Unlock()
	text := strings.Join(r.by, "; ")
	if r.err != nil {
		text = r.err.Error()
	}
	fmt.Fprintf(b.out, "%-8s %6.1f s  %-32s %s\n", r.outcome, r.took.Seconds(), r.m.name, text)
}

// judge builds one mutant and runs its tests, after the same tests on the sound code.
func (b *bench) judge(ctx context.Context, m mutant, n int, sound *baseline) result {
	start := time.Now()
	r := result{m: m, outcome: caught}
	err := func() error {
		for _, c := range m.tests {
			if err := sound.check(ctx, c); err != nil {
				return err
			}
		}
		overlay, err := b.overlay(m, n)
		if err != nil {
			return err
		}
		for i, c := range m.tests {
			bin := filepath.Join(b.dir, fmt.Sprintf("m%d-%d.test", n, i))
			if err := b.build(ctx, c.pkg, overlay, bin); err != nil {
				return fmt.Errorf("it does not compile: %w", err)
			}
			v, err := b.test(ctx, bin, c)
			os.Remove(bin)
			if err != nil {
				return err
			}
			if !v.failed {
				r.outcome = survived
				return nil
			}
			r.by = append(r.by, c.pkg+" "+v.blame())
		}
		return nil
	}()
	if err != nil {
		r.outcome, r.err = failed, err
	}
	r.took = time.Since(start)
	return r
}

// overlay writes the weakened file and tells the compiler to take it for the one of the tree.
func (b *bench) overlay(m mutant, n int) (string, error) {
	text, err := m.apply(b.tree)
	if err != nil {
		return "", err
	}
	file := filepath.Join(b.dir, fmt.Sprintf("m%d.go", n))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return "", err
	}
	list, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(b.tree, filepath.FromSlash(m.file)): file}})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(b.dir, fmt.Sprintf("m%d.json", n))
	return overlay, os.WriteFile(overlay, list, 0o600)
}

// build compiles the tests of a package; overlay is empty for the code as it is. -trimpath keeps the place of the copy out
// of what is compiled, so that the cache serves from one run to the next.
func (b *bench) build(ctx context.Context, pkg, overlay, bin string) error {
	args := []string{"test", "-c", "-trimpath", "-vet=off", "-ldflags=-s -w", "-o", bin}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./"+pkg)...)
	cmd.Dir = b.tree
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, bytes.TrimSpace(out))
	}
	return nil
}

// test runs some tests of a binary.
func (b *bench) test(ctx context.Context, bin string, c command) (verdict, error) {
	args := []string{"tool", "test2json", "-p", c.pkg, bin, "-test.v=test2json", "-test.run=" + c.run, "-test.timeout=" + testLimit.String()}
	cmd := exec.CommandContext(ctx, "go", append(args, strings.Fields(c.args)...)...)
	cmd.Dir = filepath.Join(b.tree, filepath.FromSlash(c.pkg))
	cmd.WaitDelay = 5 * time.Second // what a test left behind may hold the pipe
	out, err := cmd.Output()
	if b.verbose {
		b.mu.Lock()
		fmt.Fprintf(b.out, "---- %s\n", c)
		printOutput(b.out, out)
		b.mu.Unlock()
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) || ctx.Err() != nil {
		return verdict{}, errors.Join(err, ctx.Err())
	}
	v, err2 := judge(out)
	v.failed = v.failed || err != nil && exit != nil
	return v, err2
}

// baseline is what the tests say of the code as it is; each command is run once.
type baseline struct {
	b    *bench
	mu   sync.Mutex
	bins map[string]func() (string, error)
	ran  map[command]func() error
}

func newBaseline(b *bench) *baseline {
	return &baseline{b: b, bins: map[string]func() (string, error){}, ran: map[command]func() error{}}
}

// check is nil when the command passes on the code as it is. A fault is tried once more: the machine may be busy.
func (s *baseline) check(ctx context.Context, c command) error {
	s.mu.Lock()
	if s.bins[c.pkg] == nil {
		bin := filepath.Join(s.b.dir, strings.ReplaceAll(c.pkg, "/", "-")+".test")
		s.bins[c.pkg] = sync.OnceValues(func() (string, error) { return bin, s.b.build(ctx, c.pkg, "", bin) })
	}
	bin := s.bins[c.pkg]
	if s.ran[c] == nil {
		s.ran[c] = sync.OnceValue(func() error {
			file, err := bin()
			if err != nil {
				return fmt.Errorf("the code as it is does not compile: %w", err)
			}
			var v verdict
			for range 2 {
				if v, err = s.b.test(ctx, file, c); err != nil || !v.failed && v.passed > 0 {
					break
				}
			}
			switch {
			case err != nil:
				return err
			case v.failed:
				return fmt.Errorf("%s fails on the code as it is (%s)\n%s", c, v.blame(), v.output)
			case v.skipped != "":
				return fmt.Errorf("%s is skipped: %s", c, v.skipped)
			case v.passed == 0:
				return fmt.Errorf("%s runs no test", c)
			}
			return nil
		})
	}
	ran := s.ran[c]
	s.mu.Unlock()
	return ran()
}

// copyTree copies what git knows of or would add: the working tree as it is, without what is ignored.
func copyTree(ctx context.Context, from, to string) error {
	cmd := exec.CommandContext(ctx, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = from
	list, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("asking git for the files: %w", err)
	}
	for _, name := range strings.Split(strings.TrimRight(string(list), "\x00"), "\x00") {
		src, dst := filepath.Join(from, name), filepath.Join(to, name)
		info, err := os.Lstat(src)
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted, and not committed yet
		}
		if err != nil || !info.Mode().IsRegular() {
			return fmt.Errorf("%s: not a file: %w", name, err)
		}
		text, err := os.ReadFile(src)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(dst, text, info.Mode().Perm()); err != nil {
			return err
		}
	}
	return nil
}
