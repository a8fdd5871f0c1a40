// Package resources starts, stops, kills and watches one resource: a systemd unit, a process, a set of scripts. What is
// running is always asked of the operating system, never remembered.
package resources

import (
	"context"
	"time"
)

// Kind is what a resource is made of. Addresses are package vip's.
type Kind string

const (
	KindSystemd Kind = "systemd"
	KindProcess Kind = "process"
	KindScript  Kind = "script"
	KindAddress Kind = "address"
)

// Spec is one configured resource. Which fields apply depends on Kind; config validates that.
type Spec struct {
	Group          string
	Name           string
	Kind           Kind
	Unit           string            // systemd
	EveryNode      bool              // systemd: run_on = "every-node": being enabled at boot is no fault then
	Command        []string          // process: program and arguments
	Dir            string            // process, script: working directory
	Env            map[string]string // process, script: added to a minimal environment
	User           string            // process: run as
	StopSignal     string            // process: default SIGTERM
	Start          []string          // script
	Stop           []string          // script
	Status         []string          // script: exit 0 running, 3 stopped (LSB)
	StatusInterval time.Duration     // script: how often to ask
	PendingTimeout time.Duration     // bound on start and stop
	StopBudget     time.Duration     // bound on kill
	StateDir       string            // process: where its pid file and log live; set by the node
}

// Status is what the operating system says.
type Status struct {
	Running bool
	Failed  bool   // ended by itself or by error since it was started
	Pending bool   // on its way up or down
	PID     int    // main process, 0 when there is none
	Detail  string // one line

	// Since is when what runs was started, by the boot-time clock (package boottime); zero: the operating system does not tell,
	// as of a script, or nothing runs. It is the same in every answer about the same start.
	Since time.Time
}

// Driver runs one resource. Start and Stop block until the OS confirms the goal or ctx ends; a caller bounds them by
// ctx. All methods may be called after a restart of the agent: they find what runs by asking the OS.
type Driver interface {
	Start(ctx context.Context, epoch uint64) error
	Stop(ctx context.Context, epoch uint64) error // orderly
	Kill(ctx context.Context) error               // at once; nil only when the OS confirms that nothing runs
	Status(ctx context.Context) (Status, error)
}

// Watcher is implemented by drivers that learn of changes by themselves. Watch blocks until ctx ends and calls wake at
// each change that Status might show; wake must not block. An event is only a hint.
type Watcher interface {
	Watch(ctx context.Context, wake func()) error
}

// Adopter is implemented by drivers of what somebody else, such as systemd, also decides about. Adopt takes these decisions
// over and Disown gives them back; neither touches what runs. Adopt is called on every possible owner, again and again: it
// does nothing where nothing is to be done.
type Adopter interface {
	Adopt(ctx context.Context) error
	Disown(ctx context.Context) error
}

// Warner is implemented by drivers that know of settings which would run the resource behind the cluster's back, such
// as a unit that is enabled at boot. Each warning is one sentence with what to do.
type Warner interface {
	Warnings(ctx context.Context) []string
}
