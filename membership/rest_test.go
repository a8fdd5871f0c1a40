package membership

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"

	"hacluster/placement"
)

const worldPort = 7401

// world is a network in memory. What nobody takes is dropped.
type world struct {
	mu      sync.Mutex
	at      map[string]*memTransport
	packets int
}

func (w *world) to(addr string) *memTransport {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at[addr]
}

func (w *world) sent() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.packets
}

// memTransport is a node's part in it.
type memTransport struct {
	w       *world
	addr    netip.AddrPort
	packets chan *memberlist.Packet
	streams chan net.Conn
	done    chan struct{}
	once    sync.Once
}

func (w *world) transport(ip string) *memTransport {
	t := &memTransport{w: w, addr: netip.AddrPortFrom(netip.MustParseAddr(ip), worldPort), packets: make(chan *memberlist.Packet, 64),
		streams: make(chan net.Conn), done: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at[t.addr.String()] = t
	return t
}

func (t *memTransport) GetAutoBindPort() int                { return worldPort }
func (t *memTransport) PacketCh() <-chan *memberlist.Packet { return t.packets }
func (t *memTransport) StreamCh() <-chan net.Conn           { return t.streams }

func (t *memTransport) FinalAdvertiseAddr(ip string, port int) (net.IP, int, error) {
	return net.ParseIP(ip).To4(), port, nil
}

func (t *memTransport) WriteTo(b []byte, addr string) (time.Time, error) {
	t.w.mu.Lock()
	defer t.w.mu.Unlock()
	t.w.packets++
	if to := t.w.at[addr]; to != nil {
		select {
		case to.packets <- &memberlist.Packet{Buf: bytes.Clone(b), From: net.UDPAddrFromAddrPort(t.addr), Timestamp: time.Now()}:
		default:
		}
	}
	return time.Now(), nil
}

func (t *memTransport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

func (t *memTransport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	to := t.w.to(addr)
	if to == nil {
		return nil, errors.New("nobody there")
	}
	near, far := net.Pipe()
	select {
	case to.streams <- far:
		return near, nil
	case <-to.done:
	case <-time.After(timeout):
	}
	return nil, errors.New("nobody answers")
}

func (t *memTransport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

func (t *memTransport) Shutdown() error {
	t.once.Do(func() {
		close(t.done)
		t.w.mu.Lock()
		defer t.w.mu.Unlock()
		delete(t.w.at, t.addr.String())
	})
	return nil
}

// start opens a node of the world that looks for all others.
func (w *world) start(t *testing.T, name, ip string) *Membership {
	t.Helper()
	m, err := Open(Config{Name: name, Role: placement.RoleMember, Key: testKey, Advertise: []string{ip}, Addresses: []string{ip + ":7400"},
		Join: func() []string { return []string{"10.0.0.1:7401", "10.0.0.2:7401", "10.0.0.3:7401"} }, over: w.transport(ip)})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// within says how long something took, in the time of the bubble; an error if longer than most.
func within(t *testing.T, most time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	begun := time.Now()
	for !ok() {
		if time.Since(begun) > most {
			t.Errorf("not within %s: %s", most, what)
			break
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(begun)
}

func sees(m *Membership, name, ip string, alive bool) bool {
	x, ok := find(m, name)
	return ok && x.Alive == alive && (ip == "" || slices.Equal(x.Addresses, []string{ip + ":7400"}))
}

// three is a cluster whose nodes have all seen each other, and have nothing more to say.
func three(t *testing.T, run func(t *testing.T, w *world, a, b, c *Membership)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{at: map[string]*memTransport{}}
		var all [3]*Membership
		for i := range all {
			all[i] = w.start(t, string(rune('a'+i)), fmt.Sprintf("10.0.0.%d", i+1))
			defer all[i].Close(false)
		}
		within(t, 10*time.Second, "all see each other", func() bool {
			return !slices.ContainsFunc(all[:], func(m *Membership) bool {
				return !sees(m, "a", "", true) || !sees(m, "b", "", true) || !sees(m, "c", "", true)
			})
		})
		time.Sleep(20 * time.Second)
		run(t, w, all[0], all[1], all[2])
		for _, m := range all {
			m.Close(false)
		}
		time.Sleep(time.Minute) // what memberlist starts and does not wait for ends by itself
	})
}

// While nothing happens, each node asks one other whether it is there, every two seconds, and says nothing else.
func TestAtRestLittleIsSaid(t *testing.T) {
	three(t, func(t *testing.T, w *world, a, b, c *Membership) {
		before := w.sent()
		time.Sleep(time.Minute)
		if got, most := w.sent()-before, 3*2*30+6; got > most || got < most/2 {
			t.Errorf("%d packets in a minute, wanted at most %d", got, most)
		}
	})
}

// A node that goes says so at once, and is not held up by it.
func TestLeavingIsToldAtOnce(t *testing.T) {
	three(t, func(t *testing.T, w *world, a, b, c *Membership) {
		begun := time.Now()
		if err := c.Close(true); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took > 300*time.Millisecond {
			t.Errorf("leaving took %s", took)
		}
		within(t, time.Millisecond, "a and b know", func() bool { return sees(a, "c", "", false) && sees(b, "c", "", false) })
	})
}

// Who meets one node is known to all at once, and so is where to find it.
func TestNewsIsToldAtOnce(t *testing.T) {
	three(t, func(t *testing.T, w *world, a, b, c *Membership) {
		if err := c.Close(true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		met := false
		c, err := Open(Config{Name: "c", Role: placement.RoleMember, Key: testKey, Advertise: []string{"10.0.0.9"}, Addresses: []string{"10.0.0.9:7400"},
			Join: func() []string {
				if met {
					<-ctx.Done() // it calls nobody else
				}
				met = true
				return []string{"10.0.0.1:7401"}
			}, over: w.transport("10.0.0.9")})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(false)
		defer cancel()
		within(t, 10*time.Second, "a has met c", func() bool { return sees(a, "c", "10.0.0.9", true) })
		within(t, 100*time.Millisecond, "b knows of c", func() bool { return sees(b, "c", "10.0.0.9", true) })
		within(t, 100*time.Millisecond, "c knows of b", func() bool { return sees(c, "b", "", true) })
	})
}

// A node that falls silent counts as gone after some seconds, and is found again at another address.
func TestACrashIsSeenAndAnotherAddressFound(t *testing.T) {
	three(t, func(t *testing.T, w *world, a, b, c *Membership) {
		c.Close(false)
		missed := within(t, 15*time.Second, "a and b miss c", func() bool { return sees(a, "c", "", false) && sees(b, "c", "", false) })
		c = w.start(t, "c", "10.0.0.9")
		defer c.Close(false)
		found := within(t, 90*time.Second, "a and b find c", func() bool { return sees(a, "c", "10.0.0.9", true) && sees(b, "c", "10.0.0.9", true) })
		t.Logf("missed after %s, found after %s", missed, found)
	})
}

// A node that nobody heard for a moment, while it was there, does not stay gone.
func TestAPauseIsNotTheEnd(t *testing.T) {
	three(t, func(t *testing.T, w *world, a, b, c *Membership) {
		w.mu.Lock()
		there := w.at["10.0.0.3:7401"]
		delete(w.at, "10.0.0.3:7401")
		w.mu.Unlock()
		time.Sleep(5 * time.Second) // it is suspected, and counts as gone if it cannot say in time that it is there
		w.mu.Lock()
		w.at["10.0.0.3:7401"] = there
		w.mu.Unlock()
		time.Sleep(5 * time.Second)
		within(t, joinMax, "a and b see c", func() bool { return sees(a, "c", "", true) && sees(b, "c", "", true) })
	})
}
