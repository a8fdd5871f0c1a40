package lease

import (
	"testing"
	"time"
)

// noisy is bound pacing whose promises may become longer.
func noisy(t *testing.T) *pacing {
	p := newPacing(t)
	p.Most = ms(450)
	p.until(PulseBound)
	return p
}

// promises checks how long a promise lasts.
func (p *pacing) promises(want int) {
	p.t.Helper()
	if got := p.Promise(); got != ms(want) {
		p.t.Errorf("at %d ms: promises %v, want %d ms", p.now, got, want)
	}
}

// rests lets time pass, in time.
func (p *pacing) rests(d time.Duration) {
	for range int(d / ms(20)) {
		p.tick(20)
	}
}

// late plays answers that stay away for so long: the age of the newest pulse that was answered grows with each tick.
func (p *pacing) late(age int) {
	for p.in.Age = ms(20); p.in.Age < ms(age); p.in.Age += ms(20) {
		p.in.Heard, p.in.Left = p.in.Age <= ms(45), p.Promise()-p.in.Age
		p.tick(20)
	}
	p.in.Heard, p.in.Left, p.in.Age = true, p.Promise()-ms(20), ms(20)
	p.tick(20)
}

func TestAPromiseLastsAsLongAsPulsesWereLate(t *testing.T) {
	for name, run := range map[string]func(t *testing.T){
		"what is late by less than the half that is spare changes nothing": func(t *testing.T) {
			p := noisy(t)
			p.tick(50)
			p.promises(125)
			p.is(PulseBound, "")
		},
		"what is late by more makes it so long that twice as much is borne": func(t *testing.T) {
			p := noisy(t)
			p.tick(20 + 50)
			p.is(PulseFree, stoodStill)
			p.promises(45 + 20 + 2*50)
			p.until(PulseBound)
			p.tick(20 + 50)
			p.is(PulseBound, "")
			p.tick(20 + 51)
			p.is(PulseFree, stoodStill)
			p.promises(45 + 20 + 2*51)
		},
		"so do answers, once they come": func(t *testing.T) {
			p := noisy(t)
			p.late(100)
			p.is(PulseFree, answersLate)
			p.promises(45 + 20 + 2*60) // at the last tick before the answers came the newest pulse with one was 80 ms old
		},
		"and what comes late while nothing is promised": func(t *testing.T) {
			p := newPacing(t)
			p.Most = ms(450)
			p.tick(20)
			p.tick(20 + 60)
			p.is(PulseFree, "")
			p.promises(45 + 20 + 2*60)
		},
		"a node that was cut off was not late": func(t *testing.T) {
			p := noisy(t)
			p.late(5000)
			p.promises(125)
		},
		"nor one whose voters it has not asked": func(t *testing.T) {
			p := newPacing(t)
			p.Most, p.in.Age = ms(450), ms(300)
			p.until(PulseTrying)
			p.in.Age = ms(20)
			p.until(PulseBound)
			p.promises(125)
		},
		"no promise lasts longer than the longest": func(t *testing.T) {
			p := noisy(t)
			p.tick(400)
			p.promises(450)
		},
		"ten minutes later it is forgotten, five minutes later not": func(t *testing.T) {
			p := noisy(t)
			p.tick(20 + 50)
			p.rests(5 * time.Minute)
			p.promises(165)
			p.rests(5*time.Minute + time.Second)
			p.promises(125)
			p.is(PulseBound, "")
		},
		"after a pause of the ticks too": func(t *testing.T) {
			p := noisy(t)
			p.tick(20 + 50)
			p.Reset()
			p.now += int(10 * time.Minute / time.Millisecond)
			p.tick(20)
			p.promises(125)
		},
		"a machine that stands still for longer and longer keeps its promises": func(t *testing.T) {
			p := noisy(t)
			for _, still := range []int{40, 70, 110, 180, 180, 180} {
				p.until(PulseBound)
				if borne := p.Promise() - gateEarly - p.Pulse; ms(still) > borne {
					t.Errorf("promised %v, so a gate shuts when the node stands still for %v; it did for %d ms", p.Promise(), borne, still)
				}
				p.tick(20 + still)
			}
		},
	} {
		t.Run(name, run)
	}
}
