package fence

import (
	"encoding/json"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/internal/boottime"
)

// The executor takes nothing away before the end of the lease: the next agent may be on its way (L3).
func TestTheExecutorWaitsForTheEndOfTheLease(t *testing.T) {
	if unix.Getuid() != 0 {
		t.Skip("needs root")
	}
	until := boottime.Now().Add(300 * time.Millisecond)
	text, err := json.Marshal(order{Until: until.UnixNano()})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { // on a thread of its own, which ends with its network: it drops addresses
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = Execute(strings.NewReader(string(text)), slog.New(slog.DiscardHandler))
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if early := until.Sub(boottime.Now()); early > 0 {
		t.Errorf("it was done %v before the end of the lease", early)
	}
}
