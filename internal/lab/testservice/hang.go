package main

import "sync"

// hang holds answers back while it is on.
type hang struct {
	mu   sync.Mutex
	open chan struct{} // closed while answers may pass
	on   bool
}

func newHang() *hang {
	h := &hang{open: make(chan struct{})}
	close(h.open)
	return h
}

func (h *hang) set(on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if on == h.on {
		return
	}
	h.on = on
	if on {
		h.open = make(chan struct{})
	} else {
		close(h.open)
	}
}

// wait blocks during a hang; it returns false when gone is closed first.
func (h *hang) wait(gone <-chan struct{}) bool {
	h.mu.Lock()
	open := h.open
	h.mu.Unlock()
	select {
	case <-open:
		return true
	case <-gone:
		return false
	}
}
