package health

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var t0 = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func spec(name string, kind Kind) Spec {
	return Spec{Name: name, Kind: kind, Level: IsAlive, Fall: 3, Rise: 2}
}

// story feeds lines such as "ajp timeout timeout pass", one second between the results of a line, and "start" which
// starts the resource. Each line begins a second after the one before.
func story(f Fold, lines ...string) (Fold, time.Time) {
	now := t0
	for _, line := range lines {
		words := strings.Fields(line)
		if words[0] == "start" {
			f = f.Started(now)
			continue
		}
		for _, w := range words[1:] {
			now = now.Add(time.Second)
			f = f.Add(Result{Probe: words[0], Outcome: Outcome(w), Detail: "seen " + w, At: now})
		}
	}
	return f, now
}

func TestVerdict(t *testing.T) {
	tcp, web, ajp, proc := spec("tcp", KindTCP), spec("web", KindHTTP), spec("ajp", KindAJP), spec("proc", KindProcess)
	proc.Fall = 1
	gateway := spec("gateway", KindPing)
	tests := []struct {
		name  string
		specs []Spec
		story []string
		later time.Duration // time of the verdict after the last result
		want  Verdict
		why   string // contained in the reason
	}{
		{"no probe knows nothing", nil, nil, 0, Unknown, "no probe"},
		{"no result knows nothing", []Spec{web}, nil, 0, Unknown, "web has not answered yet"},
		{"only skips know nothing", []Spec{web}, []string{"web skip skip skip skip"}, 0, Unknown, "could not be asked: seen skip"},
		{"a pass is healthy", []Spec{web}, []string{"web pass"}, 0, Healthy, "1 probe passes"},
		{"a probe that cannot be asked does not spoil the others", []Spec{gateway, web}, []string{"web pass", "gateway skip"}, 0, Healthy, "gateway could not be asked"},
		{"half the answers are not healthy yet", []Spec{ajp, web}, []string{"web pass"}, 0, Unknown, "ajp has not answered"},
		{"a warning degrades", []Spec{web}, []string{"web pass warn"}, 0, Degraded, "web warns: seen warn"},
		{"failures below fall degrade", []Spec{web}, []string{"web pass fail fail"}, 0, Degraded, "web failed, 2 in a row (3 condemn)"},
		{"fall refusals are dead", []Spec{web}, []string{"web pass fail fail fail"}, 0, Dead, "3 in a row"},
		{"fall timeouts are hung", []Spec{web}, []string{"web pass timeout timeout timeout"}, 0, Hung, "did not answer"},
		{"a pass between starts the count again", []Spec{web}, []string{"web fail fail pass fail fail"}, 0, Degraded, ""},
		{"a warning between starts the count again", []Spec{web}, []string{"web fail fail warn fail fail"}, 0, Degraded, ""},
		{"a skip between neither counts nor forgives", []Spec{web}, []string{"web fail skip fail skip fail"}, 0, Dead, ""},
		{"skips after one failure do not condemn", []Spec{web}, []string{"web pass fail skip skip skip skip"}, 0, Degraded, ""},
		{"one pass does not acquit when rise is two", []Spec{web}, []string{"web timeout timeout timeout pass"}, 0, Hung, "passed 1 of the 2"},
		{"rise passes acquit", []Spec{web}, []string{"web timeout timeout timeout pass pass"}, 0, Healthy, ""},
		{"rise counts from the last failure", []Spec{web}, []string{"web fail fail fail pass fail pass"}, 0, Dead, ""},
		{"a gone process is dead whatever else times out", []Spec{web, proc}, []string{"proc pass fail", "web timeout timeout timeout"}, 0, Dead, "proc failed"},
		{"a living process with a silent service is hung", []Spec{web, proc}, []string{"web pass timeout timeout timeout", "proc pass"}, 0, Hung, "web did not answer"},
		{"refusal beside silence is hung, for it needs a kill", []Spec{web, tcp}, []string{"web timeout timeout timeout", "tcp fail fail fail"}, 0, Hung, "tcp failed"},
		{"mixed failures that end in silence are hung when another answers", []Spec{web, tcp}, []string{"web fail timeout timeout", "tcp pass"}, 0, Hung, ""},
		{"mixed failures that end in silence alone are dead", []Spec{web}, []string{"web fail timeout timeout"}, 0, Dead, ""},
		{"mixed failures that end in a refusal are dead", []Spec{web, tcp}, []string{"web timeout timeout fail", "tcp pass"}, 0, Dead, ""},

		{"a start is starting before any result", []Spec{web}, []string{"start"}, 0, Starting, "30s left"},
		{"failures during the start are starting", []Spec{web}, []string{"start", "web fail fail fail fail timeout"}, 0, Starting, "web did not answer"},
		{"the same failures after the grace condemn", []Spec{web}, []string{"start", "web fail fail fail fail"}, 30 * time.Second, Dead, ""},
		{"few failures after the grace degrade", []Spec{web}, []string{"start", "web fail fail"}, 30 * time.Second, Degraded, ""},
		{"the first pass ends the start though rise is two", []Spec{web}, []string{"start", "web fail fail fail fail pass"}, 0, Healthy, ""},
		{"the start lasts until each probe passed", []Spec{web, proc}, []string{"start", "proc pass", "web fail fail fail"}, 0, Starting, "web failed"},
		{"a process that dies within the grace is dead at once", []Spec{web, proc}, []string{"start", "proc pass fail"}, 0, Dead, "proc failed"},
		{"a service that passed and then hangs is hung within the grace", []Spec{web}, []string{"start", "web pass timeout timeout timeout"}, 0, Hung, ""},
		{"a start forgets the past", []Spec{web}, []string{"web fail fail fail", "start", "web pass"}, 0, Healthy, ""},
		{"a start does not wait for a probe that cannot be asked", []Spec{web, gateway}, []string{"start", "gateway skip", "web pass"}, 0, Healthy, ""},
		{"a start in which nothing can be asked is starting", []Spec{web}, []string{"start", "web skip"}, 0, Starting, ""},
		{"and unknown after it", []Spec{web}, []string{"start", "web skip"}, 40 * time.Second, Unknown, ""},

		{"silent AJP beside answering HTTP is degraded", []Spec{ajp, web}, []string{"ajp pass timeout timeout timeout", "web pass"}, 0, Degraded, "ajp did not answer, 3 in a row"},
		{"and hung after twice its fall", []Spec{ajp, web}, []string{"ajp pass timeout timeout timeout timeout timeout timeout", "web pass"}, 0, Hung, "6 in a row"},
		{"silent AJP beside silent HTTP is hung at its fall", []Spec{ajp, web}, []string{"web pass", "ajp timeout timeout timeout", "web timeout"}, 0, Hung, ""},
		{"silent AJP alone is hung at its fall", []Spec{ajp}, []string{"ajp timeout timeout timeout"}, 0, Hung, ""},
		{"refused AJP beside answering HTTP is dead at its fall", []Spec{ajp, web}, []string{"ajp fail fail fail", "web pass"}, 0, Dead, ""},
		{"a hung AJP is not eased by one answer", []Spec{ajp, web}, []string{"web pass", "ajp timeout timeout timeout timeout timeout timeout pass timeout"}, 0, Hung, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, now := story(NewFold(tt.specs, 30*time.Second), tt.story...)
			got, why := f.Verdict(now.Add(tt.later))
			if got != tt.want || !strings.Contains(why, tt.why) {
				t.Errorf("got %s (%s), want %s (...%s...)", got, why, tt.want, tt.why)
			}
			if why == "" || strings.Contains(why, "\n") {
				t.Errorf("the reason must be one line, got %q", why)
			}
			if f.Healthy() != (got == Healthy) {
				t.Errorf("Healthy() is %v, verdict %s", f.Healthy(), got)
			}
		})
	}
}

func TestResultsOfChecksThatBeganBeforeTheStartAreIgnored(t *testing.T) {
	f := NewFold([]Spec{spec("web", KindHTTP)}, time.Minute).Started(t0)
	old := Result{Probe: "web", Outcome: Pass, At: t0.Add(time.Second), Latency: 2 * time.Second}
	if got, why := f.Add(old).Verdict(t0.Add(time.Second)); got != Starting {
		t.Errorf("a pass of the old process: got %s (%s), want starting", got, why)
	}
	old.Latency = time.Second
	if got, why := f.Add(old).Verdict(t0.Add(time.Second)); got != Healthy {
		t.Errorf("a pass of the new process: got %s (%s), want healthy", got, why)
	}
}

func TestGraceEndsIsTheOnlyInstantTheVerdictWaitsFor(t *testing.T) {
	f := NewFold([]Spec{spec("web", KindHTTP)}, time.Minute)
	if got := f.GraceEnds(); !got.IsZero() {
		t.Errorf("without a start: got %v, want none", got)
	}
	f = f.Started(t0)
	if got, want := f.GraceEnds(), t0.Add(time.Minute); !got.Equal(want) {
		t.Errorf("during the start: got %v, want %v", got, want)
	}
	f = f.Add(Result{Probe: "web", Outcome: Pass, At: t0.Add(time.Second)})
	if got := f.GraceEnds(); !got.IsZero() {
		t.Errorf("after the first pass: got %v, want none", got)
	}
}

func TestAFailureOfLooksAliveNeedsADeepCheck(t *testing.T) {
	cheap := spec("cheap", KindTCP)
	cheap.Level = LooksAlive
	f := NewFold([]Spec{cheap, spec("deep", KindHTTP)}, 0)
	f, _ = story(f, "deep pass", "cheap pass")
	if f.NeedsDeep() {
		t.Error("all pass: no deep check is needed")
	}
	f = f.Add(Result{Probe: "cheap", Outcome: Skip, At: t0.Add(9 * time.Second)})
	if f.NeedsDeep() {
		t.Error("a skip needs no deep check")
	}
	f = f.Add(Result{Probe: "cheap", Outcome: Timeout, At: t0.Add(10 * time.Second)})
	if !f.NeedsDeep() {
		t.Error("the cheap probe failed: a deep check is needed")
	}
	f = f.Add(Result{Probe: "deep", Outcome: Pass, At: t0.Add(11 * time.Second), Latency: time.Millisecond})
	if f.NeedsDeep() {
		t.Error("the deep check came: no other is needed")
	}
}

func TestAddLeavesTheOldValueAlone(t *testing.T) {
	f, now := story(NewFold([]Spec{spec("web", KindHTTP)}, 0), "web fail fail")
	_ = f.Add(Result{Probe: "web", Outcome: Fail, At: now})
	if got, why := f.Verdict(now); got != Degraded {
		t.Errorf("got %s (%s), want the old degraded", got, why)
	}
}

// outcomes and kinds for the properties.
var (
	outcomes = rapid.SampledFrom([]Outcome{Pass, Warn, Fail, Timeout, Skip})
	kinds    = rapid.SampledFrom([]Kind{KindTCP, KindHTTP, KindAJP, KindProcess, KindSystemd, KindScript, KindPing})
)

func drawSpecs(t *rapid.T) []Spec {
	var specs []Spec
	for i := range rapid.IntRange(1, 4).Draw(t, "probes") {
		specs = append(specs, Spec{
			Name: fmt.Sprint("p", i), Kind: kinds.Draw(t, "kind"), Level: IsAlive,
			Fall: rapid.IntRange(1, 4).Draw(t, "fall"), Rise: rapid.IntRange(1, 3).Draw(t, "rise"),
		})
	}
	return specs
}

func drawResults(t *rapid.T, specs []Spec) []Result {
	var rs []Result
	for i := range rapid.IntRange(0, 40).Draw(t, "results") {
		rs = append(rs, Result{
			Probe: rapid.SampledFrom(specs).Draw(t, "probe").Name, Outcome: outcomes.Draw(t, "outcome"),
			At: t0.Add(time.Duration(i+1) * time.Second),
		})
	}
	return rs
}

func condemns(v Verdict) bool { return v == Hung || v == Dead }

func TestPropertySkipsNeverCondemn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		specs := drawSpecs(t)
		with, without := NewFold(specs, 0), NewFold(specs, 0)
		for _, r := range drawResults(t, specs) {
			with = with.Add(r)
			if r.Outcome != Skip {
				without = without.Add(r)
			}
		}
		now := t0.Add(time.Hour)
		a, whyA := with.Verdict(now)
		b, whyB := without.Verdict(now)
		if condemns(a) != condemns(b) || condemns(a) && a != b {
			t.Fatalf("with skips %s (%s), without %s (%s)", a, whyA, b, whyB)
		}
	})
}

func TestPropertyCondemnedOnlyAfterFallFailuresInARow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		specs := drawSpecs(t)
		fold := NewFold(specs, 0)
		row, reached := map[string]int{}, false
		for _, r := range drawResults(t, specs) {
			fold = fold.Add(r)
			switch r.Outcome {
			case Pass, Warn:
				row[r.Probe] = 0
			case Fail, Timeout:
				row[r.Probe]++
			}
			for _, s := range specs {
				reached = reached || row[s.Name] >= s.Fall
			}
			if v, why := fold.Verdict(r.At); condemns(v) && !reached {
				t.Fatalf("%s (%s) though no probe failed its fall in a row", v, why)
			}
		}
	})
}

// The other direction: a fold that never condemned would satisfy the property above.
func TestPropertyFallFailuresInARowDoCondemn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		specs := drawSpecs(t)
		fold := NewFold(specs, 0)
		for _, r := range drawResults(t, specs) {
			fold = fold.Add(r)
		}
		bad := rapid.SampledFrom(specs).Draw(t, "bad")
		now := t0.Add(time.Hour)
		for range 2 * bad.Fall { // twice, for AJP beside HTTP
			fold = fold.Add(Result{Probe: bad.Name, Outcome: rapid.SampledFrom([]Outcome{Fail, Timeout}).Draw(t, "failure"), At: now})
		}
		if v, why := fold.Verdict(now); !condemns(v) {
			t.Fatalf("got %s (%s) after %d failures in a row of %s", v, why, 2*bad.Fall, bad.Name)
		}
	})
}

func TestPropertyTheOrderOfIndependentProbesDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		specs := drawSpecs(t)
		results := drawResults(t, specs)
		order := rapid.Permutation(specs).Draw(t, "order")
		a := NewFold(specs, 20*time.Second).Started(t0)
		b := NewFold(order, 20*time.Second).Started(t0)
		for _, r := range results {
			a = a.Add(r)
		}
		for _, s := range order { // all of one probe, then all of the next
			for _, r := range results {
				if r.Probe == s.Name {
					b = b.Add(r)
				}
			}
		}
		now := t0.Add(time.Duration(rapid.IntRange(0, 60).Draw(t, "now")) * time.Second)
		va, whyA := a.Verdict(now)
		vb, whyB := b.Verdict(now)
		if va != vb || whyA != whyB {
			t.Fatalf("%s (%s) and %s (%s)", va, whyA, vb, whyB)
		}
	})
}

func TestPropertyHealthyIsTheVerdictHealthyAtAnyTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		specs := drawSpecs(t)
		fold := NewFold(specs, 20*time.Second)
		if rapid.Bool().Draw(t, "started") {
			fold = fold.Started(t0)
		}
		for _, r := range drawResults(t, specs) {
			fold = fold.Add(r)
		}
		for _, after := range []time.Duration{0, 10 * time.Second, time.Hour} {
			if v, why := fold.Verdict(t0.Add(after)); (v == Healthy) != fold.Healthy() {
				t.Fatalf("after %v: %s (%s), Healthy() %v", after, v, why, fold.Healthy())
			}
		}
	})
}

func TestPropertyAStartIsNeverCondemnedBeforeItsFirstPass(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		specs := drawSpecs(t)
		fold := NewFold(specs, time.Hour).Started(t0)
		for _, r := range drawResults(t, specs) {
			if r.Outcome == Pass || r.Outcome == Warn {
				continue
			}
			fold = fold.Add(r)
			if v, why := fold.Verdict(r.At); v != Starting {
				t.Fatalf("got %s (%s), want starting", v, why)
			}
		}
	})
}
