package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// exitLine is how a golden screen ends.
var exitLine = regexp.MustCompile(`--- exit (\d+)\n`)

func TestTheManualShowsWhatHactlPrints(t *testing.T) {
	doc, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for _, block := range strings.Split(string(doc), "```console\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		line, _, _ := strings.Cut(block, "\n")
		found := false
		for _, c := range screens {
			if line != "$ hactl "+c.args {
				continue
			}
			b, err := os.ReadFile("testdata/" + c.name + ".golden")
			if err != nil {
				t.Fatal(err)
			}
			want := strings.ReplaceAll(string(b), "--- stderr\n", "")
			want = exitLine.ReplaceAllStringFunc(want, func(s string) string {
				if code := exitLine.FindStringSubmatch(s)[1]; code != "0" {
					return "# exit code " + code + "\n"
				}
				return ""
			})
			found = found || want == block
		}
		if !found {
			t.Errorf("no test prints this any more:\n%s", block)
		}
		shown++
	}
	if shown < 10 {
		t.Errorf("only %d examples were found", shown)
	}
}

func TestTheManualNamesEveryCommandAndFlag(t *testing.T) {
	b, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)
	app := newEnv(&buffer{}, &buffer{}).app()
	flags := func(of string, fs []cli.Flag) {
		for _, f := range fs {
			if name := "`--" + f.Names()[0]; !strings.Contains(doc, name) {
				t.Errorf("%s %s is not in docs/cli.md", of, name)
			}
		}
	}
	flags("hactl", app.Flags)
	var walk func(prefix string, cs []*cli.Command)
	walk = func(prefix string, cs []*cli.Command) {
		for _, c := range cs {
			name := strings.TrimSpace(prefix + " " + c.Name)
			if c.Hidden || name == "help" {
				continue
			}
			if len(c.Subcommands) == 0 && !regexp.MustCompile(`(?m)^###.*\b`+name+`\b`).MatchString(doc) {
				t.Errorf("%s has no heading in docs/cli.md", name)
			}
			flags(name, c.Flags)
			walk(name, c.Subcommands)
		}
	}
	walk("", app.Commands)
}
