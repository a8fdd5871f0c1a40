package lease

import (
	"testing"
	"time"
)

// pacing plays the ticks of a node with the pulses of fast, 20 and 125 ms, whose voters all answer unless it is told otherwise.
type pacing struct {
	Pace
	t   *testing.T
	now int // ms
	in  PaceInput
}

func newPacing(t *testing.T) *pacing {
	return &pacing{Pace: Pace{Pulse: ms(20), Bound: ms(125)}, t: t, in: PaceInput{Wanted: true, Heard: true, Spare: true, Left: ms(105)}}
}

// tick is one, so many ms after the one before.
func (p *pacing) tick(after int) PulseMode {
	p.now += after
	return p.Tick(at(p.now), p.in)
}

// is checks the mode, and what the last trouble was; "": whatever it was.
func (p *pacing) is(want PulseMode, trouble string) {
	p.t.Helper()
	if p.Mode() != want || trouble != "" && p.Trouble != trouble {
		p.t.Errorf("at %d ms: %s after %q, want %s after %q", p.now, p.Mode(), p.Trouble, want, trouble)
	}
}

// until ticks in time until the mode is that, and gives how many ms that took.
func (p *pacing) until(want PulseMode) int {
	p.t.Helper()
	for begun := p.now; p.now-begun < 2*int(paceLong/time.Millisecond); {
		if p.tick(20) == want {
			return p.now - begun
		}
	}
	p.t.Fatalf("never %s", want)
	return 0
}

// bound is pacing of a node that has promised.
func bound(t *testing.T) *pacing {
	p := newPacing(t)
	p.until(PulseBound)
	return p
}

const tryMS, startMS, calmMS = int(paceTry / time.Millisecond), int(paceStart / time.Millisecond), int(paceCalm / time.Millisecond)

func TestPace(t *testing.T) {
	for name, run := range map[string]func(t *testing.T){
		"it begins free": func(t *testing.T) {
			p := newPacing(t)
			p.is(PulseFree, "")
			p.tick(0)
			p.is(PulseFree, "")
		},
		"it tries after a quiet start, makes its gates short once the answers of a while came in time, and promises then": func(t *testing.T) {
			p := newPacing(t)
			p.tick(0)
			for _, next := range []struct {
				mode PulseMode
				ms   int
			}{{PulseTrying, startMS}, {PulseBinding, tryMS}, {PulseBound, 20}} {
				if took := p.until(next.mode); took != next.ms {
					t.Errorf("%s after %d ms, want %d", next.mode, took, next.ms)
				}
			}
		},
		"a late tick makes the start longer": func(t *testing.T) {
			p := newPacing(t)
			p.tick(0)
			p.tick(280)
			if took := p.until(PulseTrying); took != startMS {
				t.Errorf("it tries %d ms after it", took)
			}
		},
		"a long pause of the ticks is no trouble, and a start": func(t *testing.T) {
			p := newPacing(t)
			p.tick(0)
			p.Reset()
			p.now += 100_000
			if took := p.until(PulseTrying); took != startMS+20 {
				t.Errorf("it tries after %d ms", took)
			}
		},
		"nothing is promised while a gate may be open for longer than a promise": func(t *testing.T) {
			p := newPacing(t)
			p.until(PulseBinding)
			armed := p.now + 1000
			p.in.Armed = at(armed)
			p.until(PulseBound)
			if left := armed - p.now; left > 125 || left <= 105 {
				t.Errorf("promised 125 ms while a gate was open for %d ms", left)
			}
		},
		"a late tick while it tries begins that again": func(t *testing.T) {
			p := newPacing(t)
			p.until(PulseTrying)
			p.tick(51)
			p.is(PulseFree, stoodStill)
			if took := p.until(PulseTrying); took != startMS {
				t.Errorf("tries again after %d ms", took)
			}
		},
		"a late tick while it makes its gates short is trouble": func(t *testing.T) {
			p := newPacing(t)
			p.until(PulseBinding)
			p.tick(51)
			p.is(PulseFree, stoodStill)
			if took := p.until(PulseTrying); took != calmMS {
				t.Errorf("tries again after %d ms", took)
			}
		},
		"a tick that is late by no more than half of what is spare is none": func(t *testing.T) {
			p := bound(t)
			for range 100 {
				p.tick(50)
			}
			p.is(PulseBound, "")
		},
		"no gate is made short without a voter to spare": func(t *testing.T) {
			p := newPacing(t)
			p.until(PulseTrying)
			p.in.Spare = false
			if took := p.until(PulseFree); took != 120 { // the first pulses need a moment to be answered
				t.Errorf("waited for %d ms", took)
			}
			p.is(PulseFree, voterSilent)
			if took := p.until(PulseTrying); took != calmMS {
				t.Errorf("tries again after %d ms", took)
			}
			for range 1000 {
				if mode := p.tick(20); mode == PulseBinding || mode == PulseBound {
					t.Fatal(mode)
				}
			}
		},
		"nor for longer than there is one": func(t *testing.T) {
			p := newPacing(t)
			p.until(PulseBinding)
			p.in.Spare = false
			p.tick(20)
			p.is(PulseFree, voterSilent)
		},
		"a node that stood still takes its promise back": func(t *testing.T) {
			p := bound(t)
			p.tick(51)
			p.is(PulseFree, stoodStill)
		},
		"not before the voters answer again": func(t *testing.T) {
			p := bound(t)
			p.in.Heard = false
			p.tick(51)
			p.is(PulseBound, "")
			p.stays(10, PulseBound)
			p.in.Heard = true
			p.tick(20)
			p.is(PulseFree, stoodStill)
		},
		"a node whose answers come late does, too": func(t *testing.T) {
			p := bound(t)
			p.in.Left = ms(75)
			p.tick(20)
			p.is(PulseBound, "")
			p.in.Left = ms(74)
			p.tick(20)
			p.is(PulseFree, answersLate)
		},
		"and remembers that it is to, until they answer": func(t *testing.T) {
			p := bound(t)
			p.in.Left, p.in.Heard = ms(10), false
			p.stays(3, PulseBound)
			p.in.Left, p.in.Heard = ms(105), true
			p.tick(20)
			p.is(PulseFree, answersLate)
		},
		"a node that is cut off lets its promise end": func(t *testing.T) {
			p := bound(t)
			p.in.Heard, p.in.Spare = false, false
			for p.in.Left = ms(105); p.in.Left > -ms(10_000); p.in.Left -= ms(20) {
				p.tick(20)
				p.is(PulseBound, "")
			}
		},
		"one voter that is silent takes the promise back, for a short while": func(t *testing.T) {
			p := bound(t)
			for range 10 {
				p.in.Spare = false
				p.tick(20)
				p.is(PulseFree, voterSilent)
				p.in.Spare = true
				if took := p.until(PulseBound); took != startMS+tryMS+20 {
					t.Errorf("bound again after %d ms: it waits longer each time", took)
				}
			}
		},
		"trouble keeps it free for longer each time, up to five minutes": func(t *testing.T) {
			p := bound(t)
			for i, want := 0, calmMS; i < 12; i, want = i+1, min(2*want, 300_000) {
				p.tick(51)
				p.is(PulseFree, stoodStill)
				if took := p.until(PulseTrying); took != want {
					t.Errorf("%d: tries again after %d ms, want %d", i, took, want)
				}
				p.until(PulseBound)
			}
		},
		"a promise that is kept for long makes that forgotten": func(t *testing.T) {
			for _, c := range []struct{ held, want int }{{19_000, 4 * calmMS}, {20_020, calmMS}} { // ten times the last pause, 2 s
				p := bound(t)
				for range 2 {
					p.tick(51)
					p.until(PulseBound)
				}
				for range c.held / 20 {
					p.tick(20)
				}
				p.tick(51)
				if took := p.until(PulseTrying); took != c.want {
					t.Errorf("after %d ms of quiet it tries again after %d ms, want %d", c.held, took, c.want)
				}
			}
		},
		"a node that holds nothing promises nothing, at once": func(t *testing.T) {
			p := bound(t)
			p.in.Wanted, p.in.Heard = false, false
			p.tick(20)
			p.is(PulseFree, "")
		},
		"nor does one that would": func(t *testing.T) {
			for _, mode := range []PulseMode{PulseTrying, PulseBinding} {
				p := newPacing(t)
				p.until(mode)
				p.in.Wanted = false
				p.tick(20)
				p.is(PulseFree, "")
			}
		},
	} {
		t.Run(name, run)
	}
}

// stays ticks n times in time, and checks the mode after each.
func (p *pacing) stays(n int, want PulseMode) {
	p.t.Helper()
	for range n {
		p.tick(20)
		p.is(want, "")
	}
}
