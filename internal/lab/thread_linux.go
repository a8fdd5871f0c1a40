package lab

import (
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// instrumentPriority is above all ordinary processes: an instrument that waits for the processor measures the scheduler.
const instrumentPriority = 10

// onInstrumentThread runs f on a real-time thread of its own (best effort: without the right it stays an ordinary one).
// f must mostly sleep. The thread ends with f, so that its priority leaks to nothing else.
func onInstrumentThread(f func()) {
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		_ = unix.SchedSetAttr(0, &unix.SchedAttr{
			Size:     uint32(unsafe.Sizeof(unix.SchedAttr{})),
			Policy:   unix.SCHED_FIFO,
			Flags:    unix.SCHED_FLAG_RESET_ON_FORK,
			Priority: instrumentPriority,
		}, 0)
		f()
	}()
}

// poller waits for sockets and for a periodic tick with nanosecond timers; epoll_wait itself knows only milliseconds.
type poller struct {
	ep, timer, wake int
	events          [128]unix.EpollEvent
}

// newPoller makes a poller; a period of zero means that only arm sets the timer.
func newPoller(period unix.Timespec) (*poller, error) {
	p := &poller{ep: -1, timer: -1, wake: -1}
	var err error
	if p.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	if p.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err == nil {
		err = unix.TimerfdSettime(p.timer, 0, &unix.ItimerSpec{Interval: period, Value: period}, nil)
	}
	if err == nil {
		p.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	}
	if err == nil {
		err = p.add(p.timer, unix.EPOLLIN)
	}
	if err == nil {
		err = p.add(p.wake, unix.EPOLLIN)
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *poller) add(fd int, events uint32) error {
	return unix.EpollCtl(p.ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

// arm sets the timer to go off once after d, for a poller without a period.
func (p *poller) arm(d time.Duration) {
	_ = unix.TimerfdSettime(p.timer, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}, nil)
}

func (p *poller) mod(fd int, events uint32) error {
	return unix.EpollCtl(p.ep, unix.EPOLL_CTL_MOD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

// wait blocks until something happens; tick says that the period is over, stop that stop was called.
func (p *poller) wait() (ready []unix.EpollEvent, tick, stop bool) {
	n, err := unix.EpollWait(p.ep, p.events[:], -1)
	if err != nil {
		return nil, false, err != unix.EINTR
	}
	ready = p.events[:0:len(p.events)]
	for _, e := range p.events[:n] {
		switch int(e.Fd) {
		case p.timer:
			var b [8]byte
			unix.Read(p.timer, b[:])
			tick = true
		case p.wake:
			stop = true
		default:
			ready = append(ready, e) // in place: never ahead of the reading
		}
	}
	return ready, tick, stop
}

func (p *poller) stop() { unix.Write(p.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

func (p *poller) close() {
	for _, fd := range []int{p.ep, p.timer, p.wake} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}
