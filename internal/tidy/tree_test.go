package tidy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const module = "hacluster"

// source is one Go file of the tree.
type source struct {
	path string // relative to the root, with slashes
	pkg  string // folder, relative to the root
	test bool
	text []byte
	file *ast.File
}

// fset has every position; all is the tree, which is read once: under the race detector that takes seconds.
var (
	fset = token.NewFileSet()
	all  = sync.OnceValues(parse)
)

// tree is every Go file, whatever it is built for. Who looks at it must not change it.
func tree(t *testing.T) (*token.FileSet, []source) {
	t.Helper()
	out, err := all()
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 50 {
		t.Fatalf("found %d Go files only: the test looks in the wrong place", len(out))
	}
	return fset, out
}

func parse() (out []source, err error) {
	root := filepath.Join("..", "..")
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if name := d.Name(); name == "testdata" || rel != "." && strings.HasPrefix(name, ".") || rel == "bin" {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(fset, rel, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		pkg := "."
		if i := strings.LastIndexByte(rel, '/'); i >= 0 {
			pkg = rel[:i]
		}
		out = append(out, source{path: rel, pkg: pkg, test: strings.HasSuffix(rel, "_test.go"), text: text, file: file})
		return nil
	})
	return out, err
}
