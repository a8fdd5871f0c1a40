package drill

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hacluster/internal/lab"
)

var (
	runs    = flag.Int("drill.n", 1, "repeat each drill this often")
	only    = flag.String("drill.only", "", "comma separated names of drills")
	timing  = flag.String("drill.timing", "lan", "comma separated profiles")
	table   = flag.String("drill.table", "", "write the results as a markdown table to this file")
	service = flag.String("drill.service", "test", "test or tomcat")
	keep    = flag.String("drill.keep", "", "keep what had logged in this directory")
)

func TestMain(m *testing.M) {
	if code, done, err := lab.Reexec(); done {
		os.Exit(code)
	} else if err != nil {
		fmt.Println("needs root or user namespaces:", err)
	}
	code := m.Run()
	if programs != "" {
		os.RemoveAll(programs)
	}
	os.Exit(code)
}

// built are the programs of the clusters of these tests, compiled once: to link them takes longer than to form a cluster.
var (
	programs string
	built    = sync.OnceValues(func() (dir string, err error) {
		if programs, err = os.MkdirTemp("", "had-programs-"); err != nil {
			return "", err
		}
		return programs, lab.Build(context.Background(), programs, "hacluster/cmd/had", "hacluster/cmd/hactl", lab.TestService)
	})
)

// beside lets a test run at one time with others of its kind, when all those have ended that must be alone: it checks what holds
// however slow the machine is, and mostly waits. What measures, and where no client may notice anything, stays alone.
func beside(t *testing.T) { t.Parallel() }

func formed(t *testing.T, o Options) (*Cluster, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(20+10**runs)*time.Minute)
	t.Cleanup(cancel)
	if o.Log == nil {
		o.Log = t.Logf
	}
	var err error
	if o.Bin, err = built(); err != nil {
		t.Fatal(err)
	}
	c, err := Form(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, n := range Nodes {
			if p := c.Agent(n); p != nil && (t.Failed() || *keep != "") {
				text, _ := os.ReadFile(p.Log)
				if *keep != "" {
					name := strings.ReplaceAll(t.Name(), "/", "-") + "-" + n + ".log"
					if err := os.WriteFile(filepath.Join(*keep, name), text, 0o644); err != nil {
						t.Error(err)
					}
				}
				if t.Failed() {
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
	seen := map[string]Outcomes{}
	profiles := strings.Split(*timing, ",")
	for _, profile := range profiles {
		t.Run(profile, func(t *testing.T) {
			c, ctx := formed(t, Options{Timing: profile, Service: *service})
			seen[profile] = c.drills(ctx, t, list)
			for _, d := range list {
				s := seen[profile].Of(d.Name)
				t.Logf("MEDIAN %-29s %8s (min %s, max %s), failed %.1f, n=%d", d.Name, s.Median.Round(time.Millisecond), s.Min.Round(time.Millisecond),
					s.Max.Round(time.Millisecond), s.Failed, s.N)
			}
		})
	}
	if *table != "" {
		if err := os.WriteFile(*table, []byte(Table(list, profiles, seen)), 0o644); err != nil {
			t.Error(err)
		}
	}
}

// drills runs each drill of the list as often as asked for, one after the other, so that no drill has a quiet hour for itself.
func (c *Cluster) drills(ctx context.Context, t *testing.T, list []Drill) (seen Outcomes) {
	for range *runs {
		for _, d := range list {
			out := c.judged(ctx, t, d, !d.Moves)
			seen = append(seen, out)
			t.Logf("%-29s outage %8s, %3d failed, double %s (present %s, %s), %s -> %s", d.Name, out.Outage.Round(time.Millisecond), out.Failed, out.Double,
				out.Present.Round(time.Millisecond), out.Layer, out.From, out.To)
			if b := out.Breach(); b != "" {
				t.Error(b)
			}
			if moved := out.From != out.To; moved != d.Moves {
				t.Errorf("%s: owner %s -> %s", d.Name, out.From, out.To)
			}
			if !d.Moves && out.Failed > 0 {
				t.Errorf("%s: %d requests failed (L2, L3)", d.Name, out.Failed)
			}
		}
	}
	return seen
}

// TestDoubleOwnershipIsSeen shows that a zero in the tables means something: the gate of a node whose user space is frozen is
// torn down from outside, so that nothing but its kernel decides, and the judges must see two nodes answer.
func TestDoubleOwnershipIsSeen(t *testing.T) {
	c, ctx := formed(t, Options{})
	st, err := c.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if st.Timing.Layer != "gate" {
		t.Skip("needs nf_tables: there is no gate to tear down")
	}
	d, _ := Find("all frozen")
	freeze := d.Fault
	d.Fault = func(ctx context.Context, c *Cluster, owner string) error {
		// Through a thread in the node's namespace: a command of the frozen node would freeze.
		return errors.Join(freeze(ctx, c, owner), c.Lab.Node(owner).Do(func() error {
			return exec.CommandContext(ctx, "nft", "flush", "ruleset").Run()
		}))
	}
	out, err := c.Run(ctx, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("outage %s, %d failed, double %s, present %s: %s", out.Outage, out.Failed, out.Double, out.Present, out.Breach())
	if out.Double < 200*time.Millisecond || out.Breach() == "" {
		t.Errorf("without a gate two nodes answered for %s, and the verdict is %q", out.Double, out.Breach())
	}
}
