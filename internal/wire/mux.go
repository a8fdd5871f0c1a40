package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"hacluster/internal/pki"
)

const (
	defaultMaxHandshakes = 64
	backlog              = 64               // finished connections that wait for Accept, for each protocol
	maxJoins             = 32               // open connections of callers without a certificate
	joinLifetime         = 60 * time.Second // of one such connection
)

// Config is what a Mux needs.
type Config struct {
	Credentials   *pki.Credentials         // required
	Allow         func(pki.Identity) error // refuses removed nodes and foreign installations; nil: all of this cluster
	Log           *slog.Logger             // nil: none
	DeadAfter     time.Duration            // silence of a peer after which its connection is dead; 0: 5s
	Handshake     time.Duration            // bound on one handshake; 0: 5s
	MaxHandshakes int                      // under way at once; 0: 64
	Paths         *Paths                   // notes connections; nil: nobody does
}

func (c *Config) setDefaults() {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.DeadAfter == 0 {
		c.DeadAfter = defaultDeadAfter
	}
	if c.Handshake == 0 {
		c.Handshake = defaultHandshake
	}
	if c.MaxHandshakes == 0 {
		c.MaxHandshakes = defaultMaxHandshakes
	}
}

// Mux serves all protocols of a node on all its addresses.
type Mux struct {
	cfg    Config
	tls    *tls.Config
	socks  []net.Listener
	wg     sync.WaitGroup // accept loops and handshakes
	refuse refusals

	mu        sync.Mutex
	closed    bool
	listeners map[string]*listener
	pending   []*handshake       // oldest first
	conns     map[*Conn]struct{} // handed out or waiting for Accept
	joins     []*Conn            // those of them without a certificate, oldest first
}

// handshake is a connection that has not proven anything yet.
type handshake struct {
	raw  net.Conn
	from netip.Addr
}

// Listen opens the port on every address (host:port). On Linux an address that is not there yet is bound all the same
// and serves as soon as it appears. The error joins the faults of all addresses.
func Listen(addrs []string, cfg Config) (*Mux, error) {
	cfg.setDefaults()
	m := &Mux{cfg: cfg, listeners: map[string]*listener{}, conns: map[*Conn]struct{}{}, refuse: refusals{log: cfg.Log}}
	mutual := cfg.Credentials.Server(cfg.Allow, ALPNRaft, ALPNLease, ALPNAPI)
	join := cfg.Credentials.JoinServer(ALPNJoin)
	m.tls = mutual.Clone()
	m.tls.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.Contains(h.SupportedProtos, ALPNJoin) {
			return join, nil // speaks nothing but ALPNJoin
		}
		return mutual, nil
	}
	lc := net.ListenConfig{Control: listenControl, KeepAliveConfig: keepAlive(cfg.DeadAfter)}
	var errs []error
	for _, a := range slices.Compact(slices.Sorted(slices.Values(addrs))) {
		ln, err := lc.Listen(context.Background(), "tcp", a)
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			errs = append(errs, fmt.Errorf("listening on %s: another process has the port, perhaps another had: %w", a, err))
		case err != nil:
			errs = append(errs, fmt.Errorf("listening on %s: %w", a, err))
		default:
			m.socks = append(m.socks, ln)
		}
	}
	if len(addrs) == 0 {
		errs = append(errs, errors.New("listening: no address given"))
	}
	if len(errs) > 0 {
		for _, ln := range m.socks {
			ln.Close()
		}
		return nil, errors.Join(errs...)
	}
	for _, ln := range m.socks {
		m.wg.Go(func() { m.accept(ln) })
	}
	return m, nil
}

// Addrs are the addresses listened on.
func (m *Mux) Addrs() []net.Addr {
	var out []net.Addr
	for _, ln := range m.socks {
		out = append(out, ln.Addr())
	}
	return out
}

// Listener delivers the connections of one protocol. A protocol nobody listens to is refused; asking twice without
// closing the first panics, because two owners of one protocol are a bug in the program.
func (m *Mux) Listener(alpn string) net.Listener {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.listeners[alpn] != nil {
		panic("wire: two listeners for " + alpn)
	}
	l := &listener{mux: m, alpn: alpn, queue: make(chan *Conn, backlog), done: make(chan struct{})}
	if m.closed {
		close(l.done)
		return l
	}
	m.listeners[alpn] = l
	return l
}

// Recheck asks Allow again about every open connection and ends those it now refuses. To be called when a node was
// removed: connections live long, and Allow is otherwise asked in handshakes only.
func (m *Mux) Recheck() {
	if m.cfg.Allow == nil {
		return
	}
	m.mu.Lock()
	conns := make([]*Conn, 0, len(m.conns))
	for c := range m.conns {
		conns = append(conns, c)
	}
	m.mu.Unlock()
	for _, c := range conns {
		if c.peer == (pki.Identity{}) {
			continue
		}
		if err := m.cfg.Allow(c.peer); err != nil {
			m.cfg.Log.Info("ending a connection that is no longer allowed", "node", c.peer.Name, "err", err)
			c.abort()
		}
	}
}

// Close stops listening, ends every connection and waits for all goroutines.
func (m *Mux) Close() error {
	m.mu.Lock()
	m.closed = true
	var errs []error
	for _, ln := range m.socks {
		if err := ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	for _, h := range m.pending {
		h.raw.Close()
	}
	for c := range m.conns {
		c.abort()
	}
	listeners := m.listeners
	m.listeners = map[string]*listener{}
	for _, l := range listeners {
		close(l.done)
	}
	m.mu.Unlock()
	m.wg.Wait()
	return errors.Join(errs...)
}

func (m *Mux) accept(ln net.Listener) {
	wait := 5 * time.Millisecond
	for {
		raw, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of files or memory: others may give some back
			m.refuse.note(ln.Addr().String(), fmt.Errorf("accepting connections: %w", err))
			time.Sleep(wait)
			wait = min(2*wait, time.Second)
			continue
		}
		wait = 5 * time.Millisecond
		h := &handshake{raw: raw, from: hostOf(raw)}
		if !m.admit(h) {
			raw.Close()
			return
		}
		m.wg.Go(func() { m.greet(h) })
	}
}

// admit enters a handshake in the books. When too many are under way, the oldest one of the address that has the most
// makes room: who floods the port drives out itself.
func (m *Mux) admit(h *handshake) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	if len(m.pending) >= m.cfg.MaxHandshakes {
		count := map[netip.Addr]int{}
		for _, p := range m.pending {
			count[p.from]++
		}
		victim := 0
		for i, p := range m.pending {
			if count[p.from] > count[m.pending[victim].from] {
				victim = i
			}
		}
		m.pending[victim].raw.Close()
		m.pending = slices.Delete(m.pending, victim, victim+1)
	}
	m.pending = append(m.pending, h)
	return true
}

func (m *Mux) greet(h *handshake) {
	c, err := m.shake(h)
	m.mu.Lock()
	if i := slices.Index(m.pending, h); i >= 0 {
		m.pending = slices.Delete(m.pending, i, i+1)
	}
	if err == nil {
		err = m.deliver(c)
	}
	m.mu.Unlock()
	if err != nil {
		h.raw.Close()
		m.refuse.note(h.raw.RemoteAddr().String(), err)
	}
}

func (m *Mux) shake(h *handshake) (*Conn, error) {
	if tc, ok := h.raw.(*net.TCPConn); ok {
		rc, err := tc.SyscallConn()
		if err != nil {
			return nil, err
		}
		if err := setUserTimeout(rc, m.cfg.DeadAfter); err != nil {
			return nil, err
		}
	}
	if err := h.raw.SetDeadline(time.Now().Add(m.cfg.Handshake)); err != nil {
		return nil, err
	}
	raw, err := hush(h.raw)
	if err != nil {
		return nil, err
	}
	c := &Conn{Conn: tls.Server(raw, m.tls)}
	if err := c.Handshake(); err != nil {
		return nil, err
	}
	cs := c.ConnectionState()
	if cs.NegotiatedProtocol != ALPNJoin {
		id, err := pki.PeerIdentity(cs)
		if err != nil {
			return nil, err
		}
		c.peer = id
	}
	return c, h.raw.SetDeadline(time.Time{})
}

// deliver queues a connection for its protocol. m.mu is held.
func (m *Mux) deliver(c *Conn) error {
	alpn := c.ConnectionState().NegotiatedProtocol
	l := m.listeners[alpn]
	if m.closed || l == nil {
		return fmt.Errorf("protocol %q is not served here (now)", alpn)
	}
	var end *time.Timer
	forget := m.cfg.Paths.note(c, alpn)
	c.release = func() {
		forget()
		m.mu.Lock()
		defer m.mu.Unlock()
		if end != nil {
			end.Stop()
		}
		delete(m.conns, c)
		if i := slices.Index(m.joins, c); i >= 0 {
			m.joins = slices.Delete(m.joins, i, i+1)
		}
	}
	select {
	case l.queue <- c:
	default:
		forget()
		return fmt.Errorf("protocol %q: %d connections wait already", alpn, backlog)
	}
	m.conns[c] = struct{}{}
	if alpn == ALPNJoin {
		if len(m.joins) >= maxJoins {
			m.joins[0].abort()
			m.joins = slices.Delete(m.joins, 0, 1)
		}
		m.joins = append(m.joins, c)
		end = time.AfterFunc(joinLifetime, c.abort)
	}
	return nil
}

// listener is the part of the Mux that one protocol's server sees.
type listener struct {
	mux   *Mux
	alpn  string
	queue chan *Conn
	done  chan struct{}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
		return nil, &net.OpError{Op: "accept", Net: l.alpn, Err: net.ErrClosed}
	default:
	}
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, &net.OpError{Op: "accept", Net: l.alpn, Err: net.ErrClosed}
	}
}

// Close refuses the protocol from now on; connections that were accepted stay.
func (l *listener) Close() error {
	l.mux.mu.Lock()
	if l.mux.listeners[l.alpn] != l {
		l.mux.mu.Unlock()
		return nil
	}
	delete(l.mux.listeners, l.alpn)
	close(l.done)
	l.mux.mu.Unlock()
	for {
		select {
		case c := <-l.queue:
			c.abort()
			c.Close()
		default:
			return nil
		}
	}
}

// Addr implements net.Listener with the first address.
func (l *listener) Addr() net.Addr { return l.mux.socks[0].Addr() }

func hostOf(c net.Conn) netip.Addr {
	ap, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// refusals logs refused connections, at most one line in five seconds: anyone can cause them.
type refusals struct {
	log *slog.Logger

	mu   sync.Mutex
	last time.Time
	more int
}

func (r *refusals) note(from string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.Sub(r.last) >= 5*time.Second {
		r.log.Warn("refusing a connection", "from", from, "err", err, "unlogged", r.more)
		r.last, r.more = now, 0
		return
	}
	r.more++
}
