package sim

import (
	"reflect"
	"strings"

	"hacluster/placement"
)

// checkStart is run when something begins to run anywhere.
func (w *World) checkStart(m *machine, k key, epoch uint64) {
	g, ok := w.truth[len(w.truth)-1].state.Policy.Group(k.group)
	r, known := g.Resource(k.resource)
	if !ok || !known || r.RunOn == placement.RunOnEveryNode {
		return
	}
	if epoch < w.acted[k.group] {
		w.broken("S3: %s starts %s/%s for epoch %d; epoch %d has acted already", m.name, k.group, k.resource, epoch, w.acted[k.group])
	}
	w.acted[k.group] = max(w.acted[k.group], epoch)
	for _, other := range w.nodes {
		t := other.running[k]
		if other == m || !other.up || t == nil || !t.on {
			continue
		}
		switch {
		case r.Address:
			w.broken("S1: %s and %s both hold the address %s of group %s", m.name, other.name, k.resource, k.group)
		case r.Exclusive && !t.exposed:
			w.broken("S2: %s and %s both run %s of group %s", m.name, other.name, k.resource, k.group)
		}
	}
}

// checkApply is run at every entry that anybody applies first.
func (w *World) checkApply(before, after placement.State, c placement.Command, res placement.Result) {
	if err := after.Check(); err != nil {
		w.broken("%s: %v", c.Kind, err)
	}
	if err := placement.CheckStep(before, after); err != nil {
		w.broken("%s: %v", c.Kind, err)
	}
	if !res.Applied {
		return
	}
	w.Stats.Applied++
	switch c.Kind {
	case placement.CmdTakeover:
		w.Stats.Takeovers++
	case placement.CmdReleased:
		w.Stats.Moves++
	}
	w.log("applied %s %s node %s epoch %d", c.Kind, c.Group, c.Node, after.Groups[c.Group].Epoch)
	if w.opt.Seed%16 == 0 { // deterministic: the same command on the same state gives the same
		if again, r := before.Apply(c); !reflect.DeepEqual(again, after) || !reflect.DeepEqual(r, res) {
			w.broken("%s: Apply is not deterministic", c.Kind)
		}
	}
}

// offline says what is missing for every group to be online; empty when nothing is (L1).
func (w *World) offline() string {
	st := w.truth[len(w.truth)-1].state
	var missing []string
	for _, g := range st.Policy.Groups {
		gs := st.Groups[g.Name]
		if gs.Phase != placement.PhaseOwned {
			missing = append(missing, g.Name+" is "+string(gs.Phase)+" ("+gs.Why.Text+")")
			continue
		}
		m := w.byName[gs.Owner]
		if m.proc == nil || gs.Offline {
			missing = append(missing, g.Name+" is wanted offline or its owner has no agent")
			continue
		}
		for _, r := range g.Resources {
			if t := m.running[key{g.Name, r.Name}]; t == nil || !t.on || m.proc.slot(key{g.Name, r.Name}).doing != "" {
				missing = append(missing, g.Name+"/"+r.Name+" does not run on its owner "+gs.Owner)
			}
		}
	}
	return strings.Join(missing, "; ")
}
