package main

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"hacluster/api"
)

// fenceTimeout is how long a fencing may take: two levels of slow devices with retries. What it does not wait for goes on.
const fenceTimeout = 10 * time.Minute

// fenceVerb is `hactl node fence`.
type fenceVerb struct {
	*env
	Node   string // required but with Check
	Action string // reboot, off or on; empty: what the configuration says
	Check  bool   // only ask the devices
	Yes    bool
}

func fenceCommand(e *env) *cli.Command {
	return &cli.Command{Name: "fence", Usage: "cut the power of a node by its fence devices, or ask them how they are", ArgsUsage: "NODE",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "action", Usage: "reboot, off or on; default: fence_action of the configuration"},
			&cli.BoolFlag{Name: "check", Usage: "change nothing: ask every device, of all nodes without NODE"},
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask"},
		},
		Action: func(c *cli.Context) error {
			v := &fenceVerb{env: e, Action: c.String("action"), Check: c.Bool("check"), Yes: c.Bool("yes")}
			if !slices.Contains([]string{"", "reboot", "off", "on"}, v.Action) {
				return usagef("use reboot, off or on", "the action %q is unknown", v.Action)
			}
			if v.Check && v.Action != "" {
				return usagef("use one of them", "--check and --action exclude each other")
			}
			if !v.Check || c.Args().Present() {
				node, err := oneArg(c, "node")
				if err != nil {
					return err
				}
				v.Node = node
			}
			return v.run(c.Context)
		}}
}

func (v *fenceVerb) run(ctx context.Context) error {
	if v.Check {
		return v.check(ctx)
	}
	st, err := v.status(ctx)
	if err != nil {
		return err
	}
	n, err := st.FindNode(v.Node)
	if err != nil {
		return err
	}
	if !v.JSON {
		v.explain(n, st)
	}
	if !v.Yes {
		if err := v.asker().yes(ctx, "Go on?", "--yes"); err != nil {
			return err
		}
	}
	reply, err := v.send(ctx, api.Write{Verb: api.VerbFence, Node: v.Node, Action: v.Action})
	if err != nil {
		return err
	}
	if v.JSON {
		if err := v.printJSON(reply); err != nil {
			return err
		}
	} else {
		v.printf("\n")
		for _, line := range reply.Fenced.Devices {
			v.printf("  %s\n", wrap(line, 2, 4))
		}
	}
	if !reply.Fenced.Confirmed {
		return refusef("nothing counts as proven, and what was switched may have been; look at the node itself, and run `hactl node fence --check "+v.Node+"`",
			"%s", reply.Message)
	}
	if !v.JSON {
		v.printf("%s\n", wrap(reply.Message, 0, 0))
	}
	return nil
}

// send is write for what takes minutes; an answer without a result is one of an agent that knows no fencing.
func (v *fenceVerb) send(ctx context.Context, w api.Write) (api.Reply, error) {
	c, err := v.connect()
	if err != nil {
		return api.Reply{}, err
	}
	ctx, cancel := v.bounded(ctx, fenceTimeout)
	defer cancel()
	reply, err := whenLed(ctx, v.env, func() (api.Reply, error) { return c.Write(ctx, w) })
	if err == nil && reply.Fenced == nil {
		err = refusef("upgrade the agent", "the agent answered without a result: %s", reply.Message)
	}
	return reply, err
}

// explain says what is about to happen, to whom, and what could be done instead.
func (v *fenceVerb) explain(n api.NodeStatus, st api.Status) {
	heard := "never heard by the present leader"
	if n.LastSeen >= 0 {
		heard = "renewed its lease " + short(n.LastSeen) + " ago"
	}
	v.item("Node", n.Name+" ("+string(n.Role)+"), "+n.State+", "+heard)
	v.item("Owns", or(strings.Join(n.Groups, ", "), "nothing"))
	meaning := "its devices take its power away at once, without a shutdown: what it has not written to disk is lost."
	switch {
	case v.Action == "on":
		meaning = "its devices give it power; nothing waits for it to come up."
	case n.State == "up" && len(n.Groups) > 0:
		meaning += " It is up, and what it owns will be interrupted. `hactl node drain " + n.Name + "` moves it away without that."
	case n.State == "up":
		meaning += " It is up."
	case len(n.Groups) > 0:
		meaning += " When a device confirms it, what it owned starts elsewhere without further waiting."
	}
	v.item("Meaning", meaning)
	if left := st.Quorum.Alive - 1; n.Voter && n.State == "up" && v.Action != "on" && left == st.Quorum.Needed {
		v.item("Votes", "without it "+strconv.Itoa(left)+" of "+strconv.Itoa(st.Quorum.Voters)+" voters are up, and none of them may fail.")
	}
}

// check asks the devices and prints what they say.
func (v *fenceVerb) check(ctx context.Context) error {
	reply, err := v.send(ctx, api.Write{Verb: api.VerbFenceCheck, Node: v.Node})
	if err != nil {
		return err
	}
	if v.JSON {
		if err := v.printJSON(reply.Fenced); err != nil {
			return err
		}
	} else {
		t := table{head: []string{"NODE", "LEVEL", "DEVICE", "POWER", "CHECK"}}
		for _, h := range reply.Fenced.Health {
			word := "ok"
			if h.Fault != "" {
				word = "fault"
			}
			t.add(h.Node, strconv.Itoa(h.Level), h.Device, or(h.State, "-"), word)
		}
		v.render(t)
		v.printf("\n%s\n", reply.Message)
		for _, h := range reply.Fenced.Health {
			if h.Fault != "" {
				v.printf("%s: %s\n", h.Node, wrap(h.Device+": "+h.Fault, len(h.Node)+2, 2))
			}
		}
	}
	if !reply.Fenced.Confirmed {
		return exitError(exitFailed)
	}
	return nil
}
