package placement

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestCostGrowsWithTheNumberOfGroups counts what each step allocates: ten times the groups may cost ten times as much, and
// a little for tables that double. A step that does something with every pair of groups costs a hundred times.
func TestCostGrowsWithTheNumberOfGroups(t *testing.T) {
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) {
			few, fewBytes := cost(s.make(t, 9, 100))
			many, manyBytes := cost(s.make(t, 9, 1000))
			if many > 15*few+100 || manyBytes > 20*fewBytes {
				t.Errorf("with ten times the groups %d allocations became %d, %d bytes became %d", few, many, fewBytes, manyBytes)
			}
		})
	}
}

// TestCostGrowsWithTheNumberOfNodes is the same for nodes; seven times as many.
func TestCostGrowsWithTheNumberOfNodes(t *testing.T) {
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) {
			few, fewBytes := cost(s.make(t, 9, 100))
			many, manyBytes := cost(s.make(t, 63, 100))
			if many > 10*few+100 || manyBytes > 14*fewBytes {
				t.Errorf("with seven times the nodes %d allocations became %d, %d bytes became %d", few, many, fewBytes, manyBytes)
			}
		})
	}
}

// cost is what one call allocates: the least of some, because others allocate at the same time.
func cost(f func()) (mallocs, bytes uint64) {
	f()
	for i := range 5 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		m, b := after.Mallocs-before.Mallocs, after.TotalAlloc-before.TotalAlloc
		if i == 0 || m < mallocs {
			mallocs = m
		}
		if i == 0 || b < bytes {
			bytes = b
		}
	}
	return mallocs, bytes
}

// TestNoGroupIsLookedForInALoop finds what allocates nothing and is quadratic all the same: Policy.Group searches the whole
// list, so nothing that loops may call it.
func TestNoGroupIsLookedForInALoop(t *testing.T) {
	for _, dir := range []string{".", "../node"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatal("no files", err)
		}
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			src, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, at := range lookedForInLoops(t, path, string(src)) {
				t.Errorf("%s: looks for a group by its name inside a loop: make a table before it", at)
			}
		}
	}
	for src, want := range map[string]int{
		"package p; func f() { for range xs { s.Policy.Group(n) } }":              1,
		"package p; func f() { for { for { g, ok := c.Policy.Group(n) } } }":      1,
		"package p; func f() { for range xs { go func() { p.Group(n) }() } }":     1,
		"package p; func f() { s.Policy.Group(n); for range xs { g.Resource() }}": 0,
	} {
		if got := len(lookedForInLoops(t, "x.go", src)); got != want {
			t.Errorf("%s: %d found, not %d", src, got, want)
		}
	}
}

func lookedForInLoops(t *testing.T, path, src string) (found []string) {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, src, 0)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[token.Pos]bool{}
	calls := func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || seen[call.Pos()] {
			return true
		}
		if sel, ok := call.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Group" && len(call.Args) == 1 {
			seen[call.Pos()] = true
			found = append(found, fset.Position(call.Pos()).String())
		}
		return true
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch loop := n.(type) {
		case *ast.ForStmt:
			ast.Inspect(loop.Body, calls)
		case *ast.RangeStmt:
			ast.Inspect(loop.Body, calls)
		}
		return true
	})
	return found
}
