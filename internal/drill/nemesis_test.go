package drill

import (
	"bytes"
	"flag"
	"os"
	"reflect"
	"slices"
	"testing"
	"time"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// TestARoundIsDrawnFromItsSeedAndNumberAlone: the same for whoever asks, whatever was drawn before.
func TestARoundIsDrawnFromItsSeedAndNumberAlone(t *testing.T) {
	for round := range 50 {
		first := Draw(7, round, "", "", nil)
		Draw(8, round+1, "", "", nil)
		if again := Draw(7, round, "", "", nil); !reflect.DeepEqual(first, again) {
			t.Fatalf("%v, then %v", first, again)
		}
		fixed := Draw(7, round, "lan", "gate", nil)
		if fixed.Timing != "lan" || fixed.Layer != "gate" || !reflect.DeepEqual(fixed.Strikes, first.Strikes) {
			t.Errorf("with lan and gate %v, without %v", fixed, first)
		}
	}
	if a, b := Draw(7, 1, "", "", nil), Draw(8, 1, "", "", nil); reflect.DeepEqual(a.Strikes, b.Strikes) {
		t.Errorf("two seeds draw the same: %v", a)
	}
}

// TestWhatIsDrawn: every fault with every role it may hit, both profiles, both kernel leases, one round of three a pair that
// overlaps, and no time that a fault does not allow.
func TestWhatIsDrawn(t *testing.T) {
	const n = 6000
	seen := map[[2]string]int{}
	pairs, timings := 0, map[string]int{}
	for round := range n {
		p := Draw(1, round, "", "", nil)
		timings[p.Timing+" "+p.Layer]++
		if len(p.Strikes) == 2 {
			pairs++
			if p.Strikes[1].After > p.Strikes[0].For {
				t.Errorf("%v: the second begins when the first has ended", p)
			}
		}
		for _, s := range p.Strikes {
			seen[[2]string{s.Fault, string(s.Role)}]++
			k, ok := FindKind(s.Fault)
			if !ok || k.Max > 0 && (s.For < k.Min || s.For > k.Max) || s.For <= 0 || s.For > 4*time.Second {
				t.Errorf("%v is no such fault", s)
			}
			if len(k.Roles) > 0 && !slices.Contains(k.Roles, s.Role) {
				t.Errorf("%v cannot hit the %s", s, s.Role)
			}
		}
	}
	if pairs < n*30/100 || pairs > n*37/100 {
		t.Errorf("%d pairs in %d rounds", pairs, n)
	}
	if len(timings) != 4 {
		t.Errorf("profiles and kernel leases: %v", timings)
	}
	for _, k := range Kinds {
		roles := k.Roles
		if len(roles) == 0 {
			roles = voters
		}
		for _, r := range roles {
			if seen[[2]string{k.Name, string(r)}] == 0 {
				t.Errorf("%s of the %s was never drawn", k.Name, r)
			}
		}
	}
	only := Draw(1, 1, "", "", []string{"power cut"})
	if len(only.Strikes) == 0 || slices.ContainsFunc(only.Strikes, func(s Strike) bool { return s.Fault != "power cut" }) {
		t.Errorf("only power cuts: %v", only)
	}
}

func TestWhatExcusesASecondRun(t *testing.T) {
	on := func(fault, node string) Strike { return Strike{Fault: fault, Node: node} }
	for name, c := range map[string]struct {
		strikes []Strike
		want    string
	}{
		"the agent alone":                       {[]Strike{on("agent killed", "a")}, ""},
		"the parent alone":                      {[]Strike{on("parent frozen", "a")}, ""},
		"both":                                  {[]Strike{on("both killed", "a")}, dead},
		"the agent, and its parent beside":      {[]Strike{on("agent frozen", "a"), on("parent killed", "a")}, dead},
		"the agent, and the parent elsewhere":   {[]Strike{on("agent frozen", "a"), on("parent killed", "b")}, ""},
		"cut off, and nothing of had is broken": {[]Strike{on("cut from peers", "a"), on("power cut", "b")}, ""},
		"frozen":                                {[]Strike{on("cut from peers", "a"), on("all frozen", "b")}, frozen},
	} {
		if got := excuse(c.strikes); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestWhatIsWrong(t *testing.T) {
	ms := time.Millisecond
	for name, c := range map[string]struct {
		r     Round
		wrong bool
	}{
		"all well":                        {Round{}, false},
		"two answered":                    {Round{Double: ms}, true},
		"two had it, one behind its gate": {Round{Present: ms}, false},
		"two had it, and nothing else ends a lease": {Round{Present: ms, Address: true}, true},
		"ran twice":                                {Round{Twice: ms}, true},
		"ran twice where that is documented":       {Round{Twice: ms, Excuse: dead}, false},
		"two answered, which nothing ever excuses": {Round{Double: ms, Excuse: dead}, true},
		"stuck": {Round{Stuck: "no leader"}, true},
		"a long outage is what the histogram is for": {Round{Outage: time.Minute}, false},
	} {
		if c.r.Wrong() != c.wrong {
			t.Errorf("%s: wrong is %v", name, c.r.Wrong())
		}
	}
}

func TestTheTable(t *testing.T) {
	round := func(n int, fault, node string, outage time.Duration) Round {
		return Round{Plan: Plan{Round: n, Strikes: []Strike{{Fault: fault, Node: node}}}, From: "tomcat1", Outage: outage, Converged: 300 * time.Millisecond}
	}
	tally := Tally{Rounds: []Round{
		round(1, "power cut", "tomcat1", 700*time.Millisecond), round(2, "power cut", "tomcat1", 24*time.Millisecond), round(3, "power cut", "tomcat1", 6*time.Second),
		round(4, "power cut", "witness", 25*time.Millisecond), round(5, "agent killed", "tomcat1", 10*time.Millisecond), round(6, "both killed", "tomcat1", 500*time.Millisecond),
	}}
	tally.Rounds[4].Double = 200 * time.Microsecond // is not none
	tally.Rounds[5].Twice, tally.Rounds[5].Excuse = 42*time.Millisecond, dead
	pair := round(7, "silenced", "tomcat2", time.Second)
	pair.Strikes = append(pair.Strikes, Strike{Fault: "disk full", Node: "witness"})
	stuck := round(8, "silenced", "tomcat1", time.Hour)
	stuck.Stuck = "no leader"
	tally.Rounds = append(tally.Rounds, pair, stuck)
	var b bytes.Buffer
	tally.Print(&b)
	const golden = "testdata/nemesis.txt"
	if *rewrite {
		if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	sum := tally.Totals()
	if want := (Totals{Rounds: 8, Stuck: 1, Double: 200 * time.Microsecond, Excused: 42 * time.Millisecond, Wrong: []int{5, 8}}); !reflect.DeepEqual(sum, want) {
		t.Errorf("totals %+v, want %+v", sum, want)
	}
}

func TestBetween(t *testing.T) {
	const text = "a\n<!-- begin x: by hand -->\nold\n<!-- end x -->\nb\n<!-- begin y -->\n<!-- end y -->\n"
	got, err := Between([]byte(text), "x", []byte("new\n"))
	if want := "a\n<!-- begin x: by hand -->\nnew\n<!-- end x -->\nb\n<!-- begin y -->\n<!-- end y -->\n"; err != nil || string(got) != want {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := Between([]byte(text), "z", nil); err == nil {
		t.Error("no such place, and no error")
	}
}
