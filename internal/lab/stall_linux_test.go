package lab

import (
	"errors"
	"math"
	"os"
	"os/exec"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func newMeter(t *testing.T) *StallMeter {
	t.Helper()
	m, err := MeterStalls()
	if errors.Is(err, ErrNoRealTime) {
		t.Skip("needs real root: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// spin has a thread that never gives way run on the first processor, under real-time priority. The kernel itself ends it.
func spin(t *testing.T, priority uint32, span time.Duration) {
	t.Helper()
	cmd := exec.Command("sh", "-c", "while :; do :; done")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	var all, one unix.CPUSet
	err := unix.SchedGetaffinity(0, &all)
	for cpu := range len(all) * 64 {
		if one.Count() == 0 && all.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	limit := unix.Rlimit{Cur: uint64(span.Microseconds()), Max: uint64(span.Microseconds())}
	attr := unix.SchedAttr{Size: uint32(unsafe.Sizeof(unix.SchedAttr{})), Policy: unix.SCHED_FIFO, Priority: priority}
	err = errors.Join(err, unix.Prlimit(pid, unix.RLIMIT_RTTIME, &limit, nil), unix.SchedSetaffinity(pid, &one), unix.SchedSetAttr(pid, &attr, 0))
	if err != nil {
		cmd.Process.Kill()
	}
	_ = cmd.Wait() // killed
	if err != nil {
		t.Fatal(err)
	}
}

// TestTheMeterSeesAStall: to everything of lower priority a thread that does not give way is a processor that stands still.
func TestTheMeterSeesAStall(t *testing.T) {
	m := newMeter(t)
	const want = 120 * time.Millisecond
	from := time.Now()
	spin(t, stallPriority+10, want)
	to := time.Now()
	s := m.Longest(from, to)
	t.Logf("a thread that spun for %s on one processor is seen as %s", want, s.Length())
	if s.Length() < want-20*time.Millisecond || s.Start.Before(from.Add(-2*stallNap)) || s.End.After(to.Add(2*stallNap)) {
		t.Errorf("seen between %s and %s: %v", from, to, m.Between(from, to))
	}
}

// TestLoadIsNoStall: what has a lower priority than the meter, as all of had and of the tests has, stalls nothing, though it
// takes the processor from everybody else. A machine that itself stands still meanwhile spoils that, so one undisturbed
// attempt of three is enough: what the load does, it does each time.
func TestLoadIsNoStall(t *testing.T) {
	m := newMeter(t)
	var seen []Stall
	for range 3 {
		from := time.Now()
		spin(t, stallPriority-10, 200*time.Millisecond)
		if seen = m.Between(from, time.Now()); len(seen) == 0 {
			return
		}
	}
	t.Errorf("load looks like a stall: %v", seen)
}

// TestAStallMeterCostsNextToNothing, or it would disturb what it is to judge.
func TestAStallMeterCostsNextToNothing(t *testing.T) {
	m := newMeter(t)
	used := func() (out time.Duration) {
		var ts unix.Timespec
		// The clock of another process: clock_getcpuclockid(3).
		if err := unix.ClockGettime(int32(^m.cmd.Process.Pid<<3|2), &ts); err != nil {
			t.Fatal(err)
		}
		return time.Duration(ts.Nano())
	}
	// The calmest of five seconds: on a machine on which others compute, the same wakes take longer.
	least := math.Inf(1)
	for range 5 {
		begun, before := time.Now(), used()
		time.Sleep(time.Second)
		least = min(least, float64(used()-before)/float64(time.Since(begun))*100)
		if least <= 2*float64(runtimeCPUs()) {
			break
		}
	}
	t.Logf("%.2f %% of a core on %d processors", least, runtimeCPUs())
	if least > 2*float64(runtimeCPUs()) {
		t.Errorf("%.2f %% of a core", least)
	}
}

func runtimeCPUs() int {
	var all unix.CPUSet
	_ = unix.SchedGetaffinity(os.Getpid(), &all)
	return all.Count()
}
