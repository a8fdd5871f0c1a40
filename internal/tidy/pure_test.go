package tidy

import (
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// pure are the packages whose functions are arithmetic on their arguments.
var pure = []string{"placement", "lease"}

// pureImports are what they may import from the standard library.
var pureImports = []string{"cmp", "errors", "fmt", "maps", "math", "slices", "strconv", "strings", "time"}

// impure are the functions of those that look at something outside their arguments.
var impure = []string{"time.Now", "time.Since", "time.Until", "time.After", "time.AfterFunc", "time.Sleep", "time.Tick", "time.NewTimer", "time.NewTicker",
	"time.Local", "time.LoadLocation", "fmt.Print", "fmt.Println", "fmt.Printf", "fmt.Scan", "fmt.Scanln", "fmt.Scanf"}

// orderFree before a loop over a map says that its outcome does not depend on the order, and why.
const orderFree = "// order-free:"

// library reads the standard library from its source, each package of it once: that takes longer than all the rest.
var library = importer.ForCompiler(fset, "source", nil)

func TestPurePackagesStayPure(t *testing.T) {
	_, files := tree(t)
	for _, pkg := range pure {
		var parsed []*ast.File
		texts := map[string][]byte{}
		for _, f := range files {
			if f.pkg == pkg && !f.test {
				parsed = append(parsed, f.file)
				texts[f.path] = f.text
			}
		}
		if len(parsed) == 0 {
			t.Fatalf("package %s has no files", pkg)
		}
		for _, fault := range impurities(t, pkg, parsed, texts) {
			t.Error(fault)
		}
	}
}

// TestImpurityIsSeen breaks every rule once.
func TestImpurityIsSeen(t *testing.T) {
	for name, c := range map[string]struct{ src, want string }{
		"a clock":                   {"import \"time\"\nfunc f() time.Time { return time.Now() }", "time.Now"},
		"a clock under a new name":  {"import clock \"time\"\nvar f = clock.Since", "time.Since"},
		"a random value":            {"import _ \"math/rand/v2\"", "math/rand/v2"},
		"the environment":           {"import _ \"os\"", "imports os"},
		"a lock":                    {"import _ \"sync\"", "imports sync"},
		"a logger":                  {"import _ \"log/slog\"", "imports log/slog"},
		"a goroutine":               {"func f() { go f() }", "goroutine"},
		"a channel":                 {"func f(c chan int) {}", "channel"},
		"a send":                    {"func f(c interface{}) { c.(chan int) <- 1 }", "channel"},
		"a select":                  {"func f() { select {} }", "select"},
		"a map in map order":        {"func f(m map[string]int) { for range m { f(m) } }", "map"},
		"a named map in map order":  {"type t map[string]int\nfunc f(m t) { for k := range m { _ = k } }", "map"},
		"maps.Keys in map order":    {"import \"maps\"\nfunc f(m map[string]int) { for k := range maps.Keys(m) { _ = k } }", "map"},
		"a reason without a reason": {"func f(m map[string]int) {\n\t// order-free:\n\tfor range m {\n\t}\n}", "map"},
		"nothing, in sorted order":  {"import (\"maps\"; \"slices\")\nfunc f(m map[string]int) { for _, k := range slices.Sorted(maps.Keys(m)) { _ = k } }", ""},
		"nothing, with a reason":    {"func f(m map[string]int) (n int) {\n\t// order-free: a sum\n\tfor _, v := range m {\n\t\tn += v\n\t}\n\treturn n\n}", ""},
	} {
		text := []byte("package p\n" + c.src + "\n")
		file, err := parser.ParseFile(fset, "p/p.go", text, parser.ParseComments)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got := strings.Join(impurities(t, "p", []*ast.File{file}, map[string][]byte{"p/p.go": text}), "\n")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want something about %q", name, got, c.want)
		}
	}
}

// impurities lists everything in the files of a package that a pure package must not have.
func impurities(t *testing.T, pkg string, files []*ast.File, texts map[string][]byte) (faults []string) {
	t.Helper()
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{}}
	if _, err := (&types.Config{Importer: library}).Check(path.Join(module, pkg), fset, files, info); err != nil {
		t.Fatalf("checking package %s: %v", pkg, err)
	}
	fault := func(at token.Pos, format string, args ...any) {
		faults = append(faults, fmt.Sprintf("%s: %s", fset.Position(at), fmt.Sprintf(format, args...)))
	}
	for _, file := range files {
		for _, spec := range file.Imports {
			if p, _ := strconv.Unquote(spec.Path.Value); !slices.Contains(pureImports, p) {
				fault(spec.Pos(), "imports %s: a pure package may not", p)
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				fault(n.Pos(), "starts a goroutine")
			case *ast.SelectStmt:
				fault(n.Pos(), "select")
			case *ast.ChanType:
				fault(n.Pos(), "a channel")
			case *ast.SendStmt:
				fault(n.Pos(), "sends on a channel")
			case *ast.UnaryExpr:
				if n.Op == token.ARROW {
					fault(n.Pos(), "receives from a channel")
				}
			case *ast.Ident:
				if obj := info.Uses[n]; obj != nil && obj.Pkg() != nil && slices.Contains(impure, obj.Pkg().Path()+"."+obj.Name()) {
					if sig, ok := obj.Type().(*types.Signature); !ok || sig.Recv() == nil { // Time.After is a comparison
						fault(n.Pos(), "%s.%s", obj.Pkg().Path(), obj.Name())
					}
				}
			case *ast.RangeStmt:
				at := fset.Position(n.Pos())
				if inMapOrder(info, n.X) && !excused(texts[at.Filename], at.Line) {
					fault(n.Pos(), "ranges over a map in map order: sort the keys, or write \"%s why\" above it", orderFree)
				}
			}
			return true
		})
	}
	return faults
}

// inMapOrder says whether ranging over the expression visits a map in its random order.
func inMapOrder(info *types.Info, x ast.Expr) bool {
	if _, ok := info.Types[x].Type.Underlying().(*types.Map); ok {
		return true
	}
	call, ok := x.(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	obj := info.Uses[sel.Sel]
	return obj != nil && obj.Pkg() != nil && obj.Pkg().Path() == "maps"
}

// excused says whether the line above gives a reason why the order does not matter.
func excused(text []byte, line int) bool {
	lines := strings.Split(string(text), "\n")
	if line < 2 || line-2 >= len(lines) {
		return false
	}
	why, ok := strings.CutPrefix(strings.TrimSpace(lines[line-2]), orderFree)
	return ok && strings.TrimSpace(why) != ""
}
