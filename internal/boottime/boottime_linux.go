package boottime

import (
	"math"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sinceBoot reads CLOCK_BOOTTIME (clock_gettime(2)). The call cannot fail on any kernel this program runs on (2.6.39).
func sinceBoot() time.Duration {
	return read(unix.CLOCK_BOOTTIME)
}

// asleepTries bounds how often the two clocks are read when this thread is stopped in between.
const asleepTries = 5

// Asleep is how long this machine was suspended since its boot, to within some microseconds: CLOCK_BOOTTIME counts it and
// CLOCK_MONOTONIC does not (clock_gettime(2)). In a time namespace it is more by a constant.
func Asleep() time.Duration {
	var asleep time.Duration
	best := time.Duration(math.MaxInt64)
	for range asleepTries {
		before, boot, after := monotonic(), sinceBoot(), monotonic()
		if after-before < best {
			best, asleep = after-before, boot-before
		}
		if best < 100*time.Microsecond {
			break
		}
	}
	return asleep
}

func monotonic() time.Duration { return read(unix.CLOCK_MONOTONIC) }

// read asks for a clock without telling the scheduler of Go: unix.ClockGettime announces a system call that may block, which wakes
// the runtime's monitor thread each time. A process at rest spent a tenth of its CPU time on that.
func read(clock uintptr) time.Duration {
	var ts unix.Timespec
	if _, _, errno := unix.RawSyscall(unix.SYS_CLOCK_GETTIME, clock, uintptr(unsafe.Pointer(&ts)), 0); errno != 0 {
		panic("reading a clock: " + errno.Error())
	}
	return time.Duration(ts.Nano())
}

// ID names this boot of the machine; empty when it cannot be told (proc(5), sys/kernel/random/boot_id).
func ID() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
