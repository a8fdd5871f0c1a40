// Package wire carries every protocol between nodes over one TCP port: mutual TLS, and ALPN tells the protocols apart.
//
// A Mux listens, a Dialer calls. Both survive hostile or broken peers: a handshake has little time, few may be under way
// at once, and only the join protocol is served to who has no certificate. Names are node names; addresses are looked
// up at each call, so that a node may change them.
package wire

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"

	"hacluster/internal/pki"
)

// The protocols on the port.
const (
	ALPNRaft  = "had-raft/1"
	ALPNLease = "had-lease/1"
	ALPNAPI   = "http/1.1" // the name that net/http negotiates
	ALPNJoin  = "had-join/1"
)

const (
	defaultHandshake = 5 * time.Second
	defaultDeadAfter = 5 * time.Second
)

// Conn is a connection whose TLS handshake is done.
type Conn struct {
	*tls.Conn
	peer    pki.Identity
	release func() // leaves the books; nil: on none
	once    sync.Once
}

// Peer is who is at the other end; the zero Identity on the join protocol, where the caller has no certificate.
func (c *Conn) Peer() pki.Identity { return c.peer }

// Close ends the connection, orderly where the peer still listens.
func (c *Conn) Close() error {
	if c.release != nil {
		c.once.Do(c.release)
	}
	return c.Conn.Close()
}

// abort ends the connection without waiting for anything.
func (c *Conn) abort() { c.NetConn().Close() }

// PeerOf is who is at the other end of a connection that came from this package; false for others and on the join protocol.
func PeerOf(c net.Conn) (pki.Identity, bool) {
	w, ok := c.(*Conn)
	if !ok || w.peer == (pki.Identity{}) {
		return pki.Identity{}, false
	}
	return w.peer, true
}

type peerKey struct{}

// ConnContext is for http.Server.ConnContext: handlers find the peer with PeerFrom.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	if id, ok := PeerOf(c); ok {
		return context.WithValue(ctx, peerKey{}, id)
	}
	return ctx
}

// PeerFrom is the node that sent a request; false where the request did not come from one.
func PeerFrom(ctx context.Context) (pki.Identity, bool) {
	id, ok := ctx.Value(peerKey{}).(pki.Identity)
	return id, ok
}

// keepAlive finds out about a dead peer while nothing is sent; while something is, the user timeout does. The kernel
// counts in whole seconds.
func keepAlive(deadAfter time.Duration) net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: max(time.Second, deadAfter/2), Interval: time.Second, Count: 3}
}
