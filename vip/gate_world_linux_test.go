package vip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/internal/boottime"
)

const gatePort = 7

// addrs are the two VIPs without their prefix.
func (w *world) addrs() []netip.Addr {
	return []netip.Addr{w.v4.Address.Addr(), w.v6.Address.Addr()}
}

// gated is a world with an echo server on the first node, which has both VIPs, guarded and closed.
func newGated(t *testing.T) *world {
	w := newWorld(t)
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft (nftables)")
	}
	must(t, w.m1.OpenGate())
	must(t, w.m1.Guard(w.addrs()...))
	for _, s := range w.both() {
		must(t, w.m1.Add(s, time.Minute))
	}
	w.serve(w.n1)
	return w
}

func soon(d time.Duration) time.Time { return boottime.Now().Add(d) }

// serve echoes UDP and TCP on every address of a namespace.
func (w *world) serve(ns string) {
	w.t.Helper()
	var tcp net.Listener
	w.in(ns, func() (err error) {
		tcp, err = net.Listen("tcp", fmt.Sprintf(":%d", gatePort))
		return err
	})
	w.t.Cleanup(func() { tcp.Close() })
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 64)
				for {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					c.Write(b[:n])
				}
			}()
		}
	}()
	// One UDP socket for each address: a wildcard socket would answer IPv4 from the node's own address.
	for _, a := range w.addrs() {
		var udp net.PacketConn
		w.in(ns, func() (err error) {
			lc := net.ListenConfig{Control: freebind}
			udp, err = lc.ListenPacket(context.Background(), "udp", netip.AddrPortFrom(a, gatePort).String())
			return err
		})
		w.t.Cleanup(func() { udp.Close() })
		go func() {
			b := make([]byte, 64)
			for {
				n, from, err := udp.ReadFrom(b)
				if err != nil {
					if opErr, ok := err.(*net.OpError); ok && opErr.Err == net.ErrClosed {
						return
					}
					if udp.SetReadDeadline(time.Time{}) != nil {
						return
					}
					continue
				}
				w.heard.Add(1)
				udp.WriteTo(b[:n], from)
			}
		}()
	}
}

// connect opens a TCP connection from a namespace.
func (w *world) connect(ns string, a netip.Addr, bound time.Duration) (net.Conn, error) {
	var c net.Conn
	var err error
	w.in(ns, func() error {
		c, err = net.DialTimeout("tcp", netip.AddrPortFrom(a, gatePort).String(), bound)
		return nil
	})
	return c, err
}

func (w *world) reaches(ns string, a netip.Addr, bound time.Duration) bool {
	c, err := w.connect(ns, a, bound)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// echo says whether what is written comes back within the bound.
func echo(t *testing.T, c net.Conn, text string, bound time.Duration) bool {
	t.Helper()
	must(t, c.SetDeadline(time.Now().Add(bound)))
	if _, err := c.Write([]byte(text)); err != nil {
		t.Logf("writing: %v", err)
		return false
	}
	return answered(c, text)
}

func answered(c net.Conn, text string) bool {
	b := make([]byte, len(text))
	for got := 0; got < len(b); {
		n, err := c.Read(b[got:])
		if err != nil {
			return false
		}
		got += n
	}
	return string(b) == text
}

// stream is a client that sends numbered datagrams at a steady pace and notes the echoes.
type stream struct {
	conn net.Conn
	sent atomic.Int64
	got  atomic.Int64
	last atomic.Int64 // boot time of the last echo
	stop chan struct{}
	done sync.WaitGroup
}

func (w *world) stream(a netip.Addr, pace time.Duration) *stream {
	w.t.Helper()
	s := &stream{stop: make(chan struct{})}
	w.in(w.c, func() (err error) {
		s.conn, err = net.Dial("udp", netip.AddrPortFrom(a, gatePort).String())
		return err
	})
	s.done.Go(func() {
		tick := time.NewTicker(pace)
		defer tick.Stop()
		for {
			select {
			case <-s.stop:
				return
			case <-tick.C:
			}
			if _, err := s.conn.Write([]byte("?")); err == nil {
				s.sent.Add(1)
			}
		}
	})
	go func() {
		b := make([]byte, 16)
		for {
			if _, err := s.conn.Read(b); err != nil {
				if s.conn.SetReadDeadline(time.Time{}) != nil {
					return
				}
				continue // an ICMP error
			}
			s.last.Store(boottime.Now().UnixNano())
			s.got.Add(1)
		}
	}()
	w.t.Cleanup(func() { s.end(); s.conn.Close() })
	return s
}

// end stops sending; echoes still come in.
func (s *stream) end() {
	select {
	case <-s.stop:
	default:
		close(s.stop)
	}
	s.done.Wait()
}

// capture counts the frames from a link-layer address that carry one of the VIPs anywhere, as the client sees them.
func (w *world) capture(from string) *atomic.Int64 {
	w.t.Helper()
	mac, err := net.ParseMAC(from)
	must(w.t, err)
	var fd int
	w.in(w.c, func() (err error) {
		const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
		if err != nil {
			return err
		}
		return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000})
	})
	var seen atomic.Int64
	stop := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		b := make([]byte, 2048)
		for {
			select {
			case <-stop:
				return
			default:
			}
			n, _, err := unix.Recvfrom(fd, b, 0)
			if err != nil || n < 14 || !bytes.Equal(b[6:12], mac) {
				continue
			}
			for _, a := range w.addrs() {
				if bytes.Contains(b[14:n], a.AsSlice()) {
					seen.Add(1)
				}
			}
		}
	})
	w.t.Cleanup(func() { close(stop); done.Wait(); unix.Close(fd) })
	return &seen
}

// nft runs the command-line tool in a namespace, independent of this package's own library.
func (w *world) nft(ns string, args ...string) string {
	w.t.Helper()
	return run(w.t, "ip", append([]string{"netns", "exec", ns, "nft"}, args...)...)
}

// alive is what the kernel says of one address.
func (w *world) alive(m *Manager, a netip.Addr) bool {
	w.t.Helper()
	entries, err := m.Gate()
	must(w.t, err)
	for _, e := range entries {
		if e.Address == a {
			return e.Alive
		}
	}
	w.t.Fatalf("%s is not under the gate: %v", a, entries)
	return false
}

// freebind allows a socket on an address that is not there.
func freebind(network, _ string, c syscall.RawConn) error {
	level, option := unix.SOL_IP, unix.IP_FREEBIND
	if network == "udp6" {
		level, option = unix.SOL_IPV6, unix.IPV6_FREEBIND
	}
	var set error
	err := c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), level, option, 1) })
	return errors.Join(err, set)
}

func writeFile(path, text string) error { return os.WriteFile(path, []byte(text), 0o644) }
