package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"hacluster/placement"
)

func leaf(name string) placement.Expr { return placement.Expr{Name: name} }

func TestDependsOnIsReadWithAndBeforeOr(t *testing.T) {
	a, b, c := leaf("a"), leaf("b"), leaf("c")
	for text, want := range map[string]*placement.Expr{
		"":                    nil,
		"  ":                  nil,
		"a":                   &a,
		"((a))":               &a,
		"a and b":             {All: []placement.Expr{a, b}},
		"a or b or c":         {Any: []placement.Expr{a, b, c}},
		"a and b or c":        {Any: []placement.Expr{{All: []placement.Expr{a, b}}, c}},
		"a and(b or c)":       {All: []placement.Expr{a, {Any: []placement.Expr{b, c}}}},
		"a or b and c":        {Any: []placement.Expr{a, {All: []placement.Expr{b, c}}}},
		"(a or b) and\tc":     {All: []placement.Expr{{Any: []placement.Expr{a, b}}, c}},
		"a and (b and c)":     {All: []placement.Expr{a, {All: []placement.Expr{b, c}}}},
		"(a or b) or (c)":     {Any: []placement.Expr{{Any: []placement.Expr{a, b}}, c}},
		" ( a and b ) or(c) ": {Any: []placement.Expr{{All: []placement.Expr{a, b}}, c}},
	} {
		got, err := ParseDependsOn(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q (-want +got):\n%s", text, d)
		}
	}
}

func TestDependsOnIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"a and":                    "a resource name is missing at the end",
		"or a":                     `"or" stands where`,
		"a b":                      `"b" follows where`,
		"(a":                       "a closing parenthesis is missing",
		"a)":                       `")" follows where`,
		"a && b":                   `"&&" follows where`,
		"A":                        "not a resource name",
		strings.Repeat("(", 1000):  "parentheses are nested",
		"a and ":                   "missing at the end",
		"a and not b":              `"b" follows where`,
		strings.Repeat("(", 51):    "parentheses are nested",
		"a and \x00":               "not a resource name",
		"a\u00a0b or \u2003and a-": "",
	} {
		if e, err := ParseDependsOn(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, %v, want %q", text, e, err, want)
		}
	}
}

func FuzzDependsOn(f *testing.F) {
	for _, seed := range []string{"", "a", "a and b or (c and d)", "((a)", "a or", ")(", "and", "(a or b) or c", "a and (b and c)"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := ParseDependsOn(text)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("more than one line: %q", err)
			}
			return
		}
		again, err := ParseDependsOn(FormatDependsOn(e))
		if err != nil {
			t.Fatalf("%q -> %q: %v", text, FormatDependsOn(e), err)
		}
		if d := cmp.Diff(e, again); d != "" {
			t.Errorf("%q -> %q:\n%s", text, FormatDependsOn(e), d)
		}
	})
}
