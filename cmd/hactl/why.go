package main

import (
	"context"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"hacluster/api"
)

// why is `hactl why`.
type why struct {
	*env
	Group string // required
}

func whyCommand(e *env) *cli.Command {
	return &cli.Command{Name: "why", Usage: "why a group is where it is, and where the time of its newest move went", ArgsUsage: "GROUP",
		Action: func(c *cli.Context) error {
			name, err := oneArg(c, "group")
			if err != nil {
				return err
			}
			return (&why{e, name}).run(c.Context)
		}}
}

func (v *why) run(ctx context.Context) error {
	st, err := v.status(ctx)
	if err != nil {
		return err
	}
	g, err := st.FindGroup(v.Group)
	if err != nil {
		return err
	}
	m := g.Move
	if v.JSON {
		return v.printJSON(struct {
			Group string    `json:"group"`
			Move  *api.Move `json:"move"`
		}{g.Name, m})
	}
	if m == nil {
		v.item("Group", g.Name+": no change of owner is in the history")
		v.reason(g.Why)
		return nil
	}
	v.item("Move", fmt.Sprintf("%s %s (epoch %d, event %d)", m.Group, fromTo(m.From, m.To), m.Epoch, m.Seq))
	v.item("When", v.ago(m.Time)+" ("+v.clock(m.Time)+")")
	v.reason(m.Reason)
	if m.Epoch != g.Epoch || m.Reason.Text != g.Why.Text { // decided since, and not another owner
		v.item("Since", string(g.Why.Rule)+": "+g.Why.Text)
	}
	v.took(*m)
	return nil
}

func fromTo(from, to string) string {
	switch {
	case from == "":
		return "to " + to
	case to == "":
		return "from " + from
	}
	return from + " -> " + to
}

// took prints where the time of a move went.
func (e *env) took(m api.Move) {
	longest, ok := m.Longest()
	if !ok {
		e.item("Took", "not measured: the leader changed meanwhile, or an older agent decided it")
		return
	}
	line, label := "", "Took"
	for _, part := range append(tookParts(m), total(m)) {
		if line != "" && len(line)+3+len(part) > width-9 { // a name and its figure stay together
			e.item(label, line+",")
			line, label = "", ""
		}
		if line != "" {
			line += ", "
		}
		line += part
	}
	e.item(label, line)
	by := ""
	if longest.Node != "" {
		by = " on " + longest.Node
	}
	if m.Tickled > 0 {
		e.item("Clients", tickled(m))
	}
	e.item("Longest", fmt.Sprintf("%s%s: %s of %s", longest.Name, by, millis(longest.Took), millis(m.Total)))
}

func tookParts(m api.Move) (parts []string) {
	for _, p := range m.Phases {
		parts = append(parts, p.Name+" "+millis(p.Took))
	}
	return parts
}

// tickled says what the new owner did about clients of the lost one.
func tickled(m api.Move) string {
	return fmt.Sprintf("tickled %d clients of the lost owner", m.Tickled)
}

func total(m api.Move) string {
	word := "total"
	switch {
	case m.Part: // the leader changed meanwhile
		word = "known"
	case !m.Done: // or its end was not reported
		word = "so far"
	}
	return word + " " + millis(m.Total)
}

// millis prints a time that is best read in milliseconds, down to a tenth.
func millis(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	if d < 100*time.Millisecond {
		return fmt.Sprintf("%.1fms", ms)
	}
	return fmt.Sprintf("%.0fms", ms)
}
