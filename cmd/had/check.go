package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"hacluster/config"
)

// checkVerb is `had check [FILE]`.
type checkVerb struct{}

func (v *checkVerb) command() *cli.Command {
	return &cli.Command{Name: "check", Usage: "check had.toml and report every fault of it", ArgsUsage: "[FILE]", Action: func(c *cli.Context) error {
		file := c.Args().First()
		if file == "" {
			file = defaultConfig
		}
		n, err := config.LoadNode(file)
		if err != nil {
			return configError{err}
		}
		fmt.Fprintf(c.App.Writer, "%s: no faults; node %s is a %s at %v, port %d\n", file, n.Name, n.Role, n.Addresses, n.Port)
		return nil
	}}
}
