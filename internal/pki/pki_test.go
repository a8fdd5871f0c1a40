package pki

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newCA(t *testing.T) *CA {
	t.Helper()
	ca, err := NewCA("shop", NewID(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func clusterIDOf(ca *CA) string {
	return strings.TrimPrefix(ca.Cert.Subject.CommonName, "had cluster CA ")
}

func issue(t *testing.T, ca *CA, name string) *Credentials {
	t.Helper()
	key, csr, err := NewCSR(name)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(csr, Identity{Cluster: "shop", ClusterID: clusterIDOf(ca), Name: name, NodeID: NewID()}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCredentials(ca.CertPEM(), cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// handshake runs both ends; the server's error is the one that counts for admission.
func handshake(t *testing.T, server, client *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	done := make(chan error, 1)
	go func() {
		raw, err := ln.Accept()
		if err != nil {
			done <- err
			return
		}
		defer raw.Close()
		raw.SetDeadline(time.Now().Add(10 * time.Second))
		done <- tls.Server(raw, server).Handshake()
	}()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(10 * time.Second))
	clientErr = tls.Client(raw, client).Handshake()
	if clientErr != nil {
		raw.Close()
	}
	return <-done, clientErr
}

func TestPeersOfOneClusterTrustEachOther(t *testing.T) {
	ca := newCA(t)
	a, b := issue(t, ca, "n1"), issue(t, ca, "n2")
	var seenBy1, seenBy2 Identity
	serr, cerr := handshake(t, a.Server(func(id Identity) error { seenBy1 = id; return nil }, "x"),
		b.Client("n1", func(id Identity) error { seenBy2 = id; return nil }, "x"))
	if serr != nil || cerr != nil {
		t.Fatalf("server: %v, client: %v", serr, cerr)
	}
	if d := cmp.Diff(b.Identity, seenBy1); d != "" {
		t.Error("server saw another peer: ", d)
	}
	if d := cmp.Diff(a.Identity, seenBy2); d != "" {
		t.Error("client saw another peer: ", d)
	}
}

func TestHandshakeIsRefused(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	a, b := issue(t, ca, "n1"), issue(t, ca, "n2")
	stranger := issue(t, other, "n2")
	revoked := errors.New("node was removed from the cluster")
	refuse := func(Identity) error { return revoked }
	noCert := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{"x"}}
	tls12 := b.Client("n1", nil, "x")
	tls12.MinVersion, tls12.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	blind := stranger.Client("n1", nil, "x") // accepts any server, shows the stranger's certificate
	blind.InsecureSkipVerify, blind.VerifyConnection = true, nil
	for _, tc := range []struct {
		name           string
		server, client *tls.Config
		by, text       string
	}{
		{"a client without certificate", a.Server(nil, "x"), noCert, "server", "certificate"},
		{"a client of another CA", a.Server(nil, "x"), blind, "server", "unknown authority"},
		{"a server of another CA", stranger.Server(nil, "x"), b.Client("n2", nil, "x"), "client", "unknown authority"},
		{"a server with another name", a.Server(nil, "x"), b.Client("n3", nil, "x"), "client", "n3"},
		{"a client that allow refuses", a.Server(refuse, "x"), b.Client("n1", nil, "x"), "server", revoked.Error()},
		{"a server that allow refuses", a.Server(nil, "x"), b.Client("n1", refuse, "x"), "client", revoked.Error()},
		{"TLS 1.2", a.Server(nil, "x"), tls12, "server", "version"},
		{"a cluster that the join token does not pin", a.JoinServer("j"), JoinClient(other.Fingerprint(), "j"), "client", "another cluster"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			serr, cerr := handshake(t, tc.server, tc.client)
			err := cerr
			if tc.by == "server" {
				err = serr
			}
			if err == nil || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("server: %v; client: %v; wanted %q by the %s", serr, cerr, tc.text, tc.by)
			}
		})
	}
}

func TestJoinPinsTheCA(t *testing.T) {
	ca, evil := newCA(t), newCA(t)
	a := issue(t, ca, "n1")
	if serr, cerr := handshake(t, a.JoinServer("j"), JoinClient(ca.Fingerprint(), "j")); serr != nil || cerr != nil {
		t.Fatalf("server: %v, client: %v", serr, cerr)
	}
	// An impostor may send the real CA along with its own leaf.
	imp := issue(t, evil, "n1")
	cfg := imp.JoinServer("j")
	cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		c := *imp.cert.Load()
		c.Certificate = [][]byte{c.Certificate[0], ca.Cert.Raw}
		return &c, nil
	}
	if _, cerr := handshake(t, cfg, JoinClient(ca.Fingerprint(), "j")); cerr == nil {
		t.Error("an impostor that sends the real CA was believed")
	}
}

func TestIssueRefuses(t *testing.T) {
	ca := newCA(t)
	_, csr, err := NewCSR("n1")
	if err != nil {
		t.Fatal(err)
	}
	good := Identity{Cluster: "shop", ClusterID: "c", Name: "n1", NodeID: "i"}
	broken := bytes.Clone(csr)
	broken[len(broken)-1] ^= 1
	for _, tc := range []struct {
		name string
		csr  []byte
		id   Identity
		text string
	}{
		{"a request for another name", csr, Identity{"shop", "c", "n2", "i"}, "join again with one name"},
		{"a request that is not signed by its key", broken, good, "checking"},
		{"bytes that are no request", []byte("hello"), good, "reading"},
		{"a name with a slash", csr, Identity{"shop", "c", "n/1", "i"}, "node name"},
		{"an empty node id", csr, Identity{"shop", "c", "n1", ""}, "node id"},
		{"an address as a name", csr, Identity{"shop", "c", "10.0.0.1", "i"}, "IP address"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := ca.Issue(tc.csr, tc.id, time.Now()); err == nil || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("got %v, wanted %q", err, tc.text)
			}
		})
	}
}

func TestAuthoritySurvivesItsFiles(t *testing.T) {
	ca := newCA(t)
	key, err := ca.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseCA(ca.CertPEM(), key)
	if err != nil {
		t.Fatal(err)
	}
	if again.Fingerprint() != ca.Fingerprint() || len(ca.Fingerprint()) != 64 {
		t.Errorf("fingerprints %s and %s", again.Fingerprint(), ca.Fingerprint())
	}
	if years := ca.Cert.NotAfter.Year() - time.Now().Year(); years != 20 {
		t.Errorf("the CA lives %d years", years)
	}
	if _, err := ParseCA(newCA(t).CertPEM(), key); err == nil || !strings.Contains(err.Error(), "does not belong") {
		t.Errorf("key of another CA: %v", err)
	}
	if _, err := ParseCA(ca.CertPEM(), ca.CertPEM()); err == nil {
		t.Error("a certificate passed as a key")
	}
}

func TestReplaceKeepsTheIdentity(t *testing.T) {
	ca := newCA(t)
	a := issue(t, ca, "n1")
	renew := func(id Identity) error {
		key, csr, err := NewCSR(id.Name)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := ca.Issue(csr, id, time.Now().AddDate(1, 0, 0))
		if err != nil {
			t.Fatal(err)
		}
		return a.Replace(cert, key)
	}
	before := a.NotAfter()
	if err := renew(a.Identity); err != nil || !a.NotAfter().After(before) {
		t.Errorf("renewal: %v, ends %v", err, a.NotAfter())
	}
	other := a.Identity
	other.NodeID = NewID()
	if err := renew(other); err == nil {
		t.Error("the certificate of another installation was taken")
	}
}

func TestWriteFileReplacesWhole(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "ca.key")
	for _, want := range []string{"one", "two, longer"} {
		if err := WriteFile(path, []byte(want)); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Errorf("got %q, %v", got, err)
		}
	}
	if fi, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	// A target that cannot be replaced leaves no temporary file behind.
	if err := os.MkdirAll(filepath.Join(dir, "d", "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(filepath.Join(dir, "d"), nil); err == nil {
		t.Error("a directory was replaced")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestParseToken(t *testing.T) {
	tok := NewToken(newCA(t).Fingerprint())
	got, err := ParseToken(" " + tok.String() + "\n")
	if err != nil || got != tok {
		t.Fatalf("got %v, %v", got, err)
	}
	if !got.Matches(tok.Hash()) || NewToken(tok.Fingerprint).Matches(tok.Hash()) {
		t.Error("hash and secret do not match one to one")
	}
	for name, s := range map[string]string{
		"empty":              "",
		"cut short":          tok.String()[:60],
		"without its end":    strings.Join(strings.Split(tok.String(), ".")[:3], "."),
		"upper case":         strings.ToUpper(tok.String()),
		"another version":    "had2" + tok.String()[4:],
		"one part too many":  tok.String() + ".x",
		"a blank in between": strings.Replace(tok.String(), ".", ". ", 1),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseToken(s)
			if !errors.Is(err, ErrToken) || !strings.Contains(err.Error(), "hactl token") {
				t.Errorf("got %v, wanted ErrToken with what to do", err)
			}
			if err != nil && strings.Contains(err.Error(), tok.Secret) {
				t.Error("the error repeats the secret")
			}
		})
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add("")
	f.Add("had1...")
	f.Add("had1.000000000000.00000000000000000000000000000000.0000000000000000000000000000000000000000000000000000000000000000")
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := ParseToken(s)
		if err == nil && tok.String() != strings.TrimSpace(s) {
			t.Errorf("%q parsed to %q", s, tok)
		}
	})
}

func FuzzParseCert(f *testing.F) {
	ca, err := NewCA("shop", "c", time.Now())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ca.CertPEM())
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := ParseCert(b); err == nil {
			if id, err := IdentityOf(c); err == nil && id.check() != nil {
				t.Errorf("identity %v is not well formed", id)
			}
		}
	})
}
