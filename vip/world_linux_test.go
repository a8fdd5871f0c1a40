package vip

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// world is two holders and a client on one bridge, each in its own network namespace.
type world struct {
	t             *testing.T
	sw, n1, n2, c string
	v4, v6        Spec
	m1, m2        *Manager
	heard         atomic.Int64 // datagrams that reached an echo server
}

var worlds atomic.Int32

func newWorld(t *testing.T) *world {
	t.Helper()
	need(t)
	id := fmt.Sprintf("had-vip%d-%d-", os.Getpid(), worlds.Add(1))
	w := &world{t: t, sw: id + "sw", n1: id + "n1", n2: id + "n2", c: id + "c",
		v4: Spec{Group: "web", Resource: "ip", Address: netip.MustParsePrefix("198.18.0.100/24")},
		v6: Spec{Group: "web", Resource: "ip6", Address: netip.MustParsePrefix("fd00:18::100/64")}}
	for _, ns := range []string{w.sw, w.n1, w.n2, w.c} {
		run(t, "ip", "netns", "add", ns)
		t.Cleanup(func() { run(t, "ip", "netns", "del", ns) })
		w.ip(ns, "link", "set", "lo", "up")
	}
	w.ip(w.sw, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
	w.ip(w.sw, "link", "set", "br0", "up")
	for i, ns := range []string{w.n1, w.n2, w.c} {
		port := fmt.Sprintf("p%d", i+1)
		w.ip(w.sw, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", ns)
		w.ip(w.sw, "link", "set", port, "master", "br0", "up")
		w.ip(ns, "addr", "add", fmt.Sprintf("198.18.0.%d/24", i+1), "dev", "eth0")
		w.ip(ns, "-6", "addr", "add", fmt.Sprintf("fd00:18::%d/64", i+1), "dev", "eth0", "nodad")
		w.ip(ns, "link", "set", "eth0", "up")
	}
	w.m1, w.m2 = w.open(w.n1), w.open(w.n2)
	return w
}

// need skips where the tests cannot run.
func need(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs ip (iproute2)")
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// ip runs iproute2 in a namespace.
func (w *world) ip(ns string, args ...string) string {
	w.t.Helper()
	return run(w.t, "ip", append([]string{"-n", ns}, args...)...)
}

// in runs f on a thread in the namespace; the thread ends with it.
func (w *world) in(ns string, f func() error) {
	w.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		fd, err := unix.Open("/run/netns/"+ns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		w.t.Fatalf("in namespace %s: %v", ns, err)
	}
}

// open is a Manager in the namespace.
func (w *world) open(ns string) *Manager {
	w.t.Helper()
	var m *Manager
	w.in(ns, func() (err error) {
		m, err = Open(slog.New(slog.NewTextHandler(logWriter{w.t}, nil)))
		return err
	})
	w.t.Cleanup(func() {
		if err := m.Close(); err != nil {
			w.t.Errorf("closing the manager: %v", err)
		}
	})
	return m
}

type logWriter struct{ t *testing.T }

func (l logWriter) Write(b []byte) (int, error) {
	l.t.Logf("%s", bytes.TrimSpace(b))
	return len(b), nil
}

// mac is the link-layer address of eth0.
func (w *world) mac(ns string) string {
	w.t.Helper()
	f := strings.Fields(w.ip(ns, "-o", "link", "show", "eth0"))
	for i := range f {
		if f[i] == "link/ether" {
			return f[i+1]
		}
	}
	w.t.Fatalf("no link-layer address in %v", f)
	return ""
}

// neighbour is the client's cached link-layer address for an address, empty when there is none.
func (w *world) neighbour(a netip.Addr) string {
	w.t.Helper()
	f := strings.Fields(w.ip(w.c, "neigh", "show", "to", a.String(), "dev", "eth0"))
	for i := range f {
		if f[i] == "lladdr" {
			return f[i+1]
		}
	}
	return ""
}

// ask makes the client resolve the address by sending a datagram to it.
func (w *world) ask(a netip.Addr) {
	w.t.Helper()
	w.in(w.c, func() error {
		conn, err := net.Dial("udp", netip.AddrPortFrom(a, 9).String())
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("?"))
		return err
	})
}

// until polls a condition and fails the test when it does not hold within the bound.
func until(t *testing.T, bound time.Duration, what string, ok func() bool) {
	t.Helper()
	end := time.Now().Add(bound)
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, bound)
		}
		time.Sleep(2 * time.Millisecond) // the pace of polling, not a hope
	}
}

// there reports what the kernel of a namespace says through iproute2, independent of this package's own reading.
func (w *world) there(ns string, s Spec) bool {
	w.t.Helper()
	return strings.Contains(w.ip(ns, "-o", "addr", "show"), " "+s.Address.Addr().String()+"/")
}

func (w *world) both() []Spec { return []Spec{w.v4, w.v6} }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
