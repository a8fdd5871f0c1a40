package main

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/urfave/cli/v2"

	"hacluster/config"
	"hacluster/vip"
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
		if n.Role != "witness" {
			checkReset(c.App.Writer)
		}
		return nil
	}}
}

// checkReset says what this kernel lacks for clients to learn at once that an address has left; it is no fault.
func checkReset(w io.Writer) {
	m, err := vip.Open(slog.New(slog.DiscardHandler))
	if err != nil {
		return
	}
	defer m.Close()
	if err := m.ResetSupported(); err != nil {
		fmt.Fprintf(w, "note: %v\n", err)
	}
}
