package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"hacluster/internal/identity"
	"hacluster/internal/pki"
)

// initVerb is `hactl init`: the certificate authority, the gossip key and the first node of a new cluster.
type initVerb struct {
	*env
	place
	Cluster string // required
}

func initCommand(e *env) *cli.Command {
	return &cli.Command{Name: "init", Usage: "make this machine the first node of a new cluster",
		Flags: append([]cli.Flag{&cli.StringFlag{Name: "cluster", Usage: "name of the new cluster (required)"}}, placeFlags()...),
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			cluster := c.String("cluster")
			if cluster == "" {
				return usagef("use --cluster NAME", "name the new cluster")
			}
			if err := pki.CheckName(cluster); err != nil {
				return usagef("use lower-case letters, digits and dashes", "the name of the cluster: %v", err)
			}
			p, err := placeOf(c)
			if err != nil {
				return err
			}
			return (&initVerb{e, p, cluster}).run(c.Context)
		}}
}

func (v *initVerb) run(context.Context) error {
	if err := v.fresh(); err != nil {
		return err
	}
	now := v.Now()
	id := v.identity(v.Cluster, pki.NewID(), pki.NewID())
	ca, err := pki.NewCA(v.Cluster, id.ClusterID, now)
	if err != nil {
		return fmt.Errorf("making the certificate authority: %w", err)
	}
	caKey, err := ca.KeyPEM()
	if err != nil {
		return fmt.Errorf("encoding the authority's key: %w", err)
	}
	key, csr, err := pki.NewCSR(id.Name)
	if err != nil {
		return fmt.Errorf("making this node's key: %w", err)
	}
	cert, err := ca.Issue(csr, certIdentity(id), now)
	if err != nil {
		return fmt.Errorf("making this node's certificate: %w", err)
	}
	err = v.store(secrets{ca.CertPEM(), caKey, cert, key, pki.NewGossipKey()}, id, func() error {
		return identity.SaveBootstrap(v.Node.DataDir, identity.Bootstrap{Addresses: v.peers(v.Node.Port), Gossip: v.peers(v.Node.GossipPort)})
	})
	if err != nil {
		return err
	}
	if v.JSON {
		return v.printJSON(v.started(id))
	}
	v.printf("Cluster %s has its first node: %s (%s).\n\nNext:\n", v.Cluster, id.Name, id.Role)
	v.printf("  1. here, as root:       had install && systemctl start had\n")
	v.printf("  2. for each other node: hactl token\n")
	v.printf("  3. on that machine:     hactl join %s \\\n                            --token TOKEN --address ITS_OWN_ADDRESS\n", v.peers(v.Node.Port)[0])
	v.printf("  4. groups:              hactl apply cluster.toml\n\n")
	v.printf("%s\n\n", wrap("Two nodes cannot outvote each other: give the cluster three, the third may be a witness (hactl token --role witness).", 0, 0))
	v.printf("Keep a copy of the authority's key in a safe place; who has it can admit nodes:\n  %s\n", v.caKey())
	return nil
}

// certIdentity is what the node's certificate says.
func certIdentity(id identity.Identity) pki.Identity {
	return pki.Identity{Cluster: id.Cluster, ClusterID: id.ClusterID, Name: id.Name, NodeID: id.NodeID}
}
