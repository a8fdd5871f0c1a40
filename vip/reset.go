package vip

import (
	"errors"
	"time"
)

// resetLimit bounds what a release of an address may wait for the resets of its connections.
const resetLimit = 20 * time.Millisecond

var (
	// ErrNoReset: this kernel cannot end the connections of others, or this process may not have it do so.
	ErrNoReset = errors.New("this kernel does not reset connections (CONFIG_INET_DIAG_DESTROY, CAP_NET_ADMIN): clients of an address that leaves wait for their own timeouts")
	// ErrResetLate: time was over before all connections were reset.
	ErrResetLate = errors.New("not all connections were reset in time")
)
