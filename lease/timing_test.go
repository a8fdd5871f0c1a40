package lease

import (
	"flag"
	"os"
	"strings"
	"testing"
	"time"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// TestProfiles keeps the derived values of the three profiles: what an administrator was told must not change unseen.
func TestProfiles(t *testing.T) {
	var out strings.Builder
	for _, p := range Profiles {
		timing, err := Derive(p, Address, Overrides{})
		if err != nil {
			t.Fatal(err)
		}
		out.WriteString(string(p) + "\n")
		for _, v := range []struct {
			name string
			d    time.Duration
		}{{"renew", timing.Renew}, {"duration", timing.Duration}, {"drift", timing.Drift}, {"margin", timing.Margin}, {"kernel_slack", timing.KernelSlack},
			{"heartbeat", timing.Heartbeat}, {"election", timing.Election}, {"leader_lease", timing.LeaderLease}, {"suspect", timing.Suspect},
			{"leader loss, worst", timing.LeaderLossWorst()}, {"takeover wait, address only", timing.TakeoverWait(0)},
			{"takeover wait, exclusive service with a kill bound of 1s", timing.TakeoverWait(time.Second)}} {
			out.WriteString("    " + v.name + " " + v.d.String() + "\n")
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

func TestDerive(t *testing.T) {
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
		o    Overrides
		want string
	}{
		"a lease of one second":          {Overrides{Duration: time.Second}, "must exceed 1s"},
		"two lost renewals end it":       {Overrides{Renew: 500 * time.Millisecond}, "two lost renewals"},
		"the loss of a leader ends it":   {Overrides{Heartbeat: 500 * time.Millisecond}, "the loss of a leader would cost every owner its lease"},
		"leaders overlap":                {Overrides{LeaderLease: time.Second}, "two leaders could overlap"},
		"the kernel is later":            {Overrides{KernelSlack: 100 * time.Millisecond}, "rounding of the kernel's address lifetime"},
		"one lost renewal disqualifies":  {Overrides{Suspect: 300 * time.Millisecond}, "one lost renewal would disqualify"},
		"clocks part faster":             {Overrides{Drift: time.Millisecond}, "real clocks part faster"},
		"negative":                       {Overrides{Margin: -1}, "margin is -1ns: it must be positive"},
		"all faults are told, not one":   {Overrides{Duration: time.Second, Drift: time.Microsecond}, "real clocks part faster"},
		"all faults are told, the other": {Overrides{Duration: time.Second, Drift: time.Microsecond}, "must exceed 1s"},
	} {
		if _, err := Derive(LAN, Address, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want something about %q", name, err, c.want)
		}
	}
}

func TestTakeoverWaitCoversTheSlowestLayer(t *testing.T) {
	d, _ := Derive(LAN, Address, Overrides{})
	base := d.Duration + d.Drift + d.Margin
	for _, c := range []struct{ budget, want time.Duration }{
		{0, base + d.KernelSlack},
		{100 * time.Millisecond, base + d.KernelSlack},
		{time.Second, base + time.Second},
	} {
		if got := d.TakeoverWait(c.budget); got != c.want {
			t.Errorf("stop budget %v: got %v, want %v", c.budget, got, c.want)
		}
	}
}
