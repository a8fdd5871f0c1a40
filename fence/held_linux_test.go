package fence

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/internal/boottime"
	"hacluster/resources"
)

// killBoth is kill -9 for a dead man and its agent at once.
func killBoth(t *testing.T, dir string, parent int) {
	t.Helper()
	pids := []int{parent}
	for _, n := range notes(dir) {
		if pid, err := strconv.Atoi(n[1]); err == nil && n[0] == "started" && isOurs(pid) {
			pids = append(pids, pid)
		}
	}
	if len(pids) != 2 {
		t.Fatalf("one agent is expected: %v", pids)
	}
	for _, sig := range []unix.Signal{unix.SIGSTOP, unix.SIGKILL} { // stopped first: none of them sees the other's end
		for _, pid := range pids {
			if err := unix.Kill(pid, sig); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// S2: agent and dead man are killed at once. Their successors have no lease, and the agent does not even know what runs here.
func TestWhatBothLeftEndsWithItsLease(t *testing.T) {
	for _, how := range []string{"says nothing", "knows nothing"} {
		t.Run(how, func(t *testing.T) {
			dir, parent := guarded(t, "renews")
			eventually(t, 10*time.Second, "the agent holds the service", func() bool { return noted(dir, "holds") == 1 })
			killBoth(t, dir, parent.Process.Pid)
			parent.Wait()
			if !running(t, dir) {
				t.Fatal("the service ended before the lease")
			}
			guardedIn(t, dir, how)
			took := eventually(t, 3*time.Second, "the service is gone", func() bool { return !running(t, dir) })
			t.Logf("gone %s after both were killed (lease 700ms)", took.Round(time.Millisecond))
		})
	}
}

// L3: a successor that gets its lease in time keeps what runs.
func TestWhatBothLeftLivesOnUnderANewLease(t *testing.T) {
	dir, parent := guarded(t, "renews")
	eventually(t, 10*time.Second, "the agent holds the service", func() bool { return noted(dir, "holds") == 1 })
	before := processID(t, dir)
	killBoth(t, dir, parent.Process.Pid)
	parent.Wait()
	guardedIn(t, dir, "renews")
	eventually(t, 10*time.Second, "the second agent holds the service", func() bool { return noted(dir, "holds") == 2 })
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if after := processID(t, dir); after != before {
			t.Fatalf("process %d runs, or none, and not %d: the deadline of the killed ones ended it", after, before)
		}
	}
}

func processID(t *testing.T, dir string) int {
	t.Helper()
	drv, err := resources.New(service(dir), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	st, err := drv.Status(t.Context())
	if err != nil || !st.Running {
		t.Fatalf("%+v, %v", st, err)
	}
	return st.PID
}

func heldText(t *testing.T, h held, boot string) string {
	t.Helper()
	text, err := h.encode(boot)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestWhatASuccessorInherits(t *testing.T) {
	const boot, other = "11111111-2222-3333-4444-555555555555", "00000000-2222-3333-4444-555555555555"
	now := at(0)
	list := []resources.Spec{{Group: "g", Name: "svc", Kind: resources.KindProcess}}
	sound := heldText(t, held{until: at(700).UnixNano(), kill: list}, boot)
	for name, c := range map[string]struct {
		text, will string // empty: no such file
		want       time.Time
		kill       int
		lost       bool
	}{
		"what a killed agent held":                 {sound, "", at(700), 1, false},
		"of another boot":                          {heldText(t, held{until: at(700).UnixNano(), kill: list}, other), "", time.Time{}, 0, false},
		"nothing was held":                         {heldText(t, held{kill: list}, boot), "", time.Time{}, 0, false},
		"nobody was here":                          {"", "", time.Time{}, 0, false},
		"a lease that is long over":                {heldText(t, held{until: at(-9000).UnixNano(), kill: list}, boot), "", at(-9000), 1, false},
		"a list that is cut off":                   {sound[:len(sound)-1], "", now, 0, true},
		"a head that is cut off":                   {sound[:30], "", now, 0, true},
		"an empty file":                            {"\n", "", now, 0, true},
		"a damaged file, and a will that tells on": {"x", "will", at(400), 0, true},
		"a will that was revoked":                  {sound, "will", at(400), 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			will := filepath.Join(t.TempDir(), "lease")
			d := &DeadMan{Log: slog.New(slog.DiscardHandler), Will: will, clock: clock{silence: time.Hour}}
			d.clock.started(now)
			id := boot
			if c.will != "" { // ReadWill knows the boot of this machine only
				if id = boottime.ID(); id == "" {
					t.Skip("needs an id of this boot")
				}
				c.text = string(bytes.ReplaceAll([]byte(c.text), []byte(boot), []byte(id)))
				w, _ := OpenWill(will, now, time.Minute)
				w.Leave(at(400))
				w.Close()
			}
			if c.text != "" {
				if err := os.WriteFile(heldPath(will), []byte(c.text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			d.inherit(now, id)
			if !d.clock.until.Equal(c.want) || len(d.exclusive()) != c.kill || d.lost != c.lost {
				t.Errorf("until %v, %d to kill, lost %v; want %v, %d, %v", d.clock.until, len(d.exclusive()), d.lost, c.want, c.kill, c.lost)
			}
			if !c.want.IsZero() {
				if v := d.clock.due(c.want.Add(-1)); v.release {
					t.Error("released before the end of the lease")
				}
				if v := d.clock.due(c.want); !v.release || v.restart {
					t.Errorf("at the end of the lease: %+v", v)
				}
			}
		})
	}
}

// A successor that has had no lease may not know what runs, so its word takes nothing off the file.
func TestOnlyALeaseEndsWhatAFormerProcessLeft(t *testing.T) {
	const boot = "11111111-2222-3333-4444-555555555555"
	path := filepath.Join(t.TempDir(), "run", "held")
	a, b := resources.Spec{Group: "g", Name: "a"}, resources.Spec{Group: "g", Name: "b"}
	onFile := func(until int64, kill ...resources.Spec) {
		t.Helper()
		h, known, err := readHeld(path, boot)
		if err != nil || !known || h.until != until || !reflect.DeepEqual(h.kill, kill) {
			t.Fatalf("on file: %+v (known %v), %v; want until %d, kill %v", h, known, err, until, kill)
		}
	}
	first := keeper{path: path, boot: boot}
	first.exclusive([]resources.Spec{a})
	onFile(0, a)
	first.deadline(1000)
	first.deadline(2000)
	onFile(2000, a)
	second := keeper{path: path, boot: boot}
	second.exclusive([]resources.Spec{b})
	onFile(2000, a, b)
	second.deadline(0)
	onFile(2000, a, b)
	third := keeper{path: path, boot: boot}
	third.deadline(0)
	third.exclusive(nil)
	onFile(2000, a, b)
	second.deadline(3000)
	onFile(3000, b)
	second.deadline(0)
	onFile(0, b)
	if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	fourth := keeper{path: path, boot: boot}
	fourth.exclusive([]resources.Spec{a})
	onFile(1, a) // what was lost is over at once
}

// What is held is on file before the dead man hears of it, whatever becomes of the two.
func TestTheAgentWritesDownWhatItTells(t *testing.T) {
	if boottime.ID() == "" {
		t.Skip("needs an id of this boot")
	}
	path := filepath.Join(t.TempDir(), "held")
	l := &Line{fd: -1, gone: make(chan struct{}), held: keeper{path: path, boot: boottime.ID()}}
	l.Exclusive([]resources.Spec{{Group: "g", Name: "svc"}})
	l.Deadline(at(700))
	h, known, err := readHeld(path, boottime.ID())
	if err != nil || !known || h.until != at(700).UnixNano() || len(h.kill) != 1 {
		t.Errorf("%+v, known %v, %v", h, known, err)
	}
}

// lineTo gives a dead man the near end of a line, which nobody listens at.
func lineTo(t *testing.T) (d *DeadMan, agent *Line) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(pair[0]); unix.Close(pair[1]) })
	if err := unix.SetsockoptInt(pair[1], unix.SOL_SOCKET, unix.SO_SNDBUF, lineRoom); err != nil {
		t.Fatal(err)
	}
	d = &DeadMan{Log: slog.New(slog.DiscardHandler), clock: clock{silence: frozenAfter}, line: pair[0]}
	return d, &Line{fd: pair[1], gone: make(chan struct{})}
}

// A dead man that was frozen past a deadline hears what waits before it acts.
func TestAThawedDeadManHearsBeforeItActs(t *testing.T) {
	now := boottime.Now()
	for name, c := range map[string]struct {
		say              func(*Line)
		release, restart bool
	}{
		"the lease was renewed":         {func(l *Line) { l.Deadline(now.Add(-30 * time.Second)); l.Deadline(now.Add(time.Minute)) }, false, false},
		"it was renewed, and ended":     {func(l *Line) { l.Deadline(now.Add(-30 * time.Second)) }, true, false},
		"nothing is held any more":      {func(l *Line) { l.Deadline(time.Time{}) }, false, false},
		"it speaks and does not renew":  {(*Line).Alive, true, false},
		"nothing was said":              {func(*Line) {}, true, true},
		"what is said makes no sense":   {func(l *Line) { _ = unix.Send(l.fd, []byte("{"), 0) }, true, true},
		"the agent has ended meanwhile": {func(l *Line) { _ = unix.Shutdown(l.fd, unix.SHUT_RDWR) }, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			d, agent := lineTo(t)
			d.clock.started(now.Add(-2 * time.Minute))
			d.clock.tell(word{Until: new(int64)}, now.Add(-2*time.Minute))
			ns := now.Add(-time.Minute).UnixNano()
			d.clock.tell(word{Until: &ns}, now.Add(-2*time.Minute))
			c.say(agent)
			if v := d.look(make([]byte, maxWord+1)); v.release != c.release || v.restart != c.restart {
				t.Errorf("release %v, restart %v; want %v, %v", v.release, v.restart, c.release, c.restart)
			}
		})
	}
}

// A line that is full is read to its end: the newest deadline that it took is in it.
func TestAFullLineIsReadToItsEnd(t *testing.T) {
	d, agent := lineTo(t)
	text, err := word{}.encode()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; unix.Send(agent.fd, text, unix.MSG_NOSIGNAL) == nil; n++ {
	}
	t.Logf("room for %d words", n)
	if n < 200 {
		t.Errorf("room for %d words only", n)
	}
	buf := make([]byte, maxWord+1)
	d.drain(buf)
	if _, got, err := d.take(buf); got || err != nil {
		t.Errorf("a word is left of %d, %v", n, err)
	}
}

// However much an agent says, the deadline fires.
func TestAnAgentThatNeverStopsTalkingDoesNotHoldTheDeadlineUp(t *testing.T) {
	d, agent := lineTo(t)
	now := boottime.Now()
	ns := now.Add(-time.Second).UnixNano()
	d.clock.started(now)
	d.clock.tell(word{Until: &ns}, now)
	done := make(chan task)
	go func() {
		v := d.look(make([]byte, maxWord+1))
		done <- v
	}()
	for limit := time.After(30 * time.Second); ; {
		select {
		case v := <-done:
			if !v.release {
				t.Error("not released")
			}
			return
		case <-limit:
			t.Fatal("it reads on and on")
		default:
			for range 100 {
				agent.say(word{})
			}
		}
	}
}

// The whole of it with real processes: frozen past its deadline, and thawed, while its agent renews all the time.
func TestAThawedDeadManEndsNothingThatWasRenewed(t *testing.T) {
	dir, parent := guarded(t, "renews")
	eventually(t, 10*time.Second, "the agent holds the service", func() bool { return noted(dir, "holds") == 1 })
	before := processID(t, dir)
	for range 3 {
		if err := unix.Kill(parent.Process.Pid, unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1100 * time.Millisecond) // the fault itself: longer than the lease
		if err := unix.Kill(parent.Process.Pid, unix.SIGCONT); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(200 * time.Millisecond); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			if after := processID(t, dir); after != before {
				t.Fatalf("process %d runs and not %d", after, before)
			}
		}
	}
}

func FuzzHeld(f *testing.F) {
	const boot = "11111111-2222-3333-4444-555555555555"
	text, err := held{until: 7, kill: []resources.Spec{{Group: "g", Name: "svc"}}}.encode(boot)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(text[:40])
	f.Add([]byte(heldMagic + " " + boot + " 00000000000000000000\nnull"))
	f.Fuzz(func(t *testing.T, text []byte) {
		h, known, err := parseHeld(text, boot)
		if h.until < 0 || known && err != nil || !known && (h.until != 0 || h.kill != nil) {
			t.Fatalf("%+v, known %v, %v", h, known, err)
		}
		if !known {
			return
		}
		again, err := h.encode(boot)
		if err != nil {
			t.Fatal(err)
		}
		if h2, known, err := parseHeld(again, boot); len(again) <= maxHeld && (err != nil || !known || h2.until != h.until || len(h2.kill) != len(h.kill)) {
			t.Fatalf("%+v became %+v, known %v, %v", h, h2, known, err)
		}
	})
}

// A dead man wakes up for every word: what says nothing new is left out, unless it is what the dead man waits for.
func TestAnAgentThatTurnsDoesNotRepeatItself(t *testing.T) {
	for name, c := range map[string]struct {
		until time.Duration // of the lease, from now
		kill  []resources.Spec
		deaf  bool // the first words find no room
		want  int  // of four calls
	}{
		"under a lease":                 {until: time.Minute, want: 0},
		"nothing held":                  {want: 0},
		"the lease has ended":           {until: -time.Second, want: 4},
		"what to kill is not told yet":  {until: time.Minute, kill: []resources.Spec{{Group: "g", Name: "s"}}, deaf: true, want: 1},
		"what to kill is told":          {until: time.Minute, kill: []resources.Spec{{Group: "g", Name: "s"}}, want: 0},
		"no word has come through":      {until: time.Minute, deaf: true, want: 1},
		"nothing held, nothing through": {deaf: true, want: 1},
	} {
		t.Run(name, func(t *testing.T) {
			d, agent := lineTo(t)
			buf := make([]byte, maxWord+1)
			words := func() (n int) {
				for {
					if _, got, err := d.take(buf); err != nil {
						t.Fatal(err)
					} else if !got {
						return n
					}
					n++
				}
			}
			fd := agent.fd
			if c.deaf {
				agent.fd = -1
			}
			if c.kill != nil {
				agent.Exclusive(c.kill)
			}
			until := time.Time{}
			if c.until != 0 {
				until = boottime.Now().Add(c.until)
			}
			agent.Deadline(until)
			agent.fd = fd
			words()
			for range 4 {
				agent.Alive()
			}
			if n := words(); n != c.want {
				t.Errorf("%d words, want %d", n, c.want)
			}
			agent.said = agent.said.Add(-aliveEvery)
			if agent.Alive(); words() != 1 {
				t.Error("says nothing any more")
			}
		})
	}
}
