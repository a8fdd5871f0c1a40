// Package identity owns the few files of the data directory that say which node of which cluster this installation is.
// The replicated state knows a node by its name and by a random id; a disk that was wiped has lost the id, and with it the
// votes the node gave. Such a node must not return under its old name as if nothing had happened: it could vote twice.
package identity

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"hacluster/internal/pki"
	"hacluster/placement"
)

// Sentinels; the text around them says what to do.
var (
	ErrWiped     = errors.New("the data directory is empty")
	ErrNotMember = errors.New("this machine belongs to no cluster")
	ErrMismatch  = errors.New("the data directory belongs to another node")

	ErrIncarnation = errors.New("the Raft state and the identity of this node are of different incarnations of the cluster: if `hactl quorum force` " +
		"was interrupted here run it again, else run `hactl node rejoin`")
)

// Names of the files below the data directory.
const (
	file      = "identity.json"
	bootstrap = "bootstrap.json"
	peers     = "peers.json"
)

// Identity is identity.json, written once by `hactl init` or `hactl join` and never changed. All fields are required.
type Identity struct {
	Cluster   string         `json:"cluster"`
	ClusterID string         `json:"cluster_id"`
	Name      string         `json:"name"`
	NodeID    string         `json:"node_id"` // random; placement.NodeState.ID
	Role      placement.Role `json:"role"`

	// Incarnation of the cluster, anew at each forced quorum; empty: none was forced.
	Incarnation string `json:"incarnation,omitempty"`
}

// Bootstrap is bootstrap.json: this node founds the cluster at its first start. The agent removes it once it has.
type Bootstrap struct {
	Addresses []string `json:"addresses"` // host:port of the cluster port
	Gossip    []string `json:"gossip"`    // host:port
}

// Peers is peers.json: whom a joined node asks at its first start, by name. The replicated state replaces it.
type Peers map[string]placement.NodeState

// Load reads the identity. The error wraps fs.ErrNotExist when there is none.
func Load(dataDir string) (Identity, error) {
	var id Identity
	path := filepath.Join(dataDir, file)
	if err := load(path, &id); err != nil {
		return Identity{}, err
	}
	for _, f := range []struct{ name, value string }{{"cluster", id.Cluster}, {"cluster_id", id.ClusterID}, {"name", id.Name}, {"node_id", id.NodeID}, {"role", string(id.Role)}} {
		if f.value == "" {
			return Identity{}, fmt.Errorf("reading %s: %s is missing: restore the file from a backup, or remove this node from the cluster and join again", path, f.name)
		}
	}
	return id, nil
}

// Save writes the identity, durable when it returns.
func Save(dataDir string, id Identity) error { return save(dataDir, file, id) }

// Open is Load for an agent that starts as name with the given certificate files. Its errors say what to do: they wrap ErrWiped
// when certificates exist without an identity, ErrNotMember when nothing exists, ErrMismatch when name is not the identity's.
func Open(dataDir, name string, certs ...string) (Identity, error) {
	id, err := Load(dataDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		for _, c := range certs {
			if _, serr := os.Stat(c); serr == nil {
				return Identity{}, fmt.Errorf("node %s has certificates but no identity in its data directory %s: %w: a node that forgot its votes may not "+
					"return under the same identity: run `hactl node rejoin` here", name, dataDir, ErrWiped)
			}
		}
		return Identity{}, fmt.Errorf("node %s has no identity in %s: %w: run `hactl init` for the first node of a new cluster, or `hactl join`", name, dataDir, ErrNotMember)
	case err != nil:
		return Identity{}, err
	case id.Name != name:
		return Identity{}, fmt.Errorf("had.toml names this node %s, the data directory %s is of node %s: %w: set name back, or remove the node from the "+
			"cluster and join under the new name", name, dataDir, id.Name, ErrMismatch)
	}
	return id, nil
}

// LoadBootstrap reads the bootstrap marker; ok is false when there is none.
func LoadBootstrap(dataDir string) (b Bootstrap, ok bool, err error) {
	err = load(filepath.Join(dataDir, bootstrap), &b)
	if errors.Is(err, fs.ErrNotExist) {
		return b, false, nil
	}
	return b, err == nil, err
}

// SaveBootstrap writes the bootstrap marker.
func SaveBootstrap(dataDir string, b Bootstrap) error { return save(dataDir, bootstrap, b) }

// ClearBootstrap removes the marker; none is fine. A power cut may bring it back: an agent that has state ignores it and
// removes it again.
func ClearBootstrap(dataDir string) error {
	if err := os.Remove(filepath.Join(dataDir, bootstrap)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the bootstrap marker: %w", err)
	}
	return nil
}

// LoadPeers reads the initial peers; none is an empty map.
func LoadPeers(dataDir string) (Peers, error) {
	p := Peers{}
	if err := load(filepath.Join(dataDir, peers), &p); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return p, nil
}

// SavePeers writes the initial peers.
func SavePeers(dataDir string, p Peers) error { return save(dataDir, peers, p) }

// Files returns the paths of the files this package writes, for checks that none is there yet.
func Files(dataDir string) []string {
	return []string{filepath.Join(dataDir, file), filepath.Join(dataDir, bootstrap), filepath.Join(dataDir, peers)}
}

// SetAside moves files of the data directory (names that are there are taken, others skipped) into the new directory to,
// the identity first: while it is missing no agent starts on what is left. Nothing is ever deleted. A second call after an
// interrupted one with the same to goes on.
func SetAside(dataDir, to string, names ...string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return fmt.Errorf("making a place for the old files: %w", err)
	}
	for _, name := range append([]string{file, peers, bootstrap}, names...) {
		err := os.Rename(filepath.Join(dataDir, name), filepath.Join(to, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("moving the old %s aside: %w", name, err)
		}
	}
	return nil
}

func load(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

func save(dataDir, name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding %s: %w", name, err)
	}
	return write(filepath.Join(dataDir, name), append(b, '\n'))
}

// SaveGossipKey writes the key of package membership as one line of base64, to the file had.toml names.
func SaveGossipKey(path string, key []byte) error {
	return write(path, append(base64.StdEncoding.AppendEncode(nil, key), '\n'))
}

// LoadGossipKey reads what SaveGossipKey wrote: 16, 24 or 32 bytes (AES-128, -192, -256).
func LoadGossipKey(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the gossip key: %w", err)
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(key) != 16 && len(key) != 24 && len(key) != 32 {
		return nil, fmt.Errorf("reading the gossip key %s: it is not 16, 24 or 32 bytes in base64: copy the file from another node", path)
	}
	return key, nil
}

// write makes the directory, for the owner only, and replaces the file durably.
func write(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("making the directory of %s: %w", path, err)
	}
	return pki.WriteFile(path, data)
}
