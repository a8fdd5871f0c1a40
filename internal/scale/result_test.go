package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func TestTheReportSaysWhatWasMeasuredAndWhatNot(t *testing.T) {
	cells := []Cell{
		{Nodes: 3, Groups: 10, Voters: 3, Rest: mean(map[string][]Cost{partLeader: {{CPU: 2, PSS: 30, Bytes: 4000, Packets: 50}}, partVoter: {{CPU: 1}, {CPU: 3}}}),
			Moved: 10, Decided: 600 * time.Millisecond, Committed: 9 * time.Millisecond, Online: 40 * time.Millisecond},
		{Nodes: 9, Groups: 10, Rest: map[string]Cost{partLeader: {CPU: 4}, partNonvoter: {CPU: 1}}, Elections: 2},
		{Nodes: 64, Groups: 10, Failed: "too large"},
	}
	text := table(cells, "lan", "a machine")
	for _, want := range []string{
		"| 3 | 10 | leader | 2.00 | 30.0 | 4.0 | 50 | 0 |", "| 3 | 10 | voter | 2.00 |", "| 9 | 10 | non-voter | 1.00 | 0.0 | 0.0 | 0 | 2 |",
		"| 64 | 10 | not measured to the end: too large |", "| 3 | 10 | 600 | 9 | 40 |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	told := decisions("goos: linux\nBenchmarkScale/decide-dead/nodes=64/groups=1000-2   3   8123456 ns/op  77 B/op  9 allocs/op\n" +
		"BenchmarkScaleEncoding/report/nodes=64/groups=1000-2   3   1000000 ns/op   142497 bytes\nok\n")
	for _, want := range []string{"| step | 64x1000 |\n|---|---|\n", "| decide, the owner of all groups is dead | 8.12 |\n", "| encode a report | 1.00, 142.5 kB |\n"} {
		if !strings.Contains(told, want) {
			t.Errorf("%q is not in\n%s", want, told)
		}
	}
	if decisions("ok\n") != "" {
		t.Error("a table of nothing")
	}
	svg := curves(cells)
	for dec := xml.NewDecoder(strings.NewReader(svg)); ; {
		if _, err := dec.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, svg)
		}
	}
	if strings.Count(svg, "<circle") != 4*4 || strings.Count(svg, "<polyline") != 4 || strings.Contains(svg, "NaN") {
		t.Errorf("%d points, %d lines:\n%s", strings.Count(svg, "<circle"), strings.Count(svg, "<polyline"), svg)
	}
	for v, want := range map[float64]float64{0: 1, 0.3: 0.5, 1: 1, 11: 20, 99: 100, 430: 500} {
		if got := ceiling(v); got < want*0.999 || got > want*1.001 {
			t.Errorf("ceiling(%v) is %v, not %v", v, got, want)
		}
	}
}
