package main

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"hacluster/api"
	"hacluster/api/apitest"
	"hacluster/placement"
)

// staged is a world in which a write starts something; every status asked for after it shows the next stage.
type staged struct {
	*apitest.World
	started bool
	stages  []func(*api.Status)
}

func (s *staged) Write(ctx context.Context, w api.Write) (api.Reply, error) {
	s.started = true
	return s.World.Write(ctx, w)
}

func (s *staged) Status(ctx context.Context) (api.Status, error) {
	if s.started && len(s.stages) > 0 {
		if s.stages[0] != nil {
			s.World.Update(s.stages[0])
		}
		s.stages = s.stages[1:]
	}
	return s.World.Status(ctx)
}

func group(f func(*api.GroupStatus)) func(*api.Status) {
	return func(s *api.Status) { f(&s.Groups[0]) }
}

var (
	releasing = group(func(g *api.GroupStatus) { g.Phase, g.State = placement.PhaseReleasing, "pending" })
	starting  = group(func(g *api.GroupStatus) {
		g.Phase, g.Owner, g.Epoch, g.State = placement.PhaseOwned, "n2", 5, "pending"
	})
	onN2      = group(func(g *api.GroupStatus) { g.State = "online" })
	onN1Again = group(func(g *api.GroupStatus) {
		g.Phase, g.Owner, g.Epoch, g.State, g.Why.Text = placement.PhaseOwned, "n1", 6, "online", "tomcat did not start on n2"
	})
	failed  = group(func(g *api.GroupStatus) { g.State, g.Notes = "failed", []string{"tomcat failed on n2: exit status 1"} })
	unowned = group(func(g *api.GroupStatus) { g.Phase, g.Owner, g.State = placement.PhaseUnowned, "", "offline" })
	errAway = errors.New("the leader is away")
)

func TestWaitFollowsUntilItIsDone(t *testing.T) {
	moving := api.Reply{Message: "web moves from n1 to n2", Epoch: 5, Target: "n2"}
	drained := func(s *api.Status) { s.Nodes[0].State, s.Nodes[0].Groups = "paused", nil }
	for _, c := range []struct {
		name, args string
		reply      api.Reply
		before     func(*api.Status)
		stages     []func(*api.Status)
		code       int
		out, err   string
	}{
		{"a move", "group move web --to n2 --wait", moving, nil, []func(*api.Status){nil, releasing, starting, onN2}, 0, "web is online on n2 after", "web moves from n1 to n2"},
		{"a move to wherever", "group move web --wait", api.Reply{Message: "m"}, nil, []func(*api.Status){releasing, starting, onN2}, 0, "online on n2", ""},
		{"a move that is done already", "group move web --to n1 --wait", api.Reply{Message: "web is on n1 already", Already: true}, nil, nil, 0, "already", ""},
		{"a move that comes back", "group move web --to n2 --wait", moving, nil, []func(*api.Status){releasing, starting, onN1Again}, 1, "", "web is online on n1 instead: tomcat did not start on n2"},
		{"a move that fails", "group move web --to n2 --wait", moving, nil, []func(*api.Status){releasing, starting, failed}, 1, "", "exit status 1"},
		{"a move that takes too long", "group move web --to n2 --wait --timeout 1s", moving, nil, []func(*api.Status){releasing}, 124, "", "not done after"},
		{"offline", "group offline web --wait", api.Reply{Message: "m"}, nil, []func(*api.Status){releasing, unowned}, 0, "web is offline after", ""},
		{"online", "group online web --wait", api.Reply{Message: "m"}, unowned, []func(*api.Status){nil, starting, onN2}, 0, "web is online on n2", ""},
		{"online, but it fails", "group online web --wait", api.Reply{Message: "m"}, unowned, []func(*api.Status){starting, failed}, 1, "", "exit status 1"},
		{"drain", "node drain n1 --wait", api.Reply{Message: "m"}, nil, []func(*api.Status){releasing, drained}, 0, "n1 is drained", ""},
		{"pause", "node pause n1 --wait", api.Reply{Message: "m"}, nil, []func(*api.Status){nil, drained}, 0, "n1 is paused", ""},
		{"resume", "node resume n1 --wait", api.Reply{Message: "m"}, drained, []func(*api.Status){nil, func(s *api.Status) { s.Nodes[0].State = "up" }}, 0, "n1 is up", ""},
		{"apply", "apply testdata/cluster.toml --wait", api.Reply{Message: "m", Version: 8}, nil,
			[]func(*api.Status){nil, func(s *api.Status) { s.Config = 8; starting(s) }, onN2}, 0, "config 8 is in force and every group has settled", ""},
		{"a group that is not there", "group move shop --wait", moving, nil, nil, 1, "", `no group "shop"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := tomcats()
			w.OnWrite = func(*apitest.World, api.Write) (api.Reply, error) { return c.reply, nil }
			if c.before != nil {
				w.Update(c.before)
			}
			d := sit(t, &staged{World: w, stages: c.stages})
			code := d.hactl(bounded(t), strings.Fields(c.args)...)
			if code != c.code || !strings.Contains(d.Out.String(), c.out) || !strings.Contains(d.Err.String(), c.err) {
				t.Fatalf("got %d, want %d\nout: %s\nerr: %s", code, c.code, d.Out, d.Err)
			}
			if code != 0 && !strings.Contains(d.Err.String(), "what to do: ") {
				t.Errorf("no word of what to do: %s", d.Err)
			}
		})
	}
}

func TestWaitTellsWhatItWaitsForAndSurvivesALeaderThatIsAway(t *testing.T) {
	w := tomcats()
	w.OnWrite = func(w *apitest.World, _ api.Write) (api.Reply, error) {
		w.Update(releasing)
		w.Fail(errAway)
		return api.Reply{Message: "web moves", Target: "n2"}, nil
	}
	d := sit(t, w)
	ctx := bounded(t)
	done := make(chan int, 1)
	e := d.env()
	go func() { done <- e.run(ctx, []string{"group", "move", "web", "--to", "n2", "--wait"}) }()
	look := func(what string) {
		t.Helper()
		for !strings.Contains(d.Err.String(), what) {
			select {
			case <-ctx.Done():
				t.Fatalf("never said %q: %s", what, d.Err)
			case code := <-done:
				t.Fatalf("ended with %d: %s", code, d.Err)
			case <-time.After(time.Millisecond):
			}
		}
	}
	look("the leader is away")
	w.Fail(nil)
	look("web is pending on n1, which is releasing it")
	w.Update(starting)
	w.Update(onN2)
	if code := <-done; code != 0 || !strings.Contains(d.Out.String(), "web is online on n2 after 1.") {
		t.Fatalf("got %d: %s", code, d.Out)
	}
}

// A moment without a leader is waited out, where nothing was begun: what may have taken effect is not repeated.
func TestAnElectionIsWaitedOut(t *testing.T) {
	untried := api.Untried("bring nodes back", "the cluster has no leader")
	for _, c := range []struct {
		name    string
		args    string
		refusal *api.Error
		times   int // refused before it is taken
		elects  time.Duration
		code    int
		calls   int // 0: any number over 2
		told    int // lines about it
	}{
		{"a moment", "group move web", untried, 3, time.Minute, exitOK, 4, 0},
		{"a moment, apply", "apply testdata/cluster.toml", untried, 2, time.Minute, exitOK, 4, 0}, // it asks what would change first

		{"no majority", "group move web", untried, math.MaxInt, 1200 * time.Millisecond, exitDown, 0, 1},
		{"no majority, JSON", "group move web -o json", untried, math.MaxInt, 1200 * time.Millisecond, exitDown, 0, 0},
		{"less time than that", "group move web --timeout 50ms", untried, math.MaxInt, time.Minute, exitDown, 0, 0},
		{"begun", "group move web", api.Errorf(api.CodeNoQuorum, "", "the command was not committed"), math.MaxInt, time.Minute, exitDown, 1, 0},
		{"refused", "group move web", api.Errorf(api.CodeRefused, "", "it is a witness"), math.MaxInt, time.Minute, exitFailed, 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, calls := tomcats(), 0
			w.OnWrite = func(*apitest.World, api.Write) (api.Reply, error) {
				if calls++; calls <= c.times {
					return api.Reply{}, c.refusal
				}
				return api.Reply{Message: "done"}, nil
			}
			d := sit(t, w)
			e := d.env()
			e.Elects = c.elects
			code := e.run(bounded(t), strings.Fields(c.args))
			if code != c.code || c.calls > 0 && calls != c.calls || c.calls == 0 && calls < 3 {
				t.Errorf("exit code %d after %d calls: %s", code, calls, d.Err)
			}
			if n := strings.Count(d.Err.String(), "waiting for a leader: the cluster has no leader\n"); n != c.told {
				t.Errorf("told %d times: %s", n, d.Err)
			}
			if c.code != exitOK && !strings.Contains(d.Err.String(), c.refusal.Message) {
				t.Errorf("the refusal is not shown: %s", d.Err)
			}
		})
	}
}
