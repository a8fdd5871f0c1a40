package drill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"hacluster/api"
)

// Nemesis is a campaign of random real faults.
type Nemesis struct {
	Seed     uint64
	Rounds   []int          // required: numbers of the rounds
	Timing   string         // optional: fast or lan, drawn without
	Layer    string         // optional: kernel lease, gate or address, drawn without
	Only     []string       // optional: names of faults
	Parallel int            // clusters side by side, 1 without
	Bound    time.Duration  // how long the cluster may take to converge after everything is healed, 30s without
	Bin      string         // required: folder that BuildNemesis filled
	Keep     string         // required: folder for the logs of what went wrong
	Done     func(o Round)  // optional: called after each round, from one goroutine at a time
	Say      func(s string) // optional: what is not a round
}

// calm is how long clients must be answered without a failure before a round is over.
const calm = 500 * time.Millisecond

// Run does the rounds and returns what came of them, as far as it got. An error is a fault of the campaign, not of the cluster.
func (n Nemesis) Run(ctx context.Context) (Tally, error) {
	if n.Bound == 0 {
		n.Bound = 30 * time.Second
	}
	if n.Say == nil {
		n.Say = func(string) {}
	}
	var mu sync.Mutex
	var tally Tally
	var errs []error
	rounds := make(chan int)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var workers sync.WaitGroup
	for range max(n.Parallel, 1) {
		workers.Go(func() {
			err := n.work(ctx, rounds, func(o Round) {
				mu.Lock()
				defer mu.Unlock()
				tally.Rounds = append(tally.Rounds, o)
				if n.Done != nil {
					n.Done(o)
				}
			})
			if err != nil && !errors.Is(err, context.Canceled) {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
				cancel()
			}
		})
	}
feed:
	for _, r := range n.Rounds {
		select {
		case rounds <- r:
		case <-ctx.Done():
			break feed
		}
	}
	close(rounds)
	workers.Wait()
	slices.SortFunc(tally.Rounds, func(a, b Round) int { return a.Round - b.Round })
	return tally, errors.Join(errs...)
}

// work does rounds on one cluster, and on a new one after a round that did not converge.
func (n Nemesis) work(ctx context.Context, rounds <-chan int, done func(Round)) (err error) {
	var a *arena
	defer func() {
		if a != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	for r := range rounds {
		if a == nil {
			if a, err = newArena(ctx, n.Bin, n.draw(r)); err != nil {
				return fmt.Errorf("forming a cluster: %w", err)
			}
		}
		out, err := n.round(ctx, a, n.draw(r))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("round %d: %w", r, err)
		}
		done(out)
		if out.Stuck != "" {
			err := a.Close()
			a = nil
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// draw makes the plan of a round.
func (n Nemesis) draw(round int) Plan { return Draw(n.Seed, round, n.Timing, n.Layer, n.Only) }

// round puts the cluster through one plan. What the cluster does wrong is in the result, an error is a fault of the instruments.
func (n Nemesis) round(ctx context.Context, a *arena, p Plan) (Round, error) {
	out := Round{Plan: p, fixed: n.Layer != ""}
	begun := time.Now()
	marks := a.logSizes()
	if why := a.begin(ctx, p, n.Bound); why != "" {
		out.Stuck = "before the first fault: " + why
		out.Logs = n.keep(ctx, a, out, marks)
		return out, nil
	}
	since, clock := a.Client.Mark(), monotonic()
	if err := a.strike(ctx, &out, since); err != nil {
		return out, err
	}
	out.Excuse = excuse(out.Strikes)
	if err := a.heal(); err != nil {
		return out, fmt.Errorf("healing: %w", err)
	}
	healed := time.Now()
	if why := a.converge(ctx, n.Bound, false); why != "" {
		out.Stuck = why
	}
	out.Converged = time.Since(healed)
	if out.Stuck == "" {
		out.Stuck = a.calmDown(ctx, n.Bound)
	}
	if err := a.judge(ctx, &out, since, clock); err != nil {
		return out, err
	}
	out.Took = time.Since(begun)
	if out.Wrong() && ctx.Err() == nil {
		out.Logs = n.keep(ctx, a, out, marks)
	}
	return out, nil
}

// begin puts the plan's configuration in force and waits until all is well, so that what follows is this round's doing.
func (a *arena) begin(ctx context.Context, p Plan, bound time.Duration) (why string) {
	a.rounds++
	if err := a.forgetRuns(); err != nil {
		return err.Error()
	}
	for end := time.Now().Add(bound); ; time.Sleep(100 * time.Millisecond) { // the leader of the round before may just be replaced
		err := a.apply(ctx, p)
		if err == nil {
			break
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return err.Error()
		}
	}
	if why := a.converge(ctx, bound, true); why != "" {
		return why
	}
	return a.calmDown(ctx, bound)
}

// strike carries the plan out: each fault begins and ends at its time, one after the other; whatever waits does so beside.
func (a *arena) strike(ctx context.Context, out *Round, since time.Time) error {
	st, err := a.Status(ctx)
	if err != nil {
		return err
	}
	roles := a.roles(st)
	out.From, out.layers = roles[RoleOwner], []string{string(st.Timing.Layer)}
	type moment struct {
		at time.Duration
		do func()
	}
	var line []moment
	var beside sync.WaitGroup
	var mu sync.Mutex // guards the notes
	out.Strikes = slices.Clone(out.Strikes)
	undos := make([]func() error, len(out.Strikes))
	for i := range out.Strikes {
		s := &out.Strikes[i]
		s.Node = roles[s.Role]
		note := func(text string) {
			mu.Lock()
			defer mu.Unlock()
			if text != "" {
				s.Note = strings.TrimPrefix(s.Note+", "+text, ", ")
			}
		}
		h := &hit{arena: a, Strike: *s, plan: out.Plan, fixed: out.fixed, ctx: ctx}
		h.soon = func(f func() string) { beside.Go(func() { note(f()) }) }
		end := func() {
			if undo := undos[i]; undo != nil {
				undos[i] = nil
				if err := undo(); err != nil {
					note("ending it: " + err.Error())
				}
			}
		}
		begin := func() {
			undo, text, err := faults[s.Fault](h)
			undos[i] = undo
			note(text)
			if err != nil {
				note("without effect: " + err.Error())
			}
		}
		line = append(line, moment{s.After, begin}, moment{s.After + s.For, end})
	}
	slices.SortStableFunc(line, func(x, y moment) int { return int(x.at - y.at) })
	for _, m := range line {
		select {
		case <-ctx.Done():
		case <-time.After(time.Until(since.Add(m.at))):
		}
		m.do() // also when it was interrupted: what began must end
	}
	beside.Wait()
	return ctx.Err()
}

// roles says who is what.
func (a *arena) roles(st api.Status) map[Role]string {
	owner := Web(st).Owner
	roles := map[Role]string{RoleOwner: owner, RoleStandby: Other(owner), RoleWitness: "witness", RoleLeader: cmp.Or(st.Leader, "witness"), RoleHolder: owner}
	for _, g := range st.Groups {
		if g.Name == Only {
			roles[RoleHolder] = g.Owner
		}
	}
	return roles
}

// converge waits until the cluster is whole again: had runs everywhere, every node speaks and knows the leader, the groups are
// online with a ready standby, and the exclusive service runs once, at its owner. It says what is amiss after the bound. Agents
// that are started again one after the other for a new timing are waited for only if settled is wanted: nothing is amiss then.
func (a *arena) converge(ctx context.Context, bound time.Duration, settled bool) (why string) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	for {
		err := a.revive()
		if err != nil {
			why = err.Error()
		} else if why = a.amiss(ctx, settled); why == "" {
			return ""
		}
		select {
		case <-ctx.Done():
			return fmt.Sprintf("not within %s: %s", bound, why)
		case <-time.After(30 * time.Millisecond):
		}
	}
}

// amiss is what keeps the cluster from being whole, "" when nothing does.
func (a *arena) amiss(ctx context.Context, settled bool) string {
	st, err := a.Status(ctx)
	if err != nil {
		return err.Error()
	}
	if st.Stale || st.Quorum.Alive != len(Nodes) {
		return fmt.Sprintf("%s answers, stale %v, leader %q, %d voters alive", st.Node, st.Stale, st.Leader, st.Quorum.Alive)
	}
	if st.Config < a.wants {
		return fmt.Sprintf("configuration %d is not yet applied", a.wants)
	}
	for _, n := range st.Nodes {
		flags := slices.DeleteFunc(slices.Clone(n.Flags), func(f string) bool { return f == "retiming" && !settled })
		if n.Config != st.Config {
			return fmt.Sprintf("node %s follows configuration %d, not %d", n.Name, n.Config, st.Config)
		}
		if n.State == "up" && len(flags) == 0 {
			continue
		}
		if slices.Contains(flags, "draining") || slices.Contains(flags, "drained") {
			_, _ = a.write(ctx, api.Write{Verb: api.VerbResume, Node: n.Name}) // again in a moment
		}
		return fmt.Sprintf("node %s is %s %v", n.Name, n.State, flags)
	}
	if len(st.Groups) != 2 {
		return fmt.Sprintf("%d groups", len(st.Groups))
	}
	for _, g := range st.Groups {
		if g.State != "online" || g.Phase != "owned" {
			return fmt.Sprintf("group %s is %s (%s) on %q: %v", g.Name, g.State, g.Phase, g.Owner, g.Notes)
		}
		for _, s := range g.Standbys {
			if !s.Ready {
				return fmt.Sprintf("standby %s of %s: %s", s.Node, g.Name, s.Why)
			}
		}
	}
	if run := a.running(); !slices.Equal(run, []string{a.roles(st)[RoleHolder]}) {
		return fmt.Sprintf("the exclusive service runs on %v, %s owns it", run, a.roles(st)[RoleHolder])
	}
	for _, node := range Nodes {
		own, err := a.ask(ctx, node)
		if err != nil {
			return fmt.Sprintf("%s: %s", node, err)
		}
		if own.Stale || own.Leader != st.Leader {
			return fmt.Sprintf("%s: stale %v, leader %q, not %q", node, own.Stale, own.Leader, st.Leader)
		}
	}
	return ""
}

// ask has one node answer.
func (a *arena) ask(ctx context.Context, node string) (api.Status, error) {
	one, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	client := api.NewSocketClient(a.socket(node))
	defer client.Close()
	return client.Status(one)
}

// calmDown waits until clients were answered for a while without a failure.
func (a *arena) calmDown(ctx context.Context, bound time.Duration) (why string) {
	end := time.Now().Add(bound)
	for since := time.Now(); ; {
		select {
		case <-ctx.Done():
			return ctx.Err().Error()
		case <-time.After(20 * time.Millisecond):
		}
		r, err := a.Client.Report(since)
		if err != nil {
			return err.Error()
		}
		if r.Failed == 0 && r.OK > 0 && time.Since(since) > calm && a.Client.Settled(since) {
			return ""
		}
		if r.Failed > 0 {
			since = time.Now()
		}
		if time.Now().After(end) {
			return fmt.Sprintf("clients are not answered steadily within %s, although the cluster says all is well: %s", bound, r)
		}
	}
}

// judge reads the instruments.
func (a *arena) judge(ctx context.Context, out *Round, since time.Time, clock time.Duration) error {
	report, err := a.Client.Report(since)
	if err != nil {
		return err
	}
	had, err := a.Observer.Report(since)
	if err != nil {
		return err
	}
	answered, err := a.Prober.Report(since)
	if err != nil {
		return err
	}
	run, err := stretches(a.runs, clock)
	if err != nil {
		return err
	}
	out.Outage, out.Failed, out.Requests = report.Gap, report.Failed, report.OK+report.Failed
	out.Double, out.Present, out.Twice, out.Blind = answered.Double, had.Double, twice(run), max(had.Blind, answered.Blind)
	if st, err := a.Status(ctx); err == nil {
		out.To = Web(st).Owner
		out.layers = append(out.layers, string(st.Timing.Layer))
	}
	out.Address = !slices.ContainsFunc(out.layers, func(l string) bool { return l != "address" })
	return nil
}
