package fence

import (
	"testing"
	"time"

	"hacluster/resources"
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

// An agent cannot call off what was told before it was started, unless it has a lease: it may not know what runs.
func TestOnlyALeaseCallsOffWhatAFormerAgentTold(t *testing.T) {
	for name, begin := range map[string]func(k *clock){
		"the agent died":          func(k *clock) { k.tell(until(1400), at(0)); k.started(at(100)) },
		"and so did its dead man": func(k *clock) { k.hand(at(1400)); k.started(at(100)) },
		"and then the next agent died": func(k *clock) {
			k.hand(at(1400))
			k.started(at(100))
			k.tell(nothingHeld(), at(110))
			k.started(at(120))
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := clock{silence: 8 * time.Second}
			k.started(at(0))
			begin(&k)
			renewed := k
			k.tell(nothingHeld(), at(200))
			if v := k.due(at(1400)); !v.release {
				t.Error("an agent that knows of nothing called the deadline off")
			}
			k.released(at(1400), false, at(1410))
			if v := k.due(at(2500)); v.release || v.restart {
				t.Errorf("%+v: it said that nothing is held, and need not know of the end of that lease", v)
			}
			if why := k.starving(at(60000), time.Second, 0); why != "" {
				t.Error("the watchdog starves:", why)
			}
			renewed.tell(until(3000), at(300))
			if v := renewed.due(at(1400)); v.release {
				t.Error("released under the lease of the next agent")
			}
			renewed.tell(nothingHeld(), at(1500))
			if v := renewed.due(at(3000)); v.release {
				t.Error("released although nothing was held")
			}
		})
	}
}

// What cannot be proven gone at the end of the lease is tried again until it can, or the agent has another lease.
func TestReleaseIsTriedAgain(t *testing.T) {
	k := clock{silence: time.Hour}
	k.started(at(0))
	k.tell(until(1400), at(0))
	for ms := 1400; ms < 5000; ms += 1000 {
		if v := k.due(at(ms)); !v.release {
			t.Errorf("at %d ms: no release", ms)
		}
		k.released(at(1400), false, at(ms))
		if next := k.next(); next.After(at(ms + 1000)) {
			t.Errorf("at %d ms: next look at %v", ms, next)
		}
		k.tell(word{}, at(ms)) // the agent lives, and has nothing to say about it
	}
	k.tell(until(9000), at(5000))
	k.released(at(1400), false, at(5100)) // of the lease before
	if v := k.due(at(6200)); v.release {
		t.Error("released under a new lease")
	}
	if v := k.due(at(9000)); !v.release {
		t.Error("not released at its end")
	}
	k.released(at(9000), true, at(9001))
	if v := k.due(at(20000)); v.release {
		t.Error("released again although it was proven")
	}
}

// A watchdog starves only where something may live on past its lease.
func TestWhenTheWatchdogStarves(t *testing.T) {
	const patience, quiet = 5 * time.Second, time.Second
	for name, c := range map[string]struct {
		set    func(k *clock)
		ms     int
		silent time.Duration
		want   bool
	}{
		"nothing is held, whatever the agent does": {func(k *clock) { k.tell(nothingHeld(), at(0)) }, 60000, time.Hour, false},
		"the lease runs": {func(k *clock) { k.tell(until(1400), at(0)) }, 1399, quiet, false},
		"the lease runs, and the act loop stands still":      {func(k *clock) { k.tell(until(99000), at(0)) }, 50000, WatchdogStale + 1, true},
		"the lease has ended just now":                       {func(k *clock) { k.tell(until(1400), at(0)); k.due(at(1400)) }, 6399, time.Hour, true},
		"the lease has ended just now, and the agent speaks": {func(k *clock) { k.tell(until(1400), at(0)); k.due(at(1400)) }, 6399, quiet, false},
		"the proof is missing for too long":                  {func(k *clock) { k.tell(until(1400), at(0)); k.due(at(1400)); k.released(at(1400), false, at(1500)) }, 6400, quiet, true},
		"the clock itself stands still":                      {func(k *clock) { k.tell(until(1400), at(0)) }, 6400, quiet, true},
		"it is proven gone":                                  {func(k *clock) { k.tell(until(1400), at(0)); k.due(at(1400)); k.released(at(1400), true, at(1500)) }, 60000, time.Hour, false},
		"the agent says later that nothing is held":          {func(k *clock) { k.tell(until(1400), at(0)); k.due(at(1400)); k.tell(nothingHeld(), at(9000)) }, 9001, quiet, false},
		"a lease from before this dead man runs":             {func(k *clock) { k.inherit(at(1400)) }, 1399, time.Hour, false},
		"its agent has a moment to speak":                    {func(k *clock) { k.inherit(at(1400)) }, 6399, time.Hour, false},
		"and no more":                                        {func(k *clock) { k.inherit(at(1400)) }, 6400, quiet, true},
		"it says that nothing is held":                       {func(k *clock) { k.inherit(at(1400)); k.tell(nothingHeld(), at(2000)) }, 60000, time.Hour, false},
		"nobody was here before":                             {func(k *clock) { k.inherit(time.Time{}) }, 60000, time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			k := clock{silence: time.Hour}
			k.started(at(0))
			c.set(&k)
			if why := k.starving(at(c.ms), patience, c.silent); (why != "") != c.want {
				t.Errorf("starving %q, want %v", why, c.want)
			}
		})
	}
}

// What a lease from before this dead man covered is not known here: it ends without a release of ours.
func TestAnInheritedLeaseFiresNothing(t *testing.T) {
	k := clock{silence: time.Hour}
	k.started(at(0))
	k.inherit(at(1400))
	if v := k.due(at(1400)); v.release || v.restart || !v.next.After(at(1400)) {
		t.Errorf("%+v", v)
	}
	k.tell(until(1400), at(1500)) // the agent knows what it holds
	if v := k.due(at(1500)); !v.release {
		t.Error("not released when it was known what is held")
	}
}

func TestPatienceCoversTheSlowestKill(t *testing.T) {
	if got := Patience(nil); got != WatchdogPatience {
		t.Errorf("nothing exclusive: %v", got)
	}
	if got := Patience([]resources.Spec{{StopBudget: time.Second}, {StopBudget: 20 * time.Second}}); got != 21*time.Second {
		t.Errorf("a stop budget of 20s: %v", got)
	}
	i := WatchdogInfo{Timeout: 10 * time.Second}
	if got := i.ResetWithin(5 * time.Second); got != 17500*time.Millisecond {
		t.Errorf("reset within %v", got)
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
