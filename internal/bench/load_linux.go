package bench

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/internal/drill"
	"hacluster/internal/lab"
)

// Load is a run of all systems at once, side by side, while every node has at least one process that only computes, at the priority of
// any other process. Nothing else happens to them: what moves, moves for nothing.
type Load struct {
	For     time.Duration // required
	Systems []string      // names
	Options
	Stalls *lab.StallMeter                  // optional
	Say    func(format string, args ...any) // optional: progress
}

// The instruments of many systems at once must not be the load themselves.
const (
	loadEvery  = 50 * time.Millisecond // between two connections of a client
	probeEvery = 20 * time.Millisecond // between two probes of a node
	hogsPerCPU = 2                     // at least
	loadTold   = time.Minute           // between two lines of progress
	userTick   = 10 * time.Millisecond // of the times in /proc: USER_HZ is 100 wherever Go runs
)

// recorder is a system that keeps records of its moves.
type recorder interface {
	// Recorded are the moves after an instant, oldest first.
	Recorded(ctx context.Context, since time.Time) ([]LoadMove, error)
}

// loaded is one system with what is known of it so far.
type loaded struct {
	s     System
	a     *Arena
	res   LoadResult
	turns turns
	mark  time.Time // up to which its instruments were read
}

// Run forms the systems one after the other, then loads all of them at once. It returns what it has when ctx ends.
func (l Load) Run(ctx context.Context) (r LoadReport, err error) {
	if err := missing(l.Systems); err != nil {
		return r, err
	}
	if l.Say == nil {
		l.Say = func(string, ...any) {}
	}
	r = LoadReport{Every: loadEvery}
	var all []*loaded
	defer func() {
		for _, x := range all {
			err = errors.Join(err, x.s.Close())
		}
	}()
	for _, name := range l.Systems {
		if name == ByHand { // nobody is there who could be wrong
			continue
		}
		x := &loaded{s: makers[name](l.Options), res: LoadResult{System: name, Moves: []LoadMove{}}}
		all = append(all, x)
		if x.a, err = x.s.Form(ctx); err != nil {
			return r, fmt.Errorf("%s: %w", name, err)
		}
		if err := x.a.lighten(ctx); err != nil {
			return r, fmt.Errorf("%s: %w", name, err)
		}
		l.Say("%s formed", name)
	}
	var nodes []*lab.Node
	for _, x := range all {
		nodes = append(nodes, x.a.Lab.Nodes()...)
	}
	r.Nodes = len(nodes)
	hogs, err := startHogs(nodes)
	defer func() { err = errors.Join(err, hogs.stop()) }()
	if err != nil {
		return r, err
	}
	r.Hogs = len(hogs)
	return l.watch(ctx, r, all, hogs)
}

// lighten replaces the instruments by ones that ask less often.
func (a *Arena) lighten(ctx context.Context) (err error) {
	if err := errors.Join(a.Client.Close(), a.Prober.Close()); err != nil {
		return err
	}
	if a.Prober, err = a.Lab.Probe(lab.ProbeOptions{Addrs: []netip.Addr{a.VIP.Addr()}, Every: probeEvery}); err != nil {
		return err
	}
	if a.Client, err = a.Lab.StartClient(lab.ClientOptions{Target: netip.AddrPortFrom(a.VIP.Addr(), servicePort), Every: loadEvery}); err != nil {
		return err
	}
	return a.steady(ctx, time.Now(), serveLimit)
}

// hogs are processes that only compute.
type hogs []*lab.Proc

// startHogs has processes compute in the nodes, each in turn, until each has one and each processor of this machine enough of them.
// With an error it returns those that run.
func startHogs(nodes []*lab.Node) (h hogs, err error) {
	for n := range max(len(nodes), hogsPerCPU*runtime.NumCPU()) {
		p, err := nodes[n%len(nodes)].Start(lab.ProcOptions{Name: "hog", Args: []string{"sh", "-c", "while :; do :; done"}})
		if err != nil {
			return h, err
		}
		h = append(h, p)
	}
	return h, nil
}

// stop ends them all.
func (h hogs) stop() error {
	var errs []error
	for _, p := range h {
		if end, _ := p.State(); end == "" {
			errs = append(errs, p.Signal(unix.SIGKILL))
		}
	}
	for _, p := range h {
		<-p.Done()
	}
	return errors.Join(errs...)
}

// time is how long they have had a processor, all together.
func (h hogs) time() (sum time.Duration) {
	for _, p := range h {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
		if err != nil {
			continue
		}
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // proc(5): from field 3 on
		if len(fields) > 11 {
			ticks, _ := strconv.ParseInt(fields[11], 10, 64) // utime
			sum += time.Duration(ticks) * userTick
		}
	}
	return sum
}

// watch waits for the end of the load and reads all instruments again and again.
func (l Load) watch(ctx context.Context, r LoadReport, all []*loaded, hogs hogs) (LoadReport, error) {
	begun, idle, had := time.Now(), idleTime(), hogs.time()
	for _, x := range all {
		x.mark = begun
		x.turns.serving = x.a.answering()
	}
	for r.Lasted < l.For && ctx.Err() == nil {
		if wait(ctx, min(loadTold, l.For-r.Lasted)) != nil {
			break
		}
		r.Systems = nil
		for _, x := range all {
			x.read(ctx, begun)
			r.Systems = append(r.Systems, x.res)
		}
		r.Lasted = time.Since(begun)
		share := func(d time.Duration) float64 {
			return min(1, max(0, float64(d)/float64(r.Lasted)/float64(runtime.NumCPU())))
		}
		r.Idle, r.Hogged = share(idleTime()-idle), share(hogs.time()-had)
		if l.Stalls != nil {
			r.Stall = l.Stalls.Longest(begun, time.Now()).Length()
		}
		l.Say("%s", r.line())
	}
	return r, nil
}

// read takes what the instruments of a system have seen since it was read last.
func (x *loaded) read(ctx context.Context, begun time.Time) {
	var errs []error
	client, err := x.a.Client.Report(x.mark)
	errs = append(errs, err)
	answered, err := x.a.Prober.Report(x.mark)
	errs = append(errs, err)
	list := slices.DeleteFunc(x.a.Client.Requests(x.mark), func(q lab.Request) bool { return q.Err != "" || q.End.After(client.To) })
	x.res.Requests += client.OK + client.Failed
	x.res.Failed += client.Failed
	x.res.Gap = max(x.res.Gap, client.Gap)
	x.res.Double += answered.Double
	x.mark = client.To
	if whole, err := x.a.Client.Report(begun); err == nil {
		x.res.P99 = whole.P99
	}
	slices.SortStableFunc(list, func(a, b lab.Request) int { return a.Start.Compare(b.Start) })
	for _, q := range list {
		if from, at, moved := x.turns.add(q.Node, q.Start); moved && !x.res.Recorded {
			x.res.Moves = append(x.res.Moves, LoadMove{After: at.Sub(begun), From: from, To: q.Node})
		}
	}
	if rec, ok := x.s.(recorder); ok {
		moves, err := rec.Recorded(ctx, begun)
		if err == nil {
			x.res.Moves, x.res.Recorded = moves, true
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil && ctx.Err() == nil {
		x.res.Trouble, _, _ = strings.Cut(err.Error(), "\n")
	}
}

// Recorded asks the nodes one after the other for the history. A group that its owner takes over itself, because its lease was over,
// is a move as well.
func (h *had) Recorded(ctx context.Context, since time.Time) (moves []LoadMove, err error) {
	var text string
	for _, node := range []string{Nodes[2], Nodes[0], Nodes[1]} {
		one, cancel := context.WithTimeout(ctx, 10*time.Second) // hactl has to wait for its turn too
		text, err = h.c.Hactl(one, node, "events", "--since", "0", "--group", drill.Group, "-o", "json")
		cancel()
		if err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	return recordedMoves([]byte(text), since)
}

// recordedMoves reads what `hactl events -o json` prints.
func recordedMoves(text []byte, since time.Time) (moves []LoadMove, err error) {
	var out []struct {
		Time           time.Time
		Kind, From, To string
		Reason         struct{ Rule string }
	}
	if err := json.Unmarshal(text, &out); err != nil {
		return nil, fmt.Errorf("hactl events: %w", err)
	}
	moves = []LoadMove{}
	for _, e := range out {
		if slices.Contains([]string{"assign", "released", "takeover"}, e.Kind) && !e.Time.Before(since) {
			moves = append(moves, LoadMove{After: e.Time.Sub(since), From: e.From, To: e.To, Why: e.Reason.Rule})
		}
	}
	slices.SortFunc(moves, func(a, b LoadMove) int { return cmp.Compare(a.After, b.After) })
	return moves, nil
}

// idleTime is how long the processors of this machine together had nothing to do since it was started; zero where that is not told.
func idleTime() time.Duration {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(text), "\n") // of all processors
	var name string
	var user, nice, system, idle int64
	if _, err := fmt.Sscan(line, &name, &user, &nice, &system, &idle); err != nil {
		return 0
	}
	return time.Duration(idle) * userTick
}
