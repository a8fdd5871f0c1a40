package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"hacluster/api"
	"hacluster/internal/identity"
	"hacluster/internal/pki"
	"hacluster/internal/wire"
	"hacluster/placement"
)

func TestWhoMayComeInAndWhoMustStayOut(t *testing.T) {
	c := form(t, "a", "b", "c")
	a := c.nodes["a"]
	t.Run("a token opens once, for its role, a free name and a free address", func(t *testing.T) {
		c.t = t
		x := c.add("x")
		good := c.token(placement.RoleMember)
		parsed, err := pki.ParseToken(good)
		if err != nil {
			t.Fatal(err)
		}
		wrong := parsed
		wrong.Secret = strings.Repeat("0", len(parsed.Secret))
		unknown := pki.NewToken(parsed.Fingerprint)
		for name, f := range map[string]struct {
			token, as  string
			code       api.Code
			text, hint string
		}{
			"a wrong secret":   {wrong.String(), "x", api.CodeUnauthorized, "not known", "hactl token"},
			"an unknown token": {unknown.String(), "x", api.CodeUnauthorized, "not known", "hactl token"},
			"another role":     {c.token(placement.RoleWitness), "x", api.CodeRefused, "is for a witness, not for a member", "--role member"},
			"a taken name":     {good, "b", api.CodeRefused, "the name b belongs to a member", "--rejoin b"},
			"a bad name":       {good, "../x", api.CodeInvalid, "", "--name"},
		} {
			t.Run(name, func(t *testing.T) {
				before := c.state().Nodes
				_, _, _, err := x.ask(f.token, f.as)
				refused(t, err, f.code, f.text, f.hint)
				if now := c.state().Nodes; len(now) != len(before) {
					t.Errorf("members: %v", now)
				}
			})
		}
		saved := x.cfg.Addresses
		x.cfg.Addresses = c.nodes["b"].cfg.Addresses
		_, _, _, err = x.ask(good, "x")
		refused(t, err, api.CodeRefused, "belongs to node b", "--address")
		x.cfg.Addresses = saved

		if _, _, _, err = x.ask(good, "x"); err != nil { // none of the refusals has spent it
			t.Fatal(err)
		}
		y := c.add("y")
		_, _, _, err = y.ask(good, "y")
		refused(t, err, api.CodeUnauthorized, "was used by node x", "hactl token")
		c.do(api.Write{Verb: api.VerbRemove, Node: "x", Force: true}) // it never came
	})
	t.Run("without a certificate there is nothing", func(t *testing.T) { c.t = t; c.strangers(t) })
	t.Run("garbage changes nothing", func(t *testing.T) { c.t = t; c.garbage(t) })
	t.Run("another name than that of its certificate counts for nothing", func(t *testing.T) {
		c.t = t
		leader := c.leader()
		from := c.nodes["b"]
		if leader == from {
			from = c.nodes["c"]
		}
		// What a node says of another is filed under its own name.
		if _, err := from.n.links.call(t.Context(), leader.name, message{Renew: &renewal{Seq: 1, Boot: "x", Report: placement.Report{Node: "nobody"}}}, time.Second); err != nil {
			t.Fatal(err)
		}
		_, reports, _, _ := leader.n.leader.alive()
		if _, ok := reports["nobody"]; ok || reports[from.name].Node != from.name {
			t.Errorf("reports: %+v", reports)
		}
	})
	c.t = t
	t.Run("a living node is not removed by mistake", func(t *testing.T) {
		c.t = t
		follower := c.follower()
		_, err := c.write(api.Write{Verb: api.VerbRemove, Node: follower.name})
		refused(t, err, api.CodeRefused, "is up", "drain")
		_, err = c.write(api.Write{Verb: api.VerbRemove, Node: c.leader().name, Force: true})
		refused(t, err, api.CodeRefused, "leads", "another node")
		_, err = c.write(api.Write{Verb: api.VerbRemove, Node: "nobody"})
		refused(t, err, api.CodeNotFound, "nobody", "node list")
	})
	t.Run("a removed node's certificate gets nothing", func(t *testing.T) { c.t = t; c.removed(t) })
	c.t = t
	if got := a.n.raft.State(); len(got.Nodes) != 2 {
		t.Errorf("members at the end: %v", got.Nodes)
	}
}

// follower is a node that does not lead and is not a, by which the others join.
func (c *cluster) follower() *member {
	leader := c.leader()
	for _, m := range c.running() {
		if m != leader && m.name != "a" {
			return m
		}
	}
	c.t.Fatal("no follower")
	return nil
}

// strangers try every protocol of the cluster port with no certificate, and with one of another cluster.
func (c *cluster) strangers(t *testing.T) {
	addr := c.nodes["a"].peers(7400)[0]
	other, err := pki.NewCA("lab", "another", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	key, csr, err := pki.NewCSR("b")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := other.Issue(csr, pki.Identity{Cluster: "lab", ClusterID: "another", Name: "b", NodeID: "n"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	for name, certs := range map[string][]tls.Certificate{"none": nil, "of another cluster": {foreign}} {
		for _, alpn := range []string{wire.ALPNLease, wire.ALPNRaft, wire.ALPNAPI} {
			conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, Certificates: certs, NextProtos: []string{alpn}, MinVersion: tls.VersionTLS13})
			if err != nil {
				continue // refused at once is as good
			}
			conn.SetDeadline(time.Now().Add(patience))
			writeFrame(conn, message{ID: 1, AskTerm: true})
			io.WriteString(conn, "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
			if b, err := io.ReadAll(conn); len(b) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("certificate %s, %s: got %q, %v", name, alpn, b, err)
			}
			conn.Close()
		}
	}
	// The join protocol asks for no certificate, and serves nothing but joins.
	conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{wire.ALPNJoin}, MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}}
	for _, path := range []string{"/v1/status", "/v1/events", "/v1/nodes", "/v1/groups/web/move"} {
		r, err := client.Get("http://x" + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(r.Body)
		r.Body.Close()
		if r.StatusCode < 400 || bytes.Contains(body, []byte(`"nodes"`)) {
			t.Errorf("join protocol, %s: %s %s", path, r.Status, body)
		}
	}
	client.CloseIdleConnections()
}

// garbage on the port, and inside of a lease connection of a member.
func (c *cluster) garbage(t *testing.T) {
	leader := c.leader()
	term, index, members := leader.n.raft.Term(), c.state().Index, len(c.state().Nodes)
	addr := leader.peers(7400)[0]
	for _, g := range []string{"", "\n", "GET / HTTP/1.0\r\n\r\n", strings.Repeat("\x16\x03\x01\xff", 4096), string(bytes.Repeat([]byte{0}, 70000))} {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(patience))
		io.WriteString(conn, g)
		conn.(*net.TCPConn).CloseWrite()
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%.20q: the connection is kept", g)
		}
		conn.Close()
	}
	member := c.follower()
	for _, g := range []string{"\x00\x00\x00\x00", "\xff\xff\xff\xff", "\x00\x00\x00\x02[]", "GET / HTTP/1.0\r\n\r\n"} {
		conn, err := member.n.dialer.Dial(t.Context(), leader.name, wire.ALPNLease)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(patience))
		io.WriteString(conn, g)
		if b, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) || len(b) > 0 {
			t.Errorf("lease connection, %q: %q, %v", g, b, err)
		}
		conn.Close()
	}
	// A question of a later version is refused in words, and the connection lives.
	for range 2 {
		_, err := member.n.links.call(t.Context(), leader.name, message{}, time.Second)
		if err == nil || !strings.Contains(err.Error(), "upgrade") {
			t.Errorf("an unknown question: %v", err)
		}
	}
	if got := c.leader(); got != leader || got.n.raft.Term() != term || c.state().Index != index || len(c.state().Nodes) != members {
		t.Errorf("%s leads term %d with index %d; it was %s, %d, %d", got.name, got.n.raft.Term(), c.state().Index, leader.name, term, index)
	}
}

// removed keeps every kind of connection of a node, removes the node, and tries them and new ones.
func (c *cluster) removed(t *testing.T) {
	gone, leader := c.follower(), c.leader()
	dialer, links := gone.n.dialer, gone.n.links
	old := api.NewClient(leader.name, func(ctx context.Context) (net.Conn, error) { return dialer.Dial(ctx, leader.name, wire.ALPNAPI) })
	defer old.Close()
	if _, err := old.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := links.call(t.Context(), leader.name, message{AskTerm: true}, time.Second); err != nil {
		t.Fatal(err)
	}
	c.do(api.Write{Verb: api.VerbRemove, Node: gone.name, Force: true})
	members := c.running()
	for _, m := range members {
		if m == gone {
			continue
		}
		c.until(m.name+" knows of the removal", func() error {
			if _, member := m.n.raft.State().Nodes[gone.name]; member {
				return errors.New("not yet")
			}
			return nil
		})
		for _, alpn := range []string{wire.ALPNLease, wire.ALPNAPI, wire.ALPNRaft} {
			conn, err := dialer.Dial(t.Context(), m.name, alpn)
			if err != nil {
				continue
			}
			conn.SetDeadline(time.Now().Add(patience))
			writeFrame(conn, message{ID: 1, AskTerm: true})
			if b, err := io.ReadAll(conn); len(b) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("new connection to %s, %s: %q, %v", m.name, alpn, b, err)
			}
			conn.Close()
		}
	}
	if st, err := old.Status(t.Context()); err == nil {
		t.Errorf("the old API connection still answers: %+v", st)
	}
	if r, err := old.Write(t.Context(), api.Write{Verb: api.VerbToken, Role: placement.RoleMember}); err == nil {
		t.Errorf("the old API connection still writes: %+v", r)
	}
	for _, q := range []message{{AskTerm: true}, {Renew: &renewal{Seq: 99, Boot: "x"}}} {
		if a, err := links.call(t.Context(), leader.name, q, time.Second); err == nil {
			t.Errorf("the lease connection still answers: %+v", a)
		}
	}
	st, err := leader.client.Status(t.Context())
	if err != nil || len(st.Nodes) != 2 || slices.ContainsFunc(st.Nodes, func(n api.NodeStatus) bool { return n.Name == gone.name }) {
		t.Errorf("%v, %+v", err, st.Nodes)
	}
	gone.end()
	<-gone.ran // by itself or because it was told to
	gone.n = nil
}

func TestAnAgentDoesNotStartOnADiskThatForgot(t *testing.T) {
	needNetwork(t)
	c := &cluster{t: t, dir: t.TempDir(), nodes: map[string]*member{}}
	m := c.add("a")
	m.found()
	if err := os.RemoveAll(m.cfg.DataDir); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Config: m.cfg, Version: "test"}); !errors.Is(err, identity.ErrWiped) || !strings.Contains(err.Error(), "hactl") {
		t.Errorf("got %v, want %v and what to do", err, identity.ErrWiped)
	}
}

func TestTwoAgentsDoNotShareANode(t *testing.T) {
	needNetwork(t)
	c := &cluster{t: t, dir: t.TempDir(), nodes: map[string]*member{}}
	t.Cleanup(c.close)
	m := c.add("a")
	m.found()
	m.start()
	n, err := Open(Options{Config: m.cfg, Version: "test", Log: m.log()})
	if err == nil {
		n.close()
	}
	if err == nil || !strings.Contains(err.Error(), "another") {
		t.Errorf("a second agent: %v", err)
	}
	if _, err := listenSocket(m.cfg.Socket); err == nil || !strings.Contains(err.Error(), "another had is running") {
		t.Errorf("its socket: %v", err)
	}
	info, err := os.Stat(m.cfg.Socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the control socket has %v, %v: only root may use it", info.Mode(), err)
	}
	m.stop()
	// A file that a killed agent left is replaced.
	if err := os.WriteFile(m.cfg.Socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m.start()
	if got := fmt.Sprint(m.n.name); got != "a" {
		t.Error(got)
	}
}
