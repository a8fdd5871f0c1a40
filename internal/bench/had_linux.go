package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hacluster/internal/drill"
)

// had is a cluster of internal/drill: three agents, a hot group with the address and the service.
type had struct {
	name, timing string
	o            Options
	c            *drill.Cluster
	a            *Arena
	patience     time.Duration
}

func newHad(name, timing string) func(Options) System {
	return func(o Options) System { return &had{name: name, timing: timing, o: o} }
}

// drillOf names the drill that is a scenario.
var drillOf = map[string]string{
	PlannedMove: "planned move", PowerCut: "power cut", CablePulled: "cable pulled", DaemonsKilled: "both killed", DaemonsFrozen: "both frozen",
	ServiceKilled: "service killed", ServiceFrozen: "service frozen", CutFromPeers: "cut from peers", OutgoingCut: "outgoing cut from peers",
	IncomingCut: "incoming cut from peers",
}

func (h *had) Name() string { return h.name }

func (h *had) Can(string) bool { return true }

func (h *had) Form(ctx context.Context) (*Arena, error) {
	c, err := drill.Form(ctx, drill.Options{Timing: h.timing, Tight: h.name == HadTight, Bin: h.o.Bin, Net: h.o.Networks})
	if err != nil {
		return nil, err
	}
	h.c, h.a = c, &Arena{Lab: c.Lab, Client: c.Client, Observer: c.Observer, Prober: c.Prober, VIP: c.VIP}
	st, err := c.Status(ctx)
	if err != nil {
		return nil, err
	}
	h.patience = st.Timing.TakeoverWait(0) + time.Second
	return h.a, nil
}

func (h *had) Ready(ctx context.Context) error { return h.c.WaitReady(ctx) }

func (h *had) Owner(ctx context.Context) (string, error) { return h.c.Owner(ctx) }

func (h *had) Patience() time.Duration { return h.patience }

func (h *had) Fault(ctx context.Context, scenario, owner string) error {
	if scenario == LowerPriority {
		return h.prefer(ctx, other(owner))
	}
	if d, ok := drill.Find(drillOf[scenario]); ok {
		return d.Fault(ctx, h.c, owner)
	}
	known, err := h.a.network(scenario, owner)
	if !known {
		return errors.New("no such fault: " + scenario)
	}
	return err
}

func (h *had) Mend(ctx context.Context, scenario, owner string) error {
	if scenario == LowerPriority {
		return h.prefer(ctx, "")
	}
	if d, ok := drill.Find(drillOf[scenario]); ok {
		if d.Mend == nil {
			return nil
		}
		return d.Mend(ctx, h.c, owner)
	}
	_, err := h.a.mendNetwork(scenario, owner)
	return err
}

// prefer applies a configuration in which the group prefers a node and goes back to it, "" for none.
func (h *had) prefer(ctx context.Context, node string) error {
	text, err := h.c.Config()
	if err != nil {
		return err
	}
	if node != "" {
		head := fmt.Sprintf("[[group]]\nname = %q\n", drill.Group)
		with := strings.Replace(text, head, head+fmt.Sprintf("preferred_owners = [%q]\nauto_failback = \"allow\"\n", node), 1)
		if with == text {
			return errors.New("the configuration of the drill has no group to change")
		}
		text = with
	}
	file := filepath.Join(h.c.Lab.Dir(), "preferred.toml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return err
	}
	_, err = h.c.Hactl(ctx, "witness", "apply", file)
	return err
}

func (h *had) Close() error {
	if h.c == nil {
		return nil
	}
	err := h.c.Close()
	h.c = nil
	return err
}
