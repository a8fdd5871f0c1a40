package node

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"hacluster/internal/boottime"
	"hacluster/internal/wire"
	"hacluster/placement"
	"hacluster/vip"
)

// cabled is a lonely node with two addresses, and what its kernel says of its cables.
func cabled(t *testing.T) (n *Node, questions chan asked, out *[]netip.Addr) {
	t.Helper()
	n, questions = lonely(t)
	n.cfg.Addresses = []string{"198.18.0.1", "198.18.1.1"}
	n.renewer = newRenewer(n, boottime.NewSuspend(nil))
	t.Cleanup(func() { n.renewer.will.Close() })
	n.cabling, out = newCabling(n, &wire.Paths{}), new([]netip.Addr)
	n.cabling.out = func() ([]netip.Addr, error) { return *out, nil }
	return n, questions, out
}

// say is what the node has to say after an event of the kernel; false: nothing.
func (c *cabling) news(t *testing.T, kind vip.Kind) (cables, bool) {
	t.Helper()
	c.follow(vip.Change{Kind: kind})
	select {
	case <-c.wake:
		return c.said, true
	default:
		return cables{}, false
	}
}

// A node says which of the addresses it listens at are out, and that they are in again; what others do not know of, and what
// they have heard, it does not say.
func TestWhatANodeSaysOfItsCables(t *testing.T) {
	t.Parallel()
	n, _, out := cabled(t)
	c := n.cabling
	if _, any := c.news(t, vip.Resync); any {
		t.Error("it has something to say with all cables in")
	}
	first, docker := netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("198.18.7.1")
	*out = []netip.Addr{docker}
	if _, any := c.news(t, vip.LinkDown); any {
		t.Error("it speaks of an address at which nobody calls it")
	}
	*out = []netip.Addr{first, docker}
	if _, any := c.news(t, vip.AddressAdded); any {
		t.Error("an address is no cable")
	}
	said, any := c.news(t, vip.LinkDown)
	if !any || len(said.Out) != 1 || said.Out[0] != first {
		t.Errorf("said %+v, %v", said, any)
	}
	if _, any := c.news(t, vip.Resync); any {
		t.Error("it says the same again")
	}
	*out = nil
	back, any := c.news(t, vip.LinkUp)
	if !any || len(back.Out) != 0 || back.Seq <= said.Seq || back.Boot != said.Boot {
		t.Errorf("said %+v after %+v", back, said)
	}
}

// A peer that does not answer is told again, one that does not know the message is not.
func TestAPeerIsToldOfCablesUntilItHears(t *testing.T) {
	t.Parallel()
	n, questions, _ := cabled(t)
	said := cables{Boot: "x", Seq: 1, Out: []netip.Addr{netip.MustParseAddr("198.18.0.1")}}
	for name, answer := range map[string]message{"it hears": {}, "it is too old to": {Refused: "this agent does not know the question: upgrade it"}} {
		t.Run(name, func(t *testing.T) {
			done := make(chan struct{})
			go func() { defer close(done); n.cabling.tell(t.Context(), "b", said) }()
			lost := <-questions // and not answered
			q := <-questions
			if lost.m.Cables == nil || q.m.Cables == nil || q.m.Cables.Seq != 1 || len(q.m.Cables.Out) != 1 {
				t.Errorf("told %+v, then %+v", lost.m, q.m)
			}
			q.answer(answer)
			select {
			case <-done:
			case q := <-questions:
				t.Errorf("told again: %+v", q.m)
			case <-time.After(10 * time.Second):
				t.Error("it does not end")
			}
		})
	}
}

// Words of one process count in its order; those of another process are newer.
func TestAnOldWordAboutCablesIsNoNews(t *testing.T) {
	t.Parallel()
	n, _, _ := cabled(t)
	hear := func(boot string, seq uint64) cables {
		if a := n.answer(t.Context(), "b", message{Cables: &cables{Boot: boot, Seq: seq}}); a.Refused != "" {
			t.Fatal(a.Refused)
		}
		return n.cabling.heard["b"]
	}
	for _, c := range []struct {
		boot string
		seq  uint64
		want string
	}{{"x", 2, "x"}, {"x", 1, "x"}, {"y", 1, "y"}} {
		got := hear(c.boot, c.seq)
		if got.Boot != c.want || got.Boot == "x" && got.Seq != 2 {
			t.Errorf("after %s %d it goes by %s %d", c.boot, c.seq, got.Boot, got.Seq)
		}
	}
}

// An address that was held until its cable went needs no probe elsewhere. One that could not be started, for whatever reason, does: it
// may be taken (RFC 5227).
func TestOnlyAnAddressThatWasHeldFailsOfItsCable(t *testing.T) {
	a, other := newAddress(t)
	a.lease = word{isProven: true}
	if err := a.Start(t.Context(), 1); err != nil || a.cause() != placement.CauseOther {
		t.Fatalf("%v, cause %q", err, a.cause())
	}
	unplug := func(state string) {
		t.Helper()
		sh(t, "ip", "-n", other, "link", "set", "eth0", state)
		waitFor(t, "the carrier", func() error {
			if link, err := a.vips.Resolve(a.spec); err != nil || link.Carrier != (state == "up") {
				return errors.Join(err, errors.New("not yet"))
			}
			return nil
		})
	}
	fit := func(when, want string) {
		t.Helper()
		if _, err := a.Status(t.Context()); err != nil || a.unfit() != want {
			t.Errorf("%s: %v, unfit %q, want %q", when, err, a.unfit(), want)
		}
	}
	fit("at the beginning", "")
	unplug("down")
	if st, err := a.Status(t.Context()); err != nil || !st.Failed || a.cause() != placement.CauseCarrier {
		t.Errorf("%+v, %v, cause %q", st, err, a.cause())
	}
	fit("where it is held", "interface eth0 has no carrier")
	if err := errors.Join(a.Stop(t.Context(), 1)); err != nil {
		t.Fatal(err)
	}
	fit("where it is not held", "interface eth0 has no carrier")
	if err := a.Start(t.Context(), 1); err == nil || a.cause() != placement.CauseCarrier {
		t.Errorf("a restart in the same epoch: %v, cause %q", err, a.cause())
	}
	if err := a.Start(t.Context(), 3); err == nil || a.cause() != placement.CauseOther {
		t.Errorf("in another epoch it never held the address: %v, cause %q", err, a.cause())
	}
	unplug("up")
	fit("with the cable in", "")
	sh(t, "ip", "-n", other, "addr", "add", theVIP.String(), "dev", "eth0")
	a.lease = word{}
	a.unplugged.Store(true)
	if err := a.Start(t.Context(), 3); err == nil || !strings.Contains(err.Error(), "is in use by") || a.cause() != placement.CauseOther {
		t.Errorf("%v, cause %q", err, a.cause())
	}
}

// A failover asks the network who has the address unless the owner held it until its cable went.
func TestWhatProvesThatNobodyHasTheAddress(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cause placement.Cause
		want  bool
	}{"it may be taken": {placement.CauseOther, false}, "no carrier": {placement.CauseCarrier, true}} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			d.pass(d.raft.State().Policy.GroupWaitDelay)
			d.renew("a")
			d.renew("b")
			d.leader.decide(t.Context())
			gs := d.raft.State().Groups["web"]
			other := map[string]string{"a": "b", "b": "a"}[gs.Owner]
			d.commit(placement.Command{Kind: placement.CmdRelease, Group: "web", Epoch: gs.Epoch, Node: other, Counted: true, Failing: gs.Owner, RetryAt: time.Now().Add(time.Hour),
				Term: d.raft.Term(), Reason: placement.Reason{Rule: placement.RuleFailover, Cause: c.cause}})
			if got := d.raft.State().Groups["web"]; len(got.GivenUp) != 1 {
				t.Fatalf("%+v", got)
			}
			if got := d.renewer.proven("web"); got != c.want {
				t.Errorf("proven %v", got)
			}
		})
	}
}

// An owner that was silent for a moment says what failed, and is confirmed only after that: it is then that the leader looks at it.
func TestWhatANodeSaidWhileItWasSilentIsLookedAt(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.owned()
	news := func() bool {
		select {
		case <-d.leader.wake:
			return true
		default:
			return false
		}
	}
	news()
	d.renew("b")
	if news() {
		t.Error("the leader looks although nothing is new")
	}
	d.pass(d.timing().Suspect + time.Millisecond)
	d.renew("b") // the same report: only the confirmation is new
	if !news() {
		t.Error("the leader does not look at who speaks again")
	}
}
