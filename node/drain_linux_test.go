package node

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/internal/boottime"
	"hacluster/placement"
	"hacluster/vip"
)

// plansTold is what an address hears of the plan for its group.
type plansTold struct {
	mu     sync.Mutex
	gs     placement.GroupState
	unsure bool
}

func (p *plansTold) name() string { return "a" }

func (p *plansTold) plan(string) (placement.GroupState, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gs, !p.unsure
}

// drainBench is an address of node a that serves lines, and the rest of the world in another namespace: clients and node b.
type drainBench struct {
	*address
	*plansTold
	t           *testing.T
	here, other string
	links       map[string]map[string]string
}

func newDrainBench(t *testing.T) *drainBench {
	t.Helper()
	a, mine, other := newAddressIn(t)
	if err := vip.DrainSupported(); err != nil {
		t.Skip("needs a kernel that can duplicate packets:", err)
	}
	sh(t, "ip", "-n", other, "addr", "add", "198.18.0.2/24", "dev", "eth0")
	a.gate.follow(true, true)
	b := &drainBench{address: a, plansTold: &plansTold{}, t: t, here: mine, other: other}
	a.lease, a.plans, a.wake = word{true}, b.plansTold, func() {}
	self, err := a.vips.Peer(a.spec)
	if err != nil {
		t.Fatal(err)
	}
	b.links = map[string]map[string]string{"a": {"ip": self.String()}, "b": {"ip": "198.18.0.9 02:00:00:00:00:09"}}
	b.serve()
	return b
}

// serve echoes lines.
func (b *drainBench) serve() {
	b.t.Helper()
	var ln net.Listener
	err := within(b.here, func() (err error) {
		ln, err = net.Listen("tcp4", ":8")
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for in := bufio.NewScanner(c); in.Scan(); {
					fmt.Fprintln(c, in.Text())
				}
			}()
		}
	}()
}

// dial opens a connection and has it accepted.
func (b *drainBench) dial() net.Conn {
	b.t.Helper()
	var c net.Conn
	err := within(b.other, func() (err error) {
		c, err = net.DialTimeout("tcp4", netip.AddrPortFrom(theVIP.Addr(), 8).String(), 5*time.Second)
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Close() })
	b.goesOn(c)
	return c
}

// goesOn checks that a connection is served.
func (b *drainBench) goesOn(c net.Conn) {
	b.t.Helper()
	err := c.SetDeadline(time.Now().Add(2 * time.Second))
	if err == nil {
		_, err = fmt.Fprintln(c, "?")
	}
	if err == nil {
		_, err = c.Read(make([]byte, 2))
	}
	if err != nil {
		b.t.Errorf("the connection does not go on: %v", err)
	}
}

// isReset waits until the other side has reset a connection.
func (b *drainBench) isReset(c net.Conn, bound time.Duration) {
	b.t.Helper()
	err := c.SetDeadline(time.Now().Add(bound))
	if err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, unix.ECONNRESET) {
		b.t.Errorf("the connection got %v, want a reset", err)
	}
}

// start takes the group over as a.
func (b *drainBench) start(epoch uint64, d *placement.Drain) {
	b.t.Helper()
	b.say(placement.GroupState{Owner: "a", Epoch: epoch, Phase: placement.PhaseOwned, Drain: d})
	if err := b.Start(b.t.Context(), epoch); err != nil {
		b.t.Fatal(err)
	}
}

func (b *drainBench) say(gs placement.GroupState) {
	b.locked(func() { b.gs = gs })
}

func (b *drainBench) locked(f func()) {
	b.plansTold.mu.Lock()
	defer b.plansTold.mu.Unlock()
	f()
}

func (b *drainBench) planned(from, to string, epoch uint64, timeout time.Duration) *placement.Drain {
	return &placement.Drain{Timeout: timeout, Node: from, To: to, Epoch: epoch, Links: b.links}
}

// give has the epoch released with a drain. The new owner has not been named yet.
func (b *drainBench) give(epoch uint64, timeout time.Duration) *placement.Drain {
	b.t.Helper()
	d := b.planned("a", "b", epoch, timeout)
	b.say(placement.GroupState{Owner: "a", Epoch: epoch, Phase: placement.PhaseReleasing, Drain: d})
	if err := b.Stop(b.t.Context(), epoch); err != nil {
		b.t.Fatal(err)
	}
	return d
}

// handed says that node b is the owner now.
func (b *drainBench) handed(d *placement.Drain) {
	b.say(placement.GroupState{Owner: "b", Epoch: d.Epoch + 1, Phase: placement.PhaseOwned, Drain: d})
}

// ended waits for the end of the drain and checks that nothing of it is left.
func (b *drainBench) ended(bound time.Duration) placement.DrainReport {
	b.t.Helper()
	end := time.Now().Add(bound)
	waitFor(b.t, "the drain is over", func() error {
		if r := b.drainReport(); r == nil || !r.Done {
			if time.Now().After(end) {
				b.t.Fatalf("not over after %v: %+v", bound, r)
			}
			return fmt.Errorf("report %+v", r)
		}
		return nil
	})
	b.isGone()
	return *b.drainReport()
}

// isGone checks that nothing of a drain is left in the kernel.
func (b *drainBench) isGone() {
	b.t.Helper()
	if there, err := b.vips.Present(b.spec); there || err != nil {
		b.t.Errorf("after the drain the address is here: %v, %v", there, err)
	}
	if left, err := b.vips.Drains(); len(left) > 0 || err != nil {
		b.t.Errorf("after the drain %+v is forwarded, %v", left, err)
	}
}

// What is open when the time is over is reset, not left hanging, and counted.
func TestTheEndOfADrainResetsAndCountsWhatIsLeft(t *testing.T) {
	t.Parallel()
	b := newDrainBench(t)
	b.start(1, nil)
	finishes, stays, more := b.dial(), b.dial(), b.dial()
	const timeout = 1500 * time.Millisecond
	began := time.Now()
	d := b.give(1, timeout)
	b.handed(d)
	b.goesOn(finishes)
	b.goesOn(stays)
	if r := b.drainReport(); r == nil || r.Done || r.Total != 3 || r.Epoch != 1 {
		t.Errorf("report %+v, want one of 3 connections", r)
	}
	finishes.Close()
	waitFor(t, "one has finished", func() error {
		if r := b.drainReport(); r == nil || r.Left != 2 {
			return fmt.Errorf("report %+v", r)
		}
		return nil
	})
	b.isReset(stays, timeout+time.Second)
	if took := time.Since(began); took < timeout {
		t.Errorf("reset after %v, before the time of %v was over", took, timeout)
	}
	b.isReset(more, time.Second)
	if r := b.ended(time.Second); r.Total != 3 || r.Cut != 2 || r.Left != 0 {
		t.Errorf("report %+v, want 2 of 3 cut", r)
	}
}

// Without connections a drain ends when the new owner has had time to open, not before.
func TestADrainWithoutConnectionsWaitsForTheNewOwner(t *testing.T) {
	t.Parallel()
	b := newDrainBench(t)
	b.start(1, nil)
	c := b.dial()
	d := b.give(1, time.Minute)
	began := time.Now()
	c.Close()
	goesOn := func(until time.Duration) {
		t.Helper()
		for time.Since(began) < until {
			if r := b.drainReport(); r == nil || r.Done {
				t.Fatalf("over after %v: %+v", time.Since(began), r)
			}
			time.Sleep(10 * time.Millisecond) // the pace of looking
		}
	}
	goesOn(drainLeast * 13 / 10) // nobody owns the group
	b.handed(d)
	if r := b.ended(3 * time.Second); r.Total != 1 || r.Cut != 0 {
		t.Errorf("report %+v, want none cut", r)
	}
	b.start(3, nil)
	d = b.give(3, time.Minute)
	b.handed(d)
	began = time.Now()
	goesOn(drainLeast * 7 / 10) // clients have not heard of it
	if r := b.ended(3 * time.Second); r.Total != 0 || r.Epoch != 3 {
		t.Errorf("report %+v", r)
	}
}

// The plan is void when the group was taken from the new owner, or the old one was marked as lost.
func TestADrainEndsWithItsPlan(t *testing.T) {
	t.Parallel()
	b := newDrainBench(t)
	b.start(1, nil)
	c := b.dial()
	d := b.give(1, time.Minute)
	b.handed(d)
	b.locked(func() { b.gs.Drain, b.unsure = nil, true })
	time.Sleep(3 * drainEvery) // it looks meanwhile
	b.goesOn(c)                // what this node does not know for sure ends nothing
	b.locked(func() { b.unsure = false })
	b.isReset(c, 2*time.Second)
	if r := b.ended(time.Second); r.Cut != 1 {
		t.Errorf("report %+v, want one cut", r)
	}
}

// The act loop asks for the stop of what is not owned again and again.
func TestStoppingAgainLeavesADrainAlone(t *testing.T) {
	t.Parallel()
	b := newDrainBench(t)
	b.start(1, nil)
	c := b.dial()
	b.handed(b.give(1, time.Minute))
	for range 2 {
		if err := b.Stop(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		b.goesOn(c)
	}
	if st, err := b.Status(t.Context()); err != nil || st.Running || !strings.Contains(st.Detail, "open connections only") {
		t.Errorf("%+v, %v", st, err)
	}
	if err := b.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.isGone()
}

// A lease ends soon after it was given away; the address must not go with its lifetime.
func TestADrainedAddressOutlivesItsLease(t *testing.T) {
	t.Parallel()
	b := newDrainBench(t)
	b.start(1, nil)
	b.dial()
	b.give(1, 30*time.Minute)
	var left time.Duration
	for _, line := range strings.Split(sh(t, "ip", "-n", b.here, "addr", "show", "dev", "eth0"), "\n") {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "valid_lft" && f[1] != "forever" {
			left, _ = time.ParseDuration(strings.TrimSuffix(f[1], "sec") + "s")
		}
	}
	if left < 29*time.Minute || left > 30*time.Minute+drainEnd {
		t.Errorf("the kernel takes the address away in %v, want 30 minutes", left)
	}
}

// Without its gate the old owner answers for the address beside the new one (S1): it must give it up.
func TestADrainEndsWithTheGate(t *testing.T) {
	t.Parallel()
	b := newDrainBench(t)
	b.start(1, nil)
	b.dial()
	b.handed(b.give(1, time.Minute))
	sh(t, "ip", "netns", "exec", b.here, "nft", "flush ruleset")
	b.ended(2 * time.Second)
}

// The layer of the kernel lease may change while connections finish here: what was given away stays behind its gate (S1), and ends as
// it would have.
func TestAChangeOfTheLayerLeavesADrainAlone(t *testing.T) {
	t.Parallel()
	b := newDrainBench(t)
	b.start(1, nil)
	c := b.dial()
	d := b.give(1, time.Minute)
	b.handed(d)
	b.gate.follow(false, false)
	tend := b.staysShut(b.address)
	b.goesOn(c)
	b.say(placement.GroupState{Owner: "b", Epoch: d.Epoch + 1, Phase: placement.PhaseOwned})
	b.ended(2 * time.Second)
	tend()
	if b.gate.guarded[theVIP.Addr()] {
		t.Error("after the drain the gate is still there, which the configuration does without")
	}
}

// staysShut tends the gate as the act loop does and checks that an address that was given away stays behind it. It returns the tending.
func (b *drainBench) staysShut(a *address) (tend func()) {
	b.t.Helper()
	n := &Node{name: "a", log: discard(), clock: boottime.Now, vips: b.vips}
	s := &slots{live: map[key]*slot{{"web", "vip"}: {drv: a, clock: boottime.Now, known: true}}}
	tend = func() {
		fronts, _ := s.fronts(n, placement.State{}, placement.Local{})
		a.gate.tend(fronts)
	}
	for range 3 {
		tend()
		if passes, err := a.gate.passes(theVIP.Addr()); passes || err != nil {
			b.t.Fatalf("an address that was given away passes the gate: %v, %v", passes, err)
		}
	}
	return tend
}

// The same where the agent was started again after the change: the gate that it finds in the kernel stays until the end, and no longer.
func TestTheNextProcessLeavesADrainAloneWithoutAGate(t *testing.T) {
	t.Parallel()
	b := newDrainBench(t)
	b.start(1, nil)
	c := b.dial()
	d := b.give(1, time.Minute)
	b.handed(d)
	next := b.nextProcess(false)
	tend := b.staysShut(next)
	b.goesOn(c)
	b.say(placement.GroupState{Owner: "b", Epoch: d.Epoch + 1, Phase: placement.PhaseOwned})
	b.address = next
	b.ended(2 * time.Second)
	tend()
	if passes, err := next.gate.passes(theVIP.Addr()); !passes || err != nil {
		t.Errorf("after the drain the kernel still has the gate, which the configuration does without: %v", err)
	}
}

// A machine that is too busy for a reset gets more tries, but not while another node owns the address and no gate stands.
func TestALateResetIsRepeatedOnlyBehindTheGate(t *testing.T) {
	for name, c := range map[string]struct {
		late, stands []bool // by try; the last one stays
		want         int
	}{
		"in time":              {[]bool{false}, []bool{true}, 1},
		"late twice":           {[]bool{true, true, false}, []bool{true}, 3},
		"always late":          {[]bool{true}, []bool{true}, 5},
		"without a gate":       {[]bool{true}, []bool{false}, 1},
		"the gate is lost now": {[]bool{true}, []bool{true, true, false}, 3},
	} {
		tries, asked := 0, 0
		insist(func() bool { tries++; return c.late[min(tries, len(c.late))-1] },
			func() bool { asked++; return c.stands[min(asked, len(c.stands))-1] }, 5)
		if tries != c.want {
			t.Errorf("%s: %d tries, want %d", name, tries, c.want)
		}
	}
}

// The next process goes on with what this one began, and ends it.
func TestTheNextProcessEndsADrain(t *testing.T) {
	t.Parallel()
	b := newDrainBench(t)
	b.start(1, nil)
	c := b.dial()
	b.handed(b.give(1, 2*time.Second))
	next := b.nextProcess(true)
	b.goesOn(c)
	if !next.silent() {
		t.Error("the next process takes the address for one that lingers")
	}
	b.isReset(c, 4*time.Second)
	b.address = next
	if r := b.ended(time.Second); r.Total != 1 || r.Cut != 1 || r.Epoch != 1 {
		t.Errorf("report %+v, want the one connection cut", r)
	}
}

// nextProcess is the address after a restart of the agent.
func (b *drainBench) nextProcess(gate bool) *address {
	b.t.Helper()
	b.end()
	next := &address{vips: b.vips, gate: newGatekeeper(b.vips, boottime.Now, discard()), spec: b.spec, clock: boottime.Now, log: discard(), possible: true,
		lease: word{true}, plans: b.plansTold, wake: func() {}}
	if next.gate.follow(gate, gate); gate {
		if _, err := next.gate.guard(theVIP.Addr()); err != nil {
			b.t.Fatal(err)
		}
	}
	b.t.Cleanup(next.close)
	next.adoptDrain()
	return next
}

// Connections may be open on the old owner until the very end; the new one's next process must not stop forwarding before that.
func TestTheNextProcessForwardsAsLong(t *testing.T) {
	t.Parallel()
	b := newDrainBench(t)
	b.start(2, b.planned("b", "a", 1, time.Minute))
	until := b.drained().until
	d := b.nextProcess(true).drained()
	if d == nil || d.giving || d.until.Sub(until).Abs() > drainEnd/2 {
		t.Errorf("%+v, want to forward until %v", d, until)
	}
}

// Moves may follow each other before the first drain is over: its time must not end the later one.
func TestAMoveBackEndsTheDrain(t *testing.T) {
	t.Parallel()
	b := newDrainBench(t)
	b.start(1, nil)
	c := b.dial()
	const first = time.Second
	began := time.Now()
	b.handed(b.give(1, first))
	former := b.address.drained()
	b.start(3, b.planned("b", "a", 2, time.Minute))
	select {
	case <-former.ended:
	default:
		t.Error("the first drain goes on beside the move back")
	}
	if left, err := b.vips.Drains(); err != nil || len(left) != 1 || !left[0].Back.IsValid() || left[0].There.IsValid() {
		t.Errorf("%+v, %v, want only what belongs to b sent back", left, err)
	}
	b.goesOn(c)
	b.handed(b.give(3, time.Minute))
	for time.Since(began) < first+5*drainEvery {
		time.Sleep(drainEvery) // it would be looked at meanwhile
	}
	b.goesOn(c)
	if r := b.drainReport(); r == nil || r.Done || r.Epoch != 3 {
		t.Errorf("report %+v, want one of epoch 3 that goes on", r)
	}
}

// The new owner forwards while there is a plan.
func TestTheNewOwnerForwardsUntilTheDrainIsRecorded(t *testing.T) {
	t.Parallel()
	b := newDrainBench(t)
	b.start(2, b.planned("b", "a", 1, time.Minute))
	for range 3 {
		if left, err := b.vips.Drains(); err != nil || len(left) != 1 || left[0].Back.String() != "198.18.0.9" {
			t.Fatalf("%+v, %v, want what a does not know sent to b", left, err)
		}
		time.Sleep(drainEvery) // it looks meanwhile
	}
	c := b.dial()
	b.locked(func() { b.gs.Drain = nil })
	end := time.Now().Add(3 * time.Second)
	waitFor(t, "it forwards no more", func() error {
		if left, err := b.vips.Drains(); err != nil || len(left) > 0 {
			if time.Now().After(end) {
				t.Fatalf("%+v is forwarded without a plan", left)
			}
			return errors.Join(err, os.ErrExist)
		}
		return nil
	})
	b.goesOn(c)
}

func TestTheDrainOfAGroupIsTheSumOfItsAddresses(t *testing.T) {
	early, late := time.Unix(1, 0), time.Unix(2, 0)
	r := func(epoch uint64, total, left, cut int, done bool, until time.Time) placement.DrainReport {
		return placement.DrainReport{Epoch: epoch, Total: total, Left: left, Cut: cut, Done: done, Until: until}
	}
	for name, c := range map[string]struct {
		all  []placement.DrainReport
		want placement.DrainReport
	}{
		"one":                   {[]placement.DrainReport{r(3, 4, 2, 1, true, early)}, r(3, 4, 2, 1, true, early)},
		"two":                   {[]placement.DrainReport{r(3, 4, 2, 1, true, early), r(3, 5, 1, 2, true, late)}, r(3, 9, 3, 3, true, late)},
		"one of them goes on":   {[]placement.DrainReport{r(3, 4, 0, 1, true, late), r(3, 5, 1, 0, false, early)}, r(3, 9, 1, 1, false, late)},
		"one of a move before":  {[]placement.DrainReport{r(3, 4, 0, 1, true, late), r(2, 5, 1, 0, false, early)}, r(3, 4, 0, 1, true, late)},
		"the first of it is so": {[]placement.DrainReport{r(2, 5, 1, 0, false, early), r(3, 4, 0, 1, true, late)}, r(3, 4, 0, 1, true, late)},
	} {
		var sum *placement.DrainReport
		for _, one := range c.all {
			sum = addDrains(sum, one)
		}
		if *sum != c.want {
			t.Errorf("%s: %+v, want %+v", name, *sum, c.want)
		}
	}
}
