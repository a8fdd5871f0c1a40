package main

import (
	"context"
	"runtime"

	"github.com/urfave/cli/v2"

	"hacluster/api"
)

// versionVerb is `hactl version`.
type versionVerb struct{ *env }

func versionCommand(e *env) *cli.Command {
	return &cli.Command{Name: "version", Usage: "of hactl, and of the agent if it answers",
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			return (&versionVerb{e}).run(c.Context)
		}}
}

// versions is `version -o json`.
type versions struct {
	Hactl api.Version  `json:"hactl"`
	Agent *api.Version `json:"agent,omitempty"`
}

func (v *versionVerb) run(ctx context.Context) error {
	r := versions{Hactl: api.Version{Version: version, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}}
	c, err := v.connect()
	if err == nil {
		ctx, cancel := v.bounded(ctx, defaultTimeout)
		defer cancel()
		var a api.Version
		if a, err = c.Version(ctx); err == nil {
			r.Agent = &a
		}
	}
	if v.JSON {
		return v.printJSON(r)
	}
	v.printf("hactl  %s  %s %s/%s\n", r.Hactl.Version, r.Hactl.Go, r.Hactl.OS, r.Hactl.Arch)
	if r.Agent == nil {
		v.printf("had    %s\n", wrap("unknown: "+err.Error(), 7, 7))
		return nil
	}
	v.printf("had    %s  %s %s/%s on %s\n", clean(r.Agent.Version), clean(r.Agent.Go), clean(r.Agent.OS), clean(r.Agent.Arch), clean(r.Agent.Node))
	return nil
}
