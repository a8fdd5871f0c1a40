package lease

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// TestProfiles keeps the derived values of the three profiles on each layer: what an administrator was told must not change
// unseen.
func TestProfiles(t *testing.T) {
	var out strings.Builder
	for _, p := range Profiles {
		for _, l := range Layers {
			timing, err := Derive(p, l, Overrides{})
			if err != nil {
				t.Fatal(err)
			}
			describe(&out, timing)
		}
	}
	const file = "testdata/profiles.txt"
	if *rewrite {
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func describe(out *strings.Builder, timing Timing) {
	out.WriteString(string(timing.Profile) + ", kernel lease " + string(timing.Layer) + "\n")
	for _, v := range []struct {
		name string
		d    time.Duration
	}{{"renew", timing.Renew}, {"duration", timing.Duration}, {"drift", timing.Drift}, {"margin", timing.Margin}, {"kernel_slack", timing.KernelSlack},
		{"heartbeat", timing.Heartbeat}, {"election", timing.Election}, {"leader_lease", timing.LeaderLease}, {"suspect", timing.Suspect},
		{"leader loss, worst", timing.LeaderLossWorst()}, {"takeover wait, address only", timing.TakeoverWait(0)},
		{"takeover wait, exclusive service with a kill bound of 1s", timing.TakeoverWait(time.Second)}} {
		out.WriteString("    " + v.name + " " + v.d.String() + "\n")
	}
	if timing.Pulse > 0 {
		fmt.Fprintf(out, "    pulse %v\n    pulse_bound %v\n    a promise has ended after %v\n", timing.Pulse, timing.PulseBound, timing.PulseWait())
	}
}

func TestDerive(t *testing.T) {
	if _, err := Derive(LAN, "clock", Overrides{}); err == nil || !strings.Contains(err.Error(), "address or gate") {
		t.Errorf("unknown layer: %v", err)
	}
	if d, err := Derive(LAN, "", Overrides{}); err != nil || d.Layer != Address {
		t.Errorf("no layer: %+v, %v", d, err)
	}
	if d, err := Derive("", "", Overrides{}); err != nil || d.Profile != LAN {
		t.Errorf("no profile: %+v, %v", d, err)
	}
	if _, err := Derive("slow", Address, Overrides{}); err == nil || !strings.Contains(err.Error(), "fast, lan or wan") {
		t.Errorf("unknown profile: %v", err)
	}
	d, err := Derive(LAN, Address, Overrides{Renew: 100 * time.Millisecond, Duration: 3 * time.Second})
	if err != nil || d.Suspect != 300*time.Millisecond || d.Drift != 15*time.Millisecond {
		t.Errorf("what is not overridden follows what is: %+v, %v", d, err)
	}
}

func TestTimingsThatDoNotAddUpAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		l    Layer
		o    Overrides
		want string
	}{
		"a lease of one second":            {Address, Overrides{Duration: time.Second}, "must exceed 1s: the kernel counts address lifetimes"},
		"two lost renewals end it":         {Address, Overrides{Renew: 500 * time.Millisecond}, "two lost renewals"},
		"two lost renewals, and the gate":  {Gate, Overrides{Renew: 290 * time.Millisecond}, "renew 290ms x 3 exceeds duration 900ms less 45ms"},
		"the loss of a leader ends it":     {Address, Overrides{Heartbeat: 500 * time.Millisecond}, "the loss of a leader would cost every owner its lease"},
		"the loss of a leader, and gate":   {Gate, Overrides{Duration: 740 * time.Millisecond}, "= 700ms reaches duration 740ms less 45ms"},
		"leaders overlap":                  {Address, Overrides{LeaderLease: time.Second}, "two leaders could overlap"},
		"the kernel is later":              {Address, Overrides{KernelSlack: 100 * time.Millisecond}, "kernel_slack 100ms is below 250ms"},
		"the gate is later":                {Gate, Overrides{KernelSlack: 5 * time.Millisecond}, "kernel_slack 5ms is below 10ms"},
		"one lost renewal disqualifies":    {Gate, Overrides{Suspect: 150 * time.Millisecond}, "one lost renewal would disqualify"},
		"clocks part faster":               {Address, Overrides{Drift: time.Millisecond}, "real clocks part faster"},
		"clocks part faster than the gate": {Gate, Overrides{Drift: 500 * time.Microsecond}, "real clocks part faster"},
		"negative":                         {Address, Overrides{Margin: -1}, "margin is -1ns: it must be positive"},
		"all faults are told, not one":     {Address, Overrides{Duration: time.Second, Drift: time.Microsecond}, "real clocks part faster"},
		"all faults are told, the other":   {Address, Overrides{Duration: time.Second, Drift: time.Microsecond}, "must exceed 1s"},
	} {
		if _, err := Derive(LAN, c.l, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want something about %q", name, err, c.want)
		}
	}
	// Of pulses, to what fast has with the gate.
	for name, c := range map[string]struct {
		o    Overrides
		want string
	}{
		"two lost pulses shut the gate":      {Overrides{Pulse: 27 * time.Millisecond}, "pulse 27ms x 3 exceeds pulse_bound 125ms less 45ms: two lost pulses would shut the gate"},
		"a bound below what the gate needs":  {Overrides{PulseBound: 100 * time.Millisecond}, "pulse 20ms x 3 exceeds pulse_bound 100ms less 45ms"},
		"a bound beyond the lease":           {Overrides{PulseBound: 901 * time.Millisecond}, "pulse_bound 901ms exceeds duration 900ms, which ends the lease anyway"},
		"more pulses than anybody can count": {Overrides{Pulse: time.Millisecond}, "pulse 1ms is below 5ms"},
		"negative":                           {Overrides{Pulse: -time.Second}, "pulse -1s is below 5ms"},
		"a negative bound":                   {Overrides{PulseBound: -time.Second}, "exceeds pulse_bound -1s less 45ms"},
	} {
		if _, err := Derive(Fast, Gate, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want something about %q", name, err, c.want)
		}
	}
	for name, c := range map[string]struct {
		p    Profile
		l    Layer
		o    Overrides
		want [2]time.Duration // pulse, pulse_bound
		err  string
	}{
		"as far as it goes":                       {Fast, Gate, Overrides{Pulse: 26666 * time.Microsecond, PulseBound: 125 * time.Millisecond}, [2]time.Duration{26666 * time.Microsecond, 125 * time.Millisecond}, ""},
		"a bound of the whole lease":              {Fast, Gate, Overrides{PulseBound: 900 * time.Millisecond}, [2]time.Duration{20 * time.Millisecond, 900 * time.Millisecond}, ""},
		"lan with pulses":                         {LAN, Gate, Overrides{Pulse: 50 * time.Millisecond, PulseBound: 300 * time.Millisecond}, [2]time.Duration{50 * time.Millisecond, 300 * time.Millisecond}, ""},
		"lan with half of what pulses need":       {LAN, Gate, Overrides{Pulse: 50 * time.Millisecond}, [2]time.Duration{}, "pulse 50ms and pulse_bound 0s: neither is of use without the other"},
		"lan with the other half":                 {LAN, Gate, Overrides{PulseBound: 300 * time.Millisecond}, [2]time.Duration{}, "pulse 0s and pulse_bound 300ms: neither"},
		"the lifetime has none, whatever is said": {Fast, Address, Overrides{Pulse: 20 * time.Millisecond, PulseBound: 125 * time.Millisecond}, [2]time.Duration{}, ""},
	} {
		d, err := Derive(c.p, c.l, c.o)
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && [2]time.Duration{d.Pulse, d.PulseBound} != c.want {
			t.Errorf("%s: got %v of %v, want %v", name, d.Pulse, d.PulseBound, c.want)
		}
	}
	forced, _ := Derive(Fast, Address, Overrides{})
	forced.Pulse, forced.PulseBound = 20*time.Millisecond, 125*time.Millisecond
	if err := forced.Validate(); err == nil || !strings.Contains(err.Error(), "pulse needs the kernel lease gate") {
		t.Errorf("pulses without a gate: %v", err)
	}
	// What the gate allows and whole seconds do not.
	if _, err := Derive(LAN, Gate, Overrides{Duration: time.Second, KernelSlack: 20 * time.Millisecond}); err != nil {
		t.Error(err)
	}
}

// TestEveryTimingThatIsAcceptedHolds draws overrides and checks, in words of its own, what an accepted timing promises.
func TestEveryTimingThatIsAcceptedHolds(t *testing.T) {
	taken := map[Layer]int{}
	rapid.Check(t, func(t *rapid.T) {
		p, l := rapid.SampledFrom(Profiles).Draw(t, "profile"), rapid.SampledFrom(Layers).Draw(t, "layer")
		draw := func(name string, most int) time.Duration {
			if rapid.IntRange(0, 5).Draw(t, name+" overridden") > 0 {
				return 0
			}
			return time.Duration(rapid.IntRange(1, most).Draw(t, name)) * time.Millisecond
		}
		d, err := Derive(p, l, Overrides{Renew: draw("renew", 2000), Duration: draw("duration", 10000), Drift: draw("drift", 50), Margin: draw("margin", 500),
			KernelSlack: draw("kernel_slack", 500), Heartbeat: draw("heartbeat", 2000), Election: draw("election", 2000),
			LeaderLease: draw("leader_lease", 2000), Suspect: draw("suspect", 5000), Pulse: draw("pulse", 100), PulseBound: draw("pulse_bound", 2000)})
		if err != nil {
			return
		}
		taken[l]++
		early, slack := time.Duration(0), 250*time.Millisecond // of the kernel's whole seconds
		if l == Gate {
			early, slack = 45*time.Millisecond, 10*time.Millisecond
		}
		switch useful := d.Duration - early; {
		case 3*d.Renew > useful:
			t.Fatal("two lost renewals end the lease")
		case d.LeaderLossWorst() >= useful:
			t.Fatal("the loss of a leader ends the lease")
		case l == Address && KernelLifetime(zero, zero.Add(d.Duration-1)) < time.Second:
			t.Fatal("the kernel cannot be armed")
		case d.TakeoverWait(0) < d.Duration+d.Duration/1000+slack+1:
			t.Fatal("the kernel is later than the takeover wait")
		case d.TakeoverWait(time.Minute) < d.Duration+time.Minute:
			t.Fatal("a kill is later than the takeover wait")
		case (d.Pulse > 0) != (d.PulseBound > 0) || d.Pulse > 0 && l != Gate:
			t.Fatal("pulses without a bound or a gate")
		case d.Pulse > 0 && (3*d.Pulse > d.PulseBound-early || d.PulseBound > d.Duration || d.PulseWait() < d.PulseBound+d.PulseBound/200):
			t.Fatal("two lost pulses shut the gate, or a promise outlasts the lease")
		case d.Suspect < 2*d.Renew || d.LeaderLease > d.Heartbeat:
			t.Fatal("relations of the control plane")
		}
	})
	for _, l := range Layers {
		if taken[l] == 0 {
			t.Errorf("no timing was accepted on layer %s: this test checks nothing", l)
		}
	}
}

func TestTakeoverWaitCoversTheSlowestLayer(t *testing.T) {
	for _, l := range Layers {
		d, err := Derive(LAN, l, Overrides{})
		if err != nil {
			t.Fatal(err)
		}
		base := d.Duration + d.Drift + d.Margin
		for _, c := range []struct{ budget, want time.Duration }{
			{0, base + d.KernelSlack},
			{5 * time.Millisecond, base + d.KernelSlack},
			{time.Second, base + time.Second},
		} {
			if got := d.TakeoverWait(c.budget); got != c.want {
				t.Errorf("%s, stop budget %v: got %v, want %v", l, c.budget, got, c.want)
			}
		}
	}
}
