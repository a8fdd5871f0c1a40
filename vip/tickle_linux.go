package vip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// condJump is INET_DIAG_BC_JMP.
	condJump = 1
	// cookieOffset is where struct inet_diag_sockid has the cookie.
	cookieOffset = 40
	// clientWaits are the states in which a client may wait for an answer, or for the rest of one. In close-wait it has said all.
	clientWaits = 1<<unix.BPF_TCP_ESTABLISHED | 1<<unix.BPF_TCP_CLOSE_WAIT | 1<<unix.BPF_TCP_FIN_WAIT1
	// anySocket are all states of a connection, also of one that is over but not forgotten.
	anySocket = ^uint32(1<<unix.BPF_TCP_LISTEN | 1<<unix.BPF_TCP_CLOSE)

	tcpACK = 0x10
	tcpLen = 20
)

// Waiting lists the connections to addresses of this node in which the other side may wait for it. However many addresses there are,
// the kernel walks through its connections once.
func (m *Manager) Waiting(addrs []netip.Addr) (map[netip.Addr][]Waiting, error) {
	found, err := m.waits.list(m, addrs)
	if err != nil {
		return nil, fmt.Errorf("listing connections: %w", err)
	}
	out := map[netip.Addr][]Waiting{}
	for _, one := range found {
		c := one.conn()
		out[c.Local.Addr()] = append(out[c.Local.Addr()], Waiting{c, binary.NativeEndian.Uint64(one.id[cookieOffset:])})
	}
	return out, nil
}

// waits is the socket that Waiting asks by, every second or so: kept open, because to make one takes as many calls again.
type waits struct {
	mu     sync.Mutex
	sock   *diag // nil until needed and after any fault, because answers may be left in it
	closed bool
}

func (w *waits) list(m *Manager, addrs []netip.Addr) (found []tcpSocket, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, net.ErrClosed
	}
	if w.sock == nil {
		s, err := m.openDiag()
		if err != nil {
			return nil, err
		}
		w.sock = s
	}
	w.sock.end = time.Now().Add(answerTimeout)
	if found, err = w.sock.listBy(localsFilter(addrs), clientWaits); err != nil {
		err = errors.Join(err, w.forget())
	}
	return found, err
}

func (w *waits) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	return w.forget()
}

// forget ends the socket. The caller holds mu.
func (w *waits) forget() (err error) {
	if w.sock != nil {
		err = w.sock.close()
		w.sock = nil
	}
	return err
}

// Unknown gives those of the connections to an address of this node that its kernel has no socket for. One in time-wait, which nobody
// waits on any more, is from a time when the address was here before, or as good as: it is ended, for it would answer in place of a
// reset. Kernels that cannot end it leave it, and the connection counts as known.
func (m *Manager) Unknown(a netip.Addr, conns []Conn) ([]Conn, error) {
	s, err := m.openDiag()
	if err != nil {
		return nil, fmt.Errorf("listing the sockets of %s: %w", a, err)
	}
	defer s.close()
	s.end = time.Now().Add(answerTimeout)
	socks, err := s.listAll(plain(a), anySocket)
	if err != nil {
		return nil, fmt.Errorf("listing the sockets of %s: %w", a, err)
	}
	known := make(map[Conn]tcpSocket, len(socks))
	for _, one := range socks {
		known[one.conn()] = one
	}
	var out []Conn
	for _, c := range conns {
		one, ok := known[c]
		if ok && one.state == unix.BPF_TCP_TIME_WAIT {
			_, err := s.destroy([]tcpSocket{one})
			ok = err != nil
		}
		if !ok {
			out = append(out, c)
		}
	}
	return out, nil
}

// localsFilter is localFilter for any of some addresses: behind each condition but the last comes a jump to the end, which accepts.
func localsFilter(addrs []netip.Addr) []byte {
	const jump = 4
	var b []byte
	for i := len(addrs) - 1; i >= 0; i-- {
		one := localFilter(plain(addrs[i]))
		if len(b) > 0 {
			binary.NativeEndian.PutUint16(one[2:], uint16(len(one)+jump)) // where it is not the one: to the next
			one = append(one, condJump, jump)
			one = binary.NativeEndian.AppendUint16(one, uint16(jump+len(b)))
		}
		b = append(one, b...)
	}
	return b
}

// Tickler sends from one address of this node. It receives nothing.
type Tickler struct {
	fd    int
	local netip.Addr
	from  []byte // control message for IPv6: the kernel is to check each time that the address is here, as it does for IPv4
}

// Tickler opens the sending of tickles from an address. ErrGone when it is not on this node.
func (m *Manager) Tickler(a netip.Addr) (*Tickler, error) {
	t := &Tickler{local: plain(a)}
	var at unix.Sockaddr
	family := unix.AF_INET6
	if t.local.Is4() {
		family, at = unix.AF_INET, &unix.SockaddrInet4{Addr: t.local.As4()}
	} else {
		at = &unix.SockaddrInet6{Addr: t.local.As16()}
		t.from = unix.PktInfo6(&unix.Inet6Pktinfo{Addr: t.local.As16()})
	}
	err := m.ns.do(func() (err error) {
		t.fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("opening a raw socket: %w", err)
	}
	// It would get a copy of every segment for the address. With a header of its own (IPPROTO_RAW) it would hear nothing, but the kernel
	// would send from any address.
	deaf := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	err = unix.SetsockoptSockFprog(t.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &deaf[0]})
	if err == nil {
		err = unix.Bind(t.fd, at)
	}
	if err != nil {
		if errors.Is(err, unix.EADDRNOTAVAIL) {
			err = ErrGone
		}
		return nil, errors.Join(fmt.Errorf("sending from %s: %w", a, err), unix.Close(t.fd))
	}
	return t, nil
}

// Close ends it.
func (t *Tickler) Close() error { return unix.Close(t.fd) }

// Send sends one tickle to each client: a bare acknowledgement that fits nothing. The client's kernel answers it with the numbers of
// its connection (RFC 9293 3.10.7.4), this one's has no such connection and resets it. It returns how many left; the error is that of
// the first that did not. None leaves once the address is not on this node any more: for IPv4 the kernel finds no route then.
func (t *Tickler) Send(conns []Conn) (sent int, first error) {
	for _, c := range conns {
		var to unix.Sockaddr
		if c.Remote.Addr().Is4() {
			to = &unix.SockaddrInet4{Addr: c.Remote.Addr().As4()}
		} else {
			to = &unix.SockaddrInet6{Addr: c.Remote.Addr().As16()}
		}
		if c.Local.Addr() != t.local || c.Remote.Addr().Is4() != t.local.Is4() {
			return sent, fmt.Errorf("connection %s to %s is not of %s", c.Remote, c.Local, t.local)
		}
		_, err := unix.SendmsgN(t.fd, tickleSegment(c), t.from, to, unix.MSG_DONTWAIT)
		switch {
		case err == nil:
			sent++
		case first == nil:
			first = fmt.Errorf("sending from %s to %s: %w", t.local, c.Remote.Addr(), err)
		}
	}
	return sent, first
}

// tickleSegment is a TCP segment of the connection that carries nothing but ACK, with both numbers zero. The kernel puts the IP header
// before it.
func tickleSegment(c Conn) []byte {
	b := binary.BigEndian.AppendUint16(nil, c.Local.Port())
	b = binary.BigEndian.AppendUint16(b, c.Remote.Port())
	b = append(b, make([]byte, 8)...)                          // sequence and acknowledgement number
	b = append(b, tcpLen/4<<4, tcpACK, 0x04, 0x00, 0, 0, 0, 0) // window 1024, checksum, urgent
	sum := uint32(unix.IPPROTO_TCP + tcpLen)
	for _, part := range [][]byte{c.Local.Addr().AsSlice(), c.Remote.Addr().AsSlice(), b} { // all of even length
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[16:], ^uint16(sum))
	return b
}
