package main

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hacluster/api"
	"hacluster/api/apitest"
	"hacluster/config"
	"hacluster/internal/identity"
	"hacluster/internal/pki"
	"hacluster/internal/wire"
	"hacluster/placement"
)

// machine is a temporary directory in the place of a machine's file system.
type machine struct{ dir string }

func (m machine) path(p string) string { return filepath.Join(m.dir, p) }

// args are the flags that keep `init` and `join` inside the machine.
func (m machine) args(verb, name string, more ...string) []string {
	return append([]string{verb, "--name", name, "--address", "127.0.0.1", "--dir", m.path("etc"), "--data-dir", m.path("data"),
		"--socket", m.path("had.sock"), "-o", "json"}, more...)
}

func lone() *desk { return &desk{sock: "/nonexistent/had.sock"} }

// tree lists all files with mode and content, to see that nothing was changed.
func (m machine) tree(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.Walk(m.dir, func(p string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		files[strings.TrimPrefix(p, m.dir+"/")] = info.Mode().String() + " " + string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestInitMakesAFirstNodeThatTheAgentCanStart(t *testing.T) {
	m, d := machine{t.TempDir()}, lone()
	if code := d.hactl(bounded(t), m.args("init", "n1", "--cluster", "prod")...); code != 0 {
		t.Fatal(d.Err)
	}
	n, err := config.LoadNode(m.path("etc/had.toml"))
	if err != nil {
		t.Fatal(err)
	}
	if n.Name != "n1" || n.DataDir != m.path("data") || n.Socket != m.path("had.sock") || n.Port != 7400 {
		t.Fatalf("had.toml: %+v", n)
	}
	cred, err := pki.LoadCredentials(n.TLS.CA, n.TLS.Cert, n.TLS.Key)
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.Open(n.DataDir, n.Name, n.TLS.Cert)
	if err != nil || cred.Identity != certIdentity(id) || id.Cluster != "prod" || id.Role != placement.RoleMember {
		t.Fatalf("identity %+v, certificate %+v, %v", id, cred.Identity, err)
	}
	if key, err := identity.LoadGossipKey(n.TLS.GossipKey); err != nil || len(key) != 32 {
		t.Fatal(len(key), err)
	}
	want := identity.Bootstrap{Addresses: []string{"127.0.0.1:7400"}, Gossip: []string{"127.0.0.1:7401"}}
	if b, ok, err := identity.LoadBootstrap(n.DataDir); !ok || err != nil || cmp.Diff(want, b) != "" {
		t.Fatal(b, ok, err)
	}
	before := m.tree(t)
	for f, c := range before {
		if strings.Contains(f, ".key") && !strings.HasPrefix(c, "-rw------- ") {
			t.Errorf("%s is %s", f, c[:10])
		}
	}
	// A second time nothing is touched, whatever of it is left.
	for _, gone := range []string{"", "etc/had.toml", "data/identity.json", "data/bootstrap.json", "etc/tls/node.key", "etc/tls/node.crt", "etc/tls/ca.crt", "etc/tls/ca.key"} {
		if gone != "" {
			if err := os.Remove(m.path(gone)); err != nil {
				t.Fatal(err)
			}
			delete(before, gone)
		}
		code := d.hactl(bounded(t), m.args("init", "n2", "--cluster", "other")...)
		if code != 1 || !strings.Contains(d.Err.String(), "nothing was changed") || !strings.Contains(d.Err.String(), "hactl node remove") {
			t.Fatalf("without %s: %d %s", gone, code, d.Err)
		}
		if diff := cmp.Diff(before, m.tree(t)); diff != "" {
			t.Fatalf("without %s, init changed: %s", gone, diff)
		}
	}
}

func TestInitLeavesTheStateOfAnAgentAlone(t *testing.T) {
	m, d := machine{t.TempDir()}, lone()
	if err := os.MkdirAll(m.path("data/lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.path("data/raft.db"), []byte("votes"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code := d.hactl(bounded(t), m.args("init", "n1", "--cluster", "prod")...); code != 1 || !strings.Contains(d.Err.String(), "raft.db") {
		t.Fatal(code, d.Err)
	}
	if err := os.Remove(m.path("data/raft.db")); err != nil {
		t.Fatal(err)
	}
	if code := d.hactl(bounded(t), m.args("init", "n1", "--cluster", "prod")...); code != 0 {
		t.Fatal(code, d.Err)
	}
}

func TestInitSaysWhatComesNext(t *testing.T) {
	m, d := machine{t.TempDir()}, lone()
	args := m.args("init", "n1", "--cluster", "prod", "-o", "table")
	if code := d.hactl(bounded(t), args...); code != 0 {
		t.Fatal(d.Err)
	}
	golden(t, "init", strings.ReplaceAll(d.Out.String(), m.dir, "/DIR"))
	code := d.hactl(bounded(t), args...)
	golden(t, "init-again", strings.ReplaceAll(d.screen([]string{"init", "..."}, code), m.dir, "/DIR"))
}

// founder is a running first node: its credentials behind a real port.
type founder struct {
	machine
	world *apitest.World
	cred  *pki.Credentials
	addr  string
	token pki.Token
}

func found(t *testing.T) *founder {
	t.Helper()
	f := &founder{machine: machine{t.TempDir()}, world: tomcats()}
	d := lone()
	if code := d.hactl(bounded(t), f.args("init", "n1", "--cluster", "prod")...); code != 0 {
		t.Fatal(d.Err)
	}
	n, err := config.LoadNode(f.path("etc/had.toml"))
	if err != nil {
		t.Fatal(err)
	}
	if f.cred, err = pki.LoadCredentials(n.TLS.CA, n.TLS.Cert, n.TLS.Key); err != nil {
		t.Fatal(err)
	}
	caKey, err := os.ReadFile(f.path("etc/tls/ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	caPEM, err := os.ReadFile(n.TLS.CA)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := pki.ParseCA(caPEM, caKey)
	if err != nil {
		t.Fatal(err)
	}
	f.token = pki.NewToken(ca.Fingerprint())
	gossip, err := identity.LoadGossipKey(n.TLS.GossipKey)
	if err != nil {
		t.Fatal(err)
	}
	f.world.OnJoin = func(j api.Join) (api.Joined, error) {
		tok, err := pki.ParseToken(j.Token)
		if err != nil || !tok.Matches(f.token.Hash()) {
			return api.Joined{}, api.Errorf(api.CodeUnauthorized, "make a new one: hactl token", "the token is not known, or was used")
		}
		cert, err := ca.Issue(j.CSR, pki.Identity{Cluster: "prod", ClusterID: f.cred.Identity.ClusterID, Name: j.Name, NodeID: j.ID}, time.Now())
		if err != nil {
			return api.Joined{}, err
		}
		return api.Joined{Cluster: "prod", ClusterID: f.cred.Identity.ClusterID, CA: caPEM, CAKey: caKey, Cert: cert, Gossip: gossip,
			Nodes: map[string]placement.NodeState{"n1": {ID: f.cred.Identity.NodeID, Role: placement.RoleMember, Addresses: []string{f.addr}}}}, nil
	}
	f.listen(t)
	return f
}

// listen serves the API and the join protocol on one port, as the agent does.
func (f *founder) listen(t *testing.T) {
	t.Helper()
	mux, err := wire.Listen([]string{"127.0.0.1:0"}, wire.Config{Credentials: f.cred})
	if err != nil {
		t.Fatal(err)
	}
	f.addr = mux.Addrs()[0].String()
	done := make(chan error, 2)
	full, join := api.NewServer(f.world, api.Options{Node: "n1", Version: "0.2.0"}).HTTP(), api.NewJoinServer(f.world, api.Options{}).HTTP()
	full.ConnContext = wire.ConnContext
	go func() { done <- full.Serve(mux.Listener(wire.ALPNAPI)) }()
	go func() { done <- join.Serve(mux.Listener(wire.ALPNJoin)) }()
	t.Cleanup(func() {
		full.Close()
		join.Close()
		mux.Close()
		<-done
		<-done
	})
}

func TestJoinBringsEverythingANodeNeeds(t *testing.T) {
	f := found(t)
	m, d := machine{t.TempDir()}, lone()
	if code := d.hactl(bounded(t), m.args("join", "n2", f.addr, "--token", f.token.String())...); code != 0 {
		t.Fatal(d.Err)
	}
	var s started
	if err := json.Unmarshal([]byte(d.Out.String()), &s); err != nil || s.Name != "n2" || s.ClusterID != f.cred.Identity.ClusterID {
		t.Fatal(s, err)
	}
	n, err := config.LoadNode(m.path("etc/had.toml"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.Open(n.DataDir, "n2", n.TLS.Cert)
	if err != nil || id.NodeID != s.NodeID {
		t.Fatal(id, err)
	}
	if peers, err := identity.LoadPeers(n.DataDir); err != nil || peers["n1"].Addresses[0] != f.addr {
		t.Fatal(peers, err)
	}
	if _, ok, _ := identity.LoadBootstrap(n.DataDir); ok {
		t.Fatal("a joined node must not found a second cluster")
	}
	// Its certificate opens the API of the others.
	if code := d.hactl(bounded(t), "--config", m.path("etc/had.toml"), "--node", f.addr, "group", "list"); code != 0 || !strings.Contains(d.Out.String(), "web") {
		t.Fatalf("%d %s %s", code, d.Out, d.Err)
	}
}

func TestARefusedJoinWritesNothing(t *testing.T) {
	f, other := found(t), found(t)
	lost := pki.NewToken(f.fingerprint())
	for _, c := range []struct {
		name, addr, token string
		code              int
		text              string
	}{
		{"a token of another cluster", f.addr, other.token.String(), 69, "fingerprint in the join token"},
		{"an unknown token", f.addr, lost.String(), 1, "make a new one: hactl token"},
		{"nobody there", "127.0.0.1:1", f.token.String(), 69, "no firewall is between: TCP 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, d := machine{t.TempDir()}, lone()
			code := d.hactl(bounded(t), m.args("join", "n2", c.addr, "--token", c.token)...)
			if code != c.code || !strings.Contains(d.Err.String(), c.text) {
				t.Fatalf("%d %s", code, d.Err)
			}
			if files := m.tree(t); len(files) != 0 {
				t.Fatalf("left behind: %v", files)
			}
			if strings.Contains(d.Err.String(), "secret") || strings.Contains(d.Err.String(), c.token) {
				t.Fatal("the token is in the message")
			}
		})
	}
}

// fingerprint is the fingerprint that tokens of this cluster carry.
func (f *founder) fingerprint() string { return pki.Fingerprint(f.cred.CA) }

func TestTheAPIIsClosedToWhoHasNoCertificateOfTheCluster(t *testing.T) {
	f, other := found(t), found(t)
	d := lone()
	code := d.hactl(bounded(t), "--config", other.path("etc/had.toml"), "--node", f.addr, "status")
	if code != 69 || d.Out.String() != "" {
		t.Fatalf("a node of another cluster: %d %s %s", code, d.Out, d.Err)
	}
	if code := d.hactl(bounded(t), "--node", f.addr, "status"); code != 1 || !strings.Contains(d.Err.String(), "needs the certificates of a node") {
		t.Fatalf("no certificate: %d %s", code, d.Err)
	}
	// On the join protocol there is nothing but join.
	c := api.NewClient("n1", joinDial(f))
	defer c.Close()
	if _, err := c.Status(bounded(t)); err == nil || !strings.Contains(err.Error(), "there is no /v1/status") {
		t.Fatal(err)
	}
}

func joinDial(f *founder) api.Dial {
	return func(ctx context.Context) (net.Conn, error) {
		return wire.DialJoin(ctx, []string{f.addr}, f.fingerprint())
	}
}
