// Package pki is the cluster's own certificate authority and what hangs on it: node certificates, the identity in them,
// join tokens that pin the authority, and the TLS configurations for peers and for joining.
//
// One CA per cluster, made by `hactl init`. A node's certificate says who it is (Identity); what it may do is decided by
// the caller's Allow, because certificates cannot be taken back but a node id in the replicated state can.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"
)

const (
	caYears   = 20
	nodeYears = 10
	// backdate makes a certificate valid on peers whose clock is behind the issuer's: a cluster must form before
	// time synchronisation has settled.
	backdate = 24 * time.Hour
)

const (
	pemCert = "CERTIFICATE"
	pemKey  = "PRIVATE KEY" // PKCS #8
)

// CA is a certificate authority that can issue.
type CA struct {
	Cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA makes the authority of a cluster: ECDSA P-256, valid for 20 years from now, not allowed to sign other authorities.
func NewCA(cluster, clusterID string, now time.Time) (*CA, error) {
	if err := errors.Join(checkCluster(cluster), checkWord("cluster id", clusterID)); err != nil {
		return nil, fmt.Errorf("creating the cluster CA: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generating the CA key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "had cluster CA " + clusterID, Organization: []string{cluster}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.AddDate(caYears, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("signing the CA certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading back the CA certificate: %w", err)
	}
	return &CA{Cert: cert, key: key}, nil
}

// ParseCA reads an authority from its PEM certificate and PEM key and checks that they belong together.
func ParseCA(certPEM, keyPEM []byte) (*CA, error) {
	cert, err := ParseCert(certPEM)
	if err != nil {
		return nil, fmt.Errorf("reading the CA certificate: %w", err)
	}
	if !cert.IsCA {
		return nil, errors.New("reading the CA certificate: it is not a certificate authority; use the ca file that `hactl init` or `hactl join` wrote")
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("reading the CA key: %w", err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("the CA key does not belong to the CA certificate: restore both files from the same node")
	}
	return &CA{Cert: cert, key: key}, nil
}

// CertPEM is the certificate, to be given to every node.
func (ca *CA) CertPEM() []byte { return encode(pemCert, ca.Cert.Raw) }

// KeyPEM is the private key (PKCS #8).
func (ca *CA) KeyPEM() ([]byte, error) { return keyPEM(ca.key) }

// Fingerprint identifies the authority in join tokens.
func (ca *CA) Fingerprint() string { return Fingerprint(ca.Cert) }

// Issue makes the certificate of a node from its certificate request (DER). Only the public key is taken from the
// request; the name in it must be the node's. Valid for 10 years, usable as TLS server and client.
func (ca *CA) Issue(csrDER []byte, id Identity, now time.Time) ([]byte, error) {
	if err := id.check(); err != nil {
		return nil, fmt.Errorf("issuing a certificate: %w", err)
	}
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate request of %s: %w", id.Name, err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("checking the certificate request of %s: %w", id.Name, err)
	}
	if csr.Subject.CommonName != id.Name {
		return nil, fmt.Errorf("the certificate request is for %q, not for node %q: join again with one name", csr.Subject.CommonName, id.Name)
	}
	pub, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, fmt.Errorf("the key in the certificate request of %s is not ECDSA P-256: make it with `hactl join`", id.Name)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	notAfter := now.AddDate(nodeYears, 0, 0)
	if ca.Cert.NotAfter.Before(notAfter) {
		notAfter = ca.Cert.NotAfter
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: id.Name, Organization: []string{id.Cluster}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              notAfter,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:              []string{id.Name},
		URIs:                  []*url.URL{id.uri()},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.Cert, pub, ca.key)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate of %s: %w", id.Name, err)
	}
	return encode(pemCert, der), nil
}

// NewCSR makes a key and a certificate request (DER) for the named node. The key never leaves the node.
func NewCSR(name string) (keyPEMBytes, csrDER []byte, err error) {
	if err := CheckName(name); err != nil {
		return nil, nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("generating the key of %s: %w", name, err)
	}
	tmpl := &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}
	csr, err := x509.CreateCertificateRequest(rand.Reader, tmpl, key)
	if err != nil {
		return nil, nil, fmt.Errorf("making the certificate request of %s: %w", name, err)
	}
	p, err := keyPEM(key)
	return p, csr, err
}

// Fingerprint is the hex SHA-256 of a certificate's DER SubjectPublicKeyInfo (RFC 7469, section 2.4): it stays the same
// when the certificate is renewed with its key.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// ParseCert reads exactly one PEM certificate.
func ParseCert(certPEM []byte) (*x509.Certificate, error) {
	der, err := decode(pemCert, certPEM)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// NewID is a random identity (128 bit, hex) for a cluster or for one installation of a node.
func NewID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand, Go 1.24)
	return hex.EncodeToString(b[:])
}

// NewGossipKey is a random AES-256 key for package membership.
func NewGossipKey() []byte {
	b := make([]byte, 32)
	rand.Read(b)
	return b
}

func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("drawing a serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil // RFC 5280, 4.1.2.2: positive
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a private key: %w", err)
	}
	return encode(pemKey, der), nil
}

func parseKey(b []byte) (*ecdsa.PrivateKey, error) {
	der, err := decode(pemKey, b)
	if err != nil {
		return nil, err
	}
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the key is %T, wanted ECDSA", k)
	}
	return key, nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func decode(kind string, b []byte) ([]byte, error) {
	block, rest := pem.Decode(b)
	switch {
	case block == nil:
		return nil, fmt.Errorf("no PEM block %q found: the file is damaged or of another kind", kind)
	case block.Type != kind:
		return nil, fmt.Errorf("the PEM block is %q, wanted %q", block.Type, kind)
	}
	if next, _ := pem.Decode(rest); next != nil {
		return nil, fmt.Errorf("more than one PEM block, wanted one %q", kind)
	}
	return block.Bytes, nil
}
