package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"

	"hacluster/api"
	"hacluster/config"
	"hacluster/internal/pki"
	"hacluster/internal/wire"
)

// remote returns a client for the agent at addr over mutual TLS, with the certificates that had.toml names. Any node of the
// cluster may answer there: a person who types an address does not know which node has it today.
func (e *env) remote(addr string) (*api.Client, error) {
	n, err := config.LoadNode(e.Config)
	if err != nil {
		return nil, refusef("run hactl as root on a node of the cluster, or name its had.toml with --config", "--node needs the certificates of a node: %w", err)
	}
	cred, err := pki.LoadCredentials(n.TLS.CA, n.TLS.Cert, n.TLS.Key)
	if err != nil {
		return nil, refusef("run hactl as root on a node of the cluster", "--node needs the certificates of a node: %w", err)
	}
	return dialMember(cred, withPort(addr, n.Port)), nil
}

// dialMember returns a client for whichever node of the cluster answers at the address.
func dialMember(cred *pki.Credentials, addr string) *api.Client {
	cfg := pki.JoinClient(pki.Fingerprint(cred.CA), wire.ALPNAPI)
	cfg.GetClientCertificate = cred.Client("", nil, wire.ALPNAPI).GetClientCertificate
	return api.NewClient("the agent at "+addr, func(ctx context.Context) (net.Conn, error) {
		c, err := (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("connecting to %s: %w", addr, err)
		}
		return c, nil
	})
}
