package sim

import (
	"time"

	"hacluster/lease"
	"hacluster/placement"
)

// key names a resource.
type key struct{ group, resource string }

// machine is one node: power, clock, disk, and an operating system that goes on when the agent dies.
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
	running map[key]*thing
	kept    time.Duration // lease duration the agent took up last, on disk
	will    time.Time     // end of the lease as the newest process wrote it down
	proc    *proc         // nil: the agent does not run
	frozen  time.Duration
	boots   int
	bounced time.Duration // not again before
}

// thing is one resource as the operating system sees it: an address, or the processes of a service.
type thing struct {
	on      bool
	gen     int  // of the address's lifetime, or of a stop under way
	exposed bool // runs on without a living agent to stop it: S2 is the dead man's then
	epoch   uint64
}

// clock is the boot-time clock.
func (m *machine) clock() time.Time {
	return bootBase.Add(m.offset + time.Duration(float64(m.w.now)*m.rate))
}

// span turns a duration of this machine's clock into one of the simulation.
func (m *machine) span(d time.Duration) time.Duration { return time.Duration(float64(d) / m.rate) }

func (m *machine) thing(k key) *thing {
	t := m.running[k]
	if t == nil {
		t = &thing{}
		m.running[k] = t
	}
	return t
}

// turnOn makes a resource run; the guarantees are checked at once.
func (m *machine) turnOn(k key, epoch uint64) {
	t := m.thing(k)
	if !t.on {
		t.on, t.exposed, t.epoch = true, false, epoch
		m.w.log("%s runs %s/%s (epoch %d)", m.name, k.group, k.resource, epoch)
		m.w.checkStart(m, k, epoch)
	}
}

func (m *machine) turnOff(k key, why string) {
	t := m.thing(k)
	t.gen++
	if t.on {
		t.on, t.exposed = false, false
		m.w.log("%s no longer runs %s/%s: %s", m.name, k.group, k.resource, why)
	}
	if p := m.proc; p != nil {
		p.kickAct()
	}
}

// arm gives an address a lifetime; the kernel removes it then, up to KernelSlack late.
func (m *machine) arm(k key, until time.Time) bool {
	now := m.clock()
	life := lease.KernelLifetime(now, until)
	if m.w.opt.Weak == WeakKernel && life < until.Sub(now) {
		life += time.Second
	}
	if life <= 0 {
		return false
	}
	t := m.thing(k)
	t.gen++
	gen := t.gen
	m.w.after(m.span(life)+m.w.upTo(m.w.timing.KernelSlack), nil, func() {
		if t.gen == gen && t.on && m.up {
			m.turnOff(k, "its lifetime has ended")
		}
	})
	return true
}

// stopThing ends a service after a while, whatever becomes of the agent meanwhile.
func (m *machine) stopThing(k key, after time.Duration, why string) {
	t := m.thing(k)
	t.gen++
	gen := t.gen
	m.w.after(after, nil, func() {
		if t.gen == gen && m.up {
			m.turnOff(k, why)
		}
	})
}

// expose marks what runs here and has nobody to stop it at the end of the lease.
func (m *machine) expose() {
	for _, t := range m.running { // order-free
		if t.on {
			t.exposed = true
		}
	}
}

func (m *machine) boot() {
	m.boots++
	m.up, m.will, m.frozen = true, time.Time{}, 0
	m.running = map[key]*thing{}
	m.startAgent()
}

func (m *machine) powerOff() {
	m.w.Stats.Powers++
	m.w.log("%s loses power", m.name)
	m.endAgent()
	m.up = false
	m.running = map[key]*thing{}
}

func (m *machine) endAgent() {
	if m.proc != nil {
		m.proc.dead = true
		m.proc = nil
		m.expose()
	}
}

func (m *machine) startAgent() {
	if !m.up || m.proc != nil {
		return
	}
	m.frozen = 0
	p := &proc{w: m.w, m: m, state: &m.w.truth[m.disk.snapshot].state, slots: map[key]*slot{}, released: map[string]uint64{}, rounds: map[string]uint64{}}
	m.boots++
	p.boot = m.boots
	p.holder.Duration = m.kept
	p.lead = &leader{p: p}
	if now := m.clock(); m.will.After(now) && m.will.Sub(now) <= m.kept {
		p.inherited = m.will
	}
	p.raft.contact = m.w.now
	p.raft.applied, p.raft.commit = m.disk.snapshot, m.disk.snapshot
	m.proc = p
	m.w.log("%s starts its agent", m.name)
	p.watchLeader(m.w.timing.Heartbeat + m.w.upTo(m.w.timing.Heartbeat))
	p.renewLoop()
	p.kickAct()
}

// slot is what one process knows of a resource beyond what the operating system says.
type slot struct {
	doing    placement.ActionKind
	gen      int
	expected bool
	failure  string
	failedAt time.Time
	restarts []time.Time
}
