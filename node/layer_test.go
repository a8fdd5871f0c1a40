package node

import (
	"errors"
	"strings"
	"testing"

	"hacluster/api"
	"hacluster/config"
	"hacluster/lease"
)

func TestWhichLayerOfTheKernelCountsForTheCluster(t *testing.T) {
	yes := func(name string) carrier { return carrier{name: name, speaks: true, gate: true} }
	no := func(name string) carrier { return carrier{name: name, speaks: true, why: "no nf_tables"} }
	silent := func(name string) carrier { return carrier{name: name, why: "no word"} }
	for name, c := range map[string]struct {
		key     config.KernelLease
		before  lease.Layer
		members []carrier
		want    lease.Layer
		say     string // of the resolution, or of the refusal
		warns   int
	}{
		"auto, all carry it":                        {"auto", lease.Address, []carrier{yes("a"), yes("b")}, lease.Gate, "kernel lease: gate", 0},
		"auto, one does not":                        {"auto", lease.Address, []carrier{yes("a"), no("b")}, lease.Address, "address lifetime, because node b: no nf_tables", 0},
		"auto, one does not any more":               {"auto", lease.Gate, []carrier{yes("a"), no("b")}, lease.Address, "because node b: no nf_tables", 0},
		"auto, one is silent":                       {"auto", lease.Address, []carrier{silent("a"), yes("b")}, lease.Address, "because node a does not speak", 0},
		"auto, one is silent and the gate is there": {"auto", lease.Gate, []carrier{silent("a"), yes("b")}, lease.Gate, "kernel lease: gate", 0},
		"auto, who speaks explains it better":       {"auto", lease.Address, []carrier{silent("a"), no("b"), yes("c")}, lease.Address, "because node b: no nf_tables", 0},
		"auto, and nobody is there":                 {"auto", lease.Address, nil, lease.Gate, "kernel lease: gate", 0},
		"address, all carry the gate":               {"address", lease.Gate, []carrier{yes("a")}, lease.Address, "kernel lease: address lifetime", 0},
		"gate, all carry it":                        {"gate", lease.Address, []carrier{yes("a")}, lease.Gate, "kernel lease: gate", 0},
		"gate, one cannot":                          {"gate", lease.Gate, []carrier{yes("a"), no("b")}, "", "node b says that its kernel does not carry it: no nf_tables", 0},
		"gate, one is silent":                       {"gate", lease.Address, []carrier{yes("a"), silent("b")}, lease.Gate, "kernel lease: gate", 1},
		"gate, one is silent and one cannot":        {"gate", lease.Address, []carrier{silent("a"), no("b")}, "", "node b says", 0},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := resolveLayer(c.key, c.before, c.members)
			var refusal *api.Error
			if errors.As(err, &refusal) {
				if c.want != "" || !strings.Contains(refusal.Message, c.say) || refusal.Hint == "" {
					t.Errorf("refused: %+v", refusal)
				}
				return
			}
			if r.layer != c.want || !strings.HasSuffix(r.say(), c.say) || len(r.warnings) != c.warns {
				t.Errorf("got %s, %q, %q", r.layer, r.say(), r.warnings)
			}
		})
	}
}
