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
	"strings"
	"syscall"
	"time"

	"hacluster/internal/drill"
	"hacluster/internal/lab"
)

// demo is one run; the fields are its flags.
type demo struct {
	bin, service, timing string
	keep, quick, down    bool
	out                  io.Writer
}

func run(args []string, stdout, stderr io.Writer) int {
	d := demo{out: stdout}
	fs := flag.NewFlagSet("demo", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&d.bin, "bin", "", "`DIR` with had, hactl and testservice (default: built anew)")
	fs.StringVar(&d.service, "service", "auto", "auto, tomcat or test")
	fs.StringVar(&d.timing, "timing", "lan", "fast, lan or wan")
	fs.BoolVar(&d.keep, "keep", false, "leave the cluster running and say how to play with it")
	fs.BoolVar(&d.quick, "quick", false, "one fault only, for the test suite")
	fs.BoolVar(&d.down, "down", false, "remove clusters that --keep left")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if code, done, err := lab.Reexec(); done {
		return code
	} else if err != nil {
		fmt.Fprintf(stderr, "demo: %v\n  what to do: run it as root\n", err)
		return 1
	}
	if d.down {
		gone, err := lab.SweepAll()
		fmt.Fprintf(stdout, "removed %d cluster(s)\n", len(gone))
		return fail(stderr, err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := d.run(ctx)
	if ctx.Err() != nil {
		fmt.Fprintln(stderr, "demo: interrupted; everything is removed")
		return 130
	}
	return fail(stderr, err)
}

func fail(stderr io.Writer, err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "demo:", err)
	return 1
}

// act is one scene of the demo.
type act struct {
	drill string
	says  string // %s: the owner
}

var acts = []act{
	{"service killed", "kill -9 of the service on %s"},
	{"power cut", "power cut of %s: its switch port goes dark, everything on it dies"},
	{"planned move", "hactl group move: %s gives the group to the other node"},
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

func (d *demo) run(ctx context.Context) (err error) {
	d.chooseService()
	begun := time.Now()
	d.say("Forming a cluster of three nodes in network namespaces (timing %s, service: %s)\n", d.timing, d.service)
	c, err := drill.Form(ctx, drill.Options{Bin: d.bin, Timing: d.timing, Service: d.service,
		Log: func(format string, args ...any) { d.say("  $ "+format, args...) }})
	if err != nil {
		return err
	}
	detached := false
	defer func() {
		if !detached {
			err = errors.Join(err, c.Close())
		}
	}()
	d.say("\nIn %s: three agents, one floating address, the service online behind it.\n", time.Since(begun).Round(100*time.Millisecond))
	if err := d.show(ctx, c, "status"); err != nil {
		return err
	}
	list := acts
	if d.quick {
		list = acts[:1]
	}
	var outcomes []drill.Outcome
	for i, a := range list {
		o, err := d.play(ctx, c, i+1, a)
		if err != nil {
			return err
		}
		outcomes = append(outcomes, o)
	}
	d.say("\n%-16s %10s %16s %14s   %s", "FAULT", "OUTAGE", "FAILED REQUESTS", "TWO OWNERS", "OWNER")
	double := time.Duration(0)
	for _, o := range outcomes {
		d.say("%-16s %10s %16d %14s   %s -> %s", o.Fault, o.Outage.Round(time.Millisecond), o.Failed, o.Double, o.From, o.To)
		double += o.Double
	}
	d.say("\nThe client opens a new connection every 5 ms; outage is its longest time without\nan answer. Two owners is the time in which two nodes answered for the address.")
	if double != 0 {
		return errors.New("two nodes answered for the address at once: this must never be")
	}
	if d.keep {
		detached = true
		return d.leave(c)
	}
	return nil
}

// chooseService takes Tomcat where it is installed.
func (d *demo) chooseService() {
	if d.service != "auto" {
		return
	}
	d.service = "test"
	if _, err := os.Stat("/usr/share/tomcat10/bin/bootstrap.jar"); err == nil {
		d.service = "tomcat"
	}
}

func (d *demo) play(ctx context.Context, c *drill.Cluster, n int, a act) (drill.Outcome, error) {
	what, ok := drill.Find(a.drill)
	if !ok {
		return drill.Outcome{}, fmt.Errorf("no drill %q", a.drill)
	}
	if err := c.WaitReady(ctx); err != nil {
		return drill.Outcome{}, err
	}
	owner, err := c.Owner(ctx)
	if err != nil {
		return drill.Outcome{}, err
	}
	d.say("\n--- %d. "+a.says, n, owner)
	o, err := c.Run(ctx, what)
	if err != nil {
		return o, err
	}
	d.say("    %s -> %s: outage %s, %d requests failed, two owners for %s\n", o.From, o.To, o.Outage.Round(time.Millisecond), o.Failed, o.Double)
	st, err := c.Status(ctx)
	if err != nil {
		return o, err
	}
	d.say("    why: %s", drill.Web(st).Why.Text)
	for _, e := range drill.Web(st).Why.Evidence {
		d.say("         %s", e)
	}
	return o, nil
}

func (d *demo) show(ctx context.Context, c *drill.Cluster, args ...string) error {
	d.say("$ hactl %s", strings.Join(args, " "))
	out, err := c.Hactl(ctx, drill.Nodes[0], args...)
	fmt.Fprint(d.out, out)
	return err
}

// leave writes a hactl that runs on a node of the lab, and lets go of the lab.
func (d *demo) leave(c *drill.Cluster) error {
	path := filepath.Join(c.Lab.Dir(), "hactl")
	first := c.Lab.Node(drill.Nodes[0])
	script := fmt.Sprintf("#!/bin/sh\n# hactl on %s of the demo's cluster\nexec nsenter --net=%s %s --socket %s \"$@\"\n",
		first.Name, first.NetNS(), filepath.Join(c.Bin, "hactl"), first.Path("run", "had.sock"))
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		return err
	}
	d.say("\nThe cluster goes on running. Try, as root:")
	for _, cmd := range []string{"status", "group move web --wait", "events", "node drain tomcat1 --wait", "node resume tomcat1"} {
		d.say("  %s %s", path, cmd)
	}
	d.say("  nsenter --net=%s curl http://%s:%d/", c.Lab.Client().NetNS(), c.VIP.Addr(), drill.Port)
	d.say("Logs are in %s. Remove it all with:\n  ./scripts/demo --down", first.Path("log"))
	return c.Lab.Detach()
}
