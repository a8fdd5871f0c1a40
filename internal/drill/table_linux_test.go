package drill

import (
	"testing"
	"time"
)

func TestTableOfDrills(t *testing.T) {
	const ms = time.Millisecond
	seen := map[string]Outcomes{"fast": {
		{Fault: "agent killed", Outage: 30 * ms, Layer: "gate"}, {Fault: "agent killed", Outage: 10 * ms, Failed: 1, Layer: "gate"},
		{Fault: "all frozen", Outage: 700 * ms, Failed: 90, Layer: "gate", Double: 10 * time.Microsecond},
	}}
	got := Table([]Drill{{Name: "agent killed"}, {Name: "all frozen"}}, []string{"fast", "lan"}, seen)
	want := `| fault | fast (gate): outage, median (least to most) | failed requests | two answer | lan (not run): outage, median (least to most) | failed requests | two answer |
|---|---|---|---|---|---|---|
| agent killed | 30 ms (10 to 30, n=2) | 0.5 | 0 ms | - | - | - |
| all frozen | 700 ms (700 to 700, n=1) | 90.0 | 1 ms | - | - | - |
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestBreachOfS1(t *testing.T) {
	for name, tc := range map[string]struct {
		o    Outcome
		want bool
	}{
		"nothing":                          {Outcome{Layer: "address"}, false},
		"two answer":                       {Outcome{Layer: "gate", Double: 1}, true},
		"two have it, one behind its gate": {Outcome{Layer: "gate", Present: time.Second}, false},
		"two have it":                      {Outcome{Layer: "address", Present: 1}, true},
	} {
		if got := tc.o.Breach(); (got != "") != tc.want {
			t.Errorf("%s: %q", name, got)
		}
	}
}
