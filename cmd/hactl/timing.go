package main

import (
	"context"
	"time"

	"github.com/urfave/cli/v2"

	"hacluster/api"
	"hacluster/lease"
)

// timingVerb is `hactl timing`.
type timingVerb struct {
	*env
	Profile string // empty: what the cluster uses
	Layer   string // with a profile: address or gate; empty: address, what every kernel has
	Load    api.Load
}

func timingCommand(e *env) *cli.Command {
	return &cli.Command{Name: "timing", Usage: "the times derived from the profile, and the outage after each fault",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "profile", Usage: "fast, lan or wan; no agent is asked (default: what the cluster uses)"},
			&cli.StringFlag{Name: "kernel-lease", Usage: "address or gate, with --profile (default: address)"},
			&cli.DurationFlag{Name: "start", Usage: "cold standby: how long your service takes to start"},
			&cli.DurationFlag{Name: "stop", Usage: "cold standby: how long it takes to stop"},
			&cli.DurationFlag{Name: "stop-budget", Usage: "exclusive services: bound on their kill"},
			&cli.DurationFlag{Name: "interval", Usage: "of the probe that sees a hang", Value: time.Second},
			&cli.DurationFlag{Name: "probe-timeout", Usage: "of that probe", Value: time.Second},
			&cli.IntFlag{Name: "fall", Usage: "failures in a row that condemn", Value: 3},
		},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			return (&timingVerb{env: e, Profile: c.String("profile"), Layer: c.String("kernel-lease"), Load: api.Load{Start: c.Duration("start"), Stop: c.Duration("stop"),
				StopBudget: c.Duration("stop-budget"), Interval: c.Duration("interval"), Timeout: c.Duration("probe-timeout"), Fall: c.Int("fall")}}).run(c.Context)
		}}
}

func (v *timingVerb) run(ctx context.Context) error {
	t, err := v.timing(ctx)
	if err != nil {
		return err
	}
	r := api.TimingReport{Timing: t, TakeoverWait: t.TakeoverWait(v.Load.StopBudget), Outages: api.Outages(t, v.Load)}
	if v.JSON {
		return v.printJSON(r)
	}
	v.printf("%s  %s\n%s    %s\n\n", v.paint(bold, "Timing profile"), t.Profile, v.paint(bold, "Kernel lease"), kernelLease(t.Layer))
	type value struct {
		name string
		d    time.Duration
		what string
	}
	all := []value{
		{"renew", t.Renew, "between two renewals of a node's lease"},
		{"duration", t.Duration, "a node may act this long after it asked"},
		{"drift", t.Drift, "how far two clocks may part in that time"},
		{"kernel_slack", t.KernelSlack, "how late the kernel may end what it enforces"},
		{"margin", t.Margin, "for the release itself"},
		{"suspect", t.Suspect, "silence after which a node is not chosen"},
		{"heartbeat", t.Heartbeat, "Raft: a follower stands for election after 1-2x"},
		{"election", t.Election, "Raft: a candidate tries again after 1-2x"},
		{"leader_lease", t.LeaderLease, "Raft: a leader without quorum steps down"},
		{"takeover_wait", r.TakeoverWait, "silence after which a group is given away"},
	}
	if t.Pulse > 0 {
		all = append(all, value{"pulse", t.Pulse, "between two pulses of a node with addresses"},
			value{"pulse_bound", t.PulseBound, "its gates are shut this long after the last one"})
	}
	values := table{head: []string{"VALUE", "TIME", "MEANING"}}
	for _, x := range all {
		values.add(x.name, x.d.String(), x.what)
	}
	v.render(values)
	v.printf("\n%s: duration %v + drift %v + max(kernel_slack %v,\n  stop budget %v) + margin %v = %v\n\n", v.paint(bold, "takeover_wait"),
		t.Duration, t.Drift, t.KernelSlack, v.Load.StopBudget, t.Margin, r.TakeoverWait)
	out := table{head: []string{"FAULT", "BEST", "TYPICAL", "WORST", "MADE OF"}, shrink: []string{"MADE OF"}}
	for _, o := range r.Outages {
		out.add(o.Fault, exact(o.Best), exact(o.Typical), exact(o.Worst), "")
	}
	v.render(out)
	v.printf("\n")
	for _, o := range r.Outages {
		v.printf("%-13s  %s\n", o.Fault, wrap(o.How, 15, 15))
	}
	standby := "hot standby"
	if v.Load.Start > 0 {
		standby = "cold standby that starts in " + v.Load.Start.String()
	}
	least := "takeover_wait."
	if t.Pulse > 0 {
		least = "takeover_wait, or, for addresses only, before the voters have waited " + t.PulseWait().String() + " for its next pulse."
	}
	v.printf("\n%s\n", wrap("Outages as clients see them, for a "+standby+" on a quiet LAN. Estimates but for the lease: no node "+
		"acts for a silent one before "+least, 0, 0))
	return nil
}

// kernelLease says which layer of the kernel counts.
func kernelLease(l lease.Layer) string {
	if l == lease.Gate {
		return "gate: the kernel counts milliseconds"
	}
	return "address lifetime: the kernel counts whole seconds"
}

// timing is the cluster's, or that of a profile.
func (v *timingVerb) timing(ctx context.Context) (lease.Timing, error) {
	if v.Layer != "" && v.Profile == "" {
		return lease.Timing{}, usagef("add --profile fast, lan or wan; without both the cluster is asked", "--kernel-lease needs a profile")
	}
	if v.Profile != "" {
		t, err := lease.Derive(lease.Profile(v.Profile), lease.Layer(v.Layer), lease.Overrides{})
		if err != nil {
			return t, usagef("use --profile fast, lan or wan, and --kernel-lease address or gate", "%v", err)
		}
		return t, nil
	}
	c, err := v.connect()
	if err != nil {
		return lease.Timing{}, err
	}
	ctx, cancel := v.bounded(ctx, defaultTimeout)
	defer cancel()
	r, err := c.Timing(ctx)
	return r.Timing, err
}
