package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"hacluster/api"
)

func groupCommand(e *env) *cli.Command {
	one := func(c *cli.Context, do func(name string) error) error {
		name, err := oneArg(c, "group")
		if err != nil {
			return err
		}
		return do(name)
	}
	admin := func(name, usage string, verb api.Verb) *cli.Command {
		return &cli.Command{Name: name, Usage: usage, ArgsUsage: "GROUP", Flags: []cli.Flag{waitFlag},
			Action: func(c *cli.Context) error {
				return one(c, func(g string) error {
					return (&groupAdmin{env: e, Verb: verb, Group: g, Wait: c.Bool("wait")}).run(c.Context)
				})
			}}
	}
	return &cli.Command{Name: "group", Usage: "list, show, move, start and stop groups", Subcommands: []*cli.Command{
		{Name: "list", Usage: "all groups", Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			return (&groupList{e}).run(c.Context)
		}},
		{Name: "show", Usage: "all about one group", ArgsUsage: "GROUP", Action: func(c *cli.Context) error {
			return one(c, func(g string) error { return (&groupShow{e, g}).run(c.Context) })
		}},
		{Name: "move", Usage: "move a group to another node", ArgsUsage: "GROUP",
			Flags: []cli.Flag{&cli.StringFlag{Name: "to", Usage: "the new owner, a `NODE` (default: the cluster chooses)"},
				&cli.DurationFlag{Name: "drain-timeout", Value: 30 * time.Second, Usage: "how long open connections may finish on the old owner (hot standby); 0: they end with the move"},
				&cli.BoolFlag{Name: "force", Usage: "also to a node that is not ready"}, waitFlag},
			Action: func(c *cli.Context) error {
				return one(c, func(g string) error {
					return (&groupMove{env: e, Group: g, To: c.String("to"), Drain: c.Duration("drain-timeout"), Force: c.Bool("force"), Wait: c.Bool("wait")}).run(c.Context)
				})
			}},
		admin("online", "bring a group online, and keep it online", api.VerbGroupOnline),
		admin("offline", "take a group offline; it stays so until `online`", api.VerbGroupOffline),
	}}
}

// groupList is `hactl group list`.
type groupList struct{ *env }

func (v *groupList) run(ctx context.Context) error {
	st, err := v.status(ctx)
	if err != nil {
		return err
	}
	if v.JSON {
		return v.printJSON(st.Groups)
	}
	if len(st.Groups) == 0 {
		v.printf("No groups yet: describe them in a cluster.toml, then `hactl apply cluster.toml`.\n")
		return nil
	}
	v.groupsTable(st.Groups)
	return nil
}

// groupShow is `hactl group show`.
type groupShow struct {
	*env
	Group string
}

func (v *groupShow) run(ctx context.Context) error {
	st, err := v.status(ctx)
	if err != nil {
		return err
	}
	g, err := st.FindGroup(v.Group)
	if err != nil {
		return err
	}
	if v.JSON {
		return v.printJSON(g)
	}
	owner := g.Owner
	if owner == "" {
		owner = "none"
	}
	v.item("Group", g.Name)
	v.itemColor(stateColor(g.State), "State", g.State)
	v.item("Owner", fmt.Sprintf("%s, epoch %d, %s", owner, g.Epoch, g.Phase))
	v.item("Since", v.ago(g.Since)+" ("+v.clock(g.Since)+")")
	if len(g.Addresses) > 0 {
		v.item("Address", strings.Join(g.Addresses, ", "))
	}
	v.reason(g.Why)
	for _, s := range g.Standbys {
		text := s.Node + ": ready"
		if !s.Ready {
			text = s.Node + ": not ready"
			if s.Why != "" {
				text += ": " + s.Why
			}
		}
		v.item("Standby", text)
	}
	for _, n := range g.Notes {
		v.item("Note", n)
	}
	if len(g.Resources) > 0 {
		v.printf("\n")
		for i := range g.Resources {
			g.Resources[i].Group = "" // it is said above
		}
		v.resourcesTable(g.Resources)
	}
	return nil
}

// groupMove is `hactl group move`.
type groupMove struct {
	*env
	Group string // required
	To    string
	Drain time.Duration // 0: open connections end with the move
	Force bool
	Wait  bool
}

func (v *groupMove) run(ctx context.Context) error {
	before, err := v.groupBefore(ctx, v.Group, v.Wait)
	if err != nil {
		return err
	}
	reply, err := v.write(ctx, api.Write{Verb: api.VerbMove, Group: v.Group, Node: v.To, Force: v.Force, Drain: v.Drain})
	if err != nil {
		return err
	}
	target := v.To
	if reply.Target != "" {
		target = reply.Target
	}
	return v.accepted(ctx, reply, v.Wait, moved(v.Group, target, before))
}

// groupAdmin is `hactl group online` and `offline`.
type groupAdmin struct {
	*env
	Verb  api.Verb // required
	Group string   // required
	Wait  bool
}

func (v *groupAdmin) run(ctx context.Context) error {
	before, err := v.groupBefore(ctx, v.Group, v.Wait)
	if err != nil {
		return err
	}
	reply, err := v.write(ctx, api.Write{Verb: v.Verb, Group: v.Group})
	if err != nil {
		return err
	}
	goal := online(v.Group, before)
	if v.Verb == api.VerbGroupOffline {
		goal = offline(v.Group)
	}
	return v.accepted(ctx, reply, v.Wait, goal)
}

// groupBefore is how the group stands before a write that will be waited for.
func (e *env) groupBefore(ctx context.Context, name string, wait bool) (api.GroupStatus, error) {
	if !wait {
		return api.GroupStatus{}, nil
	}
	st, err := e.status(ctx)
	if err != nil {
		return api.GroupStatus{}, err
	}
	return st.FindGroup(name)
}
