package drill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"hacluster/internal/lab"
)

// Outcome is what clients and the observer saw of one fault.
type Outcome struct {
	Fault  string        `json:"fault"`
	Outage time.Duration `json:"outage_ns"` // longest gap between two answers
	Failed int           `json:"failed"`    // requests
	Double time.Duration `json:"double_ns"` // time in which two nodes held the address before clients' eyes
	From   string        `json:"from"`
	To     string        `json:"to"`
}

// quiet is how long the client must have been answered without interruption before and after a fault.
const quiet = 700 * time.Millisecond

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

// Run puts the cluster through one drill and returns when it is ready again.
func (c *Cluster) Run(ctx context.Context, d Drill) (Outcome, error) {
	out := Outcome{Fault: d.Name}
	if err := c.WaitReady(ctx); err != nil {
		return out, err
	}
	if err := c.steady(ctx, time.Now()); err != nil {
		return out, err
	}
	owner, err := c.Owner(ctx)
	if err != nil {
		return out, err
	}
	out.From = owner
	since := c.Client.Mark()
	if err := d.Fault(ctx, c, owner); err != nil {
		return out, fmt.Errorf("%s: %w", d.Name, err)
	}
	if d.Moves {
		if err := c.poll(ctx, Other(owner)+" answers", func() (bool, string) { return c.Client.AnsweredBy(Other(owner), since), c.describe(ctx) }); err != nil {
			return out, err
		}
	} else if err := c.lastsBeyondLease(ctx); err != nil {
		return out, err
	}
	if err := c.steady(ctx, time.Now()); err != nil {
		return out, err
	}
	// What counts is seen before the way back begins; coming back must not disturb either, so it is watched too.
	if d.Mend != nil {
		if err := d.Mend(ctx, c, owner); err != nil {
			return out, fmt.Errorf("mending %s: %w", d.Name, err)
		}
	}
	if err := c.WaitReady(ctx); err != nil {
		return out, err
	}
	if err := c.steady(ctx, time.Now()); err != nil {
		return out, err
	}
	return c.outcome(ctx, out, since)
}

func (c *Cluster) outcome(ctx context.Context, out Outcome, since time.Time) (Outcome, error) {
	report, err := c.Client.Report(since)
	if err != nil {
		return out, err
	}
	held, err := c.Observer.Report(since)
	if err != nil {
		return out, err
	}
	out.Outage, out.Failed, out.Double = report.Gap, report.Failed, held.Double
	out.To, err = c.Owner(ctx)
	return out, err
}

func (c *Cluster) describe(ctx context.Context) string {
	st, err := c.Status(ctx)
	if err != nil {
		return err.Error()
	}
	g := Web(st)
	return fmt.Sprintf("group %s on %s, notes %v", g.State, g.Owner, g.Notes)
}

// lastsBeyondLease waits until a lease that had been lost at the fault would have been taken over.
func (c *Cluster) lastsBeyondLease(ctx context.Context) error {
	st, err := c.Status(ctx)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(st.Timing.TakeoverWait(0) + time.Second):
	}
	return nil
}

// steady waits until every request of a quiet interval has been answered.
func (c *Cluster) steady(ctx context.Context, since time.Time) error {
	return c.poll(ctx, "the client is served steadily", func() (bool, string) {
		if time.Since(since) < quiet || !c.Client.Settled(since.Add(quiet)) {
			return false, "settling"
		}
		r, err := c.Client.Report(since)
		if err != nil {
			return false, err.Error()
		}
		if r.Failed > 0 || r.OK == 0 {
			since = time.Now()
			return false, r.String()
		}
		return true, ""
	})
}

// signalService does something to the service's process on a node.
func (c *Cluster) signalService(node string, do func(*lab.Node, int) error) error {
	n := c.Lab.Node(node)
	what := []byte("testservice")
	if c.o.Service == "tomcat" {
		what = []byte("org.apache.catalina.startup.Bootstrap")
	}
	for _, pid := range n.PIDs() {
		line, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "cmdline"))
		if err == nil && bytes.Contains(line, what) {
			return do(n, pid)
		}
	}
	return fmt.Errorf("the service does not run on %s", node)
}
