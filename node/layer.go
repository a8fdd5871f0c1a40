package node

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"hacluster/api"
	"hacluster/config"
	"hacluster/lease"
	"hacluster/placement"
)

// carrier is a member that may own groups, as far as the kernel lease is concerned.
type carrier struct {
	name   string
	speaks bool
	gate   bool   // its kernel carries the gate
	why    string // not
}

// resolution is what the key kernel_lease comes to.
type resolution struct {
	layer    lease.Layer
	why      string   // the lifetime and not the gate; empty: as written
	warnings []string // of what is allowed and will not work yet
}

// say is the resolution as a half sentence.
func (r resolution) say() string {
	switch {
	case r.layer == lease.Gate:
		return "kernel lease: gate"
	case r.why != "":
		return "kernel lease: address lifetime, because " + r.why
	}
	return "kernel lease: address lifetime"
}

// resolveLayer decides which layer counts for the whole cluster. Under auto a member that does not speak cannot bring the gate
// into force, and cannot end it either: a change that is applied while a node is down must not change how the others count,
// and that node owns nothing before it carries the gate. The error says which node and what to do.
func resolveLayer(key config.KernelLease, inForce lease.Layer, members []carrier) (resolution, error) {
	if !slices.Contains(key.Layers(), lease.Gate) {
		return resolution{layer: lease.Address}, nil
	}
	r := resolution{layer: lease.Gate}
	for _, m := range members {
		switch {
		case m.speaks && m.gate:
		case m.speaks && key == config.KernelGate:
			return r, api.Errorf(api.CodeRefused, `load nf_tables there (modprobe nf_tables), or write kernel_lease = "auto" or "address"`,
				"kernel_lease is gate, and node %s says that its kernel does not carry it: %s", m.name, m.why)
		case key == config.KernelGate:
			r.warnings = append(r.warnings, fmt.Sprintf("node %s does not speak: it cannot own anything until it says that its kernel carries the gate", m.name))
		case m.speaks:
			return resolution{layer: lease.Address, why: "node " + m.name + ": " + m.why}, nil
		case inForce != lease.Gate && r.layer == lease.Gate:
			r = resolution{layer: lease.Address, why: "node " + m.name + " does not speak"} // unless one that does says why
		}
	}
	return r, nil
}

// carriers are the members that may own groups, as this leader hears them.
func (l *leader) carriers(st placement.State) []carrier {
	since, reports, _, _ := l.alive()
	var out []carrier
	for _, name := range slices.Sorted(maps.Keys(st.Nodes)) {
		if st.Nodes[name].Role == placement.RoleWitness {
			continue
		}
		last, seen := since[name]
		r := reports[name]
		out = append(out, carrier{name: name, speaks: seen && last <= l.n.timing().Suspect, gate: r.Gate,
			why: cmp.Or(r.NoGate, "its agent does not say that its kernel carries the gate")})
	}
	return out
}

// inForce is the layer that a state was resolved to.
func inForce(st placement.State) lease.Layer {
	return cmp.Or(lease.Layer(st.KernelLease), lease.Address)
}

// parseApplied reads the configuration in force as the leader that proposed it did: on the layer that it was resolved to.
func parseApplied(st placement.State) (config.Cluster, error) {
	return config.ParseCluster("cluster.toml", []byte(st.ConfigText), config.Known{KernelLease: inForce(st)})
}
