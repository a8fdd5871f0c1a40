package membership

import (
	"encoding/json"
	"fmt"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/memberlist"

	"hacluster/placement"
)

// maxField bounds one string of the metadata.
const maxField = 255

// metadata travels with every announcement of a node, so its keys are short.
type metadata struct {
	Role      placement.Role `json:"r"`
	Version   string         `json:"v,omitempty"`
	Addresses []string       `json:"a,omitempty"`
}

// encodeMeta leaves out addresses from the end until the rest fits: they are hints, the replicated state has them all.
func encodeMeta(m metadata) ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("gossip metadata of this node: %w", err)
	}
	for {
		b, err := json.Marshal(m)
		if err != nil {
			return nil, fmt.Errorf("encoding gossip metadata: %w", err)
		}
		if len(b) <= memberlist.MetaMaxSize {
			return b, nil
		}
		if len(m.Addresses) == 0 {
			return nil, fmt.Errorf("gossip metadata of this node has %d bytes, at most %d fit", len(b), memberlist.MetaMaxSize)
		}
		m.Addresses = m.Addresses[:len(m.Addresses)-1]
	}
}

// decodeMeta reads what another node sent. Unknown keys are of a newer version and ignored.
func decodeMeta(b []byte) (metadata, error) {
	if len(b) > memberlist.MetaMaxSize {
		return metadata{}, fmt.Errorf("decoding gossip metadata: %d bytes, at most %d", len(b), memberlist.MetaMaxSize)
	}
	var m metadata
	if err := json.Unmarshal(b, &m); err != nil {
		return metadata{}, fmt.Errorf("decoding gossip metadata: %w", err)
	}
	if err := m.check(); err != nil {
		return metadata{}, fmt.Errorf("decoding gossip metadata: %w", err)
	}
	return m, nil
}

func (m metadata) check() error {
	if m.Role != placement.RoleMember && m.Role != placement.RoleWitness {
		return fmt.Errorf("role %q is unknown", m.Role)
	}
	for _, s := range append([]string{m.Version}, m.Addresses...) {
		if len(s) > maxField || !utf8.ValidString(s) {
			return fmt.Errorf("%q is too long or not text", s[:min(len(s), maxField)])
		}
		for _, r := range s {
			if !unicode.IsPrint(r) {
				return fmt.Errorf("%q has characters that cannot be printed", s) // it is shown on terminals
			}
		}
	}
	return nil
}
