package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"hacluster/vip"
)

// releaseVerb is `had release`: it needs nothing but the kernel, so it works whatever state the agent or its disk is in.
type releaseVerb struct {
	unlessRestarting bool
}

func (v *releaseVerb) command() *cli.Command {
	return &cli.Command{Name: "release", Usage: "remove every floating address of this node, at once and with no other state",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "unless-restarting", Destination: &v.unlessRestarting,
			Usage: "do nothing while systemd is about to start had again: its lease covers a restart"}},
		Action: func(c *cli.Context) error {
			if v.unlessRestarting {
				ctx, cancel := context.WithTimeout(c.Context, 2*time.Second)
				defer cancel()
				if restarting(ctx) {
					return nil
				}
			}
			return release(c.App.Writer)
		}}
}

// release shuts the gate, removes what it guards, and only then the gate itself: nothing of ours is left in the kernel. An
// agent that runs on sets both up again.
func release(to io.Writer) error {
	held, err := vip.Release()
	for _, h := range held {
		fmt.Fprintf(to, "removed %s from %s\n", h.Address, h.Interface)
	}
	if err != nil {
		return err // the gate stays in front of what could not be removed
	}
	if err := vip.RemoveGate(); err != nil && vip.GateSupported() == nil { // where the kernel has none there is nothing to remove
		return err
	}
	return nil
}
