package placement

import (
	"strings"
	"testing"
	"time"
)

// standsOn turns the bench's order around: the service needs the address, as with a service that binds to it.
func standsOn(b *bench) {
	b.resource("ip", func(r *ResourcePolicy) { r.DependsOn = nil })
	b.resource("tomcat", func(r *ResourcePolicy) { r.DependsOn = &Expr{Name: "ip"} })
}

// The third rung: an address goes although what stands on it cannot be proven stopped.
func TestTheAddressGoesWhenWhatStandsOnItCannotBeStopped(t *testing.T) {
	for name, c := range map[string]struct {
		tomcat LocalResource
		want   string
		rung   Rung
	}{
		"while it is stopped in order the address stays": {LocalResource{State: StateOfflinePending, Running: true, Doing: ActStop}, "", ""},
		"while it is killed too":                         {LocalResource{State: StateOfflinePending, Running: true, Doing: ActKill}, "", ""},
		"when that cannot be proven it goes":             {LocalResource{State: StateOfflinePending, Running: true, Doing: ActKill, Blocked: "stuck"}, "stop ip", RungAddress},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			standsOn(b)
			b.all(LocalResource{State: StateOffline})
			b.set("ip", online)
			b.set("tomcat", c.tomcat)
			b.releasing()
			p := Reconcile(b.p, b.s, b.l, b.now)
			if got := asked(p); got != c.want {
				t.Fatalf("asked for %q, want %q", got, c.want)
			}
			if c.rung != "" && (p.Actions[0].Rung != c.rung || !strings.Contains(p.Actions[0].Why, "tomcat: stuck")) {
				t.Errorf("got %+v, want rung %s that names what is stuck", p.Actions[0], c.rung)
			}
			if p.Report.Groups["web"].Released != 0 || !p.Report.Groups["web"].Holding {
				t.Error("the group was given up although something of it may run (S2)")
			}
		})
	}
}

// Each step that a node reports becomes one event, whoever proposes it and how often.
func TestStepsOfALadderAreRecordedOnce(t *testing.T) {
	sc := newScene(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)
	kill := Step{Group: "web", Resource: "tomcat", Rung: RungKill, Why: "not within 1m0s", At: at}
	blocked := Step{Group: "web", Resource: "tomcat", Rung: RungBlocked, Why: "process 12 is in state D", At: at.Add(time.Second)}
	report := func(steps ...Step) {
		n := sc.v.Nodes["n1"]
		n.Report.Ladder = steps
		sc.v.Nodes["n1"] = n
	}
	notes := func() (out []Command) {
		for _, c := range Decide(sc.s.Policy, sc.s, sc.v, sc.now).Commands {
			if c.Kind == CmdNote {
				out = append(out, c)
			}
		}
		return out
	}
	report(kill, blocked)
	proposed := notes()
	if len(proposed) != 2 {
		t.Fatalf("%d notes are proposed, want 2: %+v", len(proposed), proposed)
	}
	want := "blocked: a human is needed: the kill of tomcat on n1 cannot be proven"
	if r := proposed[1].Reason; r.Rule != RuleLadder || r.Text != want || r.Evidence[0] != blocked.Why || proposed[1].Group != "web" || proposed[1].Node != "n1" {
		t.Errorf("got %+v, want %q", proposed[1], want)
	}
	for range 2 { // two leaders in a row may propose the same
		for _, c := range proposed {
			sc.s, _ = sc.s.Apply(c)
		}
	}
	events := 0
	for _, e := range sc.s.Events {
		if e.Reason.Rule == RuleLadder {
			events++
		}
	}
	if events != 2 {
		t.Errorf("%d events of two steps", events)
	}
	if !sc.s.Recorded("n1", kill) || sc.s.Recorded("n2", kill) {
		t.Error("a node cannot tell that its step is in the history")
	}
	if n := notes(); len(n) != 0 {
		t.Errorf("proposed again: %+v", n)
	}
	kill.At = at.Add(time.Minute)
	report(kill, blocked)
	if n := notes(); len(n) != 1 {
		t.Errorf("the same rung at another time is another event: %+v", n)
	}
}
