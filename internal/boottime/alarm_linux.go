package boottime

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Alarm rings at an instant of the clock that counts on in suspend (timerfd_create(2), CLOCK_BOOTTIME). The timers of the
// runtime stand still in suspend: one that was due after 100 ms still waits 100 ms when the machine wakes up.
type Alarm struct {
	fd   int
	file *os.File
	done sync.WaitGroup
}

// NewAlarm makes an alarm that calls ring, which must not block, each time it is due.
func NewAlarm(ring func()) (*Alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("creating a timer that counts suspend: %w", err)
	}
	a := &Alarm{fd: fd, file: os.NewFile(uintptr(fd), "timerfd")}
	c, err := a.file.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("preparing a timer that counts suspend: %w", err), a.file.Close())
	}
	a.done.Go(func() {
		for c.Read(rung) == nil { // else it is closed
			ring()
		}
	})
	return a, nil
}

// rung takes the rings of a timer; false: there are none. The scheduler of Go is not told of the call, for the reason that read has.
func rung(fd uintptr) bool {
	var rings [8]byte
	_, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&rings)), uintptr(len(rings)))
	return errno != unix.EAGAIN
}

// Set moves the alarm to an instant of Now's clock; one that has passed rings at once. Not after Close; nil does nothing.
func (a *Alarm) Set(at time.Time) error {
	if a == nil {
		return nil
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(max(at.Sub(Now()), time.Nanosecond).Nanoseconds())}
	if err := unix.TimerfdSettime(a.fd, 0, &spec, nil); err != nil {
		return fmt.Errorf("setting a timer that counts suspend: %w", err)
	}
	return nil
}

// Close ends the alarm; ring is not called afterwards. nil does nothing.
func (a *Alarm) Close() error {
	if a == nil {
		return nil
	}
	err := a.file.Close()
	a.done.Wait()
	return err
}
