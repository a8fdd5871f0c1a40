package nowait

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// udp is a socket of one family, with its address.
func udp(t *testing.T, network, addr string) (int, netip.AddrPort) {
	t.Helper()
	c, err := net.ListenPacket(network, addr)
	if err != nil {
		t.Skip("no", network, "here:", err)
	}
	f, err := c.(*net.UDPConn).File()
	c.Close()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Dup(int(f.Fd()))
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	return fd, c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// take waits for a datagram: over loopback it is there at once.
func take(t *testing.T, fd int, b []byte) (n int, from netip.AddrPort) {
	t.Helper()
	for range 1000 {
		n, from, err := ReceiveFrom(uintptr(fd), b)
		if err == nil {
			return n, from
		}
		if !errors.Is(err, syscall.EAGAIN) {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("nothing came")
	return 0, netip.AddrPort{}
}

// A datagram comes as it was sent, and what is sent to where it seems to come from comes back, whatever the families of the sockets.
func TestDatagrams(t *testing.T) {
	for name, tc := range map[string]struct {
		near, far    [2]string // network, address
		v6near, v6to bool
		to           string // the host to send to
	}{
		"IPv4":                             {near: [2]string{"udp4", "127.0.0.1:0"}, far: [2]string{"udp4", "127.0.0.1:0"}, to: "127.0.0.1"},
		"IPv6":                             {near: [2]string{"udp6", "[::1]:0"}, far: [2]string{"udp6", "[::1]:0"}, v6near: true, v6to: true, to: "::1"},
		"IPv4 from a socket for both":      {near: [2]string{"udp", ":0"}, far: [2]string{"udp4", "127.0.0.1:0"}, v6near: true, to: "127.0.0.1"},
		"IPv4 to a socket for both":        {near: [2]string{"udp4", "127.0.0.1:0"}, far: [2]string{"udp", ":0"}, v6to: true, to: "127.0.0.1"},
		"IPv6 from a socket for both":      {near: [2]string{"udp", ":0"}, far: [2]string{"udp6", "[::1]:0"}, v6near: true, v6to: true, to: "::1"},
		"IPv4 written as IPv6 from either": {near: [2]string{"udp4", "127.0.0.1:0"}, far: [2]string{"udp4", "127.0.0.1:0"}, to: "::ffff:127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			near, _ := udp(t, tc.near[0], tc.near[1])
			far, at := udp(t, tc.far[0], tc.far[1])
			to := netip.AddrPortFrom(netip.MustParseAddr(tc.to), at.Port())
			if err := SendTo(uintptr(near), []byte("there"), to, tc.v6near); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 8)
			n, from := take(t, far, b)
			if string(b[:n]) != "there" || from.Addr() != to.Addr().Unmap() { // both on one machine
				t.Fatalf("%q from %s", b[:n], from)
			}
			if err := SendTo(uintptr(far), []byte("and back"), from, tc.v6to); err != nil {
				t.Fatal(err)
			}
			if n, from = take(t, near, b); string(b[:n]) != "and back" || from != netip.AddrPortFrom(to.Addr().Unmap(), to.Port()) {
				t.Errorf("%q from %s", b[:n], from)
			}
		})
	}
}

// What cannot be is said, and nothing is waited for.
func TestDatagramsThatDoNotGo(t *testing.T) {
	fd, at := udp(t, "udp4", "127.0.0.1:0")
	b := make([]byte, 4)
	if _, _, err := ReceiveFrom(uintptr(fd), b); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("nothing there: %v", err)
	}
	if err := SendTo(uintptr(fd), b, netip.MustParseAddrPort("[::1]:1"), false); !errors.Is(err, syscall.EAFNOSUPPORT) {
		t.Errorf("IPv6 from a socket for IPv4: %v", err)
	}
	if err := SendTo(uintptr(fd), b, netip.AddrPort{}, false); !errors.Is(err, syscall.EAFNOSUPPORT) {
		t.Errorf("no address: %v", err)
	}
	if err := SendTo(uintptr(fd), make([]byte, 70_000), at, false); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("more than fits into a datagram: %v", err)
	}
	if err := SendTo(uintptr(fd), []byte("longer"), at, false); err != nil {
		t.Fatal(err)
	}
	if n, from := take(t, fd, b); string(b[:n]) != "long" || from != at {
		t.Errorf("more than fits into the buffer: %q from %s", b[:n], from)
	}
}

// A zone is the number of an interface.
func TestDatagramsOfAZone(t *testing.T) {
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			ip := a.(*net.IPNet).IP
			if ip.To4() != nil || !ip.IsLinkLocalUnicast() || i.Flags&net.FlagUp == 0 {
				continue
			}
			far, at := udp(t, "udp6", net.JoinHostPort(ip.String()+"%"+i.Name, "0"))
			c, err := net.DialUDP("udp6", nil, net.UDPAddrFromAddrPort(at))
			if err != nil {
				t.Skip(err)
			}
			defer c.Close()
			c.Write([]byte("there"))
			_, from := take(t, far, make([]byte, 8))
			back, err := net.ResolveUDPAddr("udp", from.String())
			if err != nil || back.Zone != i.Name && back.Zone != from.Addr().Zone() {
				t.Errorf("from %s: %v, %v", from, back, err)
			}
			if from.Addr().Zone() == "" {
				t.Errorf("from %s", from)
			}
			return
		}
	}
	t.Skip("no link-local address here")
}
