//go:build race

package nowait

import (
	"runtime"
	"unsafe"
)

// passing stands for everything that goes through a connection, as in package syscall, whose calls tell the race detector the same:
// what was done before a byte was sent happened before what is done by who received it.
var passing byte

func happens()  { runtime.RaceReleaseMerge(unsafe.Pointer(&passing)) }
func happened() { runtime.RaceAcquire(unsafe.Pointer(&passing)) }
