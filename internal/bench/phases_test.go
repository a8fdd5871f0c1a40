package bench

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// told is a move that is known from end to end, of phases by name and milliseconds.
func told(phases ...any) *Move {
	m := &Move{Seq: 7, From: "tomcat1", To: "tomcat2", Epoch: 3, Leader: "witness", Rule: "move", Done: true}
	for i := 0; i < len(phases); i += 2 {
		p := Phase{Name: phases[i].(string), Node: "witness", Took: time.Duration(phases[i+1].(float64) * float64(msec))}
		m.Phases, m.Total = append(m.Phases, p), m.Total+p.Took
	}
	return m
}

// timed is sample with moves in it: short and long ones, of both profiles, whole ones and others.
func timed() Report {
	r := sample()
	add := func(system, scenario string, outage time.Duration, m *Move) {
		r.Runs = append(r.Runs, Run{System: system, Scenario: scenario, Round: 1, From: "tomcat1", To: "tomcat2", Outage: outage, Move: m})
	}
	planned := func(scale float64) *Move {
		return told("decided", .4*scale, "committed", 5*scale, "released", .02*scale, "handed-on", 2*scale, "acquired", 2.5*scale, "announced", .1*scale, "online", 3*scale, "underway", 2*scale)
	}
	add(HadFast, PlannedMove, 9*msec, planned(1))
	add(HadFast, PlannedMove, 12*msec, planned(2))
	add(HadLan, PlannedMove, 30*msec, planned(1.5))
	add(HadFast, PowerCut, 350*msec, told("detected", 338.0, "decided", .5, "committed", 4.0, "acquired", 2.0, "announced", .1, "online", 3.0))
	add(HadLan, PowerCut, 960*msec, told("detected", 965.0, "decided", .5, "committed", 4.0, "acquired", 2.0, "announced", .1))
	lost := planned(50)
	lost.Part = true
	add(HadLan, PowerCut, 990*msec, lost)
	add(HadFast, NoFault, 9*msec, nil)
	return r
}

func TestPhasesInSectionAndPicture(t *testing.T) {
	r := timed()
	golden(t, "phases.md", r.Runs.PhaseTable())
	text := r.Runs.PhaseSVG()
	golden(t, "phases.svg", text)
	wellFormed(t, text)
	section := string(r.Section("performance.svg", "performance-phases.svg"))
	if !strings.Contains(section, "![phases](performance-phases.svg)") || !strings.HasSuffix(section, r.Runs.PhaseTable()) {
		t.Errorf("no phases in the section:\n%s", section)
	}
	for _, want := range []string{"moves of 100 ms at most", "longer ones"} {
		if !strings.Contains(text, want) {
			t.Errorf("no part %q in the picture", want)
		}
	}
}

// TestRunsWithoutPhasesAreFine reads a record as it was written before runs had any.
func TestRunsWithoutPhasesAreFine(t *testing.T) {
	r := sample()
	text, err := r.JSON()
	if err != nil || bytes.Contains(text, []byte(`"move"`)) {
		t.Fatalf("%v: a run without a move has one in the record:\n%s", err, text)
	}
	if r, err = Read(text); err != nil {
		t.Fatal(err)
	}
	if r.Runs.PhaseTable() != "" || r.Runs.PhaseSVG() != "" || bytes.Contains(r.Section("a.svg", "b.svg"), []byte("b.svg")) {
		t.Error("there are phases where no run has any")
	}
	if got := r.Runs.PartsOf(HadFast, PlannedMove); got.N != 0 || got.Runs != 3 || len(got.Took) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestPhasesComeBackFromJSON(t *testing.T) {
	r := timed()
	text, err := r.JSON()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Read(text)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := r.Runs.PhaseSVG(), again.Runs.PhaseSVG(); a != b {
		t.Errorf("the picture of what was read differs:\n%s", b)
	}
}

func TestMediansOfPhases(t *testing.T) {
	run := func(outage time.Duration, m *Move) Run {
		return Run{System: HadFast, Scenario: PowerCut, Outage: outage, Move: m}
	}
	part, undone := told("detected", 900.0), told("detected", 900.0)
	part.Part, undone.Done = true, false
	lost := run(time.Minute, told("detected", 900.0))
	lost.Lost = true
	rs := Runs{run(15*msec, told("detected", 10.0, "committed", 2.0)), run(10*msec, told("detected", 30.0)), run(37*msec, told("detected", 20.0, "committed", 4.0, "online", 6.0)),
		run(time.Minute, part), run(time.Minute, undone), lost, run(time.Minute, nil), {System: HadLan, Scenario: PowerCut, Outage: time.Minute, Move: told("detected", 900.0)}}
	got := rs.PartsOf(HadFast, PowerCut)
	// Two of three are longer than their sum, by 3 and 7; one of three was seen online, which is too few.
	want := Parts{N: 3, Runs: 7, Took: map[string]time.Duration{"detected": 20 * msec, "committed": 3 * msec, firstAnswer: 5 * msec}, Total: 30 * msec, Outage: 15 * msec}
	if !maps.Equal(got.Took, want.Took) || got.N != want.N || got.Runs != want.Runs || got.Total != want.Total || got.Outage != want.Outage {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestWhatHactlSaysIsRead(t *testing.T) {
	const good = `{"group":"web","move":{"seq":42,"time":"2026-11-22T03:00:00Z","group":"web","from":"tomcat1","to":"tomcat2","epoch":4,"leader":"witness","done":true,
"total_ns":6000000,"phases":[{"name":"detected","node":"tomcat1","took_ns":1000000},{"name":"underway","took_ns":5000000}],"reason":{"rule":"failover","text":"x"}}}`
	m, err := readMove([]byte(good))
	if err != nil || m == nil || m.Seq != 42 || m.From != "tomcat1" || m.To != "tomcat2" || m.Epoch != 4 || m.Leader != "witness" || m.Rule != "failover" || !m.Done || m.Part ||
		m.Total != 6*msec || !slices.Equal(m.Phases, []Phase{{"detected", "tomcat1", msec}, {"underway", "", 5 * msec}}) {
		t.Errorf("%v: %+v", err, m)
	}
	if m, err := readMove([]byte(`{"group":"web","move":null}`)); m != nil || err != nil {
		t.Errorf("no move: %+v, %v", m, err)
	}
	for what, text := range map[string]string{
		"no JSON": "web n1 -> n2", "a phase that nobody knows": strings.Replace(good, "underway", "pondering", 1), "a sum that is none": strings.Replace(good, "6000000", "6000001", 1),
	} {
		if m, err := readMove([]byte(text)); err == nil {
			t.Errorf("%s was taken: %+v", what, m)
		}
	}
}

func TestOnlyTheMoveOfARunIsKept(t *testing.T) {
	r := Run{From: "tomcat1", To: "tomcat2"}
	old := &Move{Seq: 5, From: "tomcat1", To: "tomcat2"}
	for _, c := range []struct {
		what      string
		m, before *Move
		want      bool
	}{
		{"newer", &Move{Seq: 6, From: "tomcat1", To: "tomcat2"}, old, true}, {"the first one", &Move{Seq: 6, From: "tomcat1", To: "tomcat2"}, nil, true},
		{"the one before", old, old, false}, {"back again", &Move{Seq: 9, From: "tomcat2", To: "tomcat1"}, old, false},
		{"from nobody", &Move{Seq: 6, To: "tomcat2"}, old, false}, {"none", nil, old, false},
	} {
		if got := r.caused(c.m, c.before); got != c.want {
			t.Errorf("%s: kept %v", c.what, got)
		}
	}
}

// TestPhasesAreThoseOfTheManual compares with the table that hactl is documented by.
func TestPhasesAreThoseOfTheManual(t *testing.T) {
	text, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	_, why, _ := strings.Cut(string(text), "### why GROUP")
	why, _, _ = strings.Cut(why, "\n### ")
	_, table, _ := strings.Cut(why, "| phase |")
	table, _, _ = strings.Cut(table, "\n\n")
	var names []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\|").FindAllStringSubmatch(table, -1) {
		names = append(names, m[1])
	}
	if !slices.Equal(names, phaseNames) {
		t.Errorf("docs/cli.md has the phases %v, the picture %v", names, phaseNames)
	}
	for _, name := range stack {
		if phaseColours[name] == "" {
			t.Errorf("%s has no colour", name)
		}
	}
}

func TestAxisHasRoundMarks(t *testing.T) {
	for d, want := range map[time.Duration]time.Duration{0: msec, 8 * msec: msec, 9 * msec: 2 * msec, 35 * msec: 5 * msec, 100 * msec: 20 * msec, 970 * msec: 200 * msec, 9 * time.Second: 2 * time.Second} {
		if got := step(d); got != want {
			t.Errorf("up to %s a mark every %s, want %s", d, got, want)
		}
	}
}

func TestARecordNamesItsFields(t *testing.T) {
	text, err := os.ReadFile("../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	m := told("decided", 1.0)
	m.Part = true
	record, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(record, &fields); err != nil {
		t.Fatal(err)
	}
	for name := range fields {
		if !bytes.Contains(text, []byte("`"+name+"`")) {
			t.Errorf("docs/performance.md does not tell what %s in the record of a move is", name)
		}
	}
}
