package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"hacluster/config"
	"hacluster/internal/identity"
	"hacluster/internal/pki"
	"hacluster/placement"
)

// place is where and as whom a node is set up; `init` and `join` share it.
type place struct {
	Dir  string // had.toml and tls/ below it
	Node config.Node
}

// placeFlags are the flags behind a place.
func placeFlags() []cli.Flag {
	d := config.DefaultNode()
	return []cli.Flag{
		&cli.StringFlag{Name: "name", Usage: "of this node (default: the host name)"},
		&cli.StringSliceFlag{Name: "address", Aliases: []string{"a"}, Usage: "`IP` or host name of this node on the cluster network; repeatable, best first"},
		&cli.StringFlag{Name: "role", Value: string(d.Role), Usage: "member or witness"},
		&cli.StringFlag{Name: "dir", Value: "/etc/had", Usage: "folder `DIR` for had.toml and tls/"},
		&cli.StringFlag{Name: "data-dir", Value: d.DataDir, Usage: "folder `DIR` for the replicated state"},
		&cli.IntFlag{Name: "port", Value: d.Port, Usage: "TCP, for Raft and API"},
		&cli.IntFlag{Name: "gossip-port", Value: d.GossipPort, Usage: "TCP and UDP, for discovery"},
	}
}

// placeOf reads the flags.
func placeOf(c *cli.Context) (place, error) {
	role, err := parseRole(c.String("role"))
	if err != nil {
		return place{}, err
	}
	name := c.String("name")
	if name == "" {
		if name, err = os.Hostname(); err != nil {
			return place{}, usagef("name this node with --name", "the host name is unknown: %v", err)
		}
		name, _, _ = strings.Cut(strings.ToLower(name), ".")
	}
	if err := pki.CheckName(name); err != nil {
		return place{}, usagef("use --name with lower-case letters, digits and dashes", "%v", err)
	}
	dir, err := filepath.Abs(c.String("dir"))
	if err != nil {
		return place{}, fmt.Errorf("finding %s: %w", c.String("dir"), err)
	}
	data, err := filepath.Abs(c.String("data-dir"))
	if err != nil {
		return place{}, fmt.Errorf("finding %s: %w", c.String("data-dir"), err)
	}
	if len(c.StringSlice("address")) == 0 {
		return place{}, usagef("use --address with one of: "+strings.Join(localAddresses(), ", "), "say under which address the other nodes reach this one")
	}
	n := config.DefaultNode()
	n.Name, n.Role, n.Addresses, n.DataDir = name, role, c.StringSlice("address"), data
	n.Port, n.GossipPort = c.Int("port"), c.Int("gossip-port")
	if c.IsSet("socket") { // the global flag: here it says where the agent is to listen
		n.Socket = c.String("socket")
	}
	tls := filepath.Join(dir, "tls")
	n.TLS = config.TLSFiles{CA: filepath.Join(tls, "ca.crt"), Cert: filepath.Join(tls, "node.crt"), Key: filepath.Join(tls, "node.key"),
		GossipKey: filepath.Join(tls, "gossip.key")}
	p := place{dir, n}
	if _, err := config.ParseNode(p.config(), n.Encode()); err != nil {
		f := config.Faults(err)
		if len(f) == 0 {
			return place{}, err
		}
		var reasons []string
		for _, x := range f {
			reasons = append(reasons, x.Key+": "+x.Reason)
		}
		return place{}, usagef("correct the flags; "+f[0].Hint, "%s", strings.Join(reasons, "; "))
	}
	return p, nil
}

func (p place) config() string { return filepath.Join(p.Dir, "had.toml") }
func (p place) caKey() string  { return filepath.Join(p.Dir, "tls", "ca.key") }

// fresh refuses a machine that already is a node, or was one: nothing may be overwritten, a key least of all.
func (p place) fresh() error {
	t := p.Node.TLS
	files := append([]string{p.config(), p.caKey(), t.CA, t.Cert, t.Key, t.GossipKey}, identity.Files(p.Node.DataDir)...)
	var there []string
	for _, f := range files {
		if _, err := os.Lstat(f); err == nil {
			there = append(there, f)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("looking for %s: %w", f, err)
		}
	}
	entries, _ := os.ReadDir(p.Node.DataDir) // one that is missing is fine, one that cannot be read fails at the first write
	for _, e := range entries {
		f := filepath.Join(p.Node.DataDir, e.Name())
		if e.Name() != "lost+found" && !slices.Contains(there, f) { // a file system of its own has that
			there = append(there, f)
		}
	}
	if len(there) == 0 {
		return nil
	}
	who := "files of a node are already here"
	if id, err := identity.Load(p.Node.DataDir); err == nil {
		who = fmt.Sprintf("this machine already is node %s of cluster %s", id.Name, id.Cluster)
	}
	return &localError{err: fmt.Errorf("%s; nothing was changed", who), faults: there,
		hint: "to use it as it is, start the agent; to begin anew, run `hactl node remove` on another node, stop the agent here, and delete these files and " + p.Node.DataDir}
}

// secrets are what a node needs besides had.toml.
type secrets struct{ ca, caKey, cert, key, gossip []byte }

// store writes everything; had.toml comes last, so that an agent never starts on half of it.
func (p place) store(s secrets, id identity.Identity, more func() error) error {
	if err := os.MkdirAll(filepath.Dir(p.Node.TLS.Key), 0o700); err != nil {
		return fmt.Errorf("making the directory for keys: %w", err)
	}
	t := p.Node.TLS
	for _, f := range []struct {
		path string
		data []byte
	}{{p.caKey(), s.caKey}, {t.CA, s.ca}, {t.Key, s.key}, {t.Cert, s.cert}} {
		if err := pki.WriteFile(f.path, f.data); err != nil {
			return err
		}
	}
	if err := identity.SaveGossipKey(t.GossipKey, s.gossip); err != nil {
		return err
	}
	if err := identity.Save(p.Node.DataDir, id); err != nil {
		return err
	}
	if err := more(); err != nil {
		return err
	}
	return pki.WriteFile(p.config(), p.Node.Encode())
}

// peers are the node's addresses with a port.
func (p place) peers(port int) []string {
	var all []string
	for _, a := range p.Node.Addresses {
		all = append(all, net.JoinHostPort(a, strconv.Itoa(port)))
	}
	return all
}

func (p place) identity(cluster, clusterID, nodeID string) identity.Identity {
	return identity.Identity{Cluster: cluster, ClusterID: clusterID, Name: p.Node.Name, NodeID: nodeID, Role: p.Node.Role}
}

// localAddresses are the addresses of this machine that others can reach.
func localAddresses() []string {
	found := []string{}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return []string{"IP"}
	}
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.IsGlobalUnicast() {
			found = append(found, ip.IP.String())
		}
	}
	if len(found) == 0 {
		return []string{"IP"}
	}
	return found
}

// started is what `init` and `join` print with -o json.
type started struct {
	Cluster   string         `json:"cluster"`
	ClusterID string         `json:"cluster_id"`
	Name      string         `json:"name"`
	NodeID    string         `json:"node_id"`
	Role      placement.Role `json:"role"`
	Config    string         `json:"config"`
	DataDir   string         `json:"data_dir"`
}

func (p place) started(id identity.Identity) started {
	return started{id.Cluster, id.ClusterID, id.Name, id.NodeID, id.Role, p.config(), p.Node.DataDir}
}
