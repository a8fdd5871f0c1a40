// Package boottime is the clock of leases: time since boot that goes on in suspend.
//
// Instants are given as time.Time so that the pure packages can use ordinary arithmetic, but they count from the boot of
// this machine and carry no wall clock meaning: never print them, never send them.
package boottime

import "time"

// Clock tells the boot time.
type Clock func() time.Time

// base keeps the zero instant away from time.Time's zero value, which means "never" everywhere.
var base = time.Unix(1_000_000, 0).UTC()

// Now is the time since boot, suspend included, as an instant without wall clock meaning.
func Now() time.Time { return base.Add(sinceBoot()) }

// At is the instant that long after boot, suspend included.
func At(sinceBoot time.Duration) time.Time { return base.Add(sinceBoot) }
