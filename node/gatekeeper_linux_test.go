package node

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"hacluster/fence"
	"hacluster/internal/boottime"
	"hacluster/lease"
	"hacluster/vip"
)

// bench is a gatekeeper over the kernel of a namespace of its own.
type gateBench struct {
	*gatekeeper
	t  *testing.T
	ns string
	a  netip.Addr
}

func newGateBench(t *testing.T, prepare ...string) *gateBench {
	t.Helper()
	needNetwork(t)
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft")
	}
	b := &gateBench{t: t, ns: fmt.Sprintf("had-gate%d", os.Getpid()), a: theVIP.Addr()}
	sh(t, "ip", "netns", "add", b.ns)
	t.Cleanup(func() { sh(t, "ip", "netns", "del", b.ns) })
	sh(t, "ip", "-n", b.ns, "link", "add", "d0", "type", "veth", "peer", "name", "d1")
	sh(t, "ip", "-n", b.ns, "addr", "add", "198.18.0.1/24", "dev", "d0")
	sh(t, "ip", "-n", b.ns, "link", "set", "d0", "up")
	for _, args := range prepare {
		b.nft(args)
	}
	m, err := openIn(b.ns, discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	b.gatekeeper = newGatekeeper(m, boottime.Now, discard())
	return b
}

func (b *gateBench) nft(text string) {
	b.t.Helper()
	sh(b.t, "ip", "netns", "exec", b.ns, "nft", text)
}

// is checks what the kernel has of the address: "open", "closed", "unguarded" or "no gate".
func (b *gateBench) is(want string) {
	b.t.Helper()
	entries, err := b.vips.Gate()
	got := "no gate"
	if err == nil {
		got = "unguarded"
	}
	for _, e := range entries {
		if got = "closed"; e.Alive {
			got = "open"
		}
	}
	if got != want {
		b.t.Errorf("the address is %s, want %s (%v)", got, want, err)
	}
}

func (b *gateBench) leased(d time.Duration) front {
	return front{addr: b.a, possible: true, until: boottime.Now().Add(d), mine: true}
}

func TestGatekeeper(t *testing.T) {
	absent := func(b *gateBench) front { return front{addr: b.a, possible: true, absent: true} }
	for name, run := range map[string]func(b *gateBench){
		"an address that is not here is guarded before it comes": func(b *gateBench) {
			b.tend([]front{absent(b)})
			b.is("closed")
		},
		"a node that can own nothing sets nothing up and asks the kernel nothing": func(b *gateBench) {
			begun := boottime.Now()
			b.tend([]front{{addr: b.a, absent: true}})
			b.is("no gate")
			if !b.looked.Before(begun) {
				b.t.Error("the kernel was asked")
			}
		},
		"what it still has of an address that it could own is unguarded": func(b *gateBench) {
			b.tend([]front{absent(b)})
			b.tend([]front{{addr: b.a, absent: true}})
			b.is("unguarded")
		},
		"one that serves is open when it is guarded": func(b *gateBench) {
			b.tend([]front{b.leased(time.Minute)})
			b.is("open")
		},
		"one that serves without a lease is neither guarded nor opened": func(b *gateBench) {
			b.tend([]front{{addr: b.a, possible: true}})
			b.is("unguarded")
		},
		"a closed gate is not opened without a lease": func(b *gateBench) {
			b.tend([]front{absent(b)})
			b.tend([]front{{addr: b.a, possible: true, mine: true}})
			b.is("closed")
		},
		"nor by a lease that is over": func(b *gateBench) {
			b.tend([]front{absent(b)})
			b.tend([]front{b.leased(-time.Millisecond)})
			b.is("closed")
		},
		"a renewal does not open what was shut while the group is given away": func(b *gateBench) {
			b.tend([]front{b.leased(time.Minute)})
			b.shut(b.a)
			f := b.leased(2 * time.Minute)
			f.mine = false
			if again := b.tend([]front{f}); len(again) != 0 {
				b.t.Errorf("opened again: %v", again)
			}
			b.is("closed")
		},
		"what had closed under a lease that is held now is opened again": func(b *gateBench) {
			b.tend([]front{b.leased(time.Minute)})
			b.shut(b.a)
			if again := b.tend([]front{b.leased(time.Minute)}); len(again) != 1 {
				b.t.Errorf("opened again: %v", again)
			}
			b.is("open")
		},
		"an open gate of the process before is not closed": func(b *gateBench) {
			b.tend([]front{b.leased(time.Minute)})
			next := newGatekeeper(b.vips, boottime.Now, discard())
			next.tend([]front{{addr: b.a, possible: true}}) // online, no lease yet
			b.is("open")
			if !next.coarse[b.a] {
				b.t.Error("the lifetime that the process before gave is taken for a strict one")
			}
		},
		"what has left the configuration is unguarded when it is gone": func(b *gateBench) {
			b.tend([]front{absent(b)})
			if err := b.vips.Add(vip.Spec{Address: theVIP}, time.Minute); err != nil {
				b.t.Fatal(err)
			}
			b.tend(nil)
			b.is("closed")
			if err := b.vips.Remove(vip.Spec{Address: theVIP}); err != nil {
				b.t.Fatal(err)
			}
			b.tend(nil)
			b.is("unguarded")
		},
		"a configuration without the gate waits for a strict lifetime": func(b *gateBench) {
			b.follow(true, true)
			b.tend([]front{b.leased(time.Minute)})
			if end, coarse := b.deadline(boottime.Now(), b.a); !coarse || end.Before(boottime.Now().Add(backup-time.Second)) {
				b.t.Errorf("the lifetime ends in %v, coarse %v", end.Sub(boottime.Now()), coarse)
			}
			b.follow(false, false)
			if _, coarse := b.deadline(boottime.Now(), b.a); coarse {
				b.t.Error("a lifetime beyond the lease although the gate is not the kernel lease")
			}
			b.tend([]front{b.leased(time.Minute)})
			b.is("open")
			b.strict(b.a)
			b.tend([]front{b.leased(time.Minute)})
			b.is("no gate")
		},
		"what is still guarded when it is started without the gate is opened, and unguarded once it serves": func(b *gateBench) {
			b.follow(true, true)
			b.tend([]front{absent(b)})
			b.follow(false, false) // and the start of the address is faster than the next tend
			gated, err := b.guard(b.a)
			if err != nil || !gated {
				b.t.Fatalf("a start behind a closed gate would go on without opening it: %v, %v", gated, err)
			}
			if err := b.open(b.a, boottime.Now().Add(time.Minute)); err != nil {
				b.t.Fatal(err)
			}
			b.is("open")
			b.tend([]front{b.leased(time.Minute)})
			b.is("no gate")
			if gated, err := b.guard(b.a); gated || err != nil {
				b.t.Errorf("a start without the gate: %v, %v", gated, err)
			}
		},
		"an unguarded address gets no lifetime beyond the lease": func(b *gateBench) {
			b.follow(true, true)
			until := boottime.Now()
			if end, coarse := b.deadline(until, b.a); coarse || !end.Equal(until) {
				b.t.Errorf("ends %v behind the lease, coarse %v", end.Sub(until), coarse)
			}
		},
		"without the gate that is required an address goes at the end of what was armed": func(b *gateBench) {
			b.follow(true, true)
			f := b.leased(200 * time.Millisecond)
			b.tend([]front{f})
			b.nft("delete table inet had; add table inet had; add chain inet had mine")
			f.until = f.until.Add(time.Minute) // the lease is renewed all the same
			b.tend([]front{f})
			if lost := b.lost([]front{f}); len(lost) != 0 {
				b.t.Errorf("lost before the end: %v", lost)
			}
			waitFor(b.t, "what was armed is over", func() error {
				if len(b.lost([]front{f})) == 0 {
					return fmt.Errorf("not lost")
				}
				return nil
			})
			if ok, err := b.guard(b.a); ok || err == nil {
				b.t.Errorf("a start without the gate: %v, %v", ok, err)
			}
			if ok, why := b.carries(); ok || !strings.Contains(why, "not had's") {
				b.t.Errorf("carries %v, %q", ok, why)
			}
			b.follow(true, false)
			if ok, err := b.guard(b.a); ok || err != nil {
				b.t.Errorf("a start where it is not required: %v, %v", ok, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) { run(newGateBench(t)) })
	}
}

// Each half alone ends what a suspended machine held: the addresses go first thing, and the lease does not count any more.
func TestResumed(t *testing.T) {
	b := newGateBench(t)
	var slept time.Duration
	asleep := func() time.Duration { return slept }
	n := &Node{name: "a", log: discard(), clock: boottime.Now, vips: b.vips, asleep: boottime.NewSuspend(asleep), actWake: make(chan struct{}, 1), slots: &slots{}}
	n.renewer = &renewer{n: n, asleep: boottime.NewSuspend(asleep), will: &fence.Will{}, holder: lease.Holder{Duration: time.Hour}}
	grant := func() {
		n.renewer.holder.Confirm(lease.Grant{Seq: n.renewer.holder.Send(n.clock())}, n.clock())
	}
	grant()
	b.tend([]front{b.leased(time.Minute)})
	if err := b.vips.Add(vip.Spec{Address: theVIP}, time.Minute); err != nil {
		t.Fatal(err)
	}
	n.resumed()
	if n.renewer.remaining() == 0 {
		t.Fatal("the lease is over although the machine was not suspended")
	}
	b.is("open")
	slept = 20 * time.Millisecond
	under := n.renewer.holder.Send(n.clock()) // a renewal that is under way
	if until := n.renewer.inheritedUntil(0); !until.IsZero() || n.renewer.remaining() != 0 {
		t.Errorf("%v of the lease is left after the suspend", n.renewer.remaining())
	}
	if n.renewer.holder.Confirm(lease.Grant{Seq: under}, n.clock()) {
		t.Error("the answer to a renewal of before the suspend counts")
	}
	grant() // the renewer was faster: there is another lease before the act loop turns
	n.resumed()
	b.is("closed")
	if there, err := b.vips.Present(vip.Spec{Address: theVIP}); there || err != nil {
		t.Errorf("the address after the suspend: %v, %v", there, err)
	}
	if n.resumed(); n.resumes.Load() != 1 {
		t.Errorf("one suspend was noticed %d times", n.resumes.Load())
	}
}

// A hundred addresses that ask at the same moment cost a few looks, also with one thread, where each look is over before another
// goroutine gets a turn.
func TestQuestionsToTheGateAreShared(t *testing.T) {
	b := newGateBench(t)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	looks := map[time.Time]bool{}
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			_, err := b.passes(b.a)
			b.mu.Lock()
			defer b.mu.Unlock()
			looks[b.looked] = true
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if len(looks) > 20 {
		t.Errorf("%d looks for a hundred questions", len(looks))
	}
	t.Logf("%d looks", len(looks))
}
