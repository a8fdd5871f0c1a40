package fence

import (
	"log/slog"
	"net/netip"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/vip"
)

// S1: at the end of the lease every address of this node goes, without a word of the agent that added it.
func TestAddressesEndWithTheLease(t *testing.T) {
	if unix.Getuid() != 0 {
		t.Skip("needs root")
	}
	done := make(chan struct{})
	go func() { // on a thread of its own, which ends with its network
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		for _, args := range [][]string{{"link", "add", "eth0", "type", "veth", "peer", "name", "eth1"}, {"link", "set", "eth0", "up"}, {"addr", "add", "198.18.0.1/24", "dev", "eth0"}} {
			if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
				t.Errorf("ip %v: %v\n%s", args, err, out)
				return
			}
		}
		m, err := vip.Open(slog.New(slog.DiscardHandler))
		if err != nil {
			t.Error(err)
			return
		}
		defer m.Close()
		for _, a := range []string{"198.18.0.100/24", "198.18.0.101/24"} {
			if err := m.Add(vip.Spec{Address: netip.MustParsePrefix(a)}, time.Hour); err != nil {
				t.Error(err)
			}
		}
		d := &DeadMan{Log: slog.New(slog.DiscardHandler)}
		if !d.release(nil) {
			t.Error("the release is not proven")
		}
		if held, err := m.Held(); err != nil || len(held) > 0 {
			t.Errorf("still here: %v, %v", held, err)
		}
		if out, err := exec.Command("ip", "-brief", "addr", "show", "to", "198.18.0.1").CombinedOutput(); err != nil || len(out) == 0 {
			t.Errorf("an address that is not had's went too: %v", err)
		}
	}()
	<-done
}
