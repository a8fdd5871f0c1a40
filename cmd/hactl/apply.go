package main

import (
	"context"
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"hacluster/api"
	"hacluster/config"
)

// applyVerb is `hactl apply`.
type applyVerb struct {
	*env
	File   string // required
	DryRun bool
	Wait   bool
}

func applyCommand(e *env) *cli.Command {
	return &cli.Command{Name: "apply", Usage: "make a cluster.toml the configuration of the cluster", ArgsUsage: "FILE",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "dry-run", Usage: "show what would change, change nothing"}, waitFlag},
		Action: func(c *cli.Context) error {
			file, err := oneArg(c, "file")
			if err != nil {
				return err
			}
			return (&applyVerb{env: e, File: file, DryRun: c.Bool("dry-run"), Wait: c.Bool("wait")}).run(c.Context)
		}}
}

func (v *applyVerb) run(ctx context.Context) error {
	text, err := os.ReadFile(v.File)
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	// The leader checks again, against the nodes there are; a slip is found here without asking it.
	if _, err := config.ParseCluster(v.File, text, config.Known{}); err != nil {
		return faulty(v.File, err)
	}
	w := api.Write{Verb: api.VerbApply, Config: string(text), File: v.File, DryRun: true}
	plan, err := v.write(ctx, w)
	if err != nil {
		return err
	}
	if v.DryRun {
		if v.JSON {
			return v.printJSON(plan)
		}
		v.changes(plan)
		v.printf("%s\n", clean(plan.Message))
		return nil
	}
	if !v.JSON {
		v.changes(plan)
	}
	w.DryRun = false
	reply, err := v.write(ctx, w)
	if err != nil {
		return err
	}
	return v.accepted(ctx, reply, v.Wait, applied(reply.Version))
}

func (v *applyVerb) changes(r api.Reply) {
	for _, c := range r.Changes {
		v.printf("  %s\n", wrap(c, 2, 4))
	}
}

// faulty shows all faults of a file.
func faulty(file string, err error) error {
	faults := config.Faults(err)
	if len(faults) == 0 {
		return err
	}
	l := &localError{err: fmt.Errorf("%s has %s", file, count(len(faults), "fault")), hint: "correct the file; `hactl check " + file + "` looks again", invalid: true}
	for _, f := range faults {
		l.faults = append(l.faults, f.Error())
	}
	return l
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
