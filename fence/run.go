package fence

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// statusPause is the time between two questions whether the node is off yet.
const statusPause = 500 * time.Millisecond

// Request is one node to be fenced.
type Request struct {
	Node   string // required
	Action Action // required: Off or Reboot
	Epoch  uint64 // handed to the agents as HAD_EPOCH, and back in the report

	// Confirmed is called once, as soon as the node is known to be stopped: before it is powered on again, which takes
	// its time and changes nothing. Optional.
	Confirmed func(Report)
}

// Report says what was done and what is known now.
type Report struct {
	Node      string        `json:"node"`
	Action    Action        `json:"action"`
	Epoch     uint64        `json:"epoch"`
	Confirmed bool          `json:"confirmed"` // every device of one level said so
	Level     int           `json:"level,omitempty"`
	Took      time.Duration `json:"took"` // until confirmed, or until given up
	Attempts  []Attempt     `json:"attempts,omitempty"`
	Err       error         `json:"-"`                // why it is not confirmed
	Reason    string        `json:"reason,omitempty"` // Err, or what confirmed it, in one line without secrets
}

// Attempt is one run of an agent.
type Attempt struct {
	Device   string        `json:"device"`
	Agent    string        `json:"agent"`
	Level    int           `json:"level"`
	Action   Action        `json:"action"`
	Try      int           `json:"try"` // from 1
	Exit     int           `json:"exit"`
	State    State         `json:"state,omitempty"` // of Action status
	Took     time.Duration `json:"took"`
	Evidence string        `json:"evidence,omitempty"` // end of what the agent printed, without secrets
	Err      string        `json:"err,omitempty"`
}

// run is one Run in progress.
type run struct {
	f     *Fencer
	req   Request
	start time.Time
	r     Report
	offed []Device // powered off and to be powered on again, in order
}

// Run fences a node by its levels. It blocks until every step is done; the time is bounded by the devices' timeouts and
// retries, and by ctx. Nothing is confirmed that no device said: when ctx ends or an agent fails, Confirmed stays false.
func (f *Fencer) Run(ctx context.Context, req Request) Report {
	x := &run{f: f, req: req, start: time.Now(), r: Report{Node: req.Node, Action: req.Action, Epoch: req.Epoch}}
	levels := f.Plan(req.Node)
	switch {
	case req.Action != Off && req.Action != Reboot:
		return x.giveUp(fmt.Errorf("action %q fences nothing: use off or reboot", req.Action))
	case req.Node == f.self:
		return x.giveUp(ErrSelf)
	case len(levels) == 0:
		return x.giveUp(ErrNoDevice)
	case !f.enter(req.Node):
		return x.giveUp(ErrBusy)
	}
	defer f.leave(req.Node)
	var errs []error
	for _, l := range levels {
		err := x.level(ctx, l)
		if err == nil {
			x.confirm(l)
			x.powerOn(ctx)
			return x.r
		}
		errs = append(errs, fmt.Errorf("level %d: %w", l.Number, err))
		if ctx.Err() != nil {
			break
		}
	}
	return x.giveUp(errors.Join(errs...))
}

// PowerOn gives a node its power back, by every device that can switch power: a later level may have taken what an earlier
// one needs, so the last level comes first. Confirmed means that each said so; the node is not waited for.
func (f *Fencer) PowerOn(ctx context.Context, node string, epoch uint64) Report {
	x := &run{f: f, req: Request{Node: node, Action: On, Epoch: epoch}, start: time.Now(), r: Report{Node: node, Action: On, Epoch: epoch}}
	if !f.enter(node) {
		return x.giveUp(ErrBusy)
	}
	defer f.leave(node)
	levels := f.Plan(node)
	slices.Reverse(levels)
	var errs []error
	var names []string
	for _, l := range levels {
		for _, d := range l.Devices {
			if err := f.faults[d.Name]; err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", d.Name, err))
				continue
			}
			if m := f.agents[d.Agent].Metadata; !m.Supports(On) || !m.Supports(Reboot) {
				continue // it takes something else than power, which only the node itself may ask back
			}
			names = append(names, d.Name)
			if err := x.retry(ctx, d, func(try int) error { return x.ask(ctx, d, On, try).err }); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", d.Name, err))
			}
		}
	}
	if len(names) == 0 && len(errs) == 0 {
		errs = append(errs, ErrNoDevice)
	}
	if len(errs) > 0 {
		return x.giveUp(errors.Join(errs...))
	}
	x.r.Confirmed, x.r.Took, x.r.Reason = true, time.Since(x.start), "switched on by "+strings.Join(names, ", ")
	return x.r
}

func (f *Fencer) enter(node string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.busy[node] {
		return false
	}
	f.busy[node] = true
	return true
}

func (f *Fencer) leave(node string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.busy, node)
}

func (x *run) giveUp(err error) Report {
	x.r.Err, x.r.Took = err, time.Since(x.start)
	x.r.Reason = strings.ReplaceAll(err.Error(), "\n", "; ")
	x.f.log.Error("fencing is not confirmed", "node", x.req.Node, "epoch", x.req.Epoch, "reason", x.r.Reason)
	return x.r
}

func (x *run) confirm(l Level) {
	var names []string
	for _, d := range l.Devices {
		names = append(names, d.Name)
	}
	x.r.Confirmed, x.r.Level, x.r.Took = true, l.Number, time.Since(x.start)
	x.r.Reason = fmt.Sprintf("confirmed by %s (level %d)", strings.Join(names, ", "), l.Number)
	x.f.log.Info("fencing confirmed", "node", x.req.Node, "epoch", x.req.Epoch, "reason", x.r.Reason)
	if x.req.Confirmed != nil {
		x.req.Confirmed(x.r)
	}
}

// level makes all devices of a level stop the node. All are off before any is powered on again: with redundant power
// supplies a node that is rebooted outlet by outlet never stops.
func (x *run) level(ctx context.Context, l Level) error {
	for _, d := range l.Devices {
		if err := x.device(ctx, d, len(l.Devices) == 1); err != nil {
			return fmt.Errorf("%s: %w", d.Name, err)
		}
	}
	return nil
}

func (x *run) device(ctx context.Context, d Device, alone bool) error {
	if err := x.f.faults[d.Name]; err != nil {
		return err
	}
	if err := pause(ctx, d.Delay); err != nil {
		return err
	}
	m := x.f.agents[d.Agent].Metadata
	cycle := x.req.Action == Reboot && m.Supports(Reboot) && (alone && d.Method == Cycle || !m.Supports(Off))
	switch {
	case cycle:
		return x.retry(ctx, d, func(try int) error { return x.ask(ctx, d, Reboot, try).err })
	case !m.Supports(Off):
		return fmt.Errorf("action off: %w", ErrUnsupported)
	}
	// What was switched off here is switched on again when a later level has confirmed a reboot. An agent without a
	// reboot of its own takes something else than power away, which only the node itself may ask back (fence_scsi).
	if x.req.Action == Reboot && m.Supports(Reboot) && m.Supports(On) {
		x.offed = append(x.offed, d)
	}
	return x.retry(ctx, d, func(try int) error {
		if a := x.ask(ctx, d, Off, try); a.err != nil || !m.Supports(Status) {
			return a.err
		}
		return x.waitOff(ctx, d, try)
	})
}

// waitOff asks until the device says that the node is off: some management boards report success before it is. An agent
// that once says on, once fails, and then says off has said off.
func (x *run) waitOff(ctx context.Context, d Device, try int) error {
	deadline := time.Now().Add(d.Timeout)
	for first := true; ; first = false {
		a := x.status(ctx, d, try, first)
		if a.state == StateOff && a.err == nil {
			return nil
		}
		err := a.err
		if err == nil {
			err = fmt.Errorf("the agent reported success, but status says the node is %s", a.state)
		}
		if time.Until(deadline) < statusPause {
			return err
		}
		if stopped := pause(ctx, statusPause); stopped != nil {
			return errors.Join(err, stopped)
		}
	}
}

// retry runs step until it succeeds, at most Retries times again.
func (x *run) retry(ctx context.Context, d Device, step func(try int) error) error {
	for try := 1; ; try++ {
		err := step(try)
		if err == nil || try > d.Retries || ctx.Err() != nil {
			return err
		}
		if stopped := pause(ctx, d.RetryDelay); stopped != nil {
			return errors.Join(err, stopped)
		}
	}
}

// powerOn ends a reboot. The node was stopped, so a failure here takes nothing back; the node stays off, and the report
// and the log say so.
func (x *run) powerOn(ctx context.Context) {
	for _, d := range x.offed {
		err := x.retry(ctx, d, func(try int) error { return x.ask(ctx, d, On, try).err })
		if err != nil {
			x.f.log.Warn("node was fenced but could not be powered on", "node", x.req.Node, "device", d.Name, "err", err)
		}
	}
}

// ask runs the agent once and notes it.
func (x *run) ask(ctx context.Context, d Device, action Action, try int) answer {
	a := call{agent: x.f.agents[d.Agent], device: d, action: action, node: x.req.Node, epoch: x.req.Epoch}.do(ctx)
	x.note(d, action, try, a, false)
	return a
}

// status is ask for the state; of questions that are repeated only the last is noted.
func (x *run) status(ctx context.Context, d Device, try int, first bool) answer {
	a := call{agent: x.f.agents[d.Agent], device: d, action: Status, node: x.req.Node, epoch: x.req.Epoch}.do(ctx)
	x.note(d, Status, try, a, !first)
	return a
}

func (x *run) note(d Device, action Action, try int, a answer, again bool) {
	t := Attempt{Device: d.Name, Agent: filepath.Base(d.Agent), Level: d.Level, Action: action, Try: try, Exit: a.exit, Took: a.took,
		Evidence: a.evidence}
	if action == Status {
		t.State = a.state
	}
	if a.err != nil {
		t.Err = a.err.Error()
	}
	if again {
		x.r.Attempts[len(x.r.Attempts)-1] = t
	} else {
		x.r.Attempts = append(x.r.Attempts, t)
	}
	x.f.log.Debug("fence agent ended", "node", x.req.Node, "epoch", x.req.Epoch, "device", d.Name, "action", action, "try", try,
		"exit", a.exit, "state", t.State, "took", a.took, "evidence", a.evidence, "err", a.err)
}

// pause waits; the error is that of ctx when it ends first.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Health is what `hactl node fence --check` and the status want to know of one device for one node.
type Health struct {
	Device   string `json:"device"`
	Node     string `json:"node"`
	Level    int    `json:"level"`
	State    State  `json:"state,omitempty"` // empty: the agent has no status
	Evidence string `json:"evidence,omitempty"`
	Err      error  `json:"-"`
	Reason   string `json:"reason,omitempty"` // Err in words
}

// Examine asks every device of a node how it is, without changing anything: status where the agent has it, else monitor.
func (f *Fencer) Examine(ctx context.Context, node string) []Health {
	var all []Health
	for _, l := range f.Plan(node) {
		for _, d := range l.Devices {
			h := Health{Device: d.Name, Node: node, Level: l.Number, Err: f.faults[d.Name]}
			if h.Err == nil {
				agent := f.agents[d.Agent]
				c := call{agent: agent, device: d, action: Monitor, node: node}
				if agent.Metadata.Supports(Status) {
					c.action = Status
				}
				a := c.do(ctx)
				h.Evidence, h.Err = a.evidence, a.err
				if c.action == Status {
					h.State = a.state
				}
			}
			if h.Err != nil {
				h.Reason = strings.ReplaceAll(h.Err.Error(), "\n", "; ")
			}
			all = append(all, h)
		}
	}
	return all
}

// Targets returns what the named device lists as its plugs or machines, one line each, as the agent prints them.
func (f *Fencer) Targets(ctx context.Context, device string) ([]string, error) {
	for _, d := range f.devices {
		if d.Name != device {
			continue
		}
		if err := f.faults[d.Name]; err != nil {
			return nil, err
		}
		agent := f.agents[d.Agent]
		if !agent.Metadata.Supports(List) {
			return nil, fmt.Errorf("action list: %w", ErrUnsupported)
		}
		a := call{agent: agent, device: d, action: List}.do(ctx)
		return strings.FieldsFunc(a.stdout, func(r rune) bool { return r == '\n' || r == '\r' }), a.err
	}
	return nil, fmt.Errorf("fence %q: %w", device, ErrNoDevice)
}
