package tidy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// allowed says which packages of this module each package may import: downward only, and only where it has a reason. A
// new edge is a decision; it is made here, in a change that somebody reviews.
var allowed = map[string][]string{
	".":                        {},
	"cmd/had":                  {"config", "fence", "internal/identity", "internal/urgency", "node", "raft", "resources", "vip"},
	"cmd/hactl":                {"api", "config", "internal/identity", "internal/pki", "internal/wire", "lease", "placement", "raft"},
	"node":                     {"api", "balancer", "config", "fence", "health", "internal/boottime", "internal/identity", "internal/pki", "internal/wire", "lease", "membership", "notify", "placement", "raft", "resources", "vip"},
	"api":                      {"lease", "placement"},
	"api/apitest":              {"api", "lease", "placement"},
	"config":                   {"fence", "health", "lease", "placement", "resources"},
	"raft":                     {"internal/wire", "lease", "placement"},
	"fence":                    {"internal/boottime", "internal/nowait", "internal/urgency", "resources", "vip"},
	"membership":               {"internal/nowait", "placement"},
	"placement":                {},
	"lease":                    {},
	"health":                   {"internal/urgency"},
	"resources":                {"internal/boottime", "internal/urgency"},
	"vip":                      {"internal/boottime", "internal/nowait"},
	"internal/boottime":        {},
	"internal/urgency":         {},
	"internal/nowait":          {},
	"internal/identity":        {"internal/pki", "placement"},
	"internal/pki":             {},
	"internal/wire":            {"internal/nowait", "internal/pki"},
	"internal/sim":             {"lease", "placement"},
	"internal/sim/simrun":      {"internal/sim"},
	"internal/lab":             {},
	"internal/lab/labctl":      {"internal/lab"},
	"internal/lab/testservice": {},
	"internal/drill":           {"api", "internal/lab"},
	"internal/drill/demo":      {"internal/drill", "internal/lab"},
	"internal/drill/nemesis":   {"internal/drill", "internal/lab"},
	"internal/judge":           {},
	"internal/bench":           {"internal/drill", "internal/lab"},
	"internal/bench/bench":     {"internal/bench", "internal/lab"},
	"internal/mutants":         {},
	"internal/scale":           {"api", "internal/lab", "placement"},
	"internal/tidy":            {},
}

// allowedInTests are the edges that only test files may have besides.
var allowedInTests = map[string][]string{
	"api":       {"api/apitest"},
	"cmd/had":   {"internal/boottime"},
	"cmd/hactl": {"api/apitest"},
	"config":    {},
	"raft":      {"internal/pki"},

	"internal/drill": {"lease", "placement"},
}

// rank orders the packages of the product from the core upward. What is not listed (internal/..., tools) is judged by
// allowed alone.
var rank = map[string]int{
	"placement": 1, "membership": 1, "lease": 1, "health": 1, "resources": 1, "vip": 1,
	"raft": 2, "balancer": 2, "notify": 2, "fence": 2,
	"config": 3, "api": 4, "node": 5, "cmd/had": 6, "cmd/hactl": 6,
}

// sameRank are the edges between neighbours: lease and placement are what the world of the others is made of.
var sameRank = map[[2]string]bool{{"membership", "placement"}: true}

// onlyIn says which package alone may import a library: whoever else needs it asks that package.
var onlyIn = map[string][]string{
	"github.com/hashicorp/raft":        {"raft"},
	"github.com/hashicorp/raft-boltdb": {"raft"},
	"github.com/hashicorp/memberlist":  {"membership"},
	"github.com/vishvananda/netlink":   {"vip", "internal/lab", "internal/drill"},
	"github.com/coreos/go-systemd":     {"resources", "health", "cmd/had", "internal/lab"},
	"github.com/BurntSushi/toml":       {"config", "cmd/hactl"},
}

func TestImportsGoDownward(t *testing.T) {
	fset, files := tree(t)
	for _, f := range files {
		if _, known := allowed[f.pkg]; !known {
			t.Errorf("%s: package %s is not listed in internal/tidy: say what it may import", f.path, f.pkg)
		}
		for _, spec := range f.file.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if why := refuseImport(f.pkg, path, f.test); why != "" {
				t.Errorf("%s: imports %s: %s", fset.Position(spec.Pos()), path, why)
			}
		}
	}
}

func TestImportTablesAgree(t *testing.T) {
	for from, list := range allowed {
		if !slices.IsSorted(list) {
			t.Errorf("%s: the list is not sorted", from)
		}
		for _, to := range list {
			a, b := rank[from], rank[to]
			if a != 0 && b != 0 && a <= b && !sameRank[[2]string{from, to}] {
				t.Errorf("%s may import %s, which is not below it", from, to)
			}
			if strings.HasPrefix(from, "internal/") == false && b == 0 && !strings.HasPrefix(to, "internal/") {
				t.Errorf("%s may import %s, which has no rank", from, to)
			}
		}
	}
	for _, c := range []struct {
		pkg, path string
		test      bool
		refused   bool
	}{
		{"placement", "hacluster/lease", false, true},
		{"placement", "time", false, false},
		{"node", "github.com/hashicorp/raft", false, true},
		{"raft", "github.com/hashicorp/raft", false, false},
		{"api", "hacluster/node", false, true},
		{"api", "hacluster/api/apitest", true, false},
		{"api", "hacluster/api/apitest", false, true},
		{"cmd/had", "hacluster/node", false, false},
	} {
		if got := refuseImport(c.pkg, c.path, c.test) != ""; got != c.refused {
			t.Errorf("%s imports %s (test %v): refused %v, want %v", c.pkg, c.path, c.test, got, c.refused)
		}
	}
}

// refuseImport says why a package must not import another; empty when it may.
func refuseImport(pkg, path string, test bool) string {
	for lib, owners := range onlyIn {
		if (path == lib || strings.HasPrefix(path, lib+"/")) && !slices.Contains(owners, pkg) {
			return fmt.Sprintf("only %s may", strings.Join(owners, ", "))
		}
	}
	to, mine := strings.CutPrefix(path, module+"/")
	if !mine || to == pkg {
		return ""
	}
	if slices.Contains(allowed[pkg], to) || test && slices.Contains(allowedInTests[pkg], to) {
		return ""
	}
	return "it is not listed in internal/tidy for " + pkg
}
