package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"
)

// Credentials are what this node shows and what it believes: its certificate with key, and the cluster's CA. Safe for
// concurrent use; Replace takes effect with the next handshake.
type Credentials struct {
	CA       *x509.Certificate
	Identity Identity
	pool     *x509.CertPool
	cert     atomic.Pointer[tls.Certificate]
}

// NewCredentials reads PEM and checks that all of it belongs together.
func NewCredentials(caPEM, certPEM, keyPEM []byte) (*Credentials, error) {
	ca, err := ParseCert(caPEM)
	if err != nil {
		return nil, fmt.Errorf("reading the CA certificate: %w", err)
	}
	c := &Credentials{CA: ca, pool: x509.NewCertPool()}
	c.pool.AddCert(ca)
	cert, id, err := c.load(certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	c.Identity = id
	c.cert.Store(cert)
	return c, nil
}

// LoadCredentials reads the files of had.toml's [tls].
func LoadCredentials(caFile, certFile, keyFile string) (*Credentials, error) {
	ca, err1 := os.ReadFile(caFile)
	cert, err2 := os.ReadFile(certFile)
	key, err3 := os.ReadFile(keyFile)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, fmt.Errorf("reading this node's credentials (made by `hactl init` or `hactl join`): %w", err)
	}
	c, err := NewCredentials(ca, cert, key)
	if err != nil {
		return nil, fmt.Errorf("reading %s, %s, %s: %w", caFile, certFile, keyFile, err)
	}
	return c, nil
}

// Replace swaps in a renewed certificate of the same node.
func (c *Credentials) Replace(certPEM, keyPEM []byte) error {
	cert, id, err := c.load(certPEM, keyPEM)
	if err != nil {
		return err
	}
	if id != c.Identity {
		return fmt.Errorf("the new certificate is for %s, this node is %s", id.uri(), c.Identity.uri())
	}
	c.cert.Store(cert)
	return nil
}

// NotAfter is when the certificate in use ends.
func (c *Credentials) NotAfter() time.Time { return c.cert.Load().Leaf.NotAfter }

func (c *Credentials) load(certPEM, keyPEM []byte) (*tls.Certificate, Identity, error) {
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, Identity{}, fmt.Errorf("reading the node certificate and key: %w", err)
	}
	id, err := IdentityOf(cert.Leaf)
	if err != nil {
		return nil, Identity{}, err
	}
	// Dates are left to the handshake: an expired node must still start, show why, and be renewed.
	at := cert.Leaf.NotBefore
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: c.pool, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		return nil, Identity{}, fmt.Errorf("the node certificate is not from this CA: %w", err)
	}
	// The CA goes with the chain: a joining node knows only its fingerprint.
	if !slices.ContainsFunc(cert.Certificate, func(der []byte) bool { return bytes.Equal(der, c.CA.Raw) }) {
		cert.Certificate = append(cert.Certificate, c.CA.Raw)
	}
	return &cert, id, nil
}

// base has what all configurations share. Tickets are off because a resumed session would skip the verification of the
// peer's chain against a CA or a revocation that has changed since.
func (c *Credentials) base(alpn []string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             alpn,
		SessionTicketsDisabled: true,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.cert.Load(), nil },
	}
}

// Server is the TLS configuration that admits only nodes of this cluster which allow does not refuse. nil allows all.
func (c *Credentials) Server(allow func(Identity) error, alpn ...string) *tls.Config {
	cfg := c.base(alpn)
	cfg.ClientAuth = tls.RequireAndVerifyClientCert
	cfg.ClientCAs = c.pool
	cfg.VerifyConnection = func(cs tls.ConnectionState) error { return c.checkPeer(cs, "", allow) }
	return cfg
}

// Client is the TLS configuration to call the named node. The peer must prove to be it.
func (c *Credentials) Client(node string, allow func(Identity) error, alpn ...string) *tls.Config {
	cfg := c.base(alpn)
	cfg.GetCertificate = nil
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.cert.Load(), nil }
	cfg.RootCAs = c.pool
	cfg.ServerName = node
	cfg.VerifyConnection = func(cs tls.ConnectionState) error { return c.checkPeer(cs, node, allow) }
	return cfg
}

// JoinServer is the TLS configuration for nodes that have no certificate yet. What they may do is decided by their token.
func (c *Credentials) JoinServer(alpn ...string) *tls.Config { return c.base(alpn) }

// checkPeer runs after the chain was verified.
func (c *Credentials) checkPeer(cs tls.ConnectionState, node string, allow func(Identity) error) error {
	id, err := PeerIdentity(cs)
	if err != nil {
		return err
	}
	if id.ClusterID != c.Identity.ClusterID {
		return fmt.Errorf("peer %s is of cluster %s (%s), this is %s (%s)", id.Name, id.Cluster, id.ClusterID, c.Identity.Cluster, c.Identity.ClusterID)
	}
	if node != "" && id.Name != node {
		return fmt.Errorf("peer is node %s, wanted %s: two nodes have been given one address, or it has moved", id.Name, node)
	}
	if allow != nil {
		if err := allow(id); err != nil {
			return fmt.Errorf("refusing peer %s (%s): %w", id.Name, id.NodeID, err)
		}
	}
	return nil
}

// PeerIdentity is who is at the other end of a verified connection.
func PeerIdentity(cs tls.ConnectionState) (Identity, error) {
	if len(cs.PeerCertificates) == 0 {
		return Identity{}, errors.New("peer showed no certificate")
	}
	return IdentityOf(cs.PeerCertificates[0])
}

// JoinClient is the TLS configuration of a node that knows of the cluster only the CA's fingerprint: the server must send
// a CA with that fingerprint, and its own certificate must be a node certificate issued by that CA.
func JoinClient(fingerprint string, alpn ...string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             alpn,
		SessionTicketsDisabled: true,
		InsecureSkipVerify:     true, // the default check needs the CA beforehand; VerifyConnection replaces it
		VerifyConnection:       func(cs tls.ConnectionState) error { return checkPinned(cs, fingerprint, time.Now()) },
	}
}

func checkPinned(cs tls.ConnectionState, fingerprint string, now time.Time) error {
	certs := cs.PeerCertificates
	if len(certs) == 0 {
		return errors.New("peer showed no certificate")
	}
	i := slices.IndexFunc(certs, func(c *x509.Certificate) bool { return c.IsCA && Fingerprint(c) == fingerprint })
	if i < 1 {
		return errors.New("the peer's CA does not have the fingerprint in the join token: the token is from another cluster, or someone is between; make a new token with `hactl token` on a member")
	}
	pool := x509.NewCertPool()
	pool.AddCert(certs[i])
	opts := x509.VerifyOptions{Roots: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if _, err := certs[0].Verify(opts); err != nil {
		return fmt.Errorf("verifying the peer against the CA of the join token: %w", err)
	}
	_, err := IdentityOf(certs[0])
	return err
}
