package fence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/internal/boottime"
	"hacluster/resources"
	"hacluster/vip"
)

const (
	// frozenAfter is the silence after which an agent counts as frozen. Its act loop speaks at least every two seconds.
	frozenAfter = 8 * time.Second
	// agentScore makes the kernel prefer almost everything else when memory runs out (proc_pid_oom_score_adj(5)); the dead
	// man itself is never chosen.
	agentScore, ownScore = "-900", "-1000"
	minPause             = 50 * time.Millisecond
	maxPause             = 5 * time.Second // between two starts of an agent that keeps dying
	healthyRun           = 10 * time.Second
	brokenPause          = time.Second
	// brokenVar tells an agent that the one before it ended because its store could not be written.
	brokenVar = "HAD_STORE_BROKEN"
)

// AfterBrokenStore says that the agent before this one ended because its store could not be written. This one must see that
// it can before it says a word: otherwise each of them would renew the lease of this node until its first write, and its
// groups would never be given to a node that can carry out decisions.
func AfterBrokenStore() bool { return os.Getenv(brokenVar) != "" }

// DeadMan is the small parent of the agent. It starts it, is told until when the lease lasts, and when that ends takes
// everything away itself: it has no network, decides nothing, and does not need the agent for it.
type DeadMan struct {
	Agent   []string // required: program and arguments of the agent
	Log     *slog.Logger
	Ready   func() // optional: the agent serves
	Alive   func() // optional: the agent's act loop turns
	Ending  func() // optional: the agent ends because it was asked to
	Final   []int  // exit codes after which the agent is not started again: no restart mends them
	Again   int    // exit code of an agent that asks to be started again at once; 0: none
	Broken  int    // exit code of an agent whose store cannot be written; 0: none
	Signals <-chan os.Signal
	// Executor is the program that Execute is called by, left behind when the dead man ends while a lease runs; optional.
	Executor []string
	Will     string // file of the agent's lease, for the executor
	// Watchdog is armed already; optional. Run feeds it, and disarms it in the end if nothing is held then.
	Watchdog *Watchdog

	mu     sync.Mutex
	clock  clock
	kill   []resources.Spec
	former []resources.Spec // told by agents before this one; until it has a lease it may not know of them
	lost   bool             // what was told to a former dead man cannot be read
	line   int              // our end of it; -1: none
	child  *os.Process
	ending bool
	broken bool      // the newest agent ended because its store cannot be written; of Run's own goroutine
	ready  bool      // the agent that runs serves
	asked  os.Signal // came before that: an agent that has just begun may not hear it, and is told again
	timer  int       // timerfd on CLOCK_BOOTTIME
	pulse  Pulse
	told   []Told // for the agent, when it speaks
}

// Run keeps an agent running until it ends for good, and returns its exit code. It locks its memory and its place in front
// of the OOM killer first; where it may not, it says so and goes on.
func (d *DeadMan) Run(ctx context.Context) (int, error) {
	d.protect()
	d.clock = clock{silence: frozenAfter}
	d.line = -1
	d.clock.started(boottime.Now())
	d.inherit(boottime.Now(), boottime.ID())
	defer d.bequeath()    // last: an executor must find the watchdog closed
	defer d.endWatchdog() // after the clock's goroutines: by then it is known what is held
	var err error
	if d.timer, err = unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_CLOEXEC); err != nil {
		return 1, fmt.Errorf("making a timer: %w", err)
	}
	defer unix.Close(d.timer)
	ctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer d.wake() // ends the watch
	defer cancel()
	d.arm()
	watch.Go(func() { d.watch(ctx) })
	if d.Watchdog != nil {
		watch.Go(func() { d.keep(ctx) })
	}
	pause := time.Duration(0)
	for {
		begun := time.Now()
		code, err := d.once(ctx)
		d.mu.Lock()
		ending := d.ending
		d.mu.Unlock()
		if err != nil {
			d.Log.Error("the agent cannot be started", "err", err)
		}
		if ending || ctx.Err() != nil {
			return code, nil
		}
		for _, final := range d.Final {
			if err == nil && code == final {
				return code, nil
			}
		}
		if time.Since(begun) > healthyRun {
			pause = 0
		}
		if d.broken = err == nil && code != 0 && code == d.Broken; d.broken {
			pause = max(pause, brokenPause)
		}
		if err == nil && code != 0 && code == d.Again {
			d.Log.Info("the agent asked to be started again", "pause", pause)
		} else {
			d.Log.Error("the agent ended by itself; starting it again", "code", code, "pause", pause)
		}
		select {
		case <-ctx.Done():
			return code, nil
		case <-time.After(pause):
		case sig := <-d.Signals:
			d.Log.Info("asked to end while no agent runs", "signal", sig)
			return code, nil
		}
		pause = min(max(2*pause, minPause), maxPause)
	}
}

// protect keeps the dead man able to act when the machine is short of memory. MCL_ONFAULT locks what is used, not the
// address space that the Go runtime reserves (mlockall(2)).
func (d *DeadMan) protect() {
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		d.Log.Warn("memory of the dead man cannot be locked", "err", err, "hint", "LimitMEMLOCK=infinity and CAP_IPC_LOCK in the unit")
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(ownScore), 0o644); err != nil {
		d.Log.Warn("the dead man is not protected from the OOM killer", "err", err)
	}
}

// once starts one agent and returns when it has ended.
func (d *DeadMan) once(ctx context.Context) (int, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 1, fmt.Errorf("making the line to the agent: %w", err)
	}
	far := os.NewFile(uintptr(pair[1]), "line")
	near, end := pair[0], os.NewFile(uintptr(pair[0]), "line")
	defer end.Close()
	words, err := end.SyscallConn()
	if err != nil {
		far.Close()
		return 1, fmt.Errorf("making the line to the agent: %w", err)
	}
	_ = unix.SetsockoptInt(pair[1], unix.SOL_SOCKET, unix.SO_SNDBUF, lineRoom)
	cmd := exec.Command(d.Agent[0], d.Agent[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{far}
	cmd.Env = append(os.Environ(), lineVar+"=3", heldVar+"="+heldPath(d.Will))
	if d.Watchdog != nil {
		cmd.Env = append(cmd.Env, watchdogVar+"="+d.Watchdog.Info().encode())
	}
	if d.broken {
		cmd.Env = append(cmd.Env, brokenVar+"=1")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	now := boottime.Now()
	d.mu.Lock()
	d.clock.started(now)
	d.ready = false
	d.former, d.kill = d.exclusive(), nil
	d.mu.Unlock()
	if err := cmd.Start(); err != nil {
		far.Close()
		return 1, err
	}
	far.Close()
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid), []byte(agentScore), 0o644)
	d.mu.Lock()
	d.child, d.line = cmd.Process, near
	d.mu.Unlock()
	d.arm()
	var line sync.WaitGroup
	line.Go(func() { d.listen(words, near) })
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case sig := <-d.Signals:
			d.mu.Lock()
			d.ending = true // whatever it ends by now
			if !d.ready {
				d.asked = sig
			}
			d.mu.Unlock()
			_ = cmd.Process.Signal(sig)
			continue
		case <-ctx.Done():
			_ = cmd.Process.Kill()
			err = <-ended
		case err = <-ended:
		}
		break
	}
	line.Wait() // ends with the agent's end of the line: its last word counts
	d.mu.Lock()
	d.line = -1 // nobody reads from a descriptor that may be another's by now
	d.mu.Unlock()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 1, err
	}
	return cmd.ProcessState.ExitCode(), nil
}

// tell gives the agent, which has just spoken, what it has not been told yet. It never waits.
func (d *DeadMan) tell(fd int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.told) > 0 {
		text, err := json.Marshal(d.told[0])
		if err == nil && unix.Sendto(fd, text, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil) != nil {
			return // no room, or nobody there any more: the next word brings us here again
		}
		d.told = d.told[1:]
	}
}

// remember keeps something for the agent; the oldest go first.
func (d *DeadMan) remember(all ...Told) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range all {
		if !slices.ContainsFunc(d.told, func(o Told) bool { return o.Group == t.Group && o.Resource == t.Resource && o.Why == t.Why }) {
			d.told = append(d.told, t)
		}
	}
	d.told = d.told[max(0, len(d.told)-maxTold):]
}

// arm sets the timer to the next instant that matters.
func (d *DeadMan) arm() {
	d.mu.Lock()
	next := d.clock.next()
	d.mu.Unlock()
	d.set(next)
}

func (d *DeadMan) set(at time.Time) {
	// The timer counts from the boot, like the instants of package boottime do from its base.
	left := max(at.Sub(boottime.Now()), time.Nanosecond)
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(left.Nanoseconds())}
	if err := unix.TimerfdSettime(d.timer, 0, &spec, nil); err != nil {
		d.Log.Error("setting the dead man's timer", "err", err)
	}
}

func (d *DeadMan) wake() { d.set(boottime.Now()) }

// watch is the clock's own goroutine, on a thread of its own: nothing else that the process does can make it wait.
func (d *DeadMan) watch(ctx context.Context) {
	runtime.LockOSThread()
	buf, word := make([]byte, 8), make([]byte, maxWord+1)
	for ctx.Err() == nil {
		if _, err := unix.Read(d.timer, buf); err != nil && err != unix.EINTR {
			d.Log.Error("reading the dead man's timer", "err", err)
			return
		}
		if ctx.Err() != nil {
			return
		}
		v := d.look(word)
		d.set(v.next)
		if v.release {
			ok := d.release(v.kill) && !v.lost
			d.mu.Lock()
			d.clock.released(v.until, ok, boottime.Now())
			d.mu.Unlock()
			d.arm()
		}
		if v.restart && v.child != nil {
			d.Log.Error("the agent is frozen; killing it to start it again")
			_ = v.child.Kill()
		}
	}
}

// task is a verdict with what it is about, as it was when it was given.
type task struct {
	verdict
	until time.Time // the lease that has ended
	kill  []resources.Spec
	lost  bool // kill is not all
	child *os.Process
}

// look hears what there is to hear and says what is due.
func (d *DeadMan) look(buf []byte) task {
	d.drain(buf)
	d.mu.Lock()
	defer d.mu.Unlock()
	t := task{until: d.clock.until, kill: d.exclusive(), lost: d.lost, child: d.child}
	t.verdict = d.clock.due(boottime.Now())
	return t
}

// release drops every address of this node and kills what is exclusive; each whatever becomes of the others. It reports
// whether all of that is proven gone.
func (d *DeadMan) release(kill []resources.Spec) bool {
	held, err := vip.Release()
	var gone []string
	for _, h := range held {
		gone = append(gone, h.Address.Addr().String())
	}
	if err != nil {
		d.Log.Error("the lease has ended; removing addresses", "err", err)
		d.remember(Told{Why: "addresses cannot be removed: " + err.Error(), At: time.Now()})
	}
	if len(gone) > 0 {
		d.Log.Error("the lease has ended and the agent had not acted: addresses are removed", "addresses", strings.Join(gone, " "))
		d.remember(Told{Why: "the lease had ended and the agent had not acted: removed " + strings.Join(gone, " "), At: time.Now()})
	}
	if len(kill) > 0 {
		d.Log.Warn("the lease has ended: making sure that nothing exclusive runs on", "resources", len(kill))
	}
	left := KillAll(kill, d.Log)
	for i := range left {
		left[i].Why = "the lease has ended and its end cannot be proven: " + left[i].Why
	}
	d.remember(left...)
	return err == nil && len(left) == 0
}
