package drill

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"hacluster/internal/lab"
)

var (
	runs    = flag.Int("drill.n", 1, "repeat each drill this often")
	only    = flag.String("drill.only", "", "comma separated names of drills")
	timing  = flag.String("drill.timing", "lan", "profile")
	service = flag.String("drill.service", "test", "test or tomcat")
)

func TestMain(m *testing.M) {
	if code, done, err := lab.Reexec(); done {
		os.Exit(code)
	} else if err != nil {
		fmt.Println("needs root or user namespaces:", err)
	}
	os.Exit(m.Run())
}

func formed(t *testing.T, o Options) (*Cluster, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	t.Cleanup(cancel)
	if o.Log == nil {
		o.Log = t.Logf
	}
	c, err := Form(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, n := range Nodes {
				if p := c.Agent(n); p != nil {
					text, _ := os.ReadFile(p.Log)
					lines := strings.Split(string(text), "\n")
					t.Logf("--- had on %s\n%s", n, strings.Join(lines[max(0, len(lines)-60):], "\n"))
				}
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c, ctx
}

// TestDrills checks S1 for every fault, and L2 and L3 where nothing may be noticed.
func TestDrills(t *testing.T) {
	c, ctx := formed(t, Options{Timing: *timing, Service: *service})
	list := Drills
	if *only != "" {
		list = nil
		for _, name := range strings.Split(*only, ",") {
			d, ok := Find(name)
			if !ok {
				t.Fatalf("no drill %q", name)
			}
			list = append(list, d)
		}
	}
	seen := map[string][]Outcome{}
	for range *runs {
		for _, d := range list {
			out, err := c.Run(ctx, d)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%-22s outage %8s, %3d failed, double %s, %s -> %s", d.Name, out.Outage.Round(time.Millisecond), out.Failed, out.Double, out.From, out.To)
			seen[d.Name] = append(seen[d.Name], out)
			if out.Double != 0 {
				t.Errorf("%s: two nodes held the address for %s (S1)", d.Name, out.Double)
			}
			if moved := out.From != out.To; moved != d.Moves {
				t.Errorf("%s: owner %s -> %s", d.Name, out.From, out.To)
			}
			if !d.Moves && out.Failed > 0 {
				t.Errorf("%s: %d requests failed (L2, L3)", d.Name, out.Failed)
			}
		}
	}
	for _, d := range list {
		s := seen[d.Name]
		slices.SortFunc(s, func(a, b Outcome) int { return int(a.Outage - b.Outage) })
		failed := 0
		for _, o := range s {
			failed += o.Failed
		}
		t.Logf("MEDIAN %-22s %8s (min %s, max %s), failed %.1f, n=%d", d.Name, s[len(s)/2].Outage.Round(time.Millisecond), s[0].Outage.Round(time.Millisecond),
			s[len(s)-1].Outage.Round(time.Millisecond), float64(failed)/float64(len(s)), len(s))
	}
}
