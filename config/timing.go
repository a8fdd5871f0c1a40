package config

import (
	"slices"
	"strings"
	"time"

	"hacluster/lease"
)

// KernelLease is the key kernel_lease: which layer of the kernel ends what a dead or frozen node holds.
type KernelLease string

const (
	KernelAuto    KernelLease = "auto"    // the gate where every node that may own carries it, decided when the configuration is applied
	KernelGate    KernelLease = "gate"    // the gate, always
	KernelAddress KernelLease = "address" // the lifetime of the address, always
)

var kernelLeases = []KernelLease{KernelAuto, KernelGate, KernelAddress}

// Layers are the layers that the key can come to, the one first that is taken when nothing is known of the nodes.
func (k KernelLease) Layers() []lease.Layer {
	switch k {
	case KernelGate:
		return []lease.Layer{lease.Gate}
	case KernelAddress:
		return []lease.Layer{lease.Address}
	}
	return []lease.Layer{lease.Address, lease.Gate}
}

// parseTiming reads the profile, the layer and the overrides, which must hold on every layer that the key can come to. known
// is what it came to; a layer that it cannot come to is not taken.
func parseTiming(t *table, known lease.Layer) (KernelLease, lease.Timing) {
	profile := enum(t, "timing", lease.LAN, timingProfiles)
	kernel := enum(t, "kernel_lease", KernelAuto, kernelLeases)
	o := t.sub("timing_override")
	before := len(t.doc.faults)
	get := func(key string) time.Duration { return o.duration(key, 0, positive) }
	overrides := lease.Overrides{
		Renew: get("renew"), Duration: get("duration"), Drift: get("drift"), Margin: get("margin"), KernelSlack: get("kernel_slack"),
		Heartbeat: get("heartbeat"), Election: get("election"), LeaderLease: get("leader_lease"), Suspect: get("suspect"),
		Pulse: get("pulse"), PulseBound: get("pulse_bound"),
	}
	for _, key := range []string{"pulse", "pulse_bound"} {
		if kernel == KernelAddress && o.has(key) {
			o.fault(key, `remove it, or write kernel_lease = "gate" or "auto", where it counts only while the gate is in force`,
				"pulses need the gate, and kernel_lease is %q: an address cannot be taken away soon enough", kernel)
		}
	}
	o.done()
	layers := kernel.Layers()
	timings, faults := map[lease.Layer]lease.Timing{}, map[lease.Layer][]string{}
	for _, l := range layers {
		timing, err := lease.Derive(profile, l, overrides)
		timings[l] = timing
		for _, fault := range flatten(err) {
			faults[l] = append(faults[l], fault.Error())
		}
	}
	if len(t.doc.faults) == before { // sums over values that are themselves wrong would only confuse
		reportTimings(t, o, layers, faults)
	}
	if !slices.Contains(layers, known) {
		known = layers[0]
	}
	return kernel, timings[known]
}

// flatten gives the errors that are joined in err.
func flatten(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	if err == nil {
		return nil
	}
	return []error{err}
}

// reportTimings reports every fault once: one that only some of the layers have is told with their names.
func reportTimings(t, o *table, layers []lease.Layer, faults map[lease.Layer][]string) {
	for i, l := range layers {
		for _, fault := range faults[l] {
			everywhere := true
			for _, other := range layers {
				everywhere = everywhere && slices.Contains(faults[other], fault)
			}
			switch {
			case !everywhere:
				reportTiming(t, o, "with kernel_lease "+string(l)+": "+fault, fault)
			case i == 0:
				reportTiming(t, o, fault, fault)
			}
		}
	}
}

// reportTiming reports a relation that does not hold, at the override that stands first in it.
func reportTiming(t, o *table, reason, relation string) {
	hint := "change the override, or remove it and choose another timing profile"
	if reason != relation {
		hint = "change or remove the override, or write the kernel_lease that it is meant for"
	}
	if strings.HasPrefix(relation, "pulse") { // there are none without the gate
		hint = "change the override, or remove it"
	}
	for _, word := range strings.Fields(relation) {
		if o.has(word) {
			o.fault(word, hint, "%s", reason)
			return
		}
	}
	t.fault("timing_override", hint, "%s", reason)
}
