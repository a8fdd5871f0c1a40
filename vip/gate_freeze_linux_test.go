package vip

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/internal/boottime"
)

const holderVariable = "HAD_TEST_GATE_HOLDER"

// TestGateHolder is no test: it is the process that another test starts, stops and thaws. It renews until its gate has closed.
func TestGateHolder(t *testing.T) {
	ns := os.Getenv(holderVariable)
	if ns == "" {
		return
	}
	runtime.LockOSThread()
	fd, err := unix.Open("/run/netns/"+ns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	must(t, err)
	must(t, unix.Setns(fd, unix.CLONE_NEWNET))
	m, err := Open(slog.New(slog.DiscardHandler))
	must(t, err)
	addrs := []netip.Addr{netip.MustParseAddr("198.18.0.100"), netip.MustParseAddr("fd00:18::100")}
	until := boottime.Now().Add(300 * time.Millisecond)
	must(t, m.OpenUntil(addrs, until))
	fmt.Println("open")
	// The instant is read before each pause, so most stops come between it and the message: the worst a program can do.
	for {
		until = boottime.Now().Add(300 * time.Millisecond)
		time.Sleep(20 * time.Millisecond)
		if err := m.RenewUntil(addrs, until); err != nil {
			fmt.Println("refused", err)
			if errors.Is(err, ErrClosed) {
				return
			}
		}
	}
}

func TestGateClosesWhileItsHolderIsFrozenAndStaysClosed(t *testing.T) {
	t.Parallel()
	w := newGated(t)
	self, err := os.Executable()
	must(t, err)
	for _, freeze := range []time.Duration{200 * time.Millisecond, 700 * time.Millisecond} {
		holder := exec.Command(self, "-test.run=^TestGateHolder$", "-test.v")
		holder.Env = append(os.Environ(), holderVariable+"="+w.n1)
		pipe, err := holder.StdoutPipe()
		must(t, err)
		must(t, holder.Start())
		ended := make(chan struct{})
		said := make(chan string, 16)
		go func() {
			defer close(said)
			for lines := bufio.NewScanner(pipe); lines.Scan(); {
				said <- lines.Text()
			}
		}()
		t.Cleanup(func() {
			select {
			case <-ended:
			default:
				_ = holder.Process.Kill()
				_ = holder.Wait()
			}
		})
		hear(t, said, "open")
		for _, a := range w.addrs() {
			if !w.reaches(w.c, a, time.Second) {
				t.Fatalf("%s is not reachable while its holder runs", a)
			}
		}
		s := w.stream(w.addrs()[0], time.Millisecond)
		until(t, time.Second, "echoes", func() bool { return s.got.Load() > 20 })
		must(t, holder.Process.Signal(unix.SIGSTOP))
		stopped := boottime.Now()
		until(t, 2*time.Second, "the stop ends", func() bool { return boottime.Now().After(stopped.Add(freeze)) })
		if freeze > 300*time.Millisecond {
			for _, a := range w.addrs() {
				if w.alive(w.m1, a) || w.reaches(w.c, a, blink) {
					t.Errorf("%s is open %v after its holder was frozen", a, freeze)
				}
			}
			last := time.Duration(s.last.Load() - stopped.UnixNano())
			t.Logf("the last echo came %v after the stop; the holder had armed 300ms", last)
			if last > 305*time.Millisecond {
				t.Errorf("an echo came %v after the stop", last)
			}
			must(t, holder.Process.Signal(unix.SIGCONT))
			hear(t, said, ErrLate.Error())   // with the lease of before the stop
			hear(t, said, ErrClosed.Error()) // with a new lease: the gate stays closed all the same
			if w.alive(w.m1, w.addrs()[0]) || w.reaches(w.c, w.addrs()[0], blink) {
				t.Error("the thawed holder opened the gate again")
			}
		} else {
			must(t, holder.Process.Signal(unix.SIGCONT))
			thawed := boottime.Now()
			until(t, 2*time.Second, "the holder renews for a while", func() bool { return boottime.Now().After(thawed.Add(500 * time.Millisecond)) })
			if !w.alive(w.m1, w.addrs()[0]) {
				t.Error("a short stop cost the holder its gate")
			}
			must(t, holder.Process.Kill())
		}
		s.end()
		_ = holder.Wait()
		close(ended)
		must(t, w.m1.Shut(w.addrs()...))
	}
}

// hear waits for a line.
func hear(t *testing.T, said <-chan string, what string) {
	t.Helper()
	late := time.After(5 * time.Second)
	for {
		select {
		case line, ok := <-said:
			if strings.Contains(line, what) {
				t.Logf("the holder says: %s", line)
				return
			}
			if !ok {
				t.Fatalf("the holder ended before it said %q", what)
			}
		case <-late:
			t.Fatalf("the holder did not say %q", what)
		}
	}
}
