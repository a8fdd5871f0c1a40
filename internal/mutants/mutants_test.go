package main

import (
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// Every mutant must still be one: a weakening of code that is there, which tests that are there can notice.
func TestEveryMutantApplies(t *testing.T) {
	name := regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	seen := map[string]bool{}
	for _, m := range mutants() {
		t.Run(m.name, func(t *testing.T) {
			if !name.MatchString(m.name) || seen[m.name] {
				t.Errorf("the name %q is malformed or taken", m.name)
			}
			seen[m.name] = true
			if m.does == "" || strings.Contains(m.does, "|") || strings.HasSuffix(m.does, ".") {
				t.Errorf("the sentence %q does not fit into the table", m.does)
			}
			text, err := m.apply(root)
			if err != nil {
				t.Fatal(err)
			}
			if m.old == m.new {
				t.Error("it changes nothing")
			}
			if _, err := parser.ParseFile(token.NewFileSet(), m.file, text, 0); err != nil {
				t.Errorf("the weakened file is no Go: %v", err)
			}
			if len(m.tests) == 0 {
				t.Error("no test is to catch it")
			}
			for _, c := range m.tests {
				if err := c.known(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	if n := len(mutants()); n < 20 {
		t.Errorf("%d mutants are too few to mean anything", n)
	}
}

// known says whether each test that the command names is one of the package.
func (c command) known() error {
	var text strings.Builder
	files, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(c.pkg), "*_test.go"))
	if err != nil {
		return err
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		text.Write(b)
	}
	for _, alternative := range strings.Split(c.run, "|") {
		top, _, _ := strings.Cut(alternative, "/")
		if !regexp.MustCompile(`(?m)^func ` + strings.TrimSuffix(top, "$") + `\w*\(t \*testing\.T\)`).MatchString(text.String()) {
			return fmt.Errorf("%s: package %s has no test that is named so", c, c.pkg)
		}
	}
	return nil
}

// The table in the manual lists the mutants there are, no more and no less.
func TestTheTableListsTheMutants(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs", "reliability.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _, err := split(string(text))
	if err != nil {
		t.Fatal(err)
	}
	var want, got []row
	for _, m := range mutants() {
		want = append(want, row{m.name, m.does, m.file, ""})
	}
	for _, r := range rows(table) {
		if !strings.Contains(r.by, "Test") {
			t.Errorf("%s: caught by nothing: %q", r.name, r.by)
		}
		r.by = ""
		got = append(got, r)
	}
	if !slices.Equal(got, want) {
		for _, r := range want {
			if !slices.Contains(got, r) {
				t.Errorf("missing in the table, or told otherwise: %s", r)
			}
		}
		for _, r := range got {
			if !slices.Contains(want, r) {
				t.Errorf("no such mutant: %s", r)
			}
		}
		t.Error("the table is not of these mutants in this order: run scripts/mutants -write")
	}
}

func TestATableIsReadAsItWasWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.md")
	if err := os.WriteFile(path, []byte("before\n"+tableBegin+"old\n"+tableEnd+"\nafter\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var results []result
	var want []row
	for _, m := range mutants() {
		results = append(results, result{m: m, outcome: caught, by: []string{"p TestA/b", "q TestC"}})
		want = append(want, row{m.name, m.does, m.file, "`p TestA/b`, `q TestC`"})
	}
	if err := writeTable(path, results); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, table, after, err := split(string(text))
	if err != nil || before != "before\n"+tableBegin || after != tableEnd+"\nafter\n" {
		t.Errorf("around it: %q, %q, %v", before, after, err)
	}
	if got := rows(table); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	// One that was judged anew: its row changes, or goes when it survived.
	results[0].by, want[0].by = []string{"p TestD"}, "`p TestD`"
	results[1].outcome = survived
	if err := writeTable(path, results[:2]); err != nil {
		t.Fatal(err)
	}
	if text, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	if got := rows(string(text)); !slices.Equal(got, slices.Delete(want, 1, 2)) {
		t.Errorf("after the second: %v", got[:3])
	}
}

func TestTheVerdictNamesWhatFailed(t *testing.T) {
	line := func(action, test, output string) string {
		return fmt.Sprintf(`{"Action":%q,"Test":%q,"Output":%q}`+"\n", action, test, output)
	}
	for name, c := range map[string]struct {
		events  string
		failed  bool
		passed  int
		blame   string
		skipped string
	}{
		"all pass":                {line("pass", "TestA/x", "") + line("pass", "TestA", "") + line("pass", "", ""), false, 1, "", ""},
		"one subtest":             {line("fail", "TestA/x", "") + line("fail", "TestA", ""), true, 0, "TestA/x", ""},
		"several of one test":     {line("fail", "TestA/x", "") + line("fail", "TestA/y", "") + line("fail", "TestA", ""), true, 0, "TestA", ""},
		"of two tests":            {line("fail", "TestA", "") + line("fail", "TestB/x", "") + line("fail", "TestB", ""), true, 0, "TestA, TestB", ""},
		"of three tests":          {line("fail", "TestA", "") + line("fail", "TestB", "") + line("fail", "TestC", ""), true, 0, "TestA, TestB and 1 more", ""},
		"a skip says why":         {line("output", "TestA", "    x_test.go:1: needs root\n") + line("skip", "TestA", ""), false, 0, "", "x_test.go:1: needs root"},
		"a name that begins like": {line("fail", "TestA", "") + line("fail", "TestAB", ""), true, 0, "TestA, TestAB", ""},
	} {
		v, err := judge([]byte(c.events))
		if err != nil {
			t.Fatal(err)
		}
		if v.failed != c.failed || v.passed != c.passed || v.skipped != c.skipped || c.failed && v.blame() != c.blame {
			t.Errorf("%s: %+v, blames %q", name, v, v.blame())
		}
	}
	if _, err := judge([]byte("no event\n")); err == nil {
		t.Error("garbage is taken for events")
	}
}

func TestASampleIsRepeatedByItsSeed(t *testing.T) {
	pick := func(seed uint64) []mutant {
		t.Helper()
		m, err := choose(mutants(), options{sample: 5, seed: seed})
		if err != nil || len(m) != 5 {
			t.Fatalf("%d mutants, %v", len(m), err)
		}
		return m
	}
	same := func(a, b mutant) bool { return a.name == b.name }
	if !slices.EqualFunc(pick(7), pick(7), same) || slices.EqualFunc(pick(7), pick(8), same) {
		t.Error("the choice does not follow the seed")
	}
	if _, err := choose(mutants(), options{run: "^nothing like it$"}); err == nil {
		t.Error("a choice of nothing is no error")
	}
}
