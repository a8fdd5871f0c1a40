package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"hacluster/internal/lab"
)

// makers of the systems by name.
var makers = map[string]func(Options) System{
	HadFast: newHad(HadFast, "fast"), HadTight: newHad(HadTight, "fast"), HadLan: newHad(HadLan, "lan"),
	KeepDefault: newKeepalived(KeepDefault), KeepFast: newKeepalived(KeepFast), KeepExtreme: newKeepalived(KeepExtreme),
	PacemakerStock: newPacemaker(PacemakerStock), PacemakerFast: newPacemaker(PacemakerFast), ByHand: newHand,
}

// Plan is a benchmark to run.
type Plan struct {
	N         int      // rounds
	Systems   []string // names
	Scenarios []string // names
	SlowEvery int      // optional: Pacemaker, whose rounds take minutes, takes part in each so-manieth round only, from the first on
	Options
	Stalls *lab.StallMeter                  // optional: without it only the instruments tell
	Say    func(format string, args ...any) // optional: progress
	Done   func(Run)                        // optional: called after each run
}

// limits of one run.
const (
	readyLimit = 60 * time.Second       // forming, and coming back after a fault
	serveLimit = 90 * time.Second       // a system that does not serve again by then is lost
	watch      = time.Second            // two owners are looked for so long after all is calm
	nothing    = 5 * time.Second        // how long no fault lasts
	stillThere = 300 * time.Millisecond // an overlap that lasted until so long before the end had no end
	tries      = 3
)

// Run goes through all rounds. In each round every system is formed, once for each number of networks, and goes through all
// scenarios; both orders are turned by one from round to round. It returns what it has when ctx ends.
func (p Plan) Run(ctx context.Context) (runs Runs, err error) {
	if err := missing(p.Systems); err != nil {
		return nil, err
	}
	if p.Say == nil {
		p.Say = func(string, ...any) {}
	}
	for round := range p.N {
		for i, name := range p.systemsOf(round) {
			for networks := 1; networks <= 2; networks++ {
				got, err := p.session(ctx, round+1, name, networks, turned(p.Scenarios, round+i))
				runs = append(runs, got...)
				if err != nil || ctx.Err() != nil {
					return runs, errors.Join(err, ctx.Err())
				}
			}
		}
	}
	return runs, nil
}

// systemsOf are the systems of a round, counted from 0, in their order.
func (p Plan) systemsOf(round int) []string {
	return slices.DeleteFunc(turned(p.Systems, round), func(name string) bool {
		return strings.HasPrefix(name, "pacemaker") && round%max(p.SlowEvery, 1) != 0
	})
}

// turned is a list that begins at another place.
func turned(list []string, by int) []string {
	by %= max(len(list), 1)
	return slices.Concat(list[by:], list[:by])
}

// session takes one system through those of a list of scenarios that need so many networks. A system that got stuck is formed anew.
func (p Plan) session(ctx context.Context, round int, name string, networks int, list []string) (runs Runs, err error) {
	maker := makers[name]
	if maker == nil {
		return nil, fmt.Errorf("no system %q", name)
	}
	o := p.Options
	o.Networks = networks
	s := maker(o)
	defer func() { err = errors.Join(err, s.Close()) }()
	var a *Arena
	for _, sc := range list {
		if !s.Can(sc) {
			continue
		}
		scenario, ok := Find(sc)
		if !ok {
			return runs, fmt.Errorf("no scenario %q", sc)
		}
		if scenario.networks() != networks {
			continue
		}
		r, spoiled := Run{}, 0
		var trouble []string
		for try := 1; ; try++ {
			var err error
			if a == nil {
				begun := time.Now()
				if a, err = s.Form(ctx); err == nil {
					p.Say("%s formed in %s", name, time.Since(begun).Round(100*time.Millisecond))
				}
			}
			if err == nil {
				r, err = p.one(ctx, s, a, scenario)
			}
			if ctx.Err() != nil {
				return runs, nil
			}
			if err != nil || r.Lost {
				if a = nil; err != nil {
					p.Say("%s, %s: %v", name, sc, err)
					trouble = append(trouble, err.Error())
				}
				if e := s.Close(); e != nil {
					return runs, errors.Join(err, e)
				}
			}
			if err == nil && r.Stall < stallLimit || try == tries {
				break
			}
			if err == nil {
				p.Say("%s, %s: outage %s, but the machine stood still for %s; once more", name, sc, r.Outage.Round(time.Millisecond), r.Stall.Round(time.Millisecond))
				spoiled++
			}
		}
		if len(trouble) == tries {
			return runs, fmt.Errorf("%s, %s: %s", name, sc, trouble[tries-1])
		}
		r.Round, r.Repeats, r.Trouble = round, spoiled, trouble
		runs = append(runs, r)
		if p.Done != nil {
			p.Done(r)
		}
	}
	return runs, nil
}

// one is one scenario once.
func (p Plan) one(ctx context.Context, s System, a *Arena, sc Scenario) (r Run, err error) {
	r = Run{System: s.Name(), Scenario: sc.Name}
	if err := s.Ready(ctx); err != nil {
		return r, err
	}
	before := p.before(ctx, s)
	if err := a.steady(ctx, time.Now(), serveLimit); err != nil {
		return r, err
	}
	if r.From, err = s.Owner(ctx); err != nil {
		return r, err
	}
	since := a.Client.Mark()
	r.At = since
	if err := s.Fault(ctx, sc.Name, r.From); err != nil {
		return r, fmt.Errorf("%s: %w", sc.Name, err)
	}
	if err := p.over(ctx, s, a, sc, r.From, since); err != nil && !errors.Is(err, errNotServed) {
		return r, err
	} else if err != nil {
		r.Lost = true
	}
	r.To = a.answering()
	if err := a.judge(&r, since); err != nil {
		return r, err
	}
	if p.Stalls != nil {
		r.Stall = max(r.Stall, p.Stalls.Longest(since, time.Now()).Length())
	}
	if r.Lost {
		return r, nil
	}
	p.tell(ctx, s, &r, before)
	return r, p.back(ctx, s, a, sc, &r)
}

// over returns when a fault has had its effect.
func (p Plan) over(ctx context.Context, s System, a *Arena, sc Scenario, owner string, since time.Time) error {
	switch {
	case sc.moves():
		if err := poll(ctx, serveLimit, func() bool { return a.Client.AnsweredBy(other(owner), since) }); err != nil {
			return fmt.Errorf("%w by %s: %w", errNotServed, other(owner), err)
		}
	case sc.Name == NoFault: // the same for all: the longer one waits, the longer the longest gap
		if err := wait(ctx, nothing); err != nil {
			return err
		}
	case sc.lasts():
		if err := wait(ctx, s.Patience()); err != nil {
			return err
		}
	}
	if err := a.steady(ctx, time.Now(), serveLimit); err != nil {
		return err
	}
	return wait(ctx, watch)
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// judge reads the instruments.
func (a *Arena) judge(r *Run, since time.Time) error {
	client, err := a.Client.Report(since)
	if err != nil {
		return err
	}
	held, err := a.Observer.Report(since)
	if err != nil {
		return err
	}
	answered, err := a.Prober.Report(since)
	if err != nil {
		return err
	}
	r.Outage, r.Failed, r.Double, r.Present = client.Gap, client.Failed, answered.Double, held.Double
	for _, o := range answered.Overlaps {
		r.Endless = r.Endless || answered.To.Sub(o.To) < stillThere
	}
	// Two instruments on threads that go before almost all others: when neither got a processor, hardly anybody did. A stall
	// meter does not see that, if what goes before all of them is a program.
	r.Stall = min(held.Blind, answered.Blind)
	return nil
}

// back undoes the fault and looks at what that costs.
func (p Plan) back(ctx context.Context, s System, a *Arena, sc Scenario, r *Run) error {
	since := time.Now()
	if err := s.Mend(ctx, sc.Name, r.From); err != nil {
		return fmt.Errorf("mending %s: %w", sc.Name, err)
	}
	if err := s.Ready(ctx); err != nil {
		return err
	}
	if err := a.steady(ctx, time.Now(), serveLimit); err != nil {
		return err
	}
	back := Run{}
	if err := a.judge(&back, since); err != nil {
		return err
	}
	r.Back = Back{Outage: back.Outage, Failed: back.Failed, Double: back.Double}
	return nil
}
