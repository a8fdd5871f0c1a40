package sim

import (
	"time"

	"hacluster/placement"
)

// key is a resource, with what never changes of it.
type key struct {
	group, resource               string
	g                             int // index of the group
	address, exclusive, everyNode bool
	hot                           bool          // its group is a hot standby
	budget                        time.Duration // of a kill
}

// machine is one node: power, clock, disk, a kernel, an init that goes on when everything of ours has died.
type machine struct {
	w       *World
	i       int
	name    string
	witness bool
	up      bool
	rate    float64 // of the boot clock
	offset  time.Duration
	skew    time.Duration // of the wall clock
	disk    *disk
	things  []thing       // by index into World.keys
	kernel  *actor        // of this boot
	init    *actor        // systemd, and the services: whatever is user space and not ours
	frozen  time.Duration // the whole of user space, until then
	asleep  time.Duration // suspended until then
	slept   time.Duration // spent in suspend, the one under way counted whole

	kept    int               // timing the agent took up last, on disk: index into World.timings
	will    time.Time         // end of the lease as the newest agent wrote it down
	granter *machine          // and who granted it
	held    time.Time         // until when what is held here may live, as an agent wrote it down for a dead man that is started anew
	gate    bool              // the gate is set up here
	flushed bool              // and somebody flushed it: everything passes
	emptied time.Duration     // when
	links   map[string]string // how it says that it is reached

	bars map[string]time.Time // nodes whose pulses are not answered, on file
	mute time.Time            // nobody's are before this: the file is gone

	parent  *deadman
	proc    *proc // the agent; nil: does not run
	heir    *actor
	orderly bool // the dead man ended in order: whatever it knew of is an executor's business
	boots   int
	bounced time.Duration // not again before

	bare  bool // nobody could act at the end of a lease, now or a moment ago
	watch int  // generation of that
	grace time.Duration
}

// thing is one resource as the operating system sees it: an address, or the processes of a service.
type thing struct {
	on    bool
	stuck bool          // does not die when it is killed
	gen   int           // of a stop under way
	ends  time.Duration // when that ends it; 0: none is under way
	epoch uint64

	life  time.Duration // of an address: the kernel removes it then; by the ticks of the kernel
	timed time.Duration // when the kernel looks at it next; 0: not at all
	tick  int           // generation of that
	open  time.Duration // the gate before it is open until then
	slept time.Duration // of the machine, when it was armed
	lane  *lane         // what is done about its connections; nil: there were none
}

// clock is the boot-time clock. It counts on in suspend.
func (m *machine) clock() time.Time {
	now := m.w.now
	if m.w.opt.Weak == WeakSuspend {
		now -= m.slept
	}
	return bootBase.Add(m.offset + time.Duration(float64(now)*m.rate))
}

// wall is a machine's wall clock; wrong by a little, and only good for windows.
func (m *machine) wall() time.Time { return wallBase.Add(m.w.now + m.skew) }

// span turns a duration of this machine's clock into one of the simulation.
func (m *machine) span(d time.Duration) time.Duration { return time.Duration(float64(d) / m.rate) }

// ticks is the kernel's clock for its timers: it stands still in suspend.
func (m *machine) ticks() time.Duration { return m.w.now - m.slept }

// serves says that clients are answered, or that a service does something: what S1 and S2 are about.
func (m *machine) serves(i int) bool {
	t := &m.things[i]
	switch {
	case !t.on || !m.up || m.asleep > m.w.now:
		return false
	case !m.w.keys[i].address:
		return m.frozen <= m.w.now
	}
	return m.passes(t)
}

// turnOn makes a resource run; the guarantees are checked at once.
func (m *machine) turnOn(i int, epoch uint64) {
	t := &m.things[i]
	if t.on {
		if t.epoch != epoch { // it was here for connections that finish
			t.epoch = epoch
			m.w.checkEpoch(m, i, epoch)
		}
		return
	}
	t.on, t.stuck, t.epoch = true, false, epoch
	m.w.log("%s runs %s/%s (epoch %d)", m.name, m.w.keys[i].group, m.w.keys[i].resource, epoch)
	m.w.checkEpoch(m, i, epoch)
	if m.serves(i) {
		m.w.checkStart(m, i)
	}
}

func (m *machine) turnOff(i int, why string) {
	t := &m.things[i]
	t.gen++
	t.ends = 0
	if t.on {
		t.on, t.stuck, t.open = false, false, 0
		if t.lane != nil {
			t.lane.gave = false
		}
		m.w.log("%s no longer runs %s/%s: %s", m.name, m.w.keys[i].group, m.w.keys[i].resource, why)
		m.w.gone(m, i, why)
	}
	if p := m.proc; p != nil {
		p.kickAct()
	}
}

// end stops a service after a while, whatever becomes of who asked for it. Of several who ask the quickest counts.
func (m *machine) end(i int, after time.Duration, why string) {
	t := &m.things[i]
	if t.ends != 0 && t.ends <= m.ticks()+after {
		return
	}
	t.gen++
	gen := t.gen
	t.ends = m.ticks() + after
	m.w.timer(after, m.init, func() {
		if t.gen == gen {
			m.turnOff(i, why)
		}
	})
}

// kill kills a service and returns how long that takes; false when it does not die. What does not die is what a dead man cannot
// help with either: it is shown as blocked, and only fencing ends it.
func (m *machine) kill(i int) (time.Duration, bool) {
	t, w := &m.things[i], m.w
	takes := w.upTo(w.keys[i].budget)
	if w.opt.Weak == WeakSlow {
		takes *= 3
	}
	if t.on && (t.stuck || !w.quiet && w.chance(w.faults.refusal)) {
		t.stuck = true
		w.log("%s: %s/%s does not die", m.name, w.keys[i].group, w.keys[i].resource)
		return takes, false
	}
	m.end(i, takes, "killed")
	return takes, true
}

func (m *machine) boot() {
	if m.boots > 0 { // what is on file is gone with the boot
		m.bars, m.mute = nil, m.clock().Add(max(barFor(&m.w.truth[m.disk.snapshot].state), proofLasts+m.w.timings[m.kept].TakeoverWait(longestBudget)))
	}
	m.boots++
	m.up, m.will, m.held, m.granter, m.frozen, m.asleep = true, time.Time{}, time.Time{}, nil, 0, 0
	m.things = make([]thing, len(m.w.keys))
	m.kernel, m.init = &actor{m: m, kernel: true}, &actor{m: m}
	m.gate, m.flushed, m.orderly, m.heir = false, false, false, nil
	m.bare, m.grace = false, 0
	m.startParent()
}

func (m *machine) powerOff() {
	m.w.log("%s loses power", m.name)
	if m.proc != nil {
		m.disk.crash(m.w)
		m.proc.dead, m.proc = true, nil
	}
	if m.parent != nil {
		m.parent.dead, m.parent = true, nil
	}
	m.kernel.dead, m.init.dead = true, true
	if m.heir != nil {
		m.heir.dead = true
	}
	m.up = false
	m.things = make([]thing, len(m.w.keys))
}

// suspend stops the machine and all its timers but the boot-time clock.
func (m *machine) suspend(d time.Duration) {
	w := m.w
	m.asleep = w.now + d
	m.slept += d
	w.log("%s is suspended until %.3fs", m.name, m.asleep.Seconds())
	boot := m.kernel
	w.after(d, nil, func() { m.backFrom(boot, "wakes up") })
}

// freeze stops all of user space; services stand still as well. The kernel goes on.
func (m *machine) freeze(d time.Duration) {
	w := m.w
	m.frozen = w.now + d
	w.log("%s: all of user space is frozen until %.3fs", m.name, m.frozen.Seconds())
	m.guard()
	boot := m.kernel
	w.after(d, nil, func() { m.backFrom(boot, "goes on") })
}

// wakeGrace is what a dead man's timer and the removal of an address take after the machine has come back. Until then the
// node may answer for what it lost meanwhile: a limit that docs/design.md names.
const wakeGrace = 10 * time.Millisecond

// lateKill is how long a kill takes that begins late: by who comes back and finds that it is due.
const lateKill = longestBudget + 500*time.Millisecond + wakeGrace

// backFrom is the end of a freeze or a sleep, in the boot that it began in.
func (m *machine) backFrom(boot *actor, what string) {
	w, grace := m.w, wakeGrace
	if !m.up || m.kernel != boot || m.asleep > w.now || m.frozen > w.now {
		return
	}
	w.log("%s %s", m.name, what)
	if w.pulses { // an agent whose lease goes on finds out at its next pulse
		grace += w.timing.Pulse + w.faults.margin/3
	}
	m.grace = w.now + grace
	m.guard()
	if m.proc != nil && !m.clock().Before(m.proc.holder.Until()) {
		m.proc.kickAct() // its alarm for the end of the lease counts suspend
	}
	w.after(grace+time.Microsecond, nil, func() {
		if m.grace <= w.now {
			w.recheck(m, true)
		}
	})
	w.after(grace+lateKill+time.Microsecond, nil, func() { w.recheck(m, false) })
}

// stopped is until when something of the machine is frozen or asleep.
func (m *machine) stopped() time.Duration {
	until := max(m.frozen, m.asleep)
	if m.proc != nil {
		until = max(until, m.proc.frozen)
	}
	if m.parent != nil {
		until = max(until, m.parent.frozen)
	}
	return until
}

// guarded says that somebody could end at the end of the lease what runs here: an agent that knows what it finds, or a dead man,
// which is told or finds it on file. An agent that starts with no state and hears of nobody does not know.
func (m *machine) guarded() bool {
	return m.proc != nil && m.proc.runs() && m.proc.knows() || m.parent != nil && m.parent.runs() || m.heir != nil && m.heir.runs() || m.orderly && max(m.frozen, m.asleep) <= m.w.now
}

// guard is called whenever that may have changed. Who comes back finds what is late, and has the time of a kill.
func (m *machine) guard() {
	w := m.w
	if !m.up {
		return
	}
	m.watch++
	if !m.guarded() {
		m.bare = true
		return
	}
	if !m.bare {
		return
	}
	watch := m.watch
	wait := max(0, m.span(m.will.Sub(m.clock()))) + lateKill
	w.after(wait, nil, func() {
		if m.watch == watch && m.up {
			m.bare = false
			w.recheck(m, true)
			w.recheck(m, false)
		}
	})
}

// slot is what one agent knows of a resource beyond what the operating system says.
type slot struct {
	doing    placement.ActionKind
	gen      int
	expected bool
	failure  string
	blocked  string
	failedAt time.Time
	restarts []time.Time

	drain *draining              // of an address; nil: nothing is under way
	last  *placement.DrainReport // of the one that ended last
}
