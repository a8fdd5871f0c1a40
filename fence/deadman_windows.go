package fence

import (
	"time"

	"hacluster/resources"
)

// Line is the agent's end of the line to a dead man; on Windows there is none yet.
type Line struct{}

// OpenLine finds no line here.
func OpenLine() (*Line, error) { return nil, nil }

// Gone never closes here.
func (*Line) Gone() <-chan struct{} { return nil }

// Ready does nothing here.
func (*Line) Ready() {}

// Ending does nothing here.
func (*Line) Ending() {}

// Alive does nothing here.
func (*Line) Alive() {}

// Deadline does nothing here.
func (*Line) Deadline(time.Time) {}

// Exclusive does nothing here.
func (*Line) Exclusive([]resources.Spec) {}

// Told is empty here.
func (*Line) Told() []Told { return nil }

// Watchdog is none here.
func (*Line) Watchdog() *WatchdogInfo { return nil }

// AfterBrokenStore is false here: no dead man has seen an agent before.
func AfterBrokenStore() bool { return false }
