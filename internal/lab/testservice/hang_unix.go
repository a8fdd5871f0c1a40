//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// onSignals lets SIGUSR1 begin and SIGUSR2 end a hang.
func (h *hang) onSignals() (stop func()) {
	c := make(chan os.Signal, 4)
	signal.Notify(c, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		for s := range c {
			h.set(s == syscall.SIGUSR1)
		}
	}()
	return func() {
		signal.Stop(c)
		close(c)
	}
}
