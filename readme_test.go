// Package hacluster_test checks what a newcomer reads first.
package hacluster_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// blocks are the fenced blocks of a document in the given language.
func blocks(text, language string) (out []string) {
	for _, m := range regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		if m[1] == language {
			out = append(out, m[2])
		}
	}
	return out
}

func TestTheReadmeShowsTheMinimalExample(t *testing.T) {
	got := blocks(read(t, "README.md"), "toml")
	want := read(t, "examples/minimal/cluster.toml")
	if len(got) != 1 || got[0] != want {
		t.Errorf("README.md shows %q, examples/minimal/cluster.toml is %q", got, want)
	}
	if n := strings.Count(want, "\n"); n > 15 {
		t.Errorf("the minimal example has %d lines, the README promises 15", n)
	}
}

func TestTheReadmeFitsATerminal(t *testing.T) {
	for _, b := range blocks(read(t, "README.md"), "") {
		for line := range strings.Lines(b) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
				t.Errorf("%d columns: %s", n, line)
			}
		}
	}
}

// anchor is what a heading is called in a link, as common renderers do it.
func anchor(heading string) string {
	s := strings.ToLower(strings.TrimSpace(strings.TrimLeft(heading, "#")))
	s = regexp.MustCompile("[^a-z0-9 _-]").ReplaceAllString(s, "")
	return strings.ReplaceAll(s, " ", "-")
}

func TestLinksLeadSomewhere(t *testing.T) {
	docs, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, doc := range append(docs, "README.md", "CONTRIBUTING.md", "CHANGELOG.md") {
		for _, m := range link.FindAllStringSubmatch(read(t, doc), -1) {
			target, part, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			file := doc
			if target != "" {
				file = filepath.Join(filepath.Dir(doc), target)
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s links to %s, which is not there", doc, m[1])
				continue
			}
			found := part == ""
			for line := range strings.Lines(readIfText(t, file)) {
				found = found || strings.HasPrefix(line, "#") && anchor(line) == part
			}
			if !found {
				t.Errorf("%s links to %s: no such heading", doc, m[1])
			}
		}
	}
}

// readIfText is the text of a document, nothing for a folder.
func readIfText(t *testing.T, name string) string {
	t.Helper()
	if filepath.Ext(name) != ".md" {
		return ""
	}
	return read(t, name)
}

// TestTheModelNamesWhatExists keeps the table that maps the model of the lease to the code true: docs/model/check says the
// same, but only in the full run.
func TestTheModelNamesWhatExists(t *testing.T) {
	name := regexp.MustCompile("`([^`]*)`")
	rows := 0
	for line := range strings.Lines(read(t, "docs/model/README.md")) {
		cells := strings.Split(line, "|")
		if !strings.HasPrefix(line, "| `") || len(cells) < 4 {
			continue
		}
		rows++
		text := ""
		for _, m := range name.FindAllStringSubmatch(cells[3], -1) {
			if strings.HasSuffix(m[1], ".go") {
				text = read(t, m[1])
				continue
			}
			if !regexp.MustCompile(`\b` + regexp.QuoteMeta(m[1]) + `\b`).MatchString(text) {
				t.Errorf("docs/model/README.md maps to %s, which is not in the file it names:\n%s", m[1], line)
			}
		}
	}
	if rows < 10 {
		t.Errorf("the table has %d rows; was it moved?", rows)
	}
}
