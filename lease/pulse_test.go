package lease

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"
)

var three = []string{"n1", "n2", "n3"}

// pulses plays n1, one pulse after the other, to voters whose process is called v.
type pulses struct{ PulseHolder }

// send sends one to each voter and gives its number.
func (h *pulses) send(bound, now int, voters ...string) uint64 {
	p := h.Beat(ms(bound), at(now))
	for _, v := range voters {
		h.Send(v, p, at(now))
	}
	return p.Seq
}

func TestPulseHolder(t *testing.T) {
	const none = -1
	for name, c := range map[string]struct {
		play func(h *pulses)
		ends int // ms
		free bool
	}{
		"nothing was answered":                     {func(h *pulses) { h.send(100, 0, "n2", "n3") }, none, false},
		"a promise counts from before it was sent": {func(h *pulses) { s := h.send(100, 0, "n2", "n3"); h.Answered("n2", s) }, 100, false},
		"one answer of three voters is enough, the best": {func(h *pulses) {
			a := h.send(100, 0, "n2")
			b := h.send(100, 50, "n3")
			h.Answered("n2", a)
			h.Answered("n3", b)
		}, 150, false},
		"an answer counts for its own promise only": {func(h *pulses) { a := h.send(100, 0, "n2"); h.send(100, 50, "n2"); h.Answered("n2", a) }, 100, false},
		"answers may overtake each other": {func(h *pulses) {
			a := h.send(100, 0, "n2")
			b := h.send(100, 50, "n2")
			h.Answered("n2", b)
			h.Answered("n2", a)
		}, 150, false},
		"an answer to nothing":                    {func(h *pulses) { h.send(100, 0, "n2"); h.Answered("n2", 7) }, none, false},
		"an answer of a voter that was not asked": {func(h *pulses) { s := h.send(100, 0, "n2"); h.Answered("n3", s) }, none, false},
		"one of no voter":                         {func(h *pulses) { s := h.send(100, 0, "n9"); h.Answered("n9", s) }, none, false},
		"a pulse among too many unanswered ones is forgotten": {func(h *pulses) {
			s := h.send(100, 0, "n2")
			for i := range maxPending + 1 {
				h.send(100, i, "n2")
			}
			h.Answered("n2", s)
		}, none, false},
		"free when a voter has answered that nothing is promised": {func(h *pulses) { h.Answered("n2", h.send(0, 0, "n2", "n3")) }, none, true},
		"free whatever the others were promised":                  {func(h *pulses) { h.send(100, 0, "n3"); h.Answered("n2", h.send(0, 1, "n2")) }, none, true},
		"not free any more when a bound pulse is on its way":      {func(h *pulses) { h.Answered("n2", h.send(0, 0, "n2")); h.send(100, 1, "n2") }, none, false},
		"not free by an answer to a pulse before the last bound one": {func(h *pulses) {
			s := h.send(0, 0, "n2")
			h.send(100, 1, "n2")
			h.Answered("n2", s)
		}, none, false},
		"free again by a pulse after it": {func(h *pulses) {
			h.send(100, 0, "n2")
			h.Answered("n2", h.send(0, 1, "n2"))
		}, none, true},
		"what was promised before it was free ends as promised": {func(h *pulses) {
			h.Answered("n2", h.send(100, 0, "n2"))
			h.Answered("n2", h.send(0, 1, "n2"))
			h.send(100, 2, "n2")
		}, 100, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := &pulses{PulseHolder{Boot: "p"}}
			c.play(h)
			until, free := h.Until(three, "n1")
			want := time.Time{}
			if c.ends != none {
				want = at(c.ends)
			}
			if free != c.free || !free && !until.Equal(want) {
				t.Errorf("got %v, free %v; want %v, free %v", until, free, want, c.free)
			}
		})
	}
	if _, free := (&PulseHolder{}).Until(nil, "n1"); free {
		t.Error("without voters it is free")
	}
}

// The gates may be open until the instant that a quorum reaches, the node itself among them.
func TestAQuorumOfPromises(t *testing.T) {
	names := []string{"n1", "n2", "n3", "n4", "n5", "n6", "n7"}
	for _, c := range []struct {
		voters int
		self   string
		open   int // voters after n1 that were promised nothing; the ones after those have answered promises until 200, 300, ...
		want   int // 0: free
	}{
		{3, "n1", 0, 300}, {3, "n1", 1, 0}, {4, "n1", 0, 300}, {4, "n1", 1, 400}, {5, "n1", 0, 400}, {5, "n1", 1, 500}, {5, "n1", 2, 0}, {6, "n1", 2, 600}, {6, "n1", 1, 500}, {7, "n1", 0, 500}, {7, "n1", 3, 0},
		{3, "m", 0, 200}, {3, "m", 1, 300}, {3, "m", 2, 0}, {1, "n1", 0, 0},
	} {
		t.Run(fmt.Sprintf("%d voters, %s, %d open", c.voters, c.self, c.open), func(t *testing.T) {
			h := &pulses{PulseHolder{Boot: "p"}}
			voters := names[:c.voters]
			for i, v := range voters {
				bound, ends := ms((i+1)*100), at((i+1)*100)
				switch {
				case v == c.self:
					continue
				case v != "n1" && i <= c.open, v == "n1" && c.open > 0:
					bound = 0
				}
				if c.self == "m" && v == "n2" && c.open == 1 {
					bound = ms(200)
				}
				p := h.Beat(bound, zero)
				h.Send(v, p, zero)
				h.Answered(v, p.Seq)
				if got := h.Heard(v); bound > 0 && !got.Equal(ends) || h.Open(v) != (bound == 0) {
					t.Fatalf("%s: answered until %v, open %v", v, got, h.Open(v))
				}
			}
			until, free := h.Until(voters, c.self)
			if free != (c.want == 0) || !free && !until.Equal(at(c.want)) {
				t.Errorf("got %v, free %v; want %v", until, free, at(c.want))
			}
		})
	}
}

// A promise is made only when it is true.
func TestAPromiseLastsAsLongAsWhatWasArmedBefore(t *testing.T) {
	h := &pulses{PulseHolder{Boot: "p"}}
	h.send(250, 0, "n2")
	if p := h.Beat(ms(60), at(100)); p.Bound != ms(150) {
		t.Errorf("after one until 250 the promise at 100 lasts %v", p.Bound)
	}
	if p := h.Beat(0, at(100)); p.Bound != 0 {
		t.Errorf("taking promises back promises %v", p.Bound)
	}
	h.Armed(at(900))
	h.Armed(at(300))
	if p := h.Beat(ms(125), at(500)); p.Bound != ms(400) {
		t.Errorf("with a gate armed until 900 the promise at 500 lasts %v", p.Bound)
	}
	if p := h.Beat(ms(125), at(800)); p.Bound != ms(125) {
		t.Errorf("when that is nearly over it lasts %v", p.Bound)
	}
}

func TestAPulseIsForTheProcessThatAnsweredLast(t *testing.T) {
	h := &PulseHolder{Boot: "p"}
	to := func() string { return h.Send("n2", h.Beat(0, zero), zero).To }
	if got := to(); got != "" {
		t.Errorf("nobody has answered, and it is for %q", got)
	}
	if h.Met("n2", "") || !h.Met("n2", "v") || h.Met("n2", "v") || to() != "v" {
		t.Error("the voter is not known")
	}
	if !h.Met("n2", "w") || to() != "w" {
		t.Error("its next process is not known")
	}
}

func TestPulseLedger(t *testing.T) {
	const none = -1
	type heard struct {
		p    Pulse
		now  int
		want bool
	}
	p := func(seq uint64, bound int) Pulse { return Pulse{Seq: seq, Boot: "p", To: "v", Bound: ms(bound)} }
	of := func(boot, to string, seq uint64, bound int) Pulse { return Pulse{seq, boot, to, ms(bound)} }
	for name, c := range map[string]struct {
		heard []heard
		ends  int // us
	}{
		"nothing was heard": {nil, none},
		"a promise ends its bound and the drift after it came": {[]heard{{p(1, 100), 10, true}}, 110_500},
		"the latest counts":                                     {[]heard{{p(1, 100), 10, true}, {p(2, 100), 20, true}}, 120_500},
		"a shorter one ends no sooner":                          {[]heard{{p(1, 100), 10, true}, {p(2, 10), 20, true}}, 110_500},
		"one that is not bound takes it back":                   {[]heard{{p(1, 100), 10, true}, {p(2, 0), 20, true}}, none},
		"one that was overtaken is not heard":                   {[]heard{{p(2, 0), 10, true}, {p(1, 100), 20, false}}, none},
		"nor one that is doubled":                               {[]heard{{p(1, 100), 10, true}, {p(1, 100), 20, false}}, 110_500},
		"the next process begins with 1":                        {[]heard{{p(9, 100), 10, true}, {of("q", "v", 1, 100), 20, true}}, 120_500},
		"a former process is not heard":                         {[]heard{{p(1, 100), 10, true}, {of("q", "v", 1, 0), 20, true}, {p(2, 100), 30, false}}, none},
		"nor one that only asked who is there before that":      {[]heard{{of("p", "", 1, 0), 10, false}, {of("q", "v", 1, 0), 20, true}, {p(2, 100), 30, false}}, none},
		"what is for nobody is not heard":                       {[]heard{{of("p", "", 1, 100), 10, false}}, none},
		"what was for the process before this one is not heard": {[]heard{{p(2, 0), 10, true}, {of("p", "u", 3, 100), 20, false}}, none},
		"a promise of less than nothing is not heard":           {[]heard{{p(1, -1), 10, false}}, none},
		"nor one of days":                                       {[]heard{{p(1, 48*3600*1000), 10, false}}, none},
	} {
		t.Run(name, func(t *testing.T) {
			l := &PulseLedger{Boot: "v"}
			last := time.Time{}
			for i, h := range c.heard {
				if got := l.Hear("n1", h.p, at(h.now)); got != h.want {
					t.Fatalf("pulse %d: heard %v, want %v", i, got, h.want)
				}
				if h.want {
					last = at(h.now)
				}
			}
			ends, ok := l.Ends("n1")
			if ok != (c.ends != none) || ok && !ends.Equal(zero.Add(time.Duration(c.ends)*time.Microsecond)) {
				t.Errorf("ends %v after, %v; want %d us", ends.Sub(zero), ok, c.ends)
			}
			if !l.Heard("n1").Equal(last) {
				t.Errorf("heard last at %v, want %v", l.Heard("n1"), last)
			}
		})
	}
	if (&PulseLedger{}).Hear("n1", Pulse{Seq: 1, Boot: "p"}, zero) {
		t.Error("a voter that has no name for its process hears")
	}
}

func TestAVoterAttestsOnceThePromiseHasEnded(t *testing.T) {
	l := &PulseLedger{Boot: "v"}
	p := Pulse{Boot: "p", To: "v", Bound: ms(100)}
	hear := func(now int) bool { p.Seq++; return l.Hear("n1", p, at(now)) }
	attest := func(us int) bool {
		return l.Attest("n1", zero.Add(time.Duration(us)*time.Microsecond), at(500))
	}
	if attest(1000_000) {
		t.Fatal("it attests what nobody promised")
	}
	if hear(0); attest(100_499) || !hear(50) || attest(150_499) {
		t.Fatal("it attests before the promise has ended")
	}
	if !attest(150_500) {
		t.Fatal("it does not attest the end")
	}
	if hear(151) || hear(499) {
		t.Error("it answers the node after that")
	}
	if !maps.Equal(l.Barred(at(499)), map[string]time.Time{"n1": at(500)}) {
		t.Errorf("barred %v", l.Barred(at(499)))
	}
	l.Bar("n1", at(400))
	// Its next process forgets what it heard, and not whom it bars.
	next := &PulseLedger{Boot: "w"}
	for node, until := range l.Barred(at(499)) {
		next.Bar(node, until)
	}
	q := Pulse{Seq: 99, Boot: "p", To: "w", Bound: ms(100)}
	if next.Attest("n1", at(499), at(600)) || next.Hear("n1", q, at(499)) {
		t.Error("the next process attests, or answers")
	}
	if !next.Hear("n1", q, at(500)) || len(next.Barred(at(500))) != 0 || !hear(500) {
		t.Error("the bar does not end")
	}
	p.Bound = 0
	if hear(501); attest(9_000_000) {
		t.Error("it attests what was taken back")
	}
}

// A voter that stood still has not read what came.
func TestADeafVoterGivesTheTimeToBeHeard(t *testing.T) {
	l := &PulseLedger{Boot: "v"}
	hear := func(node string, seq uint64, bound, now int) { l.Hear(node, Pulse{seq, "p", "v", ms(bound)}, at(now)) }
	hear("n1", 1, 100, 0)
	hear("n2", 1, 1000, 0)
	hear("n3", 1, 100, 0)
	hear("n3", 2, 0, 1)
	l.Deaf(at(300), ms(40))
	for node, want := range map[string]time.Time{"n1": at(340), "n2": at(1005)} {
		if ends, ok := l.Ends(node); !ok || !ends.Equal(want) {
			t.Errorf("%s: the promise ends at %v, %v; want %v", node, ends, ok, want)
		}
	}
	if _, ok := l.Ends("n3"); ok {
		t.Error("a promise that was taken back is there again")
	}
	if ended := l.Ended(at(340)); !slices.Equal(ended, []string{"n1"}) || len(l.Ended(at(339))) != 0 || len(l.Ended(at(9000))) != 2 {
		t.Errorf("ended at 340: %v; at 339: %v; at last: %v", ended, l.Ended(at(339)), l.Ended(at(9000)))
	}
	if next := l.Next(nil); !next.Equal(at(340)) {
		t.Errorf("the next one ends at %v", next)
	}
	if next := l.Next(map[string]bool{"n1": true}); !next.Equal(at(1005)) {
		t.Errorf("after n1 the next one ends at %v", next)
	}
	if next := l.Next(map[string]bool{"n1": true, "n2": true}); !next.IsZero() {
		t.Errorf("after all the next one ends at %v", next)
	}
}

func TestAttestedBy(t *testing.T) {
	five := append(three[:3:3], "n4", "n5")
	for name, c := range map[string]struct {
		voters []string
		node   string
		said   []string
		want   bool
	}{
		"two others of three":                    {three, "n1", []string{"n2", "n3"}, true},
		"one of three":                           {three, "n1", []string{"n2"}, false},
		"the node's own word does not count":     {three, "n1", []string{"n1", "n2"}, false},
		"nor that of who has no vote":            {three, "n1", []string{"n2", "n9"}, false},
		"two of three, for a node without vote":  {three, "m", []string{"n1", "n3"}, true},
		"three of five":                          {five, "n1", []string{"n2", "n4", "n5"}, true},
		"two of five":                            {five, "n1", []string{"n2", "n4"}, false},
		"of four three are needed":               {five[:4], "n1", []string{"n2", "n3"}, false},
		"and three others there are":             {five[:4], "n1", []string{"n2", "n3", "n4"}, true},
		"of two voters there is never a quorum":  {three[:2], "n1", []string{"n2"}, false},
		"nobody said anything, and there is one": {three[:1], "n1", nil, false},
	} {
		said := map[string]bool{}
		for _, v := range c.said {
			said[v] = true
		}
		if got := AttestedBy(c.voters, c.node, said); got != c.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}
