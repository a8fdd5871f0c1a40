package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"hacluster/internal/lab"
)

const usage = "usage: labctl sweep [--all] | base [--services] [--pack] | inside PROGRAM [ARGUMENTS] | client --netns FILE --target ADDR:PORT [--for 10s] | stalls"

func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	verbs := map[string]func(context.Context, []string, io.Writer) error{"sweep": sweep, "base": base, "inside": inside, "client": client, "stalls": stalls}
	if len(args) == 0 || verbs[args[0]] == nil {
		fmt.Fprintln(stderr, usage)
		return 2
	}
	err := verbs[args[0]](ctx, args[1:], stdout)
	if errors.Is(err, flag.ErrHelp) {
		return 2
	}
	if err != nil {
		fmt.Fprintln(stderr, "labctl:", err)
		return 1
	}
	return 0
}

func sweep(_ context.Context, args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("sweep", flag.ContinueOnError)
	all := fs.Bool("all", false, "also labs that were left running on purpose")
	if err := fs.Parse(args); err != nil {
		return err
	}
	f := lab.SweepStale
	if *all {
		f = lab.SweepAll
	}
	swept, err := f()
	for _, s := range swept {
		fmt.Fprintln(stdout, "removed", s)
	}
	return err
}

func base(ctx context.Context, args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("base", flag.ContinueOnError)
	services := fs.Bool("services", false, "with Tomcat, Java, Apache and mod_jk")
	pack := fs.Bool("pack", false, "also write it as NAME.tar.zst")
	if err := fs.Parse(args); err != nil {
		return err
	}
	var o lab.BaseOptions
	if *services {
		o.Packages = lab.ServicePackages
	}
	dir, err := lab.SystemdBase(ctx, o)
	if err == nil && *pack {
		err = lab.PackBase(ctx, dir)
	}
	if err == nil {
		fmt.Fprintln(stdout, dir)
	}
	return err
}

func client(ctx context.Context, args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("client", flag.ContinueOnError)
	netns := fs.String("netns", "/proc/self/ns/net", "network namespace `file`")
	target := fs.String("target", "", "`address:port`")
	span := fs.Duration("for", 10*time.Second, "how long")
	every := fs.Duration("every", 5*time.Millisecond, "time between two connections")
	timeout := fs.Duration("timeout", time.Second, "of each connection")
	path := fs.String("path", "/", "of the GET")
	if err := fs.Parse(args); err != nil {
		return err
	}
	addr, err := netip.ParseAddrPort(*target)
	if err != nil {
		return fmt.Errorf("reading --target: %w", err)
	}
	c, err := lab.StartClientIn(*netns, lab.ClientOptions{Target: addr, Every: *every, Timeout: *timeout, Path: *path})
	if err != nil {
		return err
	}
	defer c.Close()
	start := c.Mark()
	select {
	case <-ctx.Done():
	case <-time.After(*span):
	}
	r, err := c.Report(start)
	fmt.Fprintln(stdout, r)
	return err
}

func stalls(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) > 0 {
		return errors.New("stalls: it takes no arguments")
	}
	return lab.ReportStalls(ctx, stdout)
}
