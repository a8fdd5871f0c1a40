package placement

import (
	"strings"
	"testing"
)

func TestExpr(t *testing.T) {
	online := func(name string) bool { return name == "a" || name == "b" }
	leaf := func(n string) Expr { return Expr{Name: n} }
	for name, c := range map[string]struct {
		e    *Expr
		want bool
	}{
		"nothing":        {nil, true},
		"a":              {&Expr{Name: "a"}, true},
		"c":              {&Expr{Name: "c"}, false},
		"a and b":        {&Expr{All: []Expr{leaf("a"), leaf("b")}}, true},
		"a and c":        {&Expr{All: []Expr{leaf("a"), leaf("c")}}, false},
		"c or b":         {&Expr{Any: []Expr{leaf("c"), leaf("b")}}, true},
		"c or d":         {&Expr{Any: []Expr{leaf("c"), leaf("d")}}, false},
		"a and (c or b)": {&Expr{All: []Expr{leaf("a"), {Any: []Expr{leaf("c"), leaf("b")}}}}, true},
	} {
		if got := c.e.Satisfied(online); got != c.want {
			t.Errorf("%s: got %v", name, got)
		}
		if c.e.Mentions("zz") || c.e != nil && !c.e.Mentions(strings.Trim(strings.Fields(name)[0], "()")) {
			t.Errorf("%s: mentions the wrong names", name)
		}
	}
}
