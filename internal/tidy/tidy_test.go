package tidy

import (
	"bytes"
	"go/ast"
	"go/format"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"testing"
)

const (
	maxFileLines     = 500
	maxFunctionLines = 70
)

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	_, files := tree(t)
	said, packages := map[string]bool{}, map[string]bool{}
	for _, f := range files {
		if f.test {
			continue
		}
		packages[f.pkg] = true
		if f.file.Doc != nil && len(strings.TrimSpace(f.file.Doc.Text())) > 30 {
			said[f.pkg] = true
		}
	}
	for pkg := range packages {
		if !said[pkg] {
			t.Errorf("package %s has no comment that says what it owns", pkg)
		}
	}
}

func TestGofmt(t *testing.T) {
	_, files := tree(t)
	for _, f := range files {
		if out, err := format.Source(f.text); err != nil {
			t.Errorf("%s: %v", f.path, err)
		} else if !bytes.Equal(out, f.text) {
			t.Errorf("%s: not formatted with gofmt", f.path)
		}
	}
}

// leftover is built from parts so that this file does not find itself.
var leftover = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X|HA` + `CK)\b`)

func TestNothingIsLeftToDo(t *testing.T) {
	_, files := tree(t)
	for _, f := range files {
		for i, line := range strings.Split(string(f.text), "\n") {
			if leftover.MatchString(line) {
				t.Errorf("%s:%d: %s", f.path, i+1, strings.TrimSpace(line))
			}
		}
	}
}

// TestLengths lists what grows too long. It warns and does not fail: the remedy is a decision, not a line break.
func TestLengths(t *testing.T) {
	fset, files := tree(t)
	var long []string
	for _, f := range files {
		if n := bytes.Count(f.text, []byte("\n")); n > maxFileLines {
			long = append(long, f.path+": "+strconv.Itoa(n)+" lines"+" in a file")
		}
		for _, decl := range f.file.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			if n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1; n > maxFunctionLines {
				long = append(long, f.path+": "+strconv.Itoa(n)+" lines"+" in function "+fn.Name.Name)
			}
		}
	}
	sort.Strings(long)
	for _, l := range long {
		t.Log("warning: ", l)
	}
}

// TestRaftHasOneName keeps the library and our package apart.
func TestRaftHasOneName(t *testing.T) {
	_, files := tree(t)
	for _, f := range files {
		for _, spec := range f.file.Imports {
			if spec.Path.Value == `"github.com/hashicorp/raft"` && (spec.Name == nil || spec.Name.Name != "hraft") {
				t.Errorf("%s: imports github.com/hashicorp/raft under another name than hraft", f.path)
			}
		}
	}
}
