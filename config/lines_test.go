package config

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
)

func TestEveryKeyHasTheLineWhereItStands(t *testing.T) {
	text := strings.Join([]string{
		`name = "idm" # = [`,     // 1
		`a.b."c.d" = 1`,          // 2
		`multi = """`,            // 3
		`[[group]]`,              // 4
		`x = "\""" ""`,           // 5
		`""" # end`,              // 6
		`literal = '''`,          // 7
		`[not]`,                  // 8
		`a''''`,                  // 9
		`list = [ # [`,           // 10
		`  "x", # ]`,             // 11
		`  [1, 2,`,               // 12
		`   3],`,                 // 13
		`  { k = "}", l = 1 } ]`, // 14
		``,                       // 15
		`[ table . "quo ted" ]`,  // 16
		`when = 1979-05-27 07:32:00`,
		`after = 1`,      // 18
		`[[group]]`,      // 19
		`name = "g0"`,    // 20
		`[[group.sub]]`,  // 21
		`k = 1`,          // 22
		`[[group.sub]]`,  // 23
		`k = 2`,          // 24
		`[group.opts]`,   // 25
		`k = 3`,          // 26
		`[[group]]`,      // 27
		`[[group.sub]]`,  // 28
		`"\u006b" = 4`,   // 29
		`'lit\u' = true`, // 30
	}, "\n")
	if _, err := toml.Decode(text, &map[string]any{}); err != nil {
		t.Fatal(err)
	}
	x := indexLines(text)
	path := func(parts ...any) (p string) {
		for _, part := range parts {
			switch part := part.(type) {
			case string:
				p = child(p, part)
			case int:
				p = element(p, part)
			}
		}
		return p
	}
	for _, c := range []struct {
		path string
		want int
	}{
		{path("name"), 1}, {path("a", "b", "c.d"), 2}, {path("multi"), 3}, {path("literal"), 7}, {path("list"), 10}, {path("list", 0), 11},
		{path("list", 1), 12}, {path("list", 1, 2), 13}, {path("list", 2, "l"), 14}, {path("table", "quo ted"), 16},
		{path("table", "quo ted", "when"), 17}, {path("table", "quo ted", "after"), 18}, {path("group"), 19}, {path("group", 0), 19},
		{path("group", 0, "name"), 20}, {path("group", 0, "sub", 0, "k"), 22}, {path("group", 0, "sub", 1, "k"), 24},
		{path("group", 0, "opts", "k"), 26}, {path("group", 1), 27}, {path("group", 1, "sub", 0, "k"), 29}, {path("group", 1, "sub", 0, `lit\u`), 30},
		{path("group", 1, "sub", 0, "absent"), 28}, {path("absent"), 1},
	} {
		if got := x.line(c.path); got != c.want {
			t.Errorf("%q: line %d, want %d", c.path, got, c.want)
		}
	}
}

// FuzzLines: whatever the decoder accepts, every key and element in it has a line, and a plain key stands on its line.
func FuzzLines(f *testing.F) {
	for _, file := range []string{"valid-everything", "valid-inline", "invalid-many-lines", "valid-node-relative"} {
		text, err := os.ReadFile("testdata/" + file + ".toml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	for _, seed := range []string{"a.b.c = 1", "[[a]]\n[[a.b]]\n[a.b.c]\nd=1\n[[a]]", "a = [[1,\n2],\n{b=\n3}]", "a='''\n''''\nb=\"\"\"\n\\\"\"\"\"\"\nc=1",
		"\ufeffa=1\r\nb=2", "[a]\n[a.b]\n", "[a.b]\n[a]\n", "\"a\\tb\" = 1", "a = {b = 1, c.d = 2}", "'' = 1\n\"\".'' = 2", "a = \"\\\\\"\nb=1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		x := indexLines(text) // must end on any text
		m := map[string]any{}
		if _, err := toml.Decode(text, &m); err != nil {
			return
		}
		lines := strings.Split(text, "\n")
		var walk func(path, key string, v any)
		walk = func(path, key string, v any) {
			n, ok := x.at[path]
			if path != "" && (!ok || n < 1 || n > len(lines)) {
				t.Fatalf("%q has line %d (%v) of %d\n%s", path, n, ok, len(lines), text)
			}
			if bare := strings.Trim(key, "abcdefghijklmnopqrstuvwxyz_-") == ""; bare && key != "" {
				if l := lines[n-1]; !strings.Contains(l, key) && !strings.Contains(l, `\`) {
					t.Fatalf("%q is not on line %d: %q", key, n, l)
				}
			}
			switch v := v.(type) {
			case map[string]any:
				for k, e := range v {
					walk(child(path, k), k, e)
				}
			case []map[string]any:
				for i, e := range v {
					walk(element(path, i), "", e)
				}
			case []any:
				for i, e := range v {
					walk(element(path, i), "", e)
				}
			}
		}
		walk("", "", m)
	})
}

// A scanner that goes quadratic would let one apply stall a node.
func TestLinesOfALargeFileAreIndexedInLinearTime(t *testing.T) {
	var b strings.Builder
	for i := range 20000 {
		fmt.Fprintf(&b, "[[group]]\nname = \"g%d\"\n", i)
	}
	start := time.Now()
	x := indexLines(b.String())
	if got := x.line(child(element(child("", "group"), 19999), "name")); got != 40000 {
		t.Errorf("line %d, want 40000", got)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("took %v", d)
	}
}
