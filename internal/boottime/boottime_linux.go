package boottime

import (
	"math"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// sinceBoot reads CLOCK_BOOTTIME (clock_gettime(2)). The call cannot fail on any kernel this program runs on (2.6.39).
func sinceBoot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("reading CLOCK_BOOTTIME: " + err.Error())
	}
	return time.Duration(ts.Nano())
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

func monotonic() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic("reading CLOCK_MONOTONIC: " + err.Error())
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
