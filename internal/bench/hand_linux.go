package bench

import (
	"context"
	"time"
)

// hand is an administrator who knows: the address is removed here, added there, and announced once. Nobody can be faster who has
// to find out first, so this is the floor.
type hand struct{ station }

func newHand(o Options) System { return &hand{station{name: ByHand, o: o}} }

func (h *hand) Can(scenario string) bool { return scenario == PlannedMove || scenario == NoFault }

func (h *hand) Form(ctx context.Context) (*Arena, error) {
	if err := h.lay(ctx); err != nil {
		return nil, err
	}
	if err := h.installService(); err != nil {
		return nil, err
	}
	for _, node := range members {
		if err := h.startService(node); err != nil {
			return nil, err
		}
	}
	n := h.a.Lab.Node(members[0])
	if err := n.AddAddr(h.a.VIP); err != nil {
		return nil, err
	}
	if err := h.a.instruments(); err != nil {
		return nil, err
	}
	return h.a, n.Announce(h.a.VIP.Addr())
}

func (h *hand) Ready(context.Context) error { return nil }

func (h *hand) Patience() time.Duration { return time.Second }

func (h *hand) Fault(_ context.Context, scenario, owner string) error {
	if scenario == PlannedMove {
		return h.a.Lab.MoveByHand(h.a.VIP, owner, other(owner))
	}
	return nil
}

func (h *hand) Mend(context.Context, string, string) error { return nil }
