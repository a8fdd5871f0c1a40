package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"hacluster/internal/pki"
)

const defaultStagger = 100 * time.Millisecond

// Dialer calls nodes by name. The zero value of an optional field means its default. A Dialer must not be copied.
type Dialer struct {
	Credentials *pki.Credentials           // required
	Resolve     func(node string) []string // required: host:port in order of preference, asked at every call
	Allow       func(pki.Identity) error   // nil: all nodes of this cluster
	Stagger     time.Duration              // head start of one address before the next is tried beside it; 0: 100ms
	Timeout     time.Duration              // bound on one address, handshake included; 0: 5s
	DeadAfter   time.Duration              // silence of a peer after which its connection is dead; 0: 5s
	Paths       *Paths                     // which addresses are out; nil: not known

	mu   sync.Mutex
	good map[string]string // node -> address that answered last
}

// Dial connects to a node. Its addresses are tried in order, beginning with the one that answered last, those that are out (Paths) at the end; the next starts
// when one fails or after Stagger, the first finished handshake wins (RFC 8305). All attempts have ended when Dial
// returns. The peer is proven to be the node.
//
// With TLS 1.3 a client is done before the server has judged its certificate: a refusal shows in the first Read.
func (d *Dialer) Dial(ctx context.Context, node, alpn string) (net.Conn, error) {
	addrs := d.order(node)
	if len(addrs) == 0 {
		return nil, fmt.Errorf("dialing %s: no address of it is known", node)
	}
	cfg := d.Credentials.Client(node, d.Allow, alpn)
	c, addr, err := race(ctx, addrs, d.stagger(), func(ctx context.Context, addr string) (*Conn, error) { return d.attempt(ctx, addr, cfg) })
	if err != nil {
		return nil, fmt.Errorf("dialing %s: %w", node, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.good == nil {
		d.good = map[string]string{}
	}
	d.good[node] = addr
	c.release = d.Paths.note(c, alpn)
	return c, nil
}

// DialJoin connects to whichever member answers at one of the addresses, without a certificate, and proves by the
// fingerprint of a join token that it belongs to the token's cluster.
func DialJoin(ctx context.Context, addrs []string, fingerprint string) (net.Conn, error) {
	var d Dialer
	if len(addrs) == 0 {
		return nil, errors.New("joining: no address of a member given")
	}
	cfg := pki.JoinClient(fingerprint, ALPNJoin)
	c, _, err := race(ctx, addrs, d.stagger(), func(ctx context.Context, addr string) (*Conn, error) { return d.attempt(ctx, addr, cfg) })
	if err != nil {
		return nil, fmt.Errorf("joining: %w", err)
	}
	return c, nil
}

func (d *Dialer) stagger() time.Duration {
	if d.Stagger == 0 {
		return defaultStagger
	}
	return d.Stagger
}

// order puts the address that answered last first, and those that are out last.
func (d *Dialer) order(node string) []string {
	addrs := slices.Clone(d.Resolve(node))
	d.mu.Lock()
	if i := slices.Index(addrs, d.good[node]); i > 0 {
		good := addrs[i]
		addrs = slices.Insert(slices.Delete(addrs, i, i+1), 0, good)
	}
	d.mu.Unlock()
	return d.Paths.last(node, addrs)
}

// attempt connects to one address and shakes hands.
func (d *Dialer) attempt(ctx context.Context, addr string, cfg *tls.Config) (*Conn, error) {
	timeout, dead := d.Timeout, d.DeadAfter
	if timeout == 0 {
		timeout = defaultHandshake
	}
	if dead == 0 {
		dead = defaultDeadAfter
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	nd := net.Dialer{KeepAliveConfig: keepAlive(dead)}
	raw, err := nd.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c, err := secure(ctx, raw.(*net.TCPConn), dead, cfg)
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("%s: %w", addr, err)
	}
	return c, nil
}

func secure(ctx context.Context, raw *net.TCPConn, dead time.Duration, cfg *tls.Config) (*Conn, error) {
	rc, err := raw.SyscallConn()
	if err != nil {
		return nil, err
	}
	if err := setUserTimeout(rc, dead); err != nil {
		return nil, err
	}
	quiet, err := hush(raw)
	if err != nil {
		return nil, err
	}
	c := &Conn{Conn: tls.Client(quiet, cfg)}
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	cs := c.ConnectionState()
	if want := cfg.NextProtos[0]; cs.NegotiatedProtocol != want {
		return nil, fmt.Errorf("peer does not speak %s", want)
	}
	c.peer, err = pki.PeerIdentity(cs)
	return c, err
}

// race runs try on the addresses as Dial describes and joins all of its goroutines.
func race(ctx context.Context, addrs []string, stagger time.Duration, try func(context.Context, string) (*Conn, error)) (*Conn, string, error) {
	type result struct {
		conn *Conn
		addr string
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan result, len(addrs))
	started, finished := 0, 0
	timer := time.NewTimer(stagger)
	defer timer.Stop()
	next := func() {
		if started == len(addrs) {
			return
		}
		addr := addrs[started]
		started++
		timer.Reset(stagger)
		go func() {
			c, err := try(ctx, addr)
			results <- result{c, addr, err}
		}()
	}
	var won result
	var errs []error
	for next(); finished < started; {
		select {
		case <-timer.C:
			if won.conn == nil {
				next()
			}
		case r := <-results:
			finished++
			switch {
			case r.err != nil && won.conn == nil:
				errs = append(errs, r.err)
				next()
			case r.err == nil && won.conn == nil:
				won = r
				cancel()
			case r.err == nil:
				r.conn.abort()
			}
		}
	}
	if won.conn == nil {
		return nil, "", errors.Join(errs...)
	}
	return won.conn, won.addr, nil
}
