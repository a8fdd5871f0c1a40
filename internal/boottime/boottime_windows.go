package boottime

import (
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

var queryInterruptTimePrecise = windows.NewLazySystemDLL("api-ms-win-core-realtime-l1-1-1.dll").NewProc("QueryInterruptTimePrecise")

// sinceBoot reads QueryInterruptTimePrecise, which counts 100 ns units since boot, sleep included.
func sinceBoot() time.Duration {
	var t uint64
	queryInterruptTimePrecise.Call(uintptr(unsafe.Pointer(&t)))
	return time.Duration(t * 100)
}

// Asleep is not known on Windows yet: no suspend is noticed.
func Asleep() time.Duration { return 0 }

// ID is not known on Windows yet: nothing is inherited from a process before.
func ID() string { return "" }
