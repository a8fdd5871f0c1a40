package bench

import (
	"bytes"
	"encoding/xml"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

const msec = time.Millisecond

// sample is a report with one of everything that a report must be able to show.
func sample() Report {
	r := Report{Date: time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC), Took: 95 * time.Minute, Rounds: 3, Command: "scripts/bench -n 3",
		Machine: Machine{CPU: "Some CPU", Processors: 2, Kernel: "6.18.0", Versions: map[string]string{"keepalived": "1:2.2.7", "had": "abc1234"}}}
	add := func(system, scenario string, runs ...Run) {
		for i, x := range runs {
			x.System, x.Scenario, x.Round, x.From, x.To = system, scenario, i+1, "tomcat1", "tomcat2"
			r.Runs = append(r.Runs, x)
		}
	}
	add(HadFast, PlannedMove, Run{Outage: 31 * msec}, Run{Outage: 12 * msec, Failed: 1}, Run{Outage: 20 * msec, Repeats: 2})
	add(KeepFast, PlannedMove, Run{Outage: 63 * msec, Failed: 12}, Run{Outage: 60 * msec, Failed: 11, Trouble: []string{"not ready"}}, Run{Outage: 70 * msec, Failed: 13})
	add(ByHand, PlannedMove, Run{Outage: 26 * msec}, Run{Outage: 24 * msec}, Run{Outage: 27 * msec})
	add(HadFast, DaemonsKilled, Run{Outage: 300 * msec, Failed: 60}, Run{Outage: 250 * msec, Failed: 50})
	add(KeepFast, DaemonsKilled, Run{Outage: 20 * msec, Double: 3 * time.Second, Endless: true}, Run{Outage: 24 * msec, Double: 2 * time.Second, Endless: true})
	add(PacemakerStock, DaemonsKilled, Run{Outage: 9100 * msec, Failed: 1800}, Run{Outage: 90 * time.Second, Failed: 18000, Lost: true})
	add(KeepFast, CutFromPeers, Run{Outage: 25 * msec, Double: 400 * time.Microsecond})
	add(HadFast, CutFromPeers, Run{Outage: 80 * msec, Failed: 13, Back: Back{Outage: 10 * msec}})
	add(HadFast, NoFault, Run{Outage: 11 * msec})
	return r
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || string(want) != got {
		t.Errorf("%s differs (%v; -rewrite writes it anew):\n%s", file, err, got)
	}
}

func TestTableOfABenchmark(t *testing.T) {
	golden(t, "table.txt", sample().Runs.Table())
}

func TestSectionOfTheManual(t *testing.T) {
	golden(t, "section.md", string(sample().Section("performance.svg", "performance-phases.svg")))
}

func wellFormed(t *testing.T, text string) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader([]byte(text)))
	for {
		if _, err := d.Token(); err != nil {
			if err.Error() != "EOF" {
				t.Errorf("the picture is no XML: %v", err)
			}
			return
		}
	}
}

func TestPictureIsWholeAndEveryDotHasItsPlace(t *testing.T) {
	text := sample().Runs.SVG()
	golden(t, "picture.svg", text)
	wellFormed(t, text)
	for _, c := range []struct {
		d    time.Duration
		want float64
	}{{0, picLeft}, {msec, picLeft}, {100 * time.Second, picWidth - picRight}, {time.Hour, picWidth - picRight}} {
		if got := x(c.d); got != c.want {
			t.Errorf("%s is drawn at %.1f, want %.1f", c.d, got, c.want)
		}
	}
	if a, b, c := x(10*msec), x(100*msec), x(time.Second); b-a < c-b-1e-6 || b-a > c-b+1e-6 {
		t.Errorf("the axis is not logarithmic: %.1f %.1f %.1f", a, b, c)
	}
	for _, s := range SystemNames {
		if colours[s] == "" || short[s][0] == "" {
			t.Errorf("%s has no colour or no heading", s)
		}
	}
}

func TestSummary(t *testing.T) {
	rs := Runs{
		{System: HadFast, Scenario: PowerCut, Outage: 40 * msec, Failed: 4}, {System: HadFast, Scenario: PowerCut, Outage: 10 * msec, Failed: 1},
		{System: HadFast, Scenario: PowerCut, Outage: 30 * msec, Failed: 2, Double: 2 * msec}, {System: HadFast, Scenario: PowerCut, Outage: 90 * msec, Failed: 9, Double: 5 * msec, Endless: true},
		{System: KeepFast, Scenario: PowerCut, Outage: time.Hour}, {System: HadFast, Scenario: NoFault, Outage: time.Hour},
	}
	got := rs.Of(HadFast, PowerCut)
	want := Summary{N: 4, Median: 35 * msec, Min: 10 * msec, Max: 90 * msec, Failed: 3, Double: 5 * msec, DoubleRuns: 2, Endless: 1}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := rs.Of(ByHand, PowerCut); got != (Summary{}) {
		t.Errorf("nothing was run: %+v", got)
	}
	if got := rs[:3].Of(HadFast, PowerCut).Median; got != 30*msec {
		t.Errorf("the median of 10, 30 and 40 is %s", got)
	}
}

func TestTheFastestPeerIsNoneOfOursAndCleanWhereAskedFor(t *testing.T) {
	rs := sample().Runs
	for _, c := range []struct {
		scenario string
		clean    bool
		want     string
	}{
		{PlannedMove, false, KeepFast}, {PlannedMove, true, KeepFast}, {DaemonsKilled, false, KeepFast}, {DaemonsKilled, true, ""}, {CutFromPeers, true, ""}, {NoFault, false, ""},
	} {
		if got, _ := rs.Fastest(c.scenario, c.clean); got != c.want {
			t.Errorf("%s, clean %v: %q, want %q", c.scenario, c.clean, got, c.want)
		}
	}
}

func TestAReportComesBackFromJSON(t *testing.T) {
	r := sample()
	text, err := r.JSON()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Read(text)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := r.Section("x.svg", "y.svg"), again.Section("x.svg", "y.svg"); !bytes.Equal(a, b) || len(again.Runs) != len(r.Runs) {
		t.Errorf("%d runs came back of %d:\n%s", len(again.Runs), len(r.Runs), b)
	}
}

func TestBetween(t *testing.T) {
	got, err := Between([]byte("a\n<!-- begin bench -->\nold\n<!-- end bench -->\nz\n"), "bench", []byte("new\n"))
	if want := "a\n<!-- begin bench -->\nnew\n<!-- end bench -->\nz\n"; err != nil || string(got) != want {
		t.Errorf("%v: %q", err, got)
	}
	if _, err := Between([]byte("no markers"), "bench", nil); err == nil {
		t.Error("a document without markers was taken")
	}
	text, err := os.ReadFile("../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, section := range []string{"bench", "load"} {
		if _, err := Between(text, section, nil); err != nil {
			t.Errorf("docs/performance.md: %v", err)
		}
	}
}

func TestScenariosAndSystemsAreFoundByName(t *testing.T) {
	for _, s := range Scenarios {
		if got, ok := Find(s.Name); !ok || got.Does == "" {
			t.Errorf("%s: %+v, %v", s.Name, got, ok)
		}
	}
	if _, ok := Find("earthquake"); ok {
		t.Error("an unknown scenario was found")
	}
	if !slices.Equal(sample().Runs.Systems(), []string{HadFast, KeepFast, PacemakerStock, ByHand}) {
		t.Errorf("systems that ran: %v", sample().Runs.Systems())
	}
}
