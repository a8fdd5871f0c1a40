package lease

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// pulseWorld is one node, its voters and what is under way between them. Time is the world's own; every machine has a clock that is
// off by any amount and runs as fast or slow as pulseDrift allows for.
type pulseWorld struct {
	rnd    *rand.Rand
	log    []string
	now    time.Duration
	voters []string
	node   string // one of the voters, or of no vote
	rates  map[string]time.Duration
	boots  int

	holder  *PulseHolder
	armed   time.Time // by the node's clock: a gate is open until then
	ledgers map[string]*PulseLedger
	said    map[string]time.Time // voters that attested, and until when by their clocks they do not answer the node
	bound   time.Duration        // of the pulses that are sent now; 0: nothing is promised

	flight          []pulseMessage
	attested, spoke int // quorums that attested, instants at which a gate was open by promises: both must occur
}

// pulseMessage is a pulse, or what a voter said to it.
type pulseMessage struct {
	voter  string
	pulse  Pulse
	answer bool
	by     string
	heard  bool
}

// newPulseWorld draws what stays; what happens is drawn evenly from a seed, for rapid prefers what is small.
func newPulseWorld(t *rapid.T) *pulseWorld {
	w := &pulseWorld{rnd: rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)), node: "n0", rates: map[string]time.Duration{},
		ledgers: map[string]*PulseLedger{}, said: map[string]time.Time{}}
	for i := range rapid.IntRange(3, 7).Draw(t, "voters") {
		w.voters = append(w.voters, fmt.Sprintf("n%d", i))
	}
	if rapid.IntRange(0, 4).Draw(t, "node votes") == 4 {
		w.node = "m"
	}
	for _, name := range append(slices.Clone(w.voters), w.node) {
		w.rates[name] = rapid.SampledFrom([]time.Duration{9976, 10000, 10024}).Draw(t, "rate of "+name)
	}
	for _, v := range w.others() {
		w.ledgers[v] = &PulseLedger{Boot: w.boot()}
	}
	w.holder = &PulseHolder{Boot: w.boot()}
	return w
}

func (w *pulseWorld) boot() string {
	w.boots++
	return fmt.Sprintf("process %d", w.boots)
}

func (w *pulseWorld) others() []string {
	return slices.DeleteFunc(slices.Clone(w.voters), func(v string) bool { return v == w.node })
}

// clock is what a machine's clock says.
func (w *pulseWorld) clock(name string) time.Time {
	return zero.Add(time.Duration(name[len(name)-1])*time.Hour + w.now*w.rates[name]/10000)
}

func (w *pulseWorld) rarely(n int) bool           { return w.rnd.IntN(n) == 0 }
func (w *pulseWorld) upTo(most int) time.Duration { return ms(w.rnd.IntN(most + 1)) }
func (w *pulseWorld) any(of []string) string      { return of[w.rnd.IntN(len(of))] }
func (w *pulseWorld) say(format string, args ...any) {
	w.log = append(w.log, w.now.String()+" "+fmt.Sprintf(format, args...))
}

var pulseSteps = []string{"beat", "beat", "beat", "pass", "pass", "pass", "deliver", "deliver", "prompt", "prompt", "prompt", "ask", "lapse", "arm", "arm", "change", "change", "voter", "node", "deaf"}

// pulseBounds are of a timing, of ones before and after it, and of a node that promises nothing.
var pulseBounds = []time.Duration{0, 0, ms(125), ms(125), ms(60), ms(250)}

// step lets one thing happen.
func (w *pulseWorld) step() {
	switch w.any(pulseSteps) {
	case "beat":
		w.beat()
	case "pass":
		w.now += w.upTo(60)
	case "deliver":
		if len(w.flight) > 0 {
			w.deliver(w.rnd.IntN(len(w.flight)))
		}
	case "prompt": // the newest first, and their answers
		for range w.rnd.IntN(2 * len(w.voters)) {
			if len(w.flight) > 0 {
				w.deliver(len(w.flight) - 1)
			}
		}
	case "ask":
		w.ask()
	case "lapse": // the node is not heard until the last promise has ended, to the nanosecond, but what is late still comes
		for _, v := range w.others() {
			if ends, ok := w.ledgers[v].Ends(w.node); ok && ends.After(w.clock(v)) {
				w.now += (ends.Sub(w.clock(v))*10000 + w.rates[v] - 1) / w.rates[v]
			}
		}
		for range w.rnd.IntN(10) {
			if len(w.flight) > 0 {
				w.deliver(w.rnd.IntN(len(w.flight)))
			}
		}
		w.ask()
	case "arm":
		w.arm(w.upTo(400))
	case "change":
		w.bound = pulseBounds[w.rnd.IntN(len(pulseBounds))]
	case "voter": // restarts; its bars are on file
		v := w.any(w.others())
		bars := w.ledgers[v].Barred(w.clock(v))
		w.ledgers[v] = &PulseLedger{Boot: w.boot()}
		w.say("%s is %s now", v, w.ledgers[v].Boot)
		for node, until := range bars {
			w.ledgers[v].Bar(node, until)
		}
	case "node": // restarts; what is armed stays, and is known
		w.holder = &PulseHolder{Boot: w.boot()}
		w.say("%s is %s now", w.node, w.holder.Boot)
		w.holder.Armed(w.armed)
		w.bound = pulseBounds[w.rnd.IntN(len(pulseBounds))]
	case "deaf":
		v := w.any(w.others())
		w.ledgers[v].Deaf(w.clock(v), w.upTo(50))
	}
}

// ask is a leader that asks who has heard no more of the node.
func (w *pulseWorld) ask() {
	bar := w.upTo(120) + 1
	for _, v := range w.others() {
		until := w.clock(v).Add(bar)
		if !w.rarely(6) && w.ledgers[v].Attest(w.node, w.clock(v), until) && until.After(w.said[v]) {
			w.say("%s says that the promise has ended, and stands by it for %v", v, bar)
			w.said[v] = until
		}
	}
}

// beat sends a pulse to everybody; much of it is lost.
func (w *pulseWorld) beat() {
	p := w.holder.Beat(w.bound, w.clock(w.node))
	w.say("pulse %d of %s, bound %v", p.Seq, p.Boot, p.Bound)
	for _, v := range w.others() {
		m := pulseMessage{voter: v, pulse: w.holder.Send(v, p, w.clock(w.node))}
		if !w.rarely(4) {
			w.flight = append(w.flight, m)
		}
	}
	if n := len(w.flight) - 60; n > 0 {
		w.flight = slices.Delete(w.flight, 0, n)
	}
}

// deliver hands one message over, and sometimes again later.
func (w *pulseWorld) deliver(i int) {
	m := w.flight[i]
	w.flight = slices.Delete(w.flight, i, i+1)
	if w.rarely(4) {
		w.flight = slices.Insert(w.flight, 0, m)
	}
	if !m.answer {
		l := w.ledgers[m.voter]
		m.answer, m.by, m.heard = true, l.Boot, l.Hear(w.node, m.pulse, w.clock(m.voter))
		w.say("pulse %d of %s for %q at %s: heard %v", m.pulse.Seq, m.pulse.Boot, m.pulse.To, m.voter, m.heard)
		w.flight = append(w.flight, m)
		return
	}
	if m.pulse.Boot != w.holder.Boot {
		return // it answers a call of a process that is no more
	}
	w.holder.Met(m.voter, m.by)
	if m.heard {
		w.say("answer of %s to %d: news %v", m.voter, m.pulse.Seq, w.holder.Answered(m.voter, m.pulse.Seq))
	}
	w.arm(0)
}

// arm opens the node's gates as long as it may: for a lease, where it has promised nothing.
func (w *pulseWorld) arm(lease time.Duration) {
	until, free := w.holder.Until(w.voters, w.node)
	if free {
		until = w.clock(w.node).Add(lease)
		w.holder.Armed(until)
	}
	if until.After(w.armed) {
		w.armed = until
	}
}

// check is S1 for the gates: none is open while a quorum stands by its word that they are shut.
func (w *pulseWorld) check() error {
	said := map[string]bool{}
	// order-free: each for itself
	for v, until := range w.said {
		said[v] = w.clock(v).Before(until)
	}
	_, free := w.holder.Until(w.voters, w.node)
	open := w.clock(w.node).Before(w.armed)
	if open && !free {
		w.spoke++
	}
	if !AttestedBy(w.voters, w.node, said) {
		return nil
	}
	w.attested++
	if open || free {
		return fmt.Errorf("%v: %v of %v have said that the gates of %s are shut; free %v, armed for another %v\n%s", w.now, said, w.voters, w.node, free,
			w.armed.Sub(w.clock(w.node)), strings.Join(w.log, "\n"))
	}
	return nil
}

// Whatever is lost, late, doubled and overtaken, whoever restarts: while a quorum of the voters stands by its word that the promises
// of a node have ended, none of its gates is open.
func TestNoGateIsOpenOnceAQuorumHasSaidThatItIsShut(t *testing.T) {
	attested, spoke := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		w := newPulseWorld(t)
		for range 3000 {
			w.step()
			if err := w.check(); err != nil {
				t.Fatal(err)
			}
			w.log = w.log[max(0, len(w.log)-200):]
		}
		attested, spoke = attested+w.attested, spoke+w.spoke
	})
	t.Logf("gates were open by promises at %d instants, a quorum stood by its word at %d", spoke, attested)
	if attested == 0 || spoke == 0 {
		t.Error("nothing to check ever happened: this test checks nothing")
	}
}
