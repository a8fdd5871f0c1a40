package resources

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// death waits for the end of one process, child or not. The pidfd sits in the Go runtime's epoll set (pidfd_open(2): it
// becomes readable when the process ends), so the wait costs a parked goroutine and no thread, and nothing polls.
type death struct {
	ch   chan struct{} // closed when the process has ended
	file *os.File
	wg   sync.WaitGroup
}

// watchDeath begins to wait for p. The error is unix.ESRCH when p has ended already. The caller must call stop.
func watchDeath(p proc) (*death, error) {
	fd, err := p.open()
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil { // else os.NewFile would not use epoll
		unix.Close(fd)
		return nil, fmt.Errorf("preparing the pidfd of process %d: %w", p.PID, err)
	}
	d := &death{ch: make(chan struct{}), file: os.NewFile(uintptr(fd), "pidfd")}
	raw, err := d.file.SyscallConn()
	if err != nil {
		d.file.Close()
		return nil, fmt.Errorf("preparing the pidfd of process %d: %w", p.PID, err)
	}
	d.wg.Go(func() {
		if err := raw.Read(ended); err == nil {
			close(d.ch)
		}
	})
	return d, nil
}

// done is closed when the process has ended; nil for a nil death, which never ends.
func (d *death) done() <-chan struct{} {
	if d == nil {
		return nil
	}
	return d.ch
}

// stop gives up waiting and joins the goroutine.
func (d *death) stop() {
	if d != nil {
		d.file.Close()
		d.wg.Wait()
	}
}

// ended asks the pidfd without blocking.
func ended(fd uintptr) bool {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if !errors.Is(err, unix.EINTR) {
			return n > 0 && err == nil
		}
	}
}
