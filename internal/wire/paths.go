package wire

import (
	"net"
	"net/netip"
	"slices"
	"sync"

	"hacluster/internal/pki"
)

// Paths knows which addresses cannot be reached because a cable is out, here or at a peer, and ends the connections that use
// them: of a connection whose packets go nowhere TCP says nothing for DeadAfter, and this node knows at once.
//
// A connection is ended only where its peer has another address that may work: whoever has one network only loses nothing to
// a link that flaps. All of it is a hint. An address that is out is still tried, last, and one that answers counts as in.
//
// Raft and lease connections are on its books, others are left alone. The zero value is ready. It must not be copied.
type Paths struct {
	Resolve func(node string) []string // as of the Dialer; nil: nobody has another address

	mu    sync.Mutex
	conns map[*Conn]struct{}
	here  []netip.Addr            // this node's addresses that are out
	there map[string][]netip.Addr // node -> those of its own

	source func(to string) netip.Addr // tests only: by which address of this node packets leave; nil: asked of the kernel
}

// Out says which addresses of this node are on interfaces without a carrier now; all others are in.
func (p *Paths) Out(addrs []netip.Addr) {
	p.mu.Lock()
	p.here = slices.Clone(addrs)
	p.mu.Unlock()
	p.part(func(c *Conn) bool { return slices.Contains(addrs, addrOf(c.LocalAddr())) })
}

// PeerOut says the same of a peer, by its own word.
func (p *Paths) PeerOut(node string, addrs []netip.Addr) {
	p.mu.Lock()
	if p.there == nil {
		p.there = map[string][]netip.Addr{}
	}
	if p.there[node] = slices.Clone(addrs); len(addrs) == 0 {
		delete(p.there, node)
	}
	p.mu.Unlock()
	p.part(func(c *Conn) bool { return c.peer.Name == node && slices.Contains(addrs, addrOf(c.RemoteAddr())) })
}

// part ends the connections that go nowhere, where there is another way.
func (p *Paths) part(dead func(*Conn) bool) {
	var gone []*Conn
	p.mu.Lock()
	for c := range p.conns {
		if dead(c) {
			gone = append(gone, c)
		}
	}
	p.mu.Unlock()
	other := map[string]bool{}
	for _, c := range gone {
		node := c.peer.Name
		if _, asked := other[node]; !asked {
			other[node] = p.otherWay(node)
		}
		if other[node] {
			c.abort()
		}
	}
}

// otherWay says that a node has an address that is not known to be out.
func (p *Paths) otherWay(node string) bool {
	if p.Resolve == nil {
		return false
	}
	return slices.ContainsFunc(p.Resolve(node), func(a string) bool { return !p.isOut(node, a) })
}

// isOut says that a node cannot be reached at an address (host:port), as far as is known.
func (p *Paths) isOut(node, addr string) bool {
	p.mu.Lock()
	here, there := p.here, p.there[node]
	p.mu.Unlock()
	if len(there) > 0 {
		if at, err := netip.ParseAddrPort(addr); err == nil && slices.Contains(there, plain(at.Addr())) {
			return true
		}
	}
	if len(here) == 0 {
		return false
	}
	source := p.source
	if source == nil {
		source = leavesBy
	}
	by := source(addr)
	return by.IsValid() && slices.Contains(here, by)
}

// last puts the addresses that are out behind the others; the order is kept otherwise.
func (p *Paths) last(node string, addrs []string) []string {
	if p == nil {
		return addrs
	}
	var in, out []string
	for _, a := range addrs {
		if p.isOut(node, a) {
			out = append(out, a)
		} else {
			in = append(in, a)
		}
	}
	return append(in, out...)
}

// note enters a connection whose handshake is done, and returns what takes it out again. Its peer's address answers, so it is in.
func (p *Paths) note(c *Conn, alpn string) (forget func()) {
	if p == nil || c.peer == (pki.Identity{}) || alpn != ALPNRaft && alpn != ALPNLease {
		return func() {}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns == nil {
		p.conns = map[*Conn]struct{}{}
	}
	p.conns[c] = struct{}{}
	if i := slices.Index(p.there[c.peer.Name], addrOf(c.RemoteAddr())); i >= 0 {
		p.there[c.peer.Name] = slices.Delete(slices.Clone(p.there[c.peer.Name]), i, i+1)
	}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, c)
	}
}

// leavesBy asks the kernel by which address of this node packets to host:port leave; no packet is sent. The zero Addr: by none.
func leavesBy(to string) netip.Addr {
	at, err := netip.ParseAddrPort(to)
	if err != nil {
		return netip.Addr{} // a name: nobody is asked for it here
	}
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(at))
	if err != nil {
		return netip.Addr{}
	}
	defer c.Close()
	return addrOf(c.LocalAddr())
}

func addrOf(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return plain(ap.Addr())
}

func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
