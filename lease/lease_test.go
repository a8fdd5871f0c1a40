package lease

import (
	"maps"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var zero = time.Unix(1_000_000, 0).UTC()

func at(ms int) time.Time { return zero.Add(time.Duration(ms) * time.Millisecond) }

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

func newHolder() *Holder { return &Holder{Duration: ms(1000)} }

func TestALeaseCountsFromBeforeTheRequest(t *testing.T) {
	h := newHolder()
	seq := h.Send(at(0))
	if !h.Confirm(Grant{Seq: seq}, at(900)) {
		t.Fatal("an answer in time is not taken")
	}
	if got := h.Until(); !got.Equal(at(1000)) {
		t.Errorf("the lease ends at %v, want %v: t0 + D, whenever the answer came", got, at(1000))
	}
}

func TestHolder(t *testing.T) {
	const none = -1
	for name, c := range map[string]struct {
		play func(h *Holder) bool
		took bool
		ends int // ms
	}{
		"an answer to nothing is not taken":          {func(h *Holder) bool { return h.Confirm(Grant{Seq: 7}, at(0)) }, false, none},
		"seq 0 answers nothing":                      {func(h *Holder) bool { h.Send(at(0)); return h.Confirm(Grant{}, at(1)) }, false, none},
		"an answer at the end of its lease is late":  {func(h *Holder) bool { s := h.Send(at(0)); return h.Confirm(Grant{Seq: s}, at(1000)) }, false, none},
		"an answer just before the end is in time":   {func(h *Holder) bool { s := h.Send(at(0)); return h.Confirm(Grant{Seq: s}, at(999)) }, true, 1000},
		"an answer from before the request is wrong": {func(h *Holder) bool { s := h.Send(at(5)); return h.Confirm(Grant{Seq: s}, at(4)) }, false, none},
		"a duplicate changes nothing": {func(h *Holder) bool {
			s := h.Send(at(0))
			h.Confirm(Grant{Seq: s}, at(1))
			return h.Confirm(Grant{Seq: s}, at(2))
		}, false, 1000},
		"an older answer that comes later changes nothing": {func(h *Holder) bool {
			a, b := h.Send(at(0)), h.Send(at(100))
			h.Confirm(Grant{Seq: b}, at(150))
			return h.Confirm(Grant{Seq: a}, at(160))
		}, false, 1100},
		"a newer answer extends": {func(h *Holder) bool {
			a, b := h.Send(at(0)), h.Send(at(100))
			h.Confirm(Grant{Seq: a}, at(150))
			return h.Confirm(Grant{Seq: b}, at(160))
		}, true, 1100},
		"a late newer answer does not end what is held": {func(h *Holder) bool {
			a := h.Send(at(0))
			h.Confirm(Grant{Seq: a}, at(1))
			b := h.Send(at(100))
			return h.Confirm(Grant{Seq: b}, at(1100))
		}, false, 1000},
		"after Drop nothing is held": {func(h *Holder) bool {
			s := h.Send(at(0))
			took := h.Confirm(Grant{Seq: s}, at(1))
			h.Drop()
			return took
		}, true, none},
		"after Drop the answers under way no longer count": {func(h *Holder) bool {
			s := h.Send(at(0))
			h.Drop()
			return h.Confirm(Grant{Seq: s}, at(1))
		}, false, none},
		"after Drop a new renewal counts": {func(h *Holder) bool {
			h.Send(at(0))
			h.Drop()
			s := h.Send(at(10))
			return h.Confirm(Grant{Seq: s}, at(20))
		}, true, 1010},
		"a renewal among too many unanswered ones is forgotten": {func(h *Holder) bool {
			first := h.Send(at(0))
			for i := range maxPending {
				h.Send(at(i + 1))
			}
			return h.Confirm(Grant{Seq: first}, at(100))
		}, false, none},
		"the leader's shorter duration counts":  {func(h *Holder) bool { s := h.Send(at(0)); return h.Confirm(Grant{Seq: s, Duration: ms(600)}, at(1)) }, true, 600},
		"the node's shorter duration counts":    {func(h *Holder) bool { s := h.Send(at(0)); return h.Confirm(Grant{Seq: s, Duration: ms(6000)}, at(1)) }, true, 1000},
		"late by the leader's shorter duration": {func(h *Holder) bool { s := h.Send(at(0)); return h.Confirm(Grant{Seq: s, Duration: ms(600)}, at(600)) }, false, none},
		"a duration made shorter shortens what is held": {func(h *Holder) bool {
			s := h.Send(at(0))
			took := h.Confirm(Grant{Seq: s}, at(1))
			h.Duration = ms(700)
			return took
		}, true, 700},
		"a duration made longer does not lengthen what is held": {func(h *Holder) bool {
			s := h.Send(at(0))
			took := h.Confirm(Grant{Seq: s}, at(1))
			h.Duration = ms(7000)
			return took
		}, true, 1000},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHolder()
			if took := c.play(h); took != c.took {
				t.Errorf("taken: got %v, want %v", took, c.took)
			}
			want := time.Time{}
			if c.ends != none {
				want = at(c.ends)
			}
			if got := h.Until(); !got.Equal(want) {
				t.Errorf("ends at %v, want %v", got, want)
			}
		})
	}
}

func TestAGrantCoversWhatItKnowsOf(t *testing.T) {
	for name, c := range map[string]struct {
		grant                    Grant
		epoch, assigned, applied uint64
		want                     bool
	}{
		"an epoch that it lists":                                       {Grant{Index: 10, Held: map[string]uint64{"g": 3}}, 3, 8, 10, true},
		"an epoch given after it was made":                             {Grant{Index: 10}, 3, 11, 11, true},
		"not an epoch that it knew of and does not list":               {Grant{Index: 10}, 3, 10, 10, false},
		"not an older epoch than it lists":                             {Grant{Index: 10, Held: map[string]uint64{"g": 4}}, 3, 8, 10, false},
		"a newer epoch given after it was made":                        {Grant{Index: 10, Held: map[string]uint64{"g": 3}}, 5, 12, 12, true},
		"nothing while the process is behind its first grant":          {Grant{Index: 10, Held: map[string]uint64{"g": 3}}, 3, 8, 9, false},
		"not an epoch given later either, while the process is behind": {Grant{Index: 10}, 3, 11, 9, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHolder()
			c.grant.Seq = h.Send(at(0))
			h.Confirm(c.grant, at(1))
			until, got := h.UntilFor("g", c.epoch, c.assigned, c.applied)
			if got != c.want || got && !until.Equal(at(1000)) {
				t.Errorf("got %v until %v, want %v", got, until, c.want)
			}
		})
	}
	if _, ok := newHolder().UntilFor("g", 0, 0, 0); ok {
		t.Error("a holder without a grant covers something")
	}
}

// A process that has caught up with its first grant is never again held up by later ones: the loss of a leader must not
// cost a follower that is a little behind its lease.
func TestOnlyTheFirstGrantMustBeCaughtUpWith(t *testing.T) {
	h := newHolder()
	h.Confirm(Grant{Seq: h.Send(at(0)), Index: 10, Held: map[string]uint64{"g": 1}}, at(1))
	h.Confirm(Grant{Seq: h.Send(at(100)), Index: 20, Held: map[string]uint64{"g": 1}}, at(101))
	if _, ok := h.UntilFor("g", 1, 5, 10); !ok {
		t.Error("a later grant holds up a process that had caught up")
	}
	h.Drop()
	h.Confirm(Grant{Seq: h.Send(at(200)), Index: 30, Held: map[string]uint64{"g": 1}}, at(201))
	if _, ok := h.UntilFor("g", 1, 5, 10); !ok {
		t.Error("Drop makes a new process of an old one")
	}
}

func TestTheGrantIsTheHoldersOwn(t *testing.T) {
	h := newHolder()
	held := map[string]uint64{"g": 1}
	h.Confirm(Grant{Seq: h.Send(at(0)), Index: 1, Held: held, Leader: "n2"}, at(1))
	held["g"] = 9
	if _, ok := h.UntilFor("g", 1, 1, 1); !ok {
		t.Error("the caller's map is shared")
	}
	if h.Leader() != "n2" {
		t.Errorf("leader %q", h.Leader())
	}
}

// Whatever is answered in whatever order: a lease never ends later than D after the newest renewal that was answered in
// time was sent, and never falls back.
func TestHolderProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHolder()
		now := 0
		sent := map[uint64]int{}
		newest := -1
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now += rapid.IntRange(0, 700).Draw(t, "pass")
			before := h.Until()
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0, 1:
				sent[h.Send(at(now))] = now
			case 2, 3:
				seq := rapid.Uint64Range(0, uint64(len(sent)+1)).Draw(t, "seq")
				if h.Confirm(Grant{Seq: seq}, at(now)) {
					t0, ok := sent[seq]
					if !ok || now >= t0+1000 || t0 < newest {
						t.Fatalf("answer to %d taken at %d; sent %v at %d, newest %d", seq, now, ok, t0, newest)
					}
					newest = t0
				}
			case 4:
				if rapid.IntRange(0, 5).Draw(t, "rarely") == 0 {
					h.Drop()
					sent, newest = map[uint64]int{}, -1
					for range h.seq { // sequence numbers go on
						sent[uint64(len(sent)+1)] = -1_000_000
					}
					continue
				}
			}
			if newest < 0 && !h.Until().IsZero() || newest >= 0 && !h.Until().Equal(at(newest+1000)) {
				t.Fatalf("ends at %v, newest answered renewal was sent at %d", h.Until(), newest)
			}
			if h.Until().Before(before) {
				t.Fatal("a lease fell back")
			}
			if len(h.pending) > maxPending {
				t.Fatalf("%d renewals are remembered", len(h.pending))
			}
		}
	})
}

func TestKernelLifetime(t *testing.T) {
	for name, c := range map[string]struct{ left, want time.Duration }{
		"a whole second stays":           {ms(1000), time.Second},
		"rounded down, never up":         {ms(1999), time.Second},
		"less than a second: do not arm": {ms(999), 0},
		"nothing left":                   {0, 0},
		"over":                           {-time.Second, 0},
		"two seconds":                    {ms(2001), 2 * time.Second},
	} {
		if got := KernelLifetime(zero, zero.Add(c.left)); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		left := time.Duration(rapid.Int64Range(-int64(time.Minute), int64(time.Hour)).Draw(t, "left"))
		life := KernelLifetime(zero, zero.Add(left))
		if life < 0 || life > max(left, 0) || life%time.Second != 0 || left-life >= time.Second && left > 0 {
			t.Fatalf("%v left gives %v", left, life)
		}
	})
}

func TestLedger(t *testing.T) {
	l := NewLedger(at(0))
	if !l.Since().Equal(at(0)) || !l.Confirmed("n1").IsZero() {
		t.Error("a new ledger has confirmed somebody")
	}
	owned := map[string]uint64{"a": 1, "b": 2}
	if got := l.Confirm("n1", owned, at(10)); !maps.Equal(got, owned) {
		t.Errorf("got %v", got)
	}
	if got := l.Confirm("n1", owned, at(5)); !maps.Equal(got, owned) || !l.Confirmed("n1").Equal(at(10)) {
		t.Errorf("a confirmation that was computed earlier and noted later moved the instant back to %v", l.Confirmed("n1"))
	}
	l.Withhold("a", 1)
	if got := l.Confirm("n1", owned, at(20)); !maps.Equal(got, map[string]uint64{"b": 2}) {
		t.Errorf("what is being taken is granted: %v", got)
	}
	if !maps.Equal(owned, map[string]uint64{"a": 1, "b": 2}) {
		t.Error("the caller's map was changed")
	}
	if got := l.Confirm("n2", map[string]uint64{"a": 2}, at(30)); !maps.Equal(got, map[string]uint64{"a": 2}) {
		t.Errorf("the next epoch is withheld too: %v", got)
	}
	w := l.Withheld()
	if !maps.Equal(w, map[string]uint64{"a": 1}) {
		t.Errorf("withheld %v", w)
	}
	w["a"] = 9
	if l.Withheld()["a"] != 1 {
		t.Error("the ledger's map is shared")
	}
	if len(NewLedger(at(40)).Withheld()) != 0 {
		t.Error("a new term withholds what the one before did")
	}
}
