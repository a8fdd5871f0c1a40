package bench

import (
	"context"
	"encoding/xml"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"hacluster/internal/lab"
)

func TestEachRoundBeginsElsewhere(t *testing.T) {
	list := []string{"a", "b", "c"}
	for by, want := range []string{"abc", "bca", "cab", "abc"} {
		if got := strings.Join(turned(list, by), ""); got != want {
			t.Errorf("turned by %d: %s, want %s", by, got, want)
		}
	}
	p := Plan{Systems: []string{HadFast, PacemakerFast, ByHand}, SlowEvery: 2}
	for round, want := range [][]string{{HadFast, PacemakerFast, ByHand}, {ByHand, HadFast}, {ByHand, HadFast, PacemakerFast}, {HadFast, ByHand}} {
		if got := p.systemsOf(round); !slices.Equal(got, want) {
			t.Errorf("round %d: %v, want %v", round, got, want)
		}
	}
	if got := turned(nil, 3); len(got) != 0 {
		t.Error(got)
	}
}

func TestEverySystemCanBeMade(t *testing.T) {
	for _, name := range SystemNames {
		if makers[name] == nil {
			t.Errorf("nobody makes %s", name)
		} else if s := makers[name](Options{}); s.Name() != name || !s.Can(PlannedMove) || !s.Can(NoFault) {
			t.Errorf("%s is called %s, or cannot do what all can", name, s.Name())
		}
	}
}

// TestPacemakerIsWholeOnlyWithAllItsParts reads what crm_mon 2.1 prints.
func TestPacemakerIsWholeOnlyWithAllItsParts(t *testing.T) {
	const good = `<pacemaker-result><nodes><node name="tomcat1" online="true" pending="false"/><node name="tomcat2" online="true" pending="false"/>
<node name="witness" online="true" pending="false"/></nodes><resources><resource id="vip" role="Started" failed="false"><node name="tomcat1"/></resource>
<clone id="service-clone"><resource id="service" role="Started" failed="false"><node name="tomcat1"/></resource>
<resource id="service" role="Started" failed="false"><node name="tomcat2"/></resource></clone></resources></pacemaker-result>`
	for what, c := range map[string]struct {
		old, new string
		whole    bool
	}{
		"all":                  {"", "", true},
		"a node is away":       {`name="witness" online="true"`, `name="witness" online="false"`, false},
		"a node is on its way": {`name="tomcat2" online="true" pending="false"`, `name="tomcat2" online="true" pending="true"`, false},
		"the service failed":   {`<resource id="service" role="Started" failed="false"><node name="tomcat2"/>`, `<resource id="service" role="Started" failed="true"><node name="tomcat2"/>`, false},
		"no address":           {`id="vip" role="Started"`, `id="vip" role="Stopped"`, false},
	} {
		text := strings.Replace(good, c.old, c.new, 1)
		m := monitored{}
		if err := xml.Unmarshal([]byte(text), &m); err != nil {
			t.Fatal(err)
		}
		if why := m.whole(); (why == "") != c.whole {
			t.Errorf("%s: %q", what, why)
		}
	}
}

// realBench builds what real systems run, or skips the test.
func realBench(t *testing.T, systems ...string) (bin string, ctx context.Context) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs real clusters: full run only")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs real root: keepalived hears of processes in the machine's own namespaces only")
	}
	if list := Missing(systems...); len(list) > 0 {
		t.Skip("needs ", strings.Join(list, " "))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	t.Cleanup(cancel)
	bin = t.TempDir()
	if err := lab.Build(ctx, bin, "hacluster/cmd/had", "hacluster/cmd/hactl", lab.TestService); err != nil {
		t.Fatal(err)
	}
	return bin, ctx
}

// TestShortBenchmark is a real one: two systems, two scenarios, once.
func TestShortBenchmark(t *testing.T) {
	systems := []string{HadFast, KeepFast}
	bin, ctx := realBench(t, systems...)
	plan := Plan{N: 1, Systems: systems, Scenarios: []string{PlannedMove, ServiceKilled}, Options: Options{Bin: bin}, Say: t.Logf, Done: func(r Run) { t.Log(r) }}
	runs, err := plan.Run(ctx)
	if errors.Is(err, lab.ErrNotPermitted) {
		t.Skip("needs network namespaces: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(runs) != 4 {
		t.Fatalf("%d runs of 4", len(runs))
	}
	for _, r := range runs {
		if r.Lost || r.From == r.To || !slices.Contains(members, r.To) {
			t.Errorf("%s, %s: from %q to %q, lost %v", r.System, r.Scenario, r.From, r.To, r.Lost)
		}
		// A connection every 5 ms: without any outage at all nothing was measured.
		if r.Outage < 4*time.Millisecond || r.Outage > 20*time.Second {
			t.Errorf("%s, %s: outage %s", r.System, r.Scenario, r.Outage)
		}
		if r.System == HadFast && r.Double > 0 {
			t.Errorf("%s: two nodes answered for %s (S1)", r.Scenario, r.Double)
		}
		if r.Scenario == ServiceKilled && r.Failed == 0 {
			t.Errorf("%s: the service was killed and no request failed", r.System)
		}
		if r.System != HadFast {
			if r.Move != nil {
				t.Errorf("%s tells of phases: %+v", r.System, r.Move)
			}
		} else if m := r.Move; m == nil || !m.Done || len(m.Phases) == 0 || m.From != r.From || m.To != r.To || m.Rule == "" {
			t.Errorf("%s, %s: no phases of the move from %s to %s: %+v", r.System, r.Scenario, r.From, r.To, m)
		}
	}
}

// TestMovesInTheHistory reads what hactl events prints: what changed the owner since the load began, and nothing else.
func TestMovesInTheHistory(t *testing.T) {
	const text = `[{"seq":3,"time":"2026-11-22T02:59:59Z","kind":"takeover","group":"web","from":"tomcat1","to":"tomcat2","reason":{"rule":"node-lost"}},
{"seq":4,"time":"2026-11-22T03:00:01Z","kind":"release","group":"web","from":"tomcat2","to":"tomcat1","reason":{"rule":"failover"}},
{"seq":5,"time":"2026-11-22T03:00:02Z","kind":"released","group":"web","from":"tomcat2","to":"tomcat1","reason":{"rule":"failover"}},
{"seq":6,"time":"2026-11-22T03:00:03Z","kind":"note","group":"web"},
{"seq":7,"time":"2026-11-22T03:00:09Z","kind":"takeover","group":"web","from":"tomcat1","to":"tomcat1","reason":{"rule":"node-lost"}}]`
	got, err := recordedMoves([]byte(text), t0)
	want := []LoadMove{{2 * time.Second, "tomcat2", "tomcat1", "failover"}, {9 * time.Second, "tomcat1", "tomcat1", "node-lost"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v: got %+v, want %+v", err, got, want)
	}
	if _, err := recordedMoves([]byte("busy"), t0); err == nil {
		t.Error("what is no history was read")
	}
}

// TestShortBenchmarkUnderLoad is a real one: two systems at once, with hogs on all of their nodes. How well they do is not judged.
func TestShortBenchmarkUnderLoad(t *testing.T) {
	bin, ctx := realBench(t, HadLan, KeepDefault)
	l := Load{For: 10 * time.Second, Systems: []string{HadLan, KeepDefault, ByHand}, Options: Options{Bin: bin}, Say: t.Logf}
	r, err := l.Run(ctx)
	if errors.Is(err, lab.ErrNotPermitted) {
		t.Skip("needs network namespaces: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + r.Table())
	if r.Hogs < r.Nodes || r.Nodes != 6 || len(r.Systems) != 2 || r.Lasted < l.For {
		t.Fatalf("%+v", r)
	}
	// Other jobs may have a part of the machine; all of the rest is the hogs'.
	if r.Idle > 0.1 || r.Hogged < 0.02 {
		t.Errorf("the processors were idle for %.0f %% of the time, the hogs had %.1f %%: that is no load", 100*r.Idle, 100*r.Hogged)
	}
	for _, x := range r.Systems {
		// A connection each 50 ms, some of which come late.
		if most := int(r.Lasted/loadEvery) + 25; x.Requests < most/4 || x.Requests > most || x.Gap < loadEvery/2 || x.P99 == 0 || x.Trouble != "" {
			t.Errorf("%s measured nothing: %+v", x.System, x)
		}
		if x.Recorded != (x.System == HadLan) {
			t.Errorf("%s: recorded %v", x.System, x.Recorded)
		}
		if x.System == HadLan && x.Double > 0 {
			t.Errorf("two nodes answered for %s (S1)", x.Double)
		}
	}
}
