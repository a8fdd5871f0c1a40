package drill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"hacluster/internal/lab"
)

// Outcome is what clients and the observers saw of one fault.
type Outcome struct {
	Fault  string        `json:"fault"`
	Outage time.Duration `json:"outage_ns"` // longest gap between two answers
	Failed int           `json:"failed"`    // requests
	Double time.Duration `json:"double_ns"` // time in which two nodes answered for the address (S1)
	From   string        `json:"from"`
	To     string        `json:"to"`

	Present time.Duration `json:"present_ns"`   // time in which two nodes that clients hear had the address, answering or not
	Layer   string        `json:"kernel_lease"` // what ends a lease in the kernel: address or gate
	Overlap []lab.Overlap `json:"overlap,omitempty"`
}

// Breach says how S1 was broken, "" when it was not. Two nodes must never answer for an address. Where the lifetime of the
// address is what ends a lease, they must not have it at one time either; behind a gate that is shut, having it is nothing.
func (o Outcome) Breach() string {
	switch {
	case o.Double > 0:
		return fmt.Sprintf("%s: two nodes answered for the address for %s (S1): %v", o.Fault, o.Double, o.Overlap)
	case o.Present > 0 && o.Layer == "address":
		return fmt.Sprintf("%s: two nodes had the address for %s (S1): %v", o.Fault, o.Present, o.Overlap)
	}
	return ""
}

// quiet is how long the client must have been answered without interruption before and after a fault.
const quiet = 700 * time.Millisecond

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
	out.Outage, out.Failed = report.Gap, report.Failed
	st, err := c.Status(ctx)
	if err != nil {
		return out, err
	}
	out.To = Web(st).Owner
	if out.To == "" {
		return out, errors.New("nobody owns the group")
	}
	return c.Judge(out, string(st.Timing.Layer), since)
}

// Judge adds to an outcome whether two nodes answered for the address, or had it, since an instant. The kernel lease in force
// is what "hactl status" says.
func (c *Cluster) Judge(out Outcome, layer string, since time.Time) (Outcome, error) {
	had, err := c.Observer.Report(since)
	if err != nil {
		return out, err
	}
	answered, err := c.Prober.Report(since)
	if err != nil {
		return out, err
	}
	out.Layer, out.Double, out.Present = layer, answered.Double, had.Double
	if out.Overlap = answered.Overlaps; out.Double == 0 && layer == "address" {
		out.Overlap = had.Overlaps
	}
	return out, nil
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
