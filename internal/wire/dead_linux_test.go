package wire

import (
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestDeadPeerIsNoticed unplugs the network under an idle and under a busy connection. It runs in a network namespace
// of its own, which lives as long as the thread and the sockets in it.
func TestDeadPeerIsNoticed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for a network namespace")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft")
	}
	w := newWorld(t)
	d := w.dialer("n2")
	d.DeadAfter = 2 * time.Second
	srv, cli := w.creds("n1"), d.Credentials.Client("n1", nil, ALPNLease)
	type pair struct {
		idle, busy *Conn
		err        error
	}
	ready, cut, gone := make(chan pair), make(chan struct{}), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread, and with it the namespace, ends with the goroutine
		var p pair
		m, err := inNamespace(func() (*Mux, error) {
			return Listen([]string{"127.0.0.1:0"}, Config{Credentials: srv, DeadAfter: d.DeadAfter})
		})
		if err != nil {
			ready <- pair{err: err}
			return
		}
		defer m.Close()
		m.Listener(ALPNLease)
		addr := m.Addrs()[0].String()
		if p.idle, p.err = d.attempt(t.Context(), addr, cli); p.err == nil {
			p.busy, p.err = d.attempt(t.Context(), addr, cli)
		}
		ready <- p
		<-cut
		gone <- exec.Command("nft", "add table inet cut; add chain inet cut in { type filter hook input priority 0; policy drop; }").Run()
		<-cut
	}()
	p := <-ready
	if p.err != nil {
		t.Fatal(p.err)
	}
	defer close(cut)
	defer p.idle.abort()
	defer p.busy.abort()
	cut <- struct{}{}
	if err := <-gone; err != nil {
		t.Fatal("cutting the network: ", err)
	}
	start := time.Now()
	if _, err := p.busy.Write([]byte("are you there")); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*Conn{"busy": p.busy, "idle": p.idle} {
		c.SetReadDeadline(start.Add(20 * time.Second))
		_, err := c.Read(make([]byte, 1))
		if ne, ok := err.(net.Error); err == nil || ok && ne.Timeout() && time.Since(start) > 19*time.Second {
			t.Errorf("%s connection: still alive after %v: %v", name, time.Since(start), err)
		}
		t.Logf("%s connection dead after %v: %v", name, time.Since(start), err)
		if took := time.Since(start); took > 6*time.Second {
			t.Errorf("%s connection: noticed after %v only", name, took)
		}
	}
}

// inNamespace moves the calling thread into a new network namespace with its loopback up.
func inNamespace(f func() (*Mux, error)) (*Mux, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	if err := exec.Command("ip", "link", "set", "lo", "up").Run(); err != nil {
		return nil, err
	}
	return f()
}
