package nowait

import (
	"errors"
	"os"
	"syscall"
	"testing"
	"time"
)

// Announced or not, what fits is sent and what is there is taken, and nothing is waited for.
func TestBriefSendsAndReceives(t *testing.T) {
	for name, b := range map[string]*Brief{"not announced": {}, "announced": {wary: time.Now().Add(time.Hour)}} {
		t.Run(name, func(t *testing.T) {
			fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer syscall.Close(fds[0])
			defer syscall.Close(fds[1])
			if n, err := b.Send(uintptr(fds[0]), []byte("text")); n != 4 || err != nil {
				t.Fatal(n, err)
			}
			buf := make([]byte, 8)
			if n, err := b.Receive(uintptr(fds[1]), buf); err != nil || string(buf[:n]) != "text" {
				t.Errorf("%q %v", buf[:n], err)
			}
			if _, err := b.Receive(uintptr(fds[1]), buf); !errors.Is(err, syscall.EAGAIN) {
				t.Errorf("an empty socket: %v", err)
			}
			for range 100_000 {
				if _, err = b.Send(uintptr(fds[0]), buf); err != nil {
					break
				}
			}
			if !errors.Is(err, syscall.EAGAIN) {
				t.Errorf("a full socket: %v", err)
			}
		})
	}
}

// A disk that is full is told, not swallowed.
func TestBriefTellsOfAFullDisk(t *testing.T) {
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("needs /dev/full:", err)
	}
	defer f.Close()
	if err := new(Brief).WriteAt(f, []byte("x")); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
}
