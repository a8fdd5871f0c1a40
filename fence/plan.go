package fence

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Level is a list of devices that must all succeed, in file order; the next level is tried when one fails (Pacemaker's
// fencing topology).
type Level struct {
	Number  int
	Devices []Device
}

// Plan returns the levels for a node in the order in which they are tried; none when no device names it.
func Plan(devices []Device, node string) []Level {
	var levels []Level
	for _, d := range devices {
		if _, ok := d.Nodes[node]; !ok {
			continue
		}
		d = d.withDefaults()
		i := slices.IndexFunc(levels, func(l Level) bool { return l.Number == d.Level })
		if i < 0 {
			i, levels = len(levels), append(levels, Level{Number: d.Level})
		}
		levels[i].Devices = append(levels[i].Devices, d)
	}
	slices.SortFunc(levels, func(a, b Level) int { return a.Number - b.Number })
	return levels
}

// Options are what a Fencer needs to know of its surroundings.
type Options struct {
	Self string       // required: name of this node, which it never fences
	Log  *slog.Logger // optional
}

// Fencer holds the devices of a configuration with the metadata of their agents, read once: at the time of need the
// disk may be full and the machine busy. Its methods may be called concurrently.
type Fencer struct {
	self    string
	log     *slog.Logger
	devices []Device
	agents  map[string]*Agent // by Device.Agent
	faults  map[string]error  // by Device.Name: why a device cannot be used

	mu   sync.Mutex
	busy map[string]bool // by node
}

// Load reads the metadata of all agents and checks the devices against it. The error joins every fault; the Fencer is
// usable also then, with the devices that have none, because a broken first level must not take the second away.
func Load(ctx context.Context, devices []Device, o Options) (*Fencer, error) {
	f := &Fencer{self: o.Self, log: o.Log, agents: map[string]*Agent{}, faults: map[string]error{}, busy: map[string]bool{}}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	var errs []error
	missing := map[string]error{}
	for _, d := range devices {
		d = d.withDefaults()
		f.devices = append(f.devices, d)
		if f.agents[d.Agent] == nil && missing[d.Agent] == nil {
			f.agents[d.Agent], missing[d.Agent] = LoadAgent(ctx, d.Agent)
		}
		faults := []error{missing[d.Agent]}
		if a := f.agents[d.Agent]; a != nil {
			faults = a.check(d)
		}
		if err := errors.Join(faults...); err != nil {
			f.faults[d.Name] = err
		}
		for _, fault := range faults {
			if fault != nil {
				errs = append(errs, fmt.Errorf("fence %s: %w", d.Name, fault))
			}
		}
	}
	return f, errors.Join(append(errs, f.checkLevels()...)...)
}

// Check is Load for a configuration that is not in force yet, on the node where it is checked. It also lets each agent
// validate its parameters where the agent can (validate-all); no device is contacted. Each error names its device.
func Check(ctx context.Context, devices []Device) []error {
	f, err := Load(ctx, devices, Options{})
	var errs []error
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		errs = joined.Unwrap()
	}
	for _, d := range f.devices {
		agent := f.agents[d.Agent]
		if f.faults[d.Name] != nil || agent == nil || !agent.Metadata.Supports(validate) {
			continue
		}
		seen := map[string]bool{}
		for _, node := range slices.Sorted(maps.Keys(d.Nodes)) {
			a := call{agent: agent, device: d, action: validate, node: node}.do(ctx)
			if a.err != nil && !seen[a.err.Error()] {
				seen[a.err.Error()] = true
				errs = append(errs, fmt.Errorf("fence %s: node %s: %w", d.Name, node, a.err))
			}
		}
	}
	return errs
}

// check returns the faults of a device against its agent's metadata; the same fault on several nodes is said once.
func (a *Agent) check(d Device) []error {
	var errs []error
	if !a.Metadata.fences() {
		errs = append(errs, fmt.Errorf("agent %s can neither off nor reboot", d.Agent))
	}
	if d.Method == Cycle && !a.Metadata.Supports(Reboot) {
		errs = append(errs, fmt.Errorf("agent %s has no reboot of its own: use method = %q", d.Agent, OnOff))
	}
	seen := map[string]bool{}
	for _, node := range slices.Sorted(maps.Keys(d.Nodes)) {
		p := d.plain(node)
		for name := range d.Secrets {
			if _, twice := p[name]; twice {
				errs = append(errs, fmt.Errorf("parameter %s is in secrets and in params", name))
			}
			p[name] = "0" // present; the value is read when it is needed
		}
		a.Metadata.target(p, node)
		for _, err := range a.Metadata.checkParams(p) {
			if !seen[err.Error()] {
				seen[err.Error()] = true
				errs = append(errs, fmt.Errorf("node %s: %w", node, err))
			}
		}
	}
	return errs
}

// Deprecated lists the parameters in use that the agents want replaced, as "device: old: use new".
func (f *Fencer) Deprecated() []string {
	var all []string
	for _, d := range f.devices {
		agent := f.agents[d.Agent]
		if agent == nil {
			continue
		}
		used := Params{}
		for node := range d.Nodes {
			maps.Copy(used, d.plain(node))
		}
		for name := range d.Secrets {
			used[name] = ""
		}
		for _, p := range agent.Metadata.Parameters {
			if _, ok := used[p.Obsoletes]; ok && p.Obsoletes != "" && p.Obsoletes != p.Name {
				all = append(all, fmt.Sprintf("%s: %s: use %s", d.Name, p.Obsoletes, p.Name))
			}
		}
	}
	return all
}

// checkLevels reports levels that could only be confirmed by agents that fence nothing: the heuristics agents answer
// "am I the healthy one?" and belong into a level with a real device behind them.
func (f *Fencer) checkLevels() []error {
	var errs []error
	for _, node := range f.Nodes() {
		for _, l := range f.Plan(node) {
			real := slices.ContainsFunc(l.Devices, func(d Device) bool {
				return !strings.HasPrefix(filepath.Base(d.Agent), "fence_heuristics_")
			})
			if !real {
				errs = append(errs, fmt.Errorf("fence %s: level %d of node %s fences nothing: add a device that does", l.Devices[0].Name, l.Number, node))
			}
		}
	}
	return errs
}

// Plan returns the levels for a node in the order in which they are tried.
func (f *Fencer) Plan(node string) []Level { return Plan(f.devices, node) }

// Nodes lists the nodes that can be fenced, sorted.
func (f *Fencer) Nodes() []string {
	all := map[string]bool{}
	for _, d := range f.devices {
		for node := range d.Nodes {
			all[node] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}
