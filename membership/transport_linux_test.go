package membership

import (
	"bytes"
	"errors"
	"io"
	"log"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

// carrier is a transport, and what it logs.
func carrier(t *testing.T, bind string) (transport, *lockedBuffer) {
	t.Helper()
	var logged lockedBuffer
	c, err := listen(bind, 0, log.New(&logged, "", 0))
	if err != nil {
		t.Skip("no", bind, "here:", err)
	}
	t.Cleanup(func() { c.Shutdown() })
	return c, &logged
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func next(t *testing.T, c transport) *memberlist.Packet {
	t.Helper()
	select {
	case p := <-c.PacketCh():
		return p
	case <-time.After(10 * time.Second):
		t.Fatal("no packet")
		return nil
	}
}

func at(host string, c transport) string {
	return net.JoinHostPort(host, strconv.Itoa(c.GetAutoBindPort()))
}

// Packets come as they were sent, to each address of the machine, and the answer finds back.
func TestPacketsComeAsTheyWereSent(t *testing.T) {
	for name, tc := range map[string]struct{ near, far, host string }{
		"IPv4":                         {"127.0.0.1", "127.0.0.1", "127.0.0.1"},
		"another IPv4 address":         {"127.0.0.2", "127.0.0.3", "127.0.0.3"},
		"IPv6":                         {"::1", "::1", "::1"},
		"IPv4 to every address":        {"127.0.0.1", "", "127.0.0.1"},
		"IPv6 to every address":        {"::1", "", "::1"},
		"IPv4 from every address":      {"", "127.0.0.1", "127.0.0.1"},
		"IPv6 from every address":      {"", "::1", "::1"},
		"a second network of a node":   {"", "", "127.0.0.9"},
		"a name, which is no address":  {"127.0.0.1", "127.0.0.1", "localhost"},
		"every IPv4 address, by bytes": {"0.0.0.0", "0.0.0.0", "127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			near, _ := carrier(t, tc.near)
			far, _ := carrier(t, tc.far)
			for _, size := range []int{1, 1400, 65_507} {
				sent := bytes.Repeat([]byte{byte(size)}, size)
				before := time.Now()
				when, err := near.WriteToAddress(sent, memberlist.Address{Addr: at(tc.host, far), Name: "far"})
				if size == 65_507 && errors.Is(err, syscall.EMSGSIZE) {
					continue // IPv6
				}
				if err != nil || when.Before(before) {
					t.Fatal(when, err)
				}
				p := next(t, far)
				if !bytes.Equal(p.Buf, sent) || p.Timestamp.Before(before) {
					t.Fatalf("%d bytes instead of %d at %s", len(p.Buf), size, p.Timestamp)
				}
				if _, err := far.WriteTo([]byte("back"), p.From.String()); err != nil {
					t.Fatal(err)
				}
				back := next(t, near)
				from := at(tc.host, far)
				if tc.near == tc.far && tc.host != tc.far {
					from = back.From.String() // the kernel's choice
				}
				if string(back.Buf) != "back" || back.From.String() != from {
					t.Errorf("%q from %s, not %s", back.Buf, back.From, from)
				}
			}
		})
	}
}

// A packet that is kept is not written over by the next one.
func TestPacketsAreKept(t *testing.T) {
	c, _ := carrier(t, "127.0.0.1")
	for _, text := range []string{"first", "second"} {
		if _, err := c.WriteTo([]byte(text), at("127.0.0.1", c)); err != nil {
			t.Fatal(err)
		}
	}
	one := next(t, c)
	if two := next(t, c); string(one.Buf) != "first" || string(two.Buf) != "second" {
		t.Errorf("%q %q", one.Buf, two.Buf)
	}
}

// An empty packet is nothing, and ends nothing.
func TestEmptyPacketsAreNothing(t *testing.T) {
	c, logged := carrier(t, "127.0.0.1")
	for _, text := range []string{"", "text"} {
		if _, err := c.WriteTo([]byte(text), at("127.0.0.1", c)); err != nil {
			t.Fatal(err)
		}
	}
	if p := next(t, c); string(p.Buf) != "text" {
		t.Errorf("%q", p.Buf)
	}
	if got := logged.String(); strings.Count(got, "too short") != 1 {
		t.Errorf("logged %q", got)
	}
}

// memberlist tells by the type of an error that another node may be the cause, and looks for other ways to it then.
func TestErrorsOfSendingAreThoseOfPackageNet(t *testing.T) {
	c, _ := carrier(t, "127.0.0.1")
	for name, tc := range map[string]struct {
		to   string
		size int
		want error
	}{
		"an address of another family": {"[::1]:7", 1, syscall.EAFNOSUPPORT},
		"too much":                     {"127.0.0.1:7", 70_000, syscall.EMSGSIZE},
		"no port":                      {"127.0.0.1:0", 1, syscall.EINVAL},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.WriteTo(make([]byte, tc.size), tc.to)
			var op *net.OpError
			if !errors.Is(err, tc.want) || !errors.As(err, &op) || op.Op != "write" || op.Net != "udp" {
				t.Errorf("%T %v", err, err)
			}
		})
	}
	if _, err := c.WriteTo([]byte("x"), "no address"); err == nil {
		t.Error("sent to no address")
	}
	c.Shutdown()
	_, err := c.WriteTo([]byte("x"), at("127.0.0.1", c))
	var op *net.OpError
	if !errors.Is(err, net.ErrClosed) || !errors.As(err, &op) || op.Op != "write" {
		t.Errorf("after the end: %v", err)
	}
}

// Connections come, and go out.
func TestConnectionsCome(t *testing.T) {
	near, _ := carrier(t, "127.0.0.1")
	far, _ := carrier(t, "")
	out, err := near.DialAddressTimeout(memberlist.Address{Addr: at("127.0.0.1", far)}, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	in := <-far.StreamCh()
	if _, err := out.Write([]byte("text")); err != nil {
		t.Fatal(err)
	}
	out.Close()
	if b, err := io.ReadAll(in); string(b) != "text" || err != nil {
		t.Errorf("%q %v", b, err)
	}
	in.Close()
}

// The end comes also while nobody takes what has come, sets the port free, and may come again.
func TestTheEndOfATransport(t *testing.T) {
	c, logged := carrier(t, "127.0.0.1")
	addr := at("127.0.0.1", c)
	if _, err := c.WriteTo([]byte("text"), addr); err != nil {
		t.Fatal(err)
	}
	out, err := c.DialTimeout(addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	port := c.GetAutoBindPort()
	if _, err := listen("127.0.0.1", port, nil); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second one on the same port: %v", err)
	}
	for range 2 {
		if err := c.Shutdown(); err != nil {
			t.Error(err)
		}
	}
	if got := logged.String(); got != "" {
		t.Errorf("logged %q", got)
	}
	again, err := listen("127.0.0.1", port, nil)
	if err != nil {
		t.Fatal(err)
	}
	again.Shutdown()
}

// What is said to others is the address that was given, shorter if it is of IPv4, and never any other.
func TestAddressThatIsTold(t *testing.T) {
	c, _ := carrier(t, "127.0.0.1")
	for _, tc := range []struct{ ip, want string }{{"10.0.0.1", "10.0.0.1"}, {"::ffff:10.0.0.1", "10.0.0.1"}, {"fd00::1", "fd00::1"}, {"", ""}, {"node", ""}} {
		ip, port, err := c.FinalAdvertiseAddr(tc.ip, 7)
		if tc.want == "" {
			if err == nil {
				t.Errorf("%q: told %s", tc.ip, ip)
			}
		} else if err != nil || port != 7 || ip.String() != tc.want || len(ip) == 16 && ip.To4() != nil {
			t.Errorf("%q: %v %d %v", tc.ip, ip, port, err)
		}
	}
}
