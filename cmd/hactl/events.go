package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"hacluster/api"
	"hacluster/placement"
)

// eventsVerb is `hactl events`.
type eventsVerb struct {
	*env
	Follow bool
	Since  string // number of an event, or a duration; empty: the newest
	Group  string // only of this group
	Long   bool   // with evidence and rejected alternatives
}

// newest is how many events are shown when --since does not say.
const newest = 20

func eventsCommand(e *env) *cli.Command {
	return &cli.Command{Name: "events", Usage: "what happened, and why",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on with what happens; ends with Ctrl-C or --timeout"},
			&cli.StringFlag{Name: "since", Usage: "after event number `N`, or the last 10m, 2h; 0: all (default: the newest 20)"},
			&cli.StringFlag{Name: "group", Usage: "only events of this `GROUP`"},
			&cli.BoolFlag{Name: "long", Aliases: []string{"l"}, Usage: "with the evidence, what was not chosen, and what a move took"},
		},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			return (&eventsVerb{env: e, Follow: c.Bool("follow"), Since: c.String("since"), Group: c.String("group"), Long: c.Bool("long")}).run(c.Context)
		}}
}

func (v *eventsVerb) run(ctx context.Context) error {
	after, age, err := v.parseSince()
	if err != nil {
		return err
	}
	c, err := v.connect()
	if err != nil {
		return err
	}
	read, cancel := v.bounded(ctx, defaultTimeout)
	defer cancel()
	events, err := c.Events(read, after)
	if err != nil {
		return err
	}
	if len(events) > 0 {
		after = events[len(events)-1].Seq
	}
	events = v.choose(events, age)
	if err := v.print(events); err != nil {
		return err
	}
	if !v.Follow {
		return nil
	}
	return v.follow(ctx, c, after)
}

// follow prints events as they happen. The end by Ctrl-C is no error, the one by --timeout is.
func (v *eventsVerb) follow(ctx context.Context, c *api.Client, after uint64) error {
	bound := ctx
	if v.Timeout > 0 {
		var cancel context.CancelFunc
		bound, cancel = context.WithTimeout(ctx, v.Timeout)
		defer cancel()
	}
	err := c.Follow(bound, after, func(ev placement.Event) error {
		if after != 0 && ev.Seq > after+1 {
			v.progress("hactl: %d events between %d and %d are no longer kept", ev.Seq-after-1, after, ev.Seq)
		}
		after = ev.Seq
		if v.Group != "" && ev.Group != v.Group {
			return nil
		}
		if v.JSON {
			return v.jsonLine(ev)
		}
		v.line(ev)
		return nil
	}, func(err error) { v.progress("hactl: %s; trying again", clean(err.Error())) })
	switch {
	case ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil
	case bound.Err() != nil:
		return exitError(exitTimeout) // as asked for: not worth a word
	}
	return err
}

// jsonLine prints one event on one line: a stream has no end at which a list could be closed.
func (v *eventsVerb) jsonLine(ev placement.Event) error {
	b, err := json.Marshal(ev)
	if err != nil {
		return fmt.Errorf("encoding event %d: %w", ev.Seq, err)
	}
	_, err = fmt.Fprintf(v.Out, "%s\n", b)
	return err
}

func (v *eventsVerb) parseSince() (after uint64, age time.Duration, err error) {
	if v.Since == "" {
		return 0, 0, nil
	}
	if after, err = strconv.ParseUint(v.Since, 10, 64); err == nil {
		return after, 0, nil
	}
	if age, err = time.ParseDuration(v.Since); err == nil && age > 0 {
		return 0, age, nil
	}
	return 0, 0, usagef("use the number of an event, or a time like 10m or 2h", "--since %q is neither a number nor a time", v.Since)
}

// choose keeps the events that were asked for.
func (v *eventsVerb) choose(events []placement.Event, age time.Duration) []placement.Event {
	kept := []placement.Event{}
	for _, ev := range events {
		if (v.Group == "" || ev.Group == v.Group) && (age == 0 || v.Now().Sub(ev.Time) <= age) {
			kept = append(kept, ev)
		}
	}
	if v.Since == "" && len(kept) > newest {
		kept = kept[len(kept)-newest:]
	}
	return kept
}

func (v *eventsVerb) print(events []placement.Event) error {
	switch {
	case v.JSON && v.Follow:
		for _, ev := range events {
			if err := v.jsonLine(ev); err != nil {
				return err
			}
		}
	case v.JSON:
		return v.printJSON(events)
	case len(events) == 0 && !v.Follow:
		v.printf("No events.\n")
	}
	if !v.JSON {
		for _, ev := range events {
			v.line(ev)
		}
	}
	return nil
}

// line prints one event: number, time, what, and the reason wrapped below it.
func (v *eventsVerb) line(ev placement.Event) {
	head := fmt.Sprintf("%5d  %s  ", ev.Seq, v.clock(ev.Time))
	v.printf("%s%s\n", head, v.paint(bold, wrap(eventWhat(ev), len(head), 7)))
	if ev.Reason.Text != "" {
		v.printf("       %s\n", wrap(ev.Reason.Text, 7, 7))
	}
	if v.Long {
		for _, s := range ev.Reason.Evidence {
			v.printf("       seen: %s\n", wrap(s, 13, 13))
		}
		for _, r := range ev.Reason.Rejected {
			v.printf("       not %s\n", wrap(r.Node+": "+r.Why, 11, 11))
		}
		if m := api.NewMove(ev, ev.Took, true); ev.Moves() && len(m.Phases) > 0 {
			v.printf("       took %s: %s\n", millis(m.Total), wrap(strings.Join(tookParts(m), ", "), 12+len(millis(m.Total))+2, 12))
			if m.Tickled > 0 {
				v.printf("       %s\n", tickled(m))
			}
		}
	}
}

// eventWhat says in a few words what an event changed.
func eventWhat(ev placement.Event) string {
	var b strings.Builder
	word := string(ev.Reason.Rule)
	if word == "" {
		word = ev.Kind
	}
	if ev.Group != "" {
		b.WriteString(ev.Group + " ")
	}
	b.WriteString(word)
	switch {
	case ev.From != "" && ev.To != "" && ev.From != ev.To:
		b.WriteString(" " + ev.From + " -> " + ev.To)
	case ev.To != "":
		b.WriteString(" on " + ev.To)
	case ev.From != "":
		b.WriteString(" from " + ev.From)
	case ev.Node != "":
		b.WriteString(" " + ev.Node)
	}
	if ev.Epoch != 0 {
		fmt.Fprintf(&b, " (epoch %d)", ev.Epoch)
	}
	return b.String()
}

// reason prints why a group is where it is.
func (e *env) reason(r placement.Reason) {
	if r.Text != "" {
		e.item("Why", string(r.Rule)+": "+r.Text)
	}
	for _, s := range r.Evidence {
		e.item("Seen", s)
	}
	for _, x := range r.Rejected {
		e.item("Not", x.Node+": "+x.Why)
	}
}
