package fence

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/internal/boottime"
	"hacluster/internal/nowait"
	"hacluster/resources"
)

// lineVar names the descriptor of the agent's end of the line in its environment.
const lineVar = "HAD_DEADMAN_FD"

// Line is the agent's end: it tells the dead man until when what is held may live, and learns of the dead man's own death.
// Nothing it does blocks: a message for which there is no room is dropped, the next one says the same and more.
type Line struct {
	fd   int
	gone chan struct{}

	mu    sync.Mutex
	kill  []resources.Spec
	told  bool // kill has been told
	news  []Told
	said  time.Time // the newest word, boot time
	until time.Time // the newest deadline; zero: nothing is held

	watchdog *WatchdogInfo
	held     keeper
}

// OpenLine finds the line that a dead man gave to this process; nil without one, when the agent runs alone.
func OpenLine() (*Line, error) {
	text := os.Getenv(lineVar)
	if text == "" {
		return nil, nil
	}
	os.Unsetenv(lineVar) // not for the services we start
	fd, err := strconv.Atoi(text)
	if err != nil {
		return nil, fmt.Errorf("%s=%q: %w", lineVar, text, err)
	}
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("line to the dead man: %w", err)
	}
	l := &Line{fd: fd, gone: make(chan struct{}), held: keeper{path: os.Getenv(heldVar), boot: boottime.ID()}}
	os.Unsetenv(heldVar)
	if text := os.Getenv(watchdogVar); text != "" {
		os.Unsetenv(watchdogVar)
		l.watchdog = &WatchdogInfo{}
		if err := json.Unmarshal([]byte(text), l.watchdog); err != nil {
			return nil, fmt.Errorf("%s=%q: %w", watchdogVar, text, err)
		}
	}
	go l.listen()
	return l, nil
}

// listen takes what the dead man tells, and waits for the other end to close, which the kernel does when the dead man dies,
// however it dies.
func (l *Line) listen() {
	defer close(l.gone)
	buf := make([]byte, maxWord)
	for {
		p := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(p, -1); err == unix.EINTR {
			continue
		}
		n, _, err := unix.Recvfrom(l.fd, buf, 0)
		if err == unix.EAGAIN || err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return
		}
		var t Told
		if json.Unmarshal(buf[:n], &t) == nil {
			l.mu.Lock()
			l.news = append(l.news, t)
			l.news = l.news[max(0, len(l.news)-maxTold):]
			l.mu.Unlock()
		}
	}
}

// Told gives what the dead man has told since the last call, oldest first.
func (l *Line) Told() []Told {
	l.mu.Lock()
	defer l.mu.Unlock()
	news := l.news
	l.news = nil
	return news
}

// Watchdog is the device that stands behind the dead man; nil: none.
func (l *Line) Watchdog() *WatchdogInfo { return l.watchdog }

// Gone is closed when the dead man has died.
func (l *Line) Gone() <-chan struct{} { return l.gone }

func (l *Line) say(w word) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.told && l.kill != nil {
		w.Kill = &l.kill
	}
	text, err := w.encode()
	if err == nil {
		_, err = nowait.Send(uintptr(l.fd), text)
	}
	if err == nil {
		l.said = boottime.Now()
		l.told = l.told || w.Kill != nil
	}
}

// Ready says that the agent serves.
func (l *Line) Ready() { l.say(word{Ready: true}) }

// Ending says that the agent ends because it was asked to: it is not to be started again.
func (l *Line) Ending() { l.say(word{Ending: true}) }

// aliveEvery is the least time between two words that say nothing else: any word says as much, and the dead man, whose limits are
// many times longer, wakes up for each.
const aliveEvery = 500 * time.Millisecond

// Alive says nothing but that the agent's act loop turns. Once the lease has ended each call is a word: then the dead man waits
// for one.
func (l *Line) Alive() {
	now := boottime.Now()
	l.mu.Lock()
	ended := !l.until.IsZero() && !now.Before(l.until)
	lately := now.Sub(l.said) < aliveEvery && (l.told || l.kill == nil)
	l.mu.Unlock()
	if ended || !lately {
		l.say(word{})
	}
}

// Deadline says until when what is held here may live; the zero time: nothing is held.
func (l *Line) Deadline(until time.Time) {
	ns := int64(0)
	if !until.IsZero() {
		ns = until.UnixNano()
	}
	l.mu.Lock()
	l.until = until
	l.held.deadline(ns) // first: who kills us may kill the dead man as well
	l.mu.Unlock()
	l.say(word{Until: &ns})
}

// Exclusive names what is to be killed at the deadline.
func (l *Line) Exclusive(specs []resources.Spec) {
	l.mu.Lock()
	l.kill, l.told = slices.Clone(specs), false
	if l.kill == nil {
		l.kill = []resources.Spec{}
	}
	l.held.exclusive(l.kill)
	l.mu.Unlock()
	l.say(word{})
}
