package main

import (
	"context"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
)

// appHelp ends the help of hactl itself.
const appHelp = `
Global options may stand anywhere on the line; each command has --help.

Exit codes:
  0    done; status: healthy
  1    refused or failed; status: degraded; validate: warnings
  2    no quorum; status: a group is down, or no quorum; validate: faults
  64   the command line is wrong
  69   no agent answers
  124  --timeout has passed; what was started may still finish

Examples:
  hactl status
  hactl group move web --to n2 --wait
  hactl apply cluster.toml --dry-run
  hactl events --follow
`

// setHelp gives the app and every command a help text that fits the terminal; the library's own does not.
func setHelp(app *cli.App) {
	var b strings.Builder
	fmt.Fprintf(&b, "hactl - %s\n\nUsage: hactl COMMAND [options] [arguments]\n", app.Usage)
	helpCommands(&b, app.Commands)
	helpFlags(&b, "Global options", app.Flags)
	app.CustomAppHelpTemplate = literal(b.String() + appHelp)
	var each func(prefix string, cs []*cli.Command)
	each = func(prefix string, cs []*cli.Command) {
		for _, c := range cs {
			name := prefix + " " + c.Name
			c.CustomHelpTemplate = literal(commandHelp(name, c))
			each(name, c.Subcommands)
		}
	}
	each("hactl", app.Commands)
}

// helpVerb is `hactl help [COMMAND...]`.
type helpVerb struct {
	*env
	App   *cli.App
	Words []string
}

func helpCommand(e *env) *cli.Command {
	return &cli.Command{Name: "help", Aliases: []string{"h"}, Usage: "what hactl can do, or one of its commands", ArgsUsage: "[COMMAND...]",
		Action: func(c *cli.Context) error { return (&helpVerb{e, e.app(), c.Args().Slice()}).run(c.Context) }}
}

func (v *helpVerb) run(context.Context) error {
	text, commands := v.App.CustomAppHelpTemplate, v.App.Commands
	for _, w := range v.Words {
		c := command(commands, w)
		if c == nil {
			return usagef("see `hactl help`", "there is no command %q", w)
		}
		text, commands = c.CustomHelpTemplate, c.Subcommands
	}
	v.printf("%s", strings.ReplaceAll(text, `{{"{{"}}`, "{{"))
	return nil
}

// literal keeps the template engine from reading a text.
func literal(s string) string { return strings.ReplaceAll(s, "{{", `{{"{{"}}`) }

func commandHelp(name string, c *cli.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nUsage: %s", wrap(name+" - "+c.Usage, 0, 2), name)
	if len(c.Subcommands) > 0 {
		b.WriteString(" COMMAND")
	}
	if len(c.Flags) > 0 {
		b.WriteString(" [options]")
	}
	if c.ArgsUsage != "" {
		b.WriteString(" " + c.ArgsUsage)
	}
	b.WriteString("\n")
	helpCommands(&b, c.Subcommands)
	helpFlags(&b, "Options", c.Flags)
	if len(c.Subcommands) == 0 {
		b.WriteString("\nGlobal options and exit codes: hactl help\n")
	}
	return b.String()
}

func helpCommands(b *strings.Builder, cs []*cli.Command) {
	var rows [][2]string
	for _, c := range cs {
		if !c.Hidden {
			rows = append(rows, [2]string{c.Name, c.Usage})
		}
	}
	helpRows(b, "Commands", rows)
}

func helpFlags(b *strings.Builder, title string, flags []cli.Flag) {
	var rows [][2]string
	for _, f := range flags {
		rows = append(rows, flagHelp(f))
	}
	helpRows(b, title, rows)
}

// flagHelp is one flag: its names with a placeholder, and what it means with its default.
func flagHelp(f cli.Flag) [2]string {
	doc, ok := f.(cli.DocGenerationFlag)
	if !ok {
		return [2]string{f.Names()[0], ""}
	}
	usage, placeholder := doc.GetUsage(), ""
	if before, rest, ok := strings.Cut(usage, "`"); ok {
		p, after, _ := strings.Cut(rest, "`")
		usage, placeholder = before+p+after, p
	}
	def := ""
	switch t := f.(type) {
	case *cli.StringFlag:
		def = t.Value
		placeholder = or(placeholder, strings.ToUpper(t.Name))
	case *cli.DurationFlag:
		if t.Value != 0 {
			def = short(t.Value)
		}
		placeholder = or(placeholder, "TIME")
	case *cli.IntFlag:
		def, placeholder = fmt.Sprint(t.Value), or(placeholder, "N")
	}
	if def != "" && !strings.Contains(usage, "(default") {
		usage += " (default: " + def + ")"
	}
	var names []string
	for _, n := range f.Names() {
		if len(n) == 1 {
			names = append(names, "-"+n)
		} else {
			names = append(names, "--"+n)
		}
	}
	label := strings.Join(names, ", ")
	if doc.TakesValue() {
		label += " " + placeholder
	}
	return [2]string{label, usage}
}

func or(s, other string) string {
	if s != "" {
		return s
	}
	return other
}

func helpRows(b *strings.Builder, title string, rows [][2]string) {
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(b, "\n%s:\n", title)
	col := 0
	for _, r := range rows {
		col = max(col, utf8.RuneCountInString(r[0]))
	}
	for _, r := range rows {
		fmt.Fprintf(b, "  %s%s  %s\n", r[0], strings.Repeat(" ", col-utf8.RuneCountInString(r[0])), wrap(r[1], col+4, col+4))
	}
}
