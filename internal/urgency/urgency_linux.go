package urgency

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// level is the nice value of had (sched(7)): the agent uses a percent or two of a processor, but wants it within
// milliseconds. Below the kernel's own threads and whatever runs under a real-time policy.
const level = -15

// Raise gives every thread of this process precedence; threads and processes that they start inherit it. Without the right
// to it (CAP_SYS_NICE) the process stays as it is, and the error says so.
func Raise() error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("listing the threads of this process: %w", err)
	}
	var errs []error
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if err := unix.Setpriority(unix.PRIO_PROCESS, id, level); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("setting the nice value %d: %w", level, errs[0])
	}
	return nil
}

// Ordinary calls start, which starts a process, so that the process inherits the ordinary priority and not that of had: a
// service that runs wild must not starve the agent that watches it.
func Ordinary(start func() error) error {
	done := make(chan error, 1)
	go func() {
		// A process inherits the nice value of the thread that forks. This one ends with the goroutine: it is never unlocked.
		runtime.LockOSThread()
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 0) // giving precedence up needs no right
		done <- start()
	}()
	return <-done
}
