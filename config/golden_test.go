package config

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the expected texts in testdata")

// parse reads a file of testdata or examples by its name: had and node files as a node, all others as a cluster.
func parse(file string, text []byte) (any, error) {
	base := filepath.Base(file)
	if strings.HasPrefix(base, "had") || strings.Contains(base, "-node-") {
		return ParseNode(base, text)
	}
	return ParseCluster(base, text, Known{})
}

func glob(t *testing.T, pattern string, least int) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) < least {
		t.Fatalf("%s: %d files, want at least %d (%v)", pattern, len(files), least, err)
	}
	return files
}

func TestWrongFilesAreRefusedWithTheExactText(t *testing.T) {
	for _, file := range glob(t, "testdata/invalid-*.toml", 36) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = parse(file, text)
			if err == nil {
				t.Fatal("accepted")
			}
			got, golden := err.Error()+"\n", strings.TrimSuffix(file, ".toml")+".txt"
			if *rewrite {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			checkFaults(t, string(text), func() error { _, err := parse(file, text); return err }())
		})
	}
}

// checkFaults looks at what every fault must have: an order, a line inside the file, a key and what to do.
func checkFaults(t *testing.T, text string, err error) {
	t.Helper()
	faults := Faults(err)
	if len(faults) == 0 {
		t.Fatalf("no faults in %v", err)
	}
	if !slices.IsSortedFunc(faults, func(a, b Fault) int { return a.Line - b.Line }) {
		t.Errorf("not ordered by line: %v", faults)
	}
	for _, f := range faults {
		syntax := strings.HasPrefix(f.Reason, "not valid TOML: ")
		if f.Line < 1 || f.Line > strings.Count(text, "\n")+1 || f.Reason == "" || f.Hint == "" || f.Key == "" && !syntax {
			t.Errorf("incomplete fault %+v", f)
		}
		if strings.ContainsAny(f.Error(), "\n\r") {
			t.Errorf("more than one line: %q", f.Error())
		}
	}
}

func TestRightFilesAreAccepted(t *testing.T) {
	for _, file := range append(glob(t, "testdata/valid-*.toml", 4), glob(t, "../examples/*/*.toml", 5)...) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parse(file, text); err != nil {
			t.Errorf("%s:\n%v", file, err)
		}
	}
}
