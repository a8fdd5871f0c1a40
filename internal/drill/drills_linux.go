package drill

import (
	"context"
	"errors"
	"slices"

	"hacluster/internal/lab"
)

// Drill is one fault and the way back.
type Drill struct {
	Name  string
	Moves bool // the group is expected on the other node afterwards
	Fault func(ctx context.Context, c *Cluster, owner string) error
	Mend  func(ctx context.Context, c *Cluster, owner string) error // optional
}

// Drills by name, in the order of the demo.
var Drills = []Drill{
	{Name: "planned move", Moves: true, Fault: func(ctx context.Context, c *Cluster, owner string) error {
		_, err := c.Hactl(ctx, "witness", "group", "move", Group, "--to", Other(owner), "--wait")
		return err
	}},
	{Name: "service killed", Moves: true, Fault: func(_ context.Context, c *Cluster, owner string) error {
		return c.signalService(owner, (*lab.Node).Kill9)
	}},
	{Name: "service frozen", Moves: true, Fault: func(_ context.Context, c *Cluster, owner string) error {
		return c.signalService(owner, (*lab.Node).Freeze)
	}},
	{Name: "power cut", Moves: true, Fault: func(_ context.Context, c *Cluster, owner string) error { return c.Lab.Node(owner).PowerCut() },
		Mend: func(_ context.Context, c *Cluster, owner string) error { return c.PowerOn(owner) }},
	{Name: "cable pulled", Moves: true, Fault: func(_ context.Context, c *Cluster, owner string) error { return c.Lab.Node(owner).CableOut() },
		Mend: func(_ context.Context, c *Cluster, owner string) error { return c.Lab.Node(owner).CableIn() }},
	{Name: "cut from peers", Moves: true, Fault: func(_ context.Context, c *Cluster, owner string) error { return c.Lab.IsolateFromPeers(owner) },
		Mend: func(_ context.Context, c *Cluster, owner string) error { return c.Lab.Heal() }},
	// The owner hears its peers, who do not hear it; and the other way round. Clients reach it in both.
	{Name: "outgoing cut from peers", Moves: true, Fault: func(_ context.Context, c *Cluster, owner string) error { return c.Lab.IsolateOutgoing(owner) },
		Mend: func(_ context.Context, c *Cluster, owner string) error { return c.Lab.Heal() }},
	{Name: "incoming cut from peers", Moves: true, Fault: func(_ context.Context, c *Cluster, owner string) error { return c.Lab.IsolateIncoming(owner) },
		Mend: func(_ context.Context, c *Cluster, owner string) error { return c.Lab.Heal() }},
	{Name: "agent killed", Fault: func(_ context.Context, c *Cluster, owner string) error {
		return c.withAgent(owner, (*lab.Node).Kill9) // the dead man starts it again
	}},
	{Name: "parent killed", Fault: func(_ context.Context, c *Cluster, owner string) error {
		if err := c.Agent(owner).Kill9(); err != nil { // systemd would start both again
			return err
		}
		return c.StartAgent(owner)
	}},
	{Name: "both killed", Moves: true, Fault: func(_ context.Context, c *Cluster, owner string) error {
		if err := c.Agent(owner).Freeze(); err != nil { // so that it does not start another
			return err
		}
		return errors.Join(c.withAgent(owner, (*lab.Node).Kill9), c.Agent(owner).Kill9())
	}, Mend: func(_ context.Context, c *Cluster, owner string) error { return c.StartAgent(owner) }},
	{Name: "agent frozen", Moves: true, Fault: func(_ context.Context, c *Cluster, owner string) error {
		return c.withAgent(owner, (*lab.Node).Freeze) // the dead man releases, kills it and starts another
	}},
	{Name: "both frozen", Moves: true, Fault: func(_ context.Context, c *Cluster, owner string) error {
		return errors.Join(c.Agent(owner).Freeze(), c.withAgent(owner, (*lab.Node).Freeze))
	}, Mend: func(_ context.Context, c *Cluster, owner string) error {
		return errors.Join(c.Agent(owner).Thaw(), c.withAgent(owner, (*lab.Node).Thaw))
	}},
	{Name: "all frozen", Moves: true, Fault: func(_ context.Context, c *Cluster, owner string) error { return c.Lab.Node(owner).FreezeAll() },
		Mend: func(_ context.Context, c *Cluster, owner string) error { return c.Lab.Node(owner).ThawAll() }},
	{Name: "agent restarted", Fault: func(_ context.Context, c *Cluster, owner string) error { return c.RestartAgent(owner) }},
	{Name: "standby lost", Fault: func(_ context.Context, c *Cluster, owner string) error { return c.Lab.Node(Other(owner)).PowerCut() },
		Mend: func(_ context.Context, c *Cluster, owner string) error { return c.PowerOn(Other(owner)) }},
	{Name: "witness lost", Fault: func(_ context.Context, c *Cluster, _ string) error { return c.Lab.Node("witness").PowerCut() },
		Mend: func(_ context.Context, c *Cluster, _ string) error { return c.PowerOn("witness") }},
}

// Find returns the drill of that name.
func Find(name string) (Drill, bool) {
	i := slices.IndexFunc(Drills, func(d Drill) bool { return d.Name == name })
	if i < 0 {
		return Drill{}, false
	}
	return Drills[i], true
}
