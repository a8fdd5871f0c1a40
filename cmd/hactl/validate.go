package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"hacluster/api"
)

// validateVerb is `hactl validate`: checks of the living cluster that change nothing.
type validateVerb struct{ *env }

func validateCommand(e *env) *cli.Command {
	return &cli.Command{Name: "validate", Usage: "check the living cluster, change nothing; exit code 0 ok, 1 warnings, 2 faults",
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			return (&validateVerb{e}).run(c.Context)
		}}
}

func (v *validateVerb) run(ctx context.Context) error {
	st, err := v.status(ctx)
	if err != nil {
		return err
	}
	r := api.Validate(st)
	if v.JSON {
		if err := v.printJSON(r); err != nil {
			return err
		}
	} else {
		v.screen(r)
	}
	switch r.Verdict {
	case api.VerdictOK:
		return nil
	case api.VerdictWarn:
		return exitError(exitFailed)
	}
	return exitError(exitDown)
}

// screen is a table of all, and below it what is not well in full.
func (v *validateVerb) screen(r api.Validation) {
	t := table{head: []string{"CHECK", "OF", "RESULT", "DETAIL"}, shrink: []string{"DETAIL", "OF"}}
	count := map[api.Verdict]int{}
	for _, c := range r.Checks {
		count[c.Verdict]++
		t.add(c.Check, c.Subject, string(c.Verdict), c.Detail)
	}
	v.render(t)
	v.printf("\n")
	for _, c := range r.Checks {
		color := map[api.Verdict]string{api.VerdictWarn: yellow, api.VerdictFault: red}[c.Verdict]
		if color == "" {
			continue
		}
		text := c.Check
		if c.Subject != "" {
			text += " " + c.Subject
		}
		v.itemColor(color, map[api.Verdict]string{api.VerdictWarn: "Warn", api.VerdictFault: "Fault"}[c.Verdict], text+": "+c.Detail)
	}
	v.printf("%s  %d ok, %d warn, %d fault\n", clean(r.Cluster), count[api.VerdictOK], count[api.VerdictWarn], count[api.VerdictFault])
}
