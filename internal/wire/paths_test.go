package wire

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// twoNets is a node n1 that listens at two addresses, and n2 that calls it; by which of its own addresses n2 calls the test says.
type twoNets struct {
	world
	d      *Dialer
	mux    *Mux
	served net.Listener
	addrs  []string
	here   map[string]netip.Addr
}

func newTwoNets(t *testing.T, alpn string) *twoNets {
	w := newWorld(t)
	n := &twoNets{world: w, here: map[string]netip.Addr{}}
	mux, err := Listen([]string{"127.0.0.2:0", "127.0.0.3:0"}, Config{Credentials: w.creds("n1"), Paths: &Paths{Resolve: func(string) []string { return []string{"127.0.0.1:1", "127.0.0.9:1"} }}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mux.Close() })
	n.mux, n.served = mux, mux.Listener(alpn)
	for _, a := range mux.Addrs() {
		n.addrs = append(n.addrs, a.String())
	}
	n.d = w.dialer("n2", n.addrs...)
	n.d.Stagger = time.Minute // so that only the order decides
	n.d.Paths = &Paths{Resolve: n.d.Resolve, source: func(to string) netip.Addr { return n.here[to] }}
	return n
}

// connect gives both ends of a new connection.
func (n *twoNets) connect(alpn string) (near, far *Conn) {
	n.t.Helper()
	c, err := n.d.Dial(n.t.Context(), "n1", alpn)
	if err != nil {
		n.t.Fatal(err)
	}
	f, err := n.served.Accept()
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { c.Close(); f.Close() })
	return c.(*Conn), f.(*Conn)
}

// ended says whether this end was closed here; the other end is not asked.
func ended(c *Conn) bool { return errors.Is(c.NetConn().SetDeadline(time.Time{}), net.ErrClosed) }

func at(c *Conn) string { return c.RemoteAddr().String() }

func addrs(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// A connection whose peer says that its address is out is ended at both protocols between nodes, the next one uses the other
// address, and goes on using it when the cable is in again.
func TestAPeerWhoseCableIsOutIsCalledAtItsOtherAddress(t *testing.T) {
	n := newTwoNets(t, ALPNLease)
	first, far := n.connect(ALPNLease)
	if at(first) != n.addrs[0] {
		t.Fatalf("called at %s", at(first))
	}
	n.d.Paths.PeerOut("n3", addrs("127.0.0.2")) // who says so speaks of itself only
	n.d.Paths.PeerOut("n1", addrs("127.0.0.3"))
	if ended(first) {
		t.Fatal("a connection to another address, or node, was ended")
	}
	n.d.Paths.PeerOut("n1", addrs("127.0.0.2"))
	if !ended(first) {
		t.Error("the connection stays")
	}
	second, _ := n.connect(ALPNLease)
	if at(second) != n.addrs[1] {
		t.Errorf("called at %s", at(second))
	}
	n.d.Paths.PeerOut("n1", nil)
	if third, _ := n.connect(ALPNLease); ended(second) || at(third) != n.addrs[1] {
		t.Error("the cable is in again, and the connection left the network that works")
	}
	// The other end has two ways back, too: what it accepted it ends by the same word.
	n.mux.cfg.Paths.Out(addrs("127.0.0.2"))
	if !ended(far) {
		t.Error("an accepted connection stays")
	}
}

// What leaves by an interface without a carrier is ended, and tried last; this node's other connections stay.
func TestOwnConnectionsLeaveAnInterfaceWithoutCarrier(t *testing.T) {
	n := newTwoNets(t, ALPNRaft)
	first, _ := n.connect(ALPNRaft)
	own := addrOf(first.LocalAddr())
	n.here[n.addrs[0]], n.here[n.addrs[1]] = own, netip.MustParseAddr("127.0.0.8")
	n.d.Paths.Out(addrs("127.0.0.8"))
	if ended(first) {
		t.Fatal("a connection of another interface was ended")
	}
	n.d.Paths.Out([]netip.Addr{own})
	if !ended(first) {
		t.Error("the connection stays")
	}
	if second, _ := n.connect(ALPNRaft); at(second) != n.addrs[1] {
		t.Errorf("called at %s", at(second))
	}
	n.d.Paths.Out(nil)
	if got := n.d.Paths.last("n1", n.addrs); !slices.Equal(got, n.addrs) {
		t.Errorf("with all cables in the order is %v", got)
	}
}

// With one network, or with both out, a connection is all there is: a link that flaps must not cost it.
func TestTheLastWayIsKept(t *testing.T) {
	n := newTwoNets(t, ALPNRaft)
	first, far := n.connect(ALPNRaft)
	own := addrOf(first.LocalAddr())
	n.here[n.addrs[0]], n.here[n.addrs[1]] = own, own
	n.d.Paths.Out([]netip.Addr{own})
	n.d.Paths.Out(nil)
	n.d.Paths.PeerOut("n1", addrs("127.0.0.2", "127.0.0.3"))
	n.mux.cfg.Paths.Resolve = func(string) []string { return []string{"127.0.0.1:1"} }
	n.mux.cfg.Paths.PeerOut("n2", addrs("127.0.0.1"))
	if ended(first) || ended(far) {
		t.Error("the only way was given up")
	}
}

// An address that was said to be out and answers is in: the word that it is in again may be lost.
func TestAnAddressThatAnswersIsIn(t *testing.T) {
	n := newTwoNets(t, ALPNLease)
	n.d.Paths.PeerOut("n1", addrs("127.0.0.2", "127.0.0.3"))
	if c, _ := n.connect(ALPNLease); at(c) != n.addrs[0] {
		t.Fatalf("called at %s", at(c))
	}
	if n.d.Paths.isOut("n1", n.addrs[0]) || !n.d.Paths.isOut("n1", n.addrs[1]) {
		t.Error("what answered counts as out, or what did not as in")
	}
}

// What is closed is forgotten, and only what is between nodes is looked after.
func TestPathsKeepNoBooksOfWhatIsOver(t *testing.T) {
	n := newTwoNets(t, ALPNAPI)
	c, far := n.connect(ALPNAPI)
	n.d.Paths.PeerOut("n1", addrs("127.0.0.2"))
	if ended(c) {
		t.Error("a connection of the API was ended")
	}
	c.Close()
	far.Close()
	m := newTwoNets(t, ALPNRaft)
	c, far = m.connect(ALPNRaft)
	if len(m.d.Paths.conns) != 1 || len(m.mux.cfg.Paths.conns) != 1 {
		t.Fatal("not noted")
	}
	c.Close()
	far.Close()
	if len(m.d.Paths.conns)+len(m.mux.cfg.Paths.conns) != 0 {
		t.Error("still noted")
	}
}

func TestLeavesBy(t *testing.T) {
	for to, want := range map[string]string{"127.0.0.7:7700": "127.0.0.1", "nonsense": "invalid IP", "some.name:7700": "invalid IP"} {
		if got := leavesBy(to); got.String() != want {
			t.Errorf("%s: %s, want %s", to, got, want)
		}
	}
}
