package urgency

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// priority is the lowest there is of the real-time policy SCHED_RR (sched(7)): before everything that has no such policy,
// behind whatever else has one. The agent uses a percent or two of a processor, but wants it within milliseconds. A nice
// value would not do: the kernel counts it only among the processes of one session where it groups by session
// (CONFIG_SCHED_AUTOGROUP, the default of most distributions), and only within one control group where those have weights.
const priority = 1

// nice is what is left where the real-time policy is refused: without the right to it (CAP_SYS_NICE, or RLIMIT_RTPRIO), or
// by a kernel that shares real time out to control groups (CONFIG_RT_GROUP_SCHED).
const nice = -15

// Raise gives every thread of this process precedence; threads and processes that they start inherit it. An error says that
// the process has none, or the weaker one of a nice value.
func Raise() error {
	err := threads(func(id int) error {
		return unix.SchedSetAttr(id, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: priority}, 0)
	})
	if err == nil {
		return nil
	}
	err = fmt.Errorf("real-time priority (SCHED_RR): %w", err)
	if e := threads(func(id int) error { return unix.Setpriority(unix.PRIO_PROCESS, id, nice) }); e != nil {
		return errors.Join(err, fmt.Errorf("nice value %d: %w", nice, e))
	}
	return errors.Join(err, session(nice))
}

// session sets the nice value of this session as against others (sched(7), "The autogroup feature").
func session(nice int) error {
	const file = "/proc/self/autogroup"
	if _, err := os.Stat(file); err != nil { // the kernel does not group by session
		return nil
	}
	// The first processes of a machine or a container may be in no session's group: the nice value of each process counts then, and
	// the kernel takes none for all of them (EINVAL).
	if err := os.WriteFile(file, []byte(strconv.Itoa(nice)), 0o644); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("nice value %d of the session: %w", nice, err)
	}
	return nil
}

// threads calls do for every thread of this process, until there is none that began meanwhile; the first error ends it.
func threads(do func(id int) error) error {
	done := map[string]bool{}
	for more := true; more; {
		more = false
		list, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("listing the threads of this process: %w", err)
		}
		for _, t := range list {
			id, err := strconv.Atoi(t.Name())
			if err != nil || done[t.Name()] {
				continue
			}
			done[t.Name()], more = true, true
			if err := do(id); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
	}
	return nil
}

// Ordinary calls start, which starts a process, so that the process inherits the ordinary policy and priority and not those
// of had: a service that runs wild must not starve the agent that watches it, or the machine.
func Ordinary(start func() error) error {
	done := make(chan error, 1)
	go func() {
		// A process inherits them from the thread that forks. This one ends with the goroutine: it is never unlocked.
		runtime.LockOSThread()
		// Giving precedence up needs no right.
		if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}, 0); err != nil {
			_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 0)
		}
		done <- start()
	}()
	return <-done
}
