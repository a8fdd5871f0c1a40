package lease

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// What voters say of the grants that they have had, told in the order in which the leader hears it.
func TestEchoes(t *testing.T) {
	type say struct {
		voter, boot string
		seq, own    uint64 // own > 0: a grant is sent; 0: the voter has it
	}
	three, five := []string{"l", "a", "b"}, []string{"l", "a", "b", "c", "d"}
	for name, x := range map[string]struct {
		voters []string
		says   []say
		want   uint64
	}{
		"nobody has said anything":              {three, []say{{"a", "p", 1, 7}}, 0},
		"one of two has the grant":              {three, []say{{"a", "p", 1, 7}, {"a", "p", 1, 0}}, 7},
		"it has the one before":                 {three, []say{{"a", "p", 1, 7}, {"a", "p", 2, 9}, {"a", "p", 1, 0}}, 7},
		"it says so late":                       {three, []say{{"a", "p", 1, 7}, {"a", "p", 2, 9}, {"a", "p", 2, 0}, {"a", "p", 1, 0}}, 9},
		"it says so again":                      {three, []say{{"a", "p", 1, 7}, {"a", "p", 1, 0}, {"a", "p", 1, 0}}, 7},
		"a number that was not granted":         {three, []say{{"a", "p", 1, 7}, {"a", "p", 2, 0}}, 0},
		"no number":                             {three, []say{{"a", "p", 0, 7}, {"a", "p", 9, 0}}, 0},
		"another process has the number":        {three, []say{{"a", "p", 1, 7}, {"a", "q", 1, 0}}, 0},
		"another voter has the number":          {three, []say{{"a", "p", 1, 7}, {"b", "p", 1, 0}}, 0},
		"its renewal comes again":               {three, []say{{"a", "p", 1, 7}, {"a", "p", 1, 9}, {"a", "p", 1, 0}}, 7},
		"an older renewal comes later":          {three, []say{{"a", "p", 2, 7}, {"a", "p", 1, 9}, {"a", "p", 1, 0}}, 0},
		"the next process has the number, too":  {three, []say{{"a", "p", 1, 7}, {"a", "q", 1, 9}, {"a", "q", 1, 0}}, 9},
		"the former process comes again":        {three, []say{{"a", "p", 1, 7}, {"a", "q", 1, 8}, {"a", "p", 1, 9}, {"a", "p", 1, 0}}, 0},
		"the newer of two":                      {three, []say{{"a", "p", 1, 7}, {"b", "p", 1, 8}, {"a", "p", 1, 0}, {"b", "p", 1, 0}}, 8},
		"one of four others is no quorum":       {five, []say{{"a", "p", 1, 7}, {"a", "p", 1, 0}}, 0},
		"two of four others: what both say":     {five, []say{{"a", "p", 1, 7}, {"b", "p", 1, 8}, {"a", "p", 1, 0}, {"b", "p", 1, 0}}, 7},
		"three: what two say":                   {five, []say{{"a", "p", 1, 7}, {"b", "p", 1, 8}, {"c", "p", 1, 9}, {"a", "p", 1, 0}, {"b", "p", 1, 0}, {"c", "p", 1, 0}}, 8},
		"somebody without a vote":               {three, []say{{"x", "p", 1, 7}, {"x", "p", 1, 0}}, 0},
		"the leader itself":                     {three, []say{{"l", "p", 1, 7}, {"l", "p", 1, 0}}, 0},
		"a leader without a vote":               {[]string{"a", "b"}, []say{{"a", "p", 1, 7}, {"b", "p", 1, 8}, {"a", "p", 1, 0}, {"b", "p", 1, 0}}, 0},
		"it is the only voter":                  {[]string{"l"}, nil, 0},
		"of two voters, the other one says yes": {[]string{"l", "a"}, []say{{"a", "p", 1, 7}, {"a", "p", 1, 0}}, 7},
	} {
		var e Echoes
		for _, s := range x.says {
			if s.own > 0 {
				e.Granted(s.voter, s.boot, s.seq, s.own)
			} else {
				e.Heard(s.voter, s.boot, s.seq)
			}
		}
		if got := e.Newest("l", x.voters); got != x.want {
			t.Errorf("%s: %d, want %d", name, got, x.want)
		}
	}
	var e Echoes
	for i := range uint64(100) {
		e.Granted("a", "p", i+1, i+1)
	}
	if n := len(e.voters["a"].granted); n != maxTied {
		t.Errorf("%d grants to one voter are remembered", n)
	}
}

// A process echoes what it was granted by that leader in that term, and nothing else.
func TestWhatAProcessEchoes(t *testing.T) {
	var h Holder
	h.Duration = time.Second
	at := func(n int) time.Time { return zero.Add(ms(n)) }
	want := func(what string, want uint64) {
		t.Helper()
		if got := h.Echo("l", 3); got != want {
			t.Errorf("%s: %d, want %d", what, got, want)
		}
	}
	want("nothing was asked", 0)
	one, two := h.Send(at(0)), h.Send(at(1))
	want("nothing was granted", 0)
	h.Confirm(Grant{Seq: two, Leader: "l", Term: 3}, at(2))
	want("the newest grant", two)
	h.Confirm(Grant{Seq: one, Leader: "l", Term: 3}, at(3))
	want("an older one came later", two)
	h.Send(at(4))
	want("the next is under way", two)
	if h.Echo("m", 3) != 0 || h.Echo("l", 4) != 0 || h.Echo("l", 2) != 0 {
		t.Error("it is told to another leader, or in another term")
	}
	h.Drop()
	want("it was dropped", 0)
	h.Confirm(Grant{Seq: h.Send(at(5)), Leader: "l"}, at(6))
	if h.Echo("l", 0) != 0 {
		t.Error("a leader that tells no term is told an echo")
	}
}

// Whatever is lost, late, doubled and reordered, whoever starts again or votes for somebody else: where echoes renew the leader's own lease, a
// quorum was in its term after the t0 of that renewal.
func TestEchoesProveAQuorum(t *testing.T) {
	found := 0
	rapid.Check(t, func(t *rapid.T) {
		w := &echoWorld{rnd: rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)), boots: map[string]int{}, holders: map[string]*Holder{},
			left: map[string]int{}, sent: map[uint64]int{}, leader: Holder{Duration: time.Hour}}
		for i := range rapid.IntRange(2, 6).Draw(t, "other voters") {
			v := fmt.Sprintf("v%d", i)
			w.voters = append(w.voters, v)
			w.restart(v)
		}
		for w.now = 1; w.now < 400; w.now++ {
			w.step()
			own := w.echoes.Newest("l", append([]string{"l"}, w.voters...))
			if own == 0 {
				continue
			}
			found++
			agree := 1
			for _, v := range w.voters {
				if left, ok := w.left[v]; !ok || left > w.sent[own] {
					agree++
				}
			}
			if 2*agree <= len(w.voters)+1 {
				t.Fatalf("%d of %d voters were in the term after the renewal of %d (now %d)", agree, len(w.voters)+1, w.sent[own], w.now)
			}
		}
	})
	if found == 0 {
		t.Error("no echo ever renewed anything")
	}
}

// echoWorld is a leader of term 1, its voters, and what is under way between them, by a clock that goes on at each step.
type echoWorld struct {
	rnd     *rand.Rand
	now     int
	voters  []string
	boots   map[string]int
	holders map[string]*Holder
	left    map[string]int // voters that have gone to term 2, and when
	leader  Holder
	sent    map[uint64]int // t0 of the leader's own renewals
	echoes  Echoes
	flight  []echoMessage
}

type echoMessage struct {
	voter, boot     string
	seq, term, echo uint64
	grant           bool
}

func (w *echoWorld) boot(v string) string { return fmt.Sprint(w.boots[v]) }

func (w *echoWorld) restart(v string) {
	w.boots[v]++
	w.holders[v] = &Holder{Duration: time.Hour}
}

func (w *echoWorld) step() {
	v := w.voters[w.rnd.IntN(len(w.voters))]
	h, at := w.holders[v], zero.Add(ms(w.now))
	switch k := w.rnd.IntN(100); {
	case k < 40: // it renews
		m := echoMessage{voter: v, boot: w.boot(v), seq: h.Send(at), term: 1}
		if _, left := w.left[v]; left {
			m.term = 2
		}
		m.echo = h.Echo("l", m.term)
		w.flight = append(w.flight, m)
	case k < 94 && len(w.flight) > 0: // something arrives, and may arrive again
		i := w.rnd.IntN(len(w.flight))
		m := w.flight[i]
		if w.rnd.IntN(8) > 0 {
			w.flight = append(w.flight[:i], w.flight[i+1:]...)
		}
		w.arrive(m, at)
	case k == 94:
		h.Drop()
	case k == 95:
		w.restart(v)
	case k == 96:
		if _, left := w.left[v]; !left {
			w.left[v] = w.now
		}
	case k == 97:
		w.flight = nil
	}
}

func (w *echoWorld) arrive(m echoMessage, at time.Time) {
	if m.grant {
		if m.boot == w.boot(m.voter) {
			w.holders[m.voter].Confirm(Grant{Seq: m.seq, Leader: "l", Term: 1}, at)
		}
		return
	}
	own := w.leader.Send(at)
	w.sent[own] = w.now
	if m.term == 1 {
		w.echoes.Heard(m.voter, m.boot, m.echo)
	}
	w.echoes.Granted(m.voter, m.boot, m.seq, own)
	w.flight = append(w.flight, echoMessage{voter: m.voter, boot: m.boot, seq: m.seq, grant: true})
}
