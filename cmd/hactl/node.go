package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"hacluster/api"
)

func nodeCommand(e *env) *cli.Command {
	admin := func(name, usage string, verb api.Verb, flags ...cli.Flag) *cli.Command {
		return &cli.Command{Name: name, Usage: usage, ArgsUsage: "NODE", Flags: flags,
			Action: func(c *cli.Context) error {
				node, err := oneArg(c, "node")
				if err != nil {
					return err
				}
				return (&nodeAdmin{env: e, Verb: verb, Node: node, Force: c.Bool("force"), Wait: c.Bool("wait")}).run(c.Context)
			}}
	}
	force := func(usage string) cli.Flag { return &cli.BoolFlag{Name: "force", Usage: usage} }
	return &cli.Command{Name: "node", Usage: "list, pause, drain, resume, remove, rejoin and fence nodes", Subcommands: []*cli.Command{
		{Name: "list", Usage: "all nodes", Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			return (&nodeList{e}).run(c.Context)
		}},
		admin("pause", "place nothing more on a node; what it owns stays", api.VerbPause, waitFlag),
		admin("drain", "pause a node and move away what it owns", api.VerbDrain, waitFlag, force("also what no other node can take")),
		admin("resume", "let a node own groups again", api.VerbResume, waitFlag),
		admin("remove", "take a node out of the cluster for good", api.VerbRemove, force("also a node that is up or owns a group")),
		rejoinCommand(e),
		fenceCommand(e),
	}}
}

// nodeList is `hactl node list`.
type nodeList struct{ *env }

func (v *nodeList) run(ctx context.Context) error {
	st, err := v.status(ctx)
	if err != nil {
		return err
	}
	if v.JSON {
		return v.printJSON(st.Nodes)
	}
	v.nodesTable(st.Nodes)
	return nil
}

// nodeAdmin is `hactl node pause`, `drain`, `resume` and `remove`.
type nodeAdmin struct {
	*env
	Verb  api.Verb // required
	Node  string   // required
	Force bool
	Wait  bool
}

func (v *nodeAdmin) run(ctx context.Context) error {
	reply, err := v.write(ctx, api.Write{Verb: v.Verb, Node: v.Node, Force: v.Force})
	if err != nil {
		return err
	}
	return v.accepted(ctx, reply, v.Wait, v.goal)
}

// goal is reached when the node is what the verb asked for.
func (v *nodeAdmin) goal(st api.Status) (string, bool, error) {
	n, err := st.FindNode(v.Node)
	if err != nil {
		return "", false, err
	}
	where := n.Name + " is " + n.State
	switch v.Verb {
	case api.VerbDrain:
		if len(n.Groups) > 0 {
			return fmt.Sprintf("%s still owns %s", n.Name, strings.Join(n.Groups, ", ")), false, nil
		}
		return n.Name + " is drained", n.State == "down" || n.State == "paused" || slices.Contains(n.Flags, "drained"), nil
	case api.VerbPause:
		return where, n.State == "paused" || n.State == "down", nil
	}
	return where, n.State == "up", nil
}
