package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"hacluster/api"
	"hacluster/placement"
)

var waitFlag = &cli.BoolFlag{Name: "wait", Aliases: []string{"w"}, Usage: "follow until it is done (bounded by --timeout, default 2m)"}

// goal looks at a status: done, or not yet with where it stands, or an error when it will not come.
type goal func(api.Status) (where string, done bool, err error)

// accepted prints the reply to a write and, with wait, follows until the goal is reached.
func (e *env) accepted(ctx context.Context, r api.Reply, wait bool, g goal) error {
	if !e.JSON {
		for _, w := range r.Warnings {
			e.progress("hactl: warning: %s", clean(w))
		}
	}
	if wait && !r.Already {
		if !e.JSON {
			e.progress("%s", clean(r.Message))
		}
		where, took, err := e.follow(ctx, g)
		if err != nil {
			return err
		}
		if !e.JSON {
			e.printf("%s after %s\n", clean(where), short(took))
			return nil
		}
	}
	if e.JSON {
		return e.printJSON(r)
	}
	e.printf("%s\n", clean(r.Message))
	return nil
}

// follow looks at the status until the goal is reached, fails or time is up. Progress goes to stderr once it takes longer
// than a second. An agent or a leader that is away for a while is waited for: the write has been accepted.
func (e *env) follow(ctx context.Context, g goal) (where string, took time.Duration, err error) {
	c, err := e.connect()
	if err != nil {
		return "", 0, err
	}
	outer := ctx
	ctx, cancel := e.bounded(ctx, defaultWait)
	defer cancel()
	start, said := time.Now(), ""
	for {
		st, err := c.Status(ctx)
		if err == nil {
			var done bool
			var failed error
			where, done, failed = g(st)
			if done || failed != nil {
				return where, time.Since(start), failed
			}
		} else if ctx.Err() == nil {
			where = err.Error()
		}
		if took = time.Since(start); took >= time.Second && where != said && ctx.Err() == nil {
			e.progress("%6s  %s", short(took), clean(where))
			said = where
		}
		select {
		case <-time.After(e.Poll):
		case <-ctx.Done():
			if outer.Err() != nil && !errors.Is(outer.Err(), context.DeadlineExceeded) {
				return where, took, refusef("it goes on without hactl: see `hactl status`", "interrupted: %s", where)
			}
			return where, took, api.Errorf(api.CodeTimeout, "it goes on: see `hactl status`; a longer --timeout waits longer", "not done after %s: %s", short(took), where)
		}
	}
}

// at says where a group stands.
func at(g api.GroupStatus) string {
	s := g.Name + " is " + g.State
	if g.Owner != "" {
		s += " on " + g.Owner
	}
	if g.Phase == placement.PhaseReleasing {
		s += ", which is releasing it"
	}
	if len(g.Notes) > 0 {
		s += " (" + g.Notes[0] + ")"
	}
	return s
}

// gaveUp is the error of a group that will not reach what was asked for.
func gaveUp(g api.GroupStatus) error {
	why := g.Why.Text
	if len(g.Notes) > 0 {
		why = g.Notes[0]
	}
	return refusef("see `hactl group show "+g.Name+"` for the resource and the reason", "%s: %s", at(g), why)
}

// moved is reached when the group is online on its target, or on any other node than before when the target is open.
func moved(name, target string, before api.GroupStatus) goal {
	return func(st api.Status) (string, bool, error) {
		g, err := st.FindGroup(name)
		if err != nil {
			return "", false, err
		}
		settled := g.Phase == placement.PhaseOwned && (g.Epoch > before.Epoch || g.Owner == target)
		there := g.Owner == target || target == "" && g.Owner != before.Owner
		switch {
		case settled && there && g.State == "online":
			return fmt.Sprintf("%s is online on %s", g.Name, g.Owner), true, nil
		case settled && g.State == "failed":
			return "", false, gaveUp(g)
		case settled && !there && g.State == "online":
			return "", false, refusef("see `hactl group show "+g.Name+"`", "%s is online on %s instead: %s", g.Name, g.Owner, g.Why.Text)
		}
		return at(g), false, nil
	}
}

// online is reached when the group is online anywhere.
func online(name string, before api.GroupStatus) goal {
	return func(st api.Status) (string, bool, error) {
		g, err := st.FindGroup(name)
		switch {
		case err != nil:
			return "", false, err
		case g.State == "online":
			return at(g), true, nil
		case g.State == "failed" && g.Epoch > before.Epoch:
			return "", false, gaveUp(g)
		}
		return at(g), false, nil
	}
}

// offline is reached when no node owns the group.
func offline(name string) goal {
	return func(st api.Status) (string, bool, error) {
		g, err := st.FindGroup(name)
		if err != nil {
			return "", false, err
		}
		return at(g), g.Phase == placement.PhaseUnowned && g.State == "offline", nil
	}
}

// applied is reached when the configuration is in force and no group is on its way.
func applied(version uint64) goal {
	return func(st api.Status) (string, bool, error) {
		if st.Config < version {
			return fmt.Sprintf("config %d is in force", st.Config), false, nil
		}
		for _, g := range st.Groups {
			switch {
			case g.State == "failed":
				return "", false, gaveUp(g)
			case g.State == "pending" || g.Phase == placement.PhaseReleasing:
				return at(g), false, nil
			}
		}
		return fmt.Sprintf("config %d is in force and every group has settled", st.Config), true, nil
	}
}
