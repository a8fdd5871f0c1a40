package fence

import (
	"syscall"

	"golang.org/x/sys/unix"

	"hacluster/internal/boottime"
	"hacluster/internal/nowait"
)

const (
	// lineRoom is the room for words that nobody has read yet, in bytes of the kernel's count. It fits one of the longest.
	lineRoom = 256 << 10
	// maxDrain is more than the words for which there is room: an empty one counts for more than 512 bytes, and the kernel doubles
	// what it is asked for.
	maxDrain = 1024
)

// listen takes the agent's words until its end of the line closes. The runtime's poller waits for them: a thread that waited in a
// system call would cost several wakes for each word.
func (d *DeadMan) listen(line syscall.RawConn, fd int) {
	buf := make([]byte, maxWord+1)
	for {
		var w word
		var got bool
		var err error
		waited := line.Read(func(uintptr) bool {
			w, got, err = d.take(buf)
			return got || err != nil
		})
		switch {
		case waited != nil:
			d.Log.Error("waiting for a word of the agent", "err", waited)
			return
		case err == errClosed:
			return
		case err != nil:
			d.Log.Error("a word of the agent is not understood", "err", err)
		case got:
			d.heard(w)
			d.tell(fd)
		}
	}
}

// errClosed says that no word will come any more.
const errClosed = unix.EPIPE

// take reads one word if there is one, and notes it. Both are one step: two goroutines read, and the last word counts.
func (d *DeadMan) take(buf []byte) (w word, got bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.line < 0 {
		return word{}, false, errClosed
	}
	n, err := nowait.Receive(uintptr(d.line), buf)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return word{}, false, nil
	case err != nil || n == 0:
		return word{}, false, errClosed
	}
	if w, err = decodeWord(buf[:n]); err != nil {
		return word{}, true, err
	}
	now := boottime.Now()
	d.pulse.Beat(now)
	d.clock.tell(w, now)
	if w.Kill != nil {
		d.kill = *w.Kill
	}
	if w.Until != nil && *w.Until != 0 { // under a lease it has caught up with what was ever decided, and knows what runs
		d.former, d.lost = nil, false
	}
	d.ending = d.ending || w.Ending
	if w.Ready {
		if d.asked != nil {
			_ = d.child.Signal(d.asked)
		}
		d.ready, d.asked = true, nil
	}
	return w, true, nil
}

// heard does what a word asks for beyond being noted. It may wait for others.
func (d *DeadMan) heard(w word) {
	if w.Until != nil {
		d.arm()
	}
	for _, f := range []struct {
		said bool
		call func()
	}{{w.Ready, d.Ready}, {w.Ending, d.Ending}, {true, d.Alive}} {
		if f.said && f.call != nil {
			f.call()
		}
	}
}

// drain takes the words that wait, before the clock decides: a dead man that was frozen would end what was renewed meanwhile, and kill an
// agent that has spoken. It never waits, and ends however fast the agent speaks.
func (d *DeadMan) drain(buf []byte) {
	var all word
	n := 0
	for ; n < maxDrain; n++ {
		w, got, err := d.take(buf)
		if !got {
			break
		}
		if err == nil {
			all.Ready, all.Ending = all.Ready || w.Ready, all.Ending || w.Ending
		}
	}
	if n > 0 {
		go d.heard(all)
	}
}
