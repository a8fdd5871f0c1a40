package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	stallNap      = 5 * time.Millisecond
	stallLeast    = 50 * time.Millisecond // shorter gaps are not noted
	stallPriority = 50                    // above the instruments and everything that a lab starts
	stallsEnv     = "HAD_LAB_STALLS"      // makes a program that calls Reexec the process of a StallMeter
)

// Stall is a time in which a processor did not even run a thread that goes before all others: the hypervisor had taken it
// away. What our own programs do cannot cause one, because they all have to give way. Start and End are up to 5 ms too far apart.
type Stall struct {
	Start, End time.Time
	CPU        int
}

// ErrNoRealTime says that this process has no right to real-time priority (CAP_SYS_NICE).
var ErrNoRealTime = errors.New("real-time priority is not permitted")

// Length of the stall.
func (s Stall) Length() time.Duration { return s.End.Sub(s.Start) }

// ReportStalls writes each stall of 50 ms and more as a line of JSON, an empty line first, until ctx is done. It is for a
// process that does nothing else, since it changes how all of it is scheduled. Without the right to
// real-time priority it refuses (ErrNoRealTime): an ordinary thread would take the load of others for a stall.
func ReportStalls(ctx context.Context, w io.Writer) error {
	var cpus unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cpus); err != nil {
		return fmt.Errorf("asking which processors this process may use: %w", err)
	}
	debug.SetGCPercent(-1) // makes no garbage
	runtime.GOMAXPROCS(cpus.Count() + 2)
	if err := realTime(); err != nil {
		return err
	}
	_ = unix.Mlockall(unix.MCL_CURRENT) // best effort: a page that must be read first delays too
	found := make(chan Stall, 64)
	failed := make(chan error, 1)
	for cpu := range len(cpus) * 64 {
		if cpus.IsSet(cpu) {
			go func() { failed <- watchCPU(ctx, cpu, found) }()
		}
	}
	line := []byte("\n")
	for {
		if _, err := w.Write(line); err != nil {
			return fmt.Errorf("reporting stalls: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case s := <-found:
			b, err := json.Marshal(s)
			if err != nil {
				return err
			}
			line = append(b, '\n')
		}
	}
}

// realTime puts every thread of this process under SCHED_FIFO; those that they start inherit it. All of them, because the
// threads of the Go runtime hold locks that the watching ones may want.
func realTime() error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("listing the threads of this process: %w", err)
	}
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		attr := unix.SchedAttr{Size: uint32(unsafe.Sizeof(unix.SchedAttr{})), Policy: unix.SCHED_FIFO, Priority: stallPriority}
		if err := unix.SchedSetAttr(id, &attr, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("watching for stalls: %w: %w", ErrNoRealTime, err)
		}
	}
	return nil
}

// watchCPU naps on one processor and reports when a nap lasted too long. The caller's goroutine ends with its thread.
func watchCPU(ctx context.Context, cpu int, found chan<- Stall) error {
	runtime.LockOSThread() // never unlocked: it stays pinned
	var one unix.CPUSet
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("watching processor %d: %w", cpu, err)
	}
	nap := unix.NsecToTimespec(int64(stallNap))
	for before := time.Now(); ctx.Err() == nil; {
		// Raw: the scheduler of the Go runtime shall not take notice, that would cost ten times as much. Woken early by a
		// signal it naps again.
		_, _, _ = unix.RawSyscall6(unix.SYS_CLOCK_NANOSLEEP, unix.CLOCK_MONOTONIC, 0, uintptr(unsafe.Pointer(&nap)), 0, 0, 0)
		now := time.Now()
		if now.Sub(before) >= stallLeast {
			select {
			case found <- Stall{before, now, cpu}:
			case <-ctx.Done():
			}
		}
		before = now
	}
	return nil
}

// StallMeter notes the stalls of this machine.
type StallMeter struct {
	cmd    *exec.Cmd
	stdin  io.Closer // the process ends when it is closed, so also when this one dies
	reader sync.WaitGroup

	mu   sync.Mutex
	seen []Stall
}

// MeterStalls starts a meter in a process of its own: this program once more, whose main must call Reexec. Errors:
// ErrNoRealTime.
func MeterStalls() (*StallMeter, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding the own program: %w", err)
	}
	m := &StallMeter{cmd: exec.Command(exe)}
	m.cmd.Env = append(os.Environ(), stallsEnv+"=1")
	var said strings.Builder
	m.cmd.Stderr = &said
	stdin, err := m.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	m.stdin = stdin
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := m.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the stall meter: %w", err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		stdin.Close()
		err := m.cmd.Wait()
		if m.cmd.ProcessState.ExitCode() == stallsRefused {
			err = ErrNoRealTime
		}
		return nil, fmt.Errorf("starting the stall meter: %w: %s", err, strings.TrimSpace(said.String()))
	}
	m.reader.Go(func() {
		for lines.Scan() {
			var s Stall
			if json.Unmarshal(lines.Bytes(), &s) == nil {
				m.mu.Lock()
				m.seen = append(m.seen, s)
				m.mu.Unlock()
			}
		}
	})
	return m, nil
}

// Between are the stalls that overlapped an interval, as they ended. One that ends with the interval is waited for.
func (m *StallMeter) Between(from, to time.Time) (out []Stall) {
	time.Sleep(time.Until(to.Add(4 * stallNap)))
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.seen {
		if s.Start.Before(to) && s.End.After(from) {
			out = append(out, s)
		}
	}
	return out
}

// Longest is the longest stall that overlapped an interval, the zero Stall when there was none.
func (m *StallMeter) Longest(from, to time.Time) (out Stall) {
	for _, s := range m.Between(from, to) {
		if s.Length() > out.Length() {
			out = s
		}
	}
	return out
}

// Close ends the meter.
func (m *StallMeter) Close() error {
	m.stdin.Close()
	m.reader.Wait()
	return m.cmd.Wait()
}

const stallsRefused = 77 // exit code of the meter's process when it is not permitted

// reportStalls is the process of a StallMeter. It ends with its standard input.
func reportStalls() int {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	err := ReportStalls(ctx, os.Stdout)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrNoRealTime):
		fmt.Fprintln(os.Stderr, err)
		return stallsRefused
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}
