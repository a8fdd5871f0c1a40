package fence

import (
	"testing"
	"time"
)

func at(ms int) time.Time {
	return time.Unix(1_000_000, 0).UTC().Add(time.Duration(ms) * time.Millisecond)
}

func until(ms int) word {
	ns := at(ms).UnixNano()
	return word{Until: &ns}
}

func nothingHeld() word {
	ns := int64(0)
	return word{Until: &ns}
}

// step is a word that comes, or a look at the clock, at an instant.
type step struct {
	ms               int
	say              *word
	release, restart bool // expected of a look
}

func say(ms int, w word) step { return step{ms: ms, say: &w} }

func TestDeadMansClock(t *testing.T) {
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"nothing is due before the end of the lease", []step{say(0, until(1400)), {ms: 1399}}},
		{"everything goes at the end of the lease", []step{say(0, until(1400)), {ms: 1400, release: true}}},
		{"an agent that says nothing when its lease has ended is killed", []step{say(0, until(1400)), {ms: 1400, release: true}, {ms: 1899}, {ms: 1900, restart: true}}},
		{"an agent that speaks when its lease has ended is not", []step{say(0, until(1400)), {ms: 1400, release: true}, say(1410, word{}), {ms: 1900}}},
		{"it is released once for one lease", []step{say(0, until(1400)), {ms: 1400, release: true}, {ms: 1500}}},
		{"a renewed lease moves the end", []step{say(0, until(1400)), say(200, until(1600)), {ms: 1400}, {ms: 1600, release: true}}},
		{"an agent that holds nothing has no end", []step{say(0, until(1400)), say(200, nothingHeld()), {ms: 1400}}},
		{"a word without a deadline leaves it as it is", []step{say(0, until(1400)), say(1300, word{}), {ms: 1400, release: true}}},
		{"a new lease after a release has an end again", []step{say(0, until(1400)), {ms: 1400, release: true}, say(1500, until(2900)), {ms: 2900, release: true}}},
		{"a silent agent that holds nothing is frozen after the limit", []step{say(0, nothingHeld()), {ms: 7999}, {ms: 8000, restart: true}}},
		{"what a late look finds is done all the same", []step{say(0, until(1400)), {ms: 60000, release: true, restart: true}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := clock{silence: 8 * time.Second}
			k.started(at(0))
			for _, s := range c.steps {
				if s.say != nil {
					k.tell(*s.say, at(s.ms))
					continue
				}
				v := k.due(at(s.ms))
				if v.release != s.release || v.restart != s.restart {
					t.Errorf("at %d ms: release %v, restart %v; want %v, %v", s.ms, v.release, v.restart, s.release, s.restart)
				}
				if !v.next.After(at(s.ms)) {
					t.Errorf("at %d ms: next look at %v is not later", s.ms, v.next)
				}
			}
		})
	}
}

// A restart of the agent must not move the end of the lease: the new one has to renew it itself.
func TestRestartKeepsTheDeadline(t *testing.T) {
	k := clock{silence: 8 * time.Second}
	k.started(at(0))
	k.tell(until(1400), at(0))
	k.started(at(1000))
	if v := k.due(at(1400)); !v.release {
		t.Error("the lease of the former agent ended without a release")
	}
}

func FuzzWord(f *testing.F) {
	f.Add([]byte(`{"until":1,"kill":[{"Name":"x"}]}`))
	f.Add([]byte(`{"until":-1}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, text []byte) {
		w, err := decodeWord(text)
		if err != nil {
			return
		}
		k := clock{silence: time.Second}
		k.started(at(0))
		k.tell(w, at(1))
		if v := k.due(at(2)); !v.next.After(at(2)) {
			t.Errorf("next look %v is not later", v.next)
		}
	})
}
