package main

// onSignals does nothing: Windows has no such signals.
func (h *hang) onSignals() (stop func()) { return func() {} }
