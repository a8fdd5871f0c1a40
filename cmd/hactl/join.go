package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/urfave/cli/v2"

	"hacluster/api"
	"hacluster/config"
	"hacluster/internal/identity"
	"hacluster/internal/pki"
	"hacluster/internal/wire"
)

// joinVerb is `hactl join`: this machine becomes a node of an existing cluster.
type joinVerb struct {
	*env
	place
	Member string // host:port of any node of the cluster
	Token  pki.Token
}

func joinCommand(e *env) *cli.Command {
	return &cli.Command{Name: "join", Usage: "make this machine a node of an existing cluster", ArgsUsage: "ADDRESS[:PORT]",
		Flags: append([]cli.Flag{&cli.StringFlag{Name: "token", Usage: "made by hactl token on a node of the cluster (required)"}}, placeFlags()...),
		Action: func(c *cli.Context) error {
			member, err := oneArg(c, "address of any node of the cluster")
			if err != nil {
				return err
			}
			if c.String("token") == "" {
				return usagef("run `hactl token` on a node of the cluster and use --token", "a node joins with a token only")
			}
			token, err := pki.ParseToken(c.String("token"))
			if err != nil {
				return usagef("copy the whole token, or make a new one with `hactl token`", "%v", err)
			}
			p, err := placeOf(c)
			if err != nil {
				return err
			}
			return (&joinVerb{e, p, withPort(member, config.DefaultNode().Port), token}).run(c.Context)
		}}
}

func (v *joinVerb) run(ctx context.Context) error {
	if err := v.fresh(); err != nil {
		return err
	}
	key, csr, err := pki.NewCSR(v.Node.Name)
	if err != nil {
		return fmt.Errorf("making this node's key: %w", err)
	}
	nodeID := pki.NewID()
	ctx, cancel := v.bounded(ctx, defaultTimeout)
	defer cancel()
	client := api.NewClient("the node at "+v.Member, func(ctx context.Context) (net.Conn, error) {
		return wire.DialJoin(ctx, []string{v.Member}, v.Token.Fingerprint)
	})
	defer client.Close()
	j, err := whenLed(ctx, v.env, func() (api.Joined, error) {
		return client.PostJoin(ctx, api.Join{Token: v.Token.String(), Name: v.Node.Name, ID: nodeID, Role: v.Node.Role, CSR: csr, Version: version,
			Addresses: v.peers(v.Node.Port), Gossip: v.peers(v.Node.GossipPort)})
	})
	if err != nil {
		var e *api.Error
		if errors.As(err, &e) && e.Code == api.CodeUnreachable {
			e.Hint = "check the address, that had runs there, and that no firewall is between: TCP " + portOf(v.Member)
		}
		return err
	}
	id := v.identity(j.Cluster, j.ClusterID, nodeID)
	id.Incarnation = j.Incarnation
	if err := verifyJoined(j, key, id, v.Token.Fingerprint); err != nil {
		return err
	}
	err = v.store(secrets{j.CA, j.CAKey, j.Cert, key, j.Gossip}, id, func() error {
		return identity.SavePeers(v.Node.DataDir, j.Nodes)
	})
	if err != nil {
		return err
	}
	if v.JSON {
		return v.printJSON(v.started(id))
	}
	v.printf("This machine is now node %s (%s) of cluster %s.\n\nNext, here, as root:\n  had install && systemctl start had\n  hactl status\n",
		id.Name, id.Role, clean(id.Cluster))
	return nil
}

// verifyJoined checks what the cluster sent before anything of it is written.
func verifyJoined(j api.Joined, key []byte, id identity.Identity, fingerprint string) error {
	ca, err := pki.ParseCA(j.CA, j.CAKey)
	if err != nil {
		return fmt.Errorf("reading the authority that the cluster sent: %w", err)
	}
	if ca.Fingerprint() != fingerprint {
		return refusef("make a new token on the cluster that this node is to join", "the authority that was sent is not that of the cluster")
	}
	cred, err := pki.NewCredentials(j.CA, j.Cert, key)
	if err != nil {
		return fmt.Errorf("reading the certificate that the cluster sent: %w", err)
	}
	if cred.Identity != certIdentity(id) {
		return refusef("check that all nodes run one version of had", "the certificate that was sent is for %+v, this is %+v", cred.Identity, certIdentity(id))
	}
	return nil
}

// withPort adds the port to an address that has none.
func withPort(addr string, port int) string {
	if _, _, err := net.SplitHostPort(addr); err == nil {
		return addr
	}
	if n := len(addr); n > 2 && addr[0] == '[' && addr[n-1] == ']' {
		addr = addr[1 : n-1]
	}
	return net.JoinHostPort(addr, strconv.Itoa(port))
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}
