package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"hacluster/api"
	"hacluster/placement"
)

// statusVerb is `hactl status`: the whole cluster on one screen, and its health as the exit code.
type statusVerb struct{ *env }

func statusCommand(e *env) *cli.Command {
	return &cli.Command{Name: "status", Usage: "the whole cluster on one screen; exit code 0 healthy, 1 degraded, 2 down",
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			return (&statusVerb{e}).run(c.Context)
		}}
}

func (v *statusVerb) run(ctx context.Context) error {
	st, err := v.status(ctx)
	if err != nil {
		return err
	}
	if v.JSON {
		if err := v.printJSON(st); err != nil {
			return err
		}
	} else {
		v.screen(st)
	}
	switch st.Health {
	case api.HealthOK:
		return nil
	case api.HealthDegraded:
		return exitError(exitFailed)
	}
	return exitError(exitDown)
}

func (v *statusVerb) screen(st api.Status) {
	v.cluster(st)
	v.printf("\n")
	v.nodesTable(st.Nodes)
	v.printf("\n")
	if len(st.Groups) == 0 {
		v.printf("No groups yet: describe them in a cluster.toml, then `hactl apply cluster.toml`.\n")
	} else {
		v.groupsTable(st.Groups)
	}
	if rs := st.AllResources(); len(rs) > 0 {
		v.printf("\n")
		v.resourcesTable(rs)
	}
	var blank bool
	say := func(color, label, text string) {
		if !blank {
			v.printf("\n")
			blank = true
		}
		v.itemColor(color, label, text)
	}
	for _, w := range st.Warnings {
		say(yellow, "Warning", w)
	}
	for _, g := range st.Groups {
		for _, n := range g.Notes {
			say("", "Note", g.Name+": "+n)
		}
	}
	if ev := st.LastEvent; ev != nil {
		say("", "Newest", fmt.Sprintf("%s (%s) %s: %s", v.ago(ev.Time), v.clock(ev.Time), eventWhat(*ev), ev.Reason.Text))
	}
}

// cluster prints the lines about the cluster as a whole.
func (v *statusVerb) cluster(st api.Status) {
	color := red
	switch st.Health {
	case api.HealthOK:
		color = green
	case api.HealthDegraded:
		color = yellow
	}
	v.printf("%s  %s  %s\n", v.paint(bold, "Cluster"), cut(clean(st.Cluster), 40), v.paint(color, strings.ToUpper(string(st.Health))))
	q := fmt.Sprintf("%d of %d voters, %d needed", st.Quorum.Alive, st.Quorum.Voters, st.Quorum.Needed)
	if st.Quorum.Margin != "" {
		q += ": " + st.Quorum.Margin
	}
	color = ""
	if st.Quorum.Alive < st.Quorum.Needed {
		color = red
	}
	v.itemColor(color, "Quorum", q)
	if st.Leader == "" {
		v.itemColor(red, "Leader", "none")
	} else {
		v.item("Leader", st.Leader)
	}
	seen := fmt.Sprintf("config %d, timing %s, told by %s at %s", st.Config, st.Profile, st.Node, v.clock(st.At))
	if st.Stale {
		v.itemColor(yellow, "State", seen+" from its own copy: it cannot reach the leader, so this may be old")
	} else {
		v.item("State", seen)
	}
	v.item("Lease", kernelLease(st.Timing.Layer))
}

func (e *env) nodesTable(nodes []api.NodeStatus) {
	t := table{head: []string{"NODE", "ROLE", "STATE", "FLAGS", "SEEN", "LEASE", "OWNS", "VERSION", "ADDRESS"}, shrink: []string{"ADDRESS", "OWNS", "VERSION", "FLAGS"}}
	for _, n := range nodes {
		seen := "never"
		if n.LastSeen >= 0 {
			seen = short(n.LastSeen) + " ago"
		}
		lease := ""
		if n.Lease > 0 {
			lease = short(n.Lease)
		}
		role := string(n.Role)
		if n.Leader {
			role += "*"
		}
		if !n.Voter {
			n.Flags = append(slices.Clone(n.Flags), "no-vote")
		}
		t.add(n.Name, role, n.State, strings.Join(n.Flags, ","), seen, lease, strings.Join(n.Groups, ","), n.Version, strings.Join(n.Addresses, ","))
	}
	e.render(t)
}

func (e *env) groupsTable(groups []api.GroupStatus) {
	t := table{head: []string{"GROUP", "STATE", "OWNER", "SINCE", "ADDRESSES", "STANDBY"}, shrink: []string{"STANDBY", "ADDRESSES"}}
	for _, g := range groups {
		owner := g.Owner
		if owner == "" {
			owner = "-"
		}
		if g.Phase == placement.PhaseReleasing {
			owner += " (releasing)"
		}
		var ready, waiting []string
		for _, s := range g.Standbys {
			if s.Ready {
				ready = append(ready, s.Node+" (ready)")
			} else {
				waiting = append(waiting, s.Node+" (not ready)")
			}
		}
		t.add(g.Name, g.State, owner, e.ago(g.Since), strings.Join(g.Addresses, ","), strings.Join(append(ready, waiting...), ","))
	}
	e.render(t)
}

func (e *env) resourcesTable(rs []api.ResourceStatus) {
	t := table{head: []string{"GROUP", "RESOURCE", "TYPE", "NODE", "STATE", "VERDICT", "FOR", "DETAIL"}, shrink: []string{"DETAIL", "RESOURCE"}}
	for _, r := range rs {
		t.add(r.Group, r.Name, r.Type, r.Node, string(r.State), r.Verdict, strings.TrimSuffix(e.ago(r.Since), " ago"), r.Detail)
	}
	e.render(t)
}
