package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

const scheme = "had"

// Identity is who a certificate speaks for.
type Identity struct {
	Cluster   string // name, for people
	ClusterID string // random, made by `hactl init`
	Name      string // of the node
	NodeID    string // random, one installation of the node; a wiped disk has another
}

// IdentityOf reads the identity from a certificate: the URI had://CLUSTERID/NODENAME/NODEID, the DNS name that must agree
// with it, and the cluster's name from the organisation. It does not verify the certificate.
func IdentityOf(cert *x509.Certificate) (Identity, error) {
	var found []*url.URL
	for _, u := range cert.URIs {
		if u.Scheme == scheme {
			found = append(found, u)
		}
	}
	if len(found) != 1 {
		return Identity{}, fmt.Errorf("certificate of %q has %d had:// names, wanted 1: it was not issued by `hactl init` or `hactl join`",
			cert.Subject.CommonName, len(found))
	}
	parts := strings.Split(found[0].Path, "/")
	if len(parts) != 3 || parts[0] != "" {
		return Identity{}, fmt.Errorf("certificate name %q: wanted had://CLUSTERID/NODENAME/NODEID", found[0])
	}
	id := Identity{ClusterID: found[0].Host, Name: parts[1], NodeID: parts[2]}
	if len(cert.Subject.Organization) == 1 {
		id.Cluster = cert.Subject.Organization[0]
	}
	if err := id.check(); err != nil {
		return Identity{}, fmt.Errorf("certificate name %q: %w", found[0], err)
	}
	if !slices.Contains(cert.DNSNames, id.Name) {
		return Identity{}, fmt.Errorf("certificate name %q does not agree with its DNS names %q", found[0], cert.DNSNames)
	}
	return id, nil
}

func (id Identity) uri() *url.URL {
	return &url.URL{Scheme: scheme, Host: id.ClusterID, Path: "/" + id.Name + "/" + id.NodeID}
}

func (id Identity) check() error {
	return errors.Join(checkCluster(id.Cluster), checkWord("cluster id", id.ClusterID), CheckName(id.Name), checkWord("node id", id.NodeID))
}

// CheckName reports why a string cannot be a node name: names stand in certificates as DNS names.
func CheckName(name string) error {
	if err := checkWord("node name", name); err != nil {
		return err
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return fmt.Errorf("node name %q is an IP address: use a name, addresses may change", name)
	}
	return nil
}

func checkCluster(name string) error {
	if name == "" || len(name) > 64 || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }) {
		return fmt.Errorf("cluster name %q: wanted 1 to 64 printable characters", name)
	}
	return nil
}

// checkWord keeps to what a host name, a file name and a URL path segment can all carry unescaped.
func checkWord(what, s string) error {
	ok := s != "" && len(s) <= 63
	for i, r := range s {
		alnum := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		ok = ok && (alnum || i > 0 && i < len(s)-1 && (r == '-' || r == '_' || r == '.'))
	}
	if !ok || strings.Contains(s, "..") {
		return fmt.Errorf("%s %q: wanted 1 to 63 letters, digits, dots, dashes or underscores, with a letter or digit first and last", what, s)
	}
	return nil
}
