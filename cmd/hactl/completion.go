package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

// completionVerb is `hactl completion`: the shells' side is a few lines that ask `hactl __complete`.
type completionVerb struct {
	*env
	Shell string
}

var shells = map[string]string{
	"bash": `# hactl completion for bash: source <(hactl completion bash)
_hactl() {
  local IFS=$'\n'
  COMPREPLY=($(hactl __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _hactl hactl
`,
	"zsh": `#compdef hactl
# hactl completion for zsh: source <(hactl completion zsh)
_hactl() {
  local -a found
  found=("${(@f)$(hactl __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  if [[ -n "${found[1]}" ]]; then compadd -a found; else _files; fi
}
compdef _hactl hactl
`,
	"fish": `# hactl completion for fish: hactl completion fish | source
function __hactl
  set -l words (commandline -opc) (commandline -ct)
  hactl __complete -- $words[2..-1] 2>/dev/null
end
complete -c hactl -a '(__hactl)'
`,
}

func completionCommand(e *env) *cli.Command {
	return &cli.Command{Name: "completion", Usage: "print the completion script of a shell", ArgsUsage: "bash|zsh|fish",
		Action: func(c *cli.Context) error {
			shell, err := oneArg(c, "shell: bash, zsh or fish")
			if err != nil {
				return err
			}
			return (&completionVerb{e, shell}).run(c.Context)
		}}
}

func (v *completionVerb) run(context.Context) error {
	script, ok := shells[v.Shell]
	if !ok {
		return usagef("use bash, zsh or fish", "there is no completion for the shell %q", v.Shell)
	}
	v.printf("%s", script)
	return nil
}

// completeVerb is the hidden `hactl __complete -- WORDS...`: what the last word could be, one per line.
type completeVerb struct {
	*env
	App   *cli.App
	Words []string
}

func completeCommand(e *env) *cli.Command {
	return &cli.Command{Name: "__complete", Hidden: true, Action: func(c *cli.Context) error {
		return (&completeVerb{e, e.app(), c.Args().Slice()}).run(c.Context)
	}}
}

func (v *completeVerb) run(ctx context.Context) error {
	if len(v.Words) == 0 {
		return nil
	}
	partial := v.Words[len(v.Words)-1]
	for _, w := range v.candidates(ctx, v.Words[:len(v.Words)-1], partial) {
		if strings.HasPrefix(w, partial) {
			v.printf("%s\n", clean(w))
		}
	}
	return nil
}

// candidates are the words that can follow before; none lets the shell offer files.
func (v *completeVerb) candidates(ctx context.Context, before []string, partial string) []string {
	commands, flags, path := v.App.Commands, []cli.Flag(nil), ""
	var pending cli.Flag
	given := 0
	for _, w := range before {
		if pending != nil {
			v.ask(pending.Names()[0], w)
			pending = nil
			continue
		}
		if strings.HasPrefix(w, "-") {
			name, value, hasValue := strings.Cut(strings.TrimLeft(w, "-"), "=")
			f := lookup(append(slices.Clone(flags), v.App.Flags...), name)
			switch {
			case f != nil && hasValue:
				v.ask(f.Names()[0], value)
			case f != nil && takesValue(f):
				pending = f
			}
			continue
		}
		if sub := command(commands, w); sub != nil && given == 0 {
			commands, flags, path = sub.Subcommands, sub.Flags, strings.TrimSpace(path+" "+w)
		} else {
			given++
		}
	}
	switch {
	case pending != nil:
		return v.values(ctx, pending.Names()[0])
	case strings.HasPrefix(partial, "-"):
		var names []string
		for _, f := range append(slices.Clone(flags), v.App.Flags...) {
			names = append(names, "--"+f.Names()[0])
		}
		return names
	case len(commands) > 0:
		var names []string
		for _, c := range commands {
			if !c.Hidden {
				names = append(names, c.Name)
			}
		}
		return names
	case given > 0:
		return nil
	case path == "completion":
		return []string{"bash", "zsh", "fish"}
	case strings.HasPrefix(path, "group "), path == "why":
		return v.names(ctx, "group")
	case strings.HasPrefix(path, "node "):
		return v.names(ctx, "to")
	}
	return nil
}

// ask makes a global flag on the unfinished line count, so that names come from the agent that the line is for.
func (v *completeVerb) ask(flag, value string) {
	switch flag {
	case "socket":
		v.Socket = value
	case "node":
		v.Remote = value
	case "config":
		v.Config = value
	}
}

// values are what a flag can be.
func (v *completeVerb) values(ctx context.Context, flag string) []string {
	switch flag {
	case "output":
		return []string{"table", "json"}
	case "profile":
		return []string{"fast", "lan", "wan"}
	case "role":
		return []string{"member", "witness"}
	case "group", "to":
		return v.names(ctx, flag)
	}
	return nil
}

// names asks the agent, for a moment only: a shell waits.
func (v *completeVerb) names(ctx context.Context, of string) []string {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	st, err := v.status(ctx)
	if err != nil {
		return nil
	}
	var names []string
	if of == "group" {
		for _, g := range st.Groups {
			names = append(names, g.Name)
		}
		return names
	}
	for _, n := range st.Nodes {
		names = append(names, n.Name)
	}
	return names
}
