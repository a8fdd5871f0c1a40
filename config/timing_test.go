package config

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"hacluster/lease"
	"hacluster/placement"
)

const oneGroup = `[[group]]
name = "web"
[[group.resource]]
name = "vip"
type = "address"
address = "198.18.0.9/24"
`

func TestTheKernelLeaseIsWhatTheKeyCameTo(t *testing.T) {
	for name, c := range map[string]struct {
		keys  string
		known lease.Layer
		want  lease.Layer
	}{
		"auto, nothing known":                {"", "", lease.Address},
		"auto, the nodes carry the gate":     {"", lease.Gate, lease.Gate},
		"auto, they do not":                  {`kernel_lease = "auto"`, lease.Address, lease.Address},
		"auto, a word of a newer agent":      {"", "clock", lease.Address},
		"wan, the nodes carry the gate":      {`timing = "wan"`, lease.Gate, lease.Gate},
		"wan, and the gate is asked for":     {"timing = \"wan\"\nkernel_lease = \"gate\"", lease.Address, lease.Gate},
		"the gate, whatever is known":        {`kernel_lease = "gate"`, lease.Address, lease.Gate},
		"the gate, nothing known":            {`kernel_lease = "gate"`, "", lease.Gate},
		"the lifetime, and all had the gate": {`kernel_lease = "address"`, lease.Gate, lease.Address},
	} {
		got, err := ParseCluster("cluster.toml", []byte("name = \"idm\"\n"+c.keys+"\n"+oneGroup), Known{KernelLease: c.known})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		p := got.Policy()
		if got.Timing.Layer != c.want || p.NeedsGate != (c.want == lease.Gate) || p.Groups[0].TakeoverWait != got.Timing.TakeoverWait(0) {
			t.Errorf("%s: got %s, needs the gate: %v; want %s", name, got.Timing.Layer, p.NeedsGate, c.want)
		}
	}
}

// What is accepted under auto holds on both layers: apply must never find out later that it does not.
func TestAnAcceptedFileHoldsOnEveryLayerItCanComeTo(t *testing.T) {
	accepted := 0
	rapid.Check(t, func(t *rapid.T) {
		text := "name = \"idm\"\ntiming = \"" + string(rapid.SampledFrom(lease.Profiles).Draw(t, "profile")) + "\"\nkernel_lease = \"" +
			string(rapid.SampledFrom(kernelLeases).Draw(t, "kernel_lease")) + "\"\n[timing_override]\n"
		for _, key := range []string{"renew", "duration", "kernel_slack", "heartbeat", "pulse", "pulse_bound"} {
			if rapid.IntRange(0, 2).Draw(t, key+" overridden") == 0 {
				text += key + " = \"" + (time.Duration(rapid.IntRange(10, 1500).Draw(t, key)) * time.Millisecond).String() + "\"\n"
			}
		}
		if _, err := ParseCluster("cluster.toml", []byte(text), Known{}); err != nil {
			return
		}
		accepted++
		for _, l := range lease.Layers {
			c, err := ParseCluster("cluster.toml", []byte(text), Known{KernelLease: l})
			if err != nil {
				t.Fatalf("with %s: %v", l, err)
			}
			if err := c.Timing.Validate(); err != nil || !slices.Contains(c.KernelLease.Layers(), c.Timing.Layer) {
				t.Fatalf("with %s: %s, %v\n%s", l, c.Timing.Layer, err, text)
			}
		}
	})
	if accepted == 0 {
		t.Error("nothing was accepted: this test checks nothing")
	}
}

// From the address lifetime to the gate every takeover wait becomes shorter: the leases that only the lifetime ends must be
// waited for until none is left.
func TestGoingFromTheLifetimeToTheGateLeavesAFloor(t *testing.T) {
	var st placement.State
	apply := func(l lease.Layer) placement.Policy {
		t.Helper()
		c, err := ParseCluster("cluster.toml", []byte("name = \"idm\"\n"+oneGroup), Known{KernelLease: l})
		if err != nil {
			t.Fatal(err)
		}
		p := c.Policy()
		st.Index++
		next, res := st.Apply(placement.Command{Kind: placement.CmdConfig, Version: st.ConfigVersion, Policy: &p, KernelLease: string(l)})
		if !res.Applied {
			t.Fatalf("%+v", res)
		}
		st = next
		return p
	}
	long := apply(lease.Address).Groups[0].TakeoverWait
	short := apply(lease.Gate).Groups[0].TakeoverWait
	if short >= long || st.Floor != long || st.FloorIndex != st.Index {
		t.Errorf("from %v to %v: the floor is %v at %d, want %v at %d", long, short, st.Floor, st.FloorIndex, long, st.Index)
	}
	// Back before it has settled: the longest stays.
	if apply(lease.Address); st.Floor != long && st.Policy.Groups[0].TakeoverWait < long {
		t.Errorf("back: the floor is %v, the wait %v", st.Floor, st.Policy.Groups[0].TakeoverWait)
	}
}

// What only addresses stand for, and what runs everywhere, is given away when the pulse of its owner has stopped; the rest is not.
func TestOnPulse(t *testing.T) {
	const (
		tomcat = "[[group.resource]]\nname = \"tomcat\"\ntype = \"systemd\"\nunit = \"tomcat.service\"\n"
		hot    = tomcat + "run_on = \"every-node\"\n"
		script = "[[group.resource]]\nname = \"nfs\"\ntype = \"script\"\nstart = [\"/bin/true\"]\nstop = [\"/bin/true\"]\nstatus = [\"/bin/true\"]\n"
		two    = "[[group.resource]]\nname = \"vip6\"\ntype = \"address\"\naddress = \"2001:db8::9/64\"\n"
	)
	for name, c := range map[string]struct {
		keys  string
		more  string
		layer lease.Layer
		want  bool
	}{
		"an address":                             {`timing = "fast"`, "", lease.Gate, true},
		"two addresses":                          {`timing = "fast"`, two, lease.Gate, true},
		"a hot standby":                          {`timing = "fast"`, hot, lease.Gate, true},
		"a cold standby":                         {`timing = "fast"`, tomcat, lease.Gate, false},
		"a hot standby beside an owner's script": {`timing = "fast"`, hot + script, lease.Gate, false},
		"an exclusive service":                   {`timing = "fast"`, hot + script + "exclusive = true\n", lease.Gate, false},
		"the lifetime of addresses":              {`timing = "fast"`, hot, lease.Address, false},
		"the lifetime, and pulses for the gate":  {"timing_override = { pulse = \"30ms\", pulse_bound = \"200ms\" }", hot, lease.Address, false},
		"lan":                                    {`timing = "lan"`, hot, lease.Gate, false},
		"lan with pulses":                        {"timing_override = { pulse = \"30ms\", pulse_bound = \"200ms\" }", hot, lease.Gate, true},
		"wan":                                    {`timing = "wan"`, hot, lease.Gate, false},
	} {
		group := oneGroup + c.more
		if strings.Contains(c.more, "every-node") {
			group = strings.Replace(group, "name = \"web\"\n", "name = \"web\"\nstandby = \"hot\"\n", 1)
		}
		got, err := ParseCluster("cluster.toml", []byte("name = \"idm\"\n"+c.keys+"\n"+group), Known{KernelLease: c.layer})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if p := got.Policy(); p.Groups[0].OnPulse != c.want || (got.Timing.Pulse > 0) != (c.layer == lease.Gate && got.Timing.PulseBound > 0) {
			t.Errorf("%s: on pulse %v, want %v; %+v", name, p.Groups[0].OnPulse, c.want, got.Timing)
		}
	}
}
