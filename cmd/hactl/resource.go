package main

import (
	"context"

	"github.com/urfave/cli/v2"
)

func resourceCommand(e *env) *cli.Command {
	return &cli.Command{Name: "resource", Usage: "list resources", Subcommands: []*cli.Command{
		{Name: "list", Usage: "all resources, on each node where they run", Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			return (&resourceList{e}).run(c.Context)
		}},
	}}
}

// resourceList is `hactl resource list`.
type resourceList struct{ *env }

func (v *resourceList) run(ctx context.Context) error {
	st, err := v.status(ctx)
	if err != nil {
		return err
	}
	all := st.AllResources()
	switch {
	case v.JSON:
		return v.printJSON(all)
	case len(all) == 0:
		v.printf("No resources yet.\n")
	default:
		v.resourcesTable(all)
	}
	return nil
}
