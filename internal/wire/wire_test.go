package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"hacluster/internal/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const clusterID = "c0ffee"

type world struct {
	t  *testing.T
	ca *pki.CA
}

func newWorld(t *testing.T) world {
	t.Helper()
	ca, err := pki.NewCA("shop", clusterID, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return world{t, ca}
}

func (w world) creds(name string) *pki.Credentials {
	w.t.Helper()
	key, csr, err := pki.NewCSR(name)
	if err != nil {
		w.t.Fatal(err)
	}
	cert, err := w.ca.Issue(csr, pki.Identity{Cluster: "shop", ClusterID: clusterID, Name: name, NodeID: pki.NewID()}, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := pki.NewCredentials(w.ca.CertPEM(), cert, key)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w world) listen(cfg Config) (*Mux, string) {
	w.t.Helper()
	m, err := Listen([]string{"127.0.0.1:0"}, cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := m.Close(); err != nil {
			w.t.Error(err)
		}
	})
	return m, m.Addrs()[0].String()
}

// greeter answers every connection of a protocol with its name and the peer's.
func (w world) greeter(m *Mux, alpn string) {
	ln := m.Listener(alpn)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			id, _ := PeerOf(c)
			fmt.Fprintf(c, "%s for %s", alpn, id.Name)
			c.Close()
		}
	}()
	w.t.Cleanup(func() { ln.Close(); <-done })
}

func (w world) dialer(name string, addrs ...string) *Dialer {
	return &Dialer{Credentials: w.creds(name), Resolve: func(string) []string { return addrs }}
}

func read(t *testing.T, c net.Conn) (string, error) {
	t.Helper()
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

func mustGreet(t *testing.T, d *Dialer, node, alpn, want string) {
	t.Helper()
	c, err := d.Dial(t.Context(), node, alpn)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := read(t, c); got != want || err != nil {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

func TestEachProtocolReachesItsListener(t *testing.T) {
	w := newWorld(t)
	m, addr := w.listen(Config{Credentials: w.creds("n1")})
	w.greeter(m, ALPNRaft)
	w.greeter(m, ALPNLease)
	d := w.dialer("n2", addr)
	mustGreet(t, d, "n1", ALPNRaft, "had-raft/1 for n2")
	mustGreet(t, d, "n1", ALPNLease, "had-lease/1 for n2")

	// Nobody serves the API here: the connection ends without a byte.
	c, err := d.Dial(t.Context(), "n1", ALPNAPI)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := read(t, c); got != "" {
		t.Errorf("got %q from a protocol nobody serves", got)
	}
}

func TestHTTPRunsOnTheSamePort(t *testing.T) {
	w := newWorld(t)
	m, addr := w.listen(Config{Credentials: w.creds("n1")})
	srv := &http.Server{ConnContext: ConnContext, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		id, ok := PeerFrom(r.Context())
		fmt.Fprint(rw, id.Name, " ", ok)
	})}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(m.Listener(ALPNAPI)) }()
	t.Cleanup(func() { srv.Close(); <-done })
	d := w.dialer("n2", addr)
	tr := &http.Transport{DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.Dial(ctx, "n1", ALPNAPI) }}
	t.Cleanup(tr.CloseIdleConnections)
	resp, err := (&http.Client{Transport: tr}).Get("https://n1/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); string(b) != "n2 true" {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestJoinNeedsNoCertificateAndGetsNothingElse(t *testing.T) {
	w := newWorld(t)
	m, addr := w.listen(Config{Credentials: w.creds("n1")})
	for _, alpn := range []string{ALPNRaft, ALPNLease, ALPNAPI, ALPNJoin} {
		w.greeter(m, alpn)
	}
	c, err := DialJoin(t.Context(), []string{addr}, w.ca.Fingerprint())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := read(t, c); got != "had-join/1 for " {
		t.Errorf("join: %q, %v", got, err)
	}
	other := newWorld(t)
	if _, err := DialJoin(t.Context(), []string{addr}, other.ca.Fingerprint()); err == nil || !strings.Contains(err.Error(), "fingerprint") {
		t.Errorf("join with the token of another cluster: %v", err)
	}
	for _, protos := range [][]string{{ALPNRaft}, {ALPNLease}, {ALPNAPI}, {"h2", ALPNAPI}, nil, {ALPNRaft, ALPNJoin}, {"h2", "nonsense"}} {
		c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: protos})
		if err != nil {
			continue
		}
		if got, err := read(t, c); got != "" && got != "had-join/1 for " || len(protos) < 2 && err == nil {
			t.Errorf("without a certificate %q gave %q, %v", protos, got, err)
		}
	}
}

func TestStrangersAreRefused(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	removed := w.creds("n3")
	var refuse atomic.Bool
	allow := func(id pki.Identity) error {
		if refuse.Load() && id.NodeID == removed.Identity.NodeID {
			return errors.New("removed from the cluster")
		}
		return nil
	}
	m, addr := w.listen(Config{Credentials: w.creds("n1"), Allow: allow})
	w.greeter(m, ALPNRaft)
	at := func(string) []string { return []string{addr} }

	t.Run("a node of another CA", func(t *testing.T) {
		if _, err := other.dialer("n2", addr).Dial(t.Context(), "n1", ALPNRaft); err == nil {
			t.Error("it believed the peer")
		}
		blind := other.creds("n2").Client("n1", nil, ALPNRaft)
		blind.InsecureSkipVerify, blind.VerifyConnection = true, nil
		c, err := tls.Dial("tcp", addr, blind)
		if err != nil {
			return
		}
		if got, err := read(t, c); got != "" || err == nil {
			t.Errorf("the peer gave it %q, %v", got, err)
		}
	})
	t.Run("a node that is not the one dialed", func(t *testing.T) {
		if _, err := w.dialer("n2", addr).Dial(t.Context(), "n9", ALPNRaft); err == nil || !strings.Contains(err.Error(), "n9") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a node that was removed, also on open connections", func(t *testing.T) {
		ln := m.Listener(ALPNLease)
		defer ln.Close()
		d := &Dialer{Credentials: removed, Resolve: at}
		c, err := d.Dial(t.Context(), "n1", ALPNLease)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		in, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		refuse.Store(true)
		m.Recheck()
		if got, err := read(t, c); got != "" {
			t.Errorf("open connection: %q, %v", got, err)
		}
		c, err = d.Dial(t.Context(), "n1", ALPNRaft)
		if err != nil {
			return
		}
		if got, err := read(t, c); got != "" || err == nil {
			t.Errorf("new connection: %q, %v", got, err)
		}
	})
}

func TestBrokenPeersChangeNothing(t *testing.T) {
	w := newWorld(t)
	m, addr := w.listen(Config{Credentials: w.creds("n1"), Handshake: 300 * time.Millisecond})
	w.greeter(m, ALPNRaft)
	d := w.dialer("n2", addr)
	open := func(t *testing.T) net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	t.Run("garbage", func(t *testing.T) {
		for _, s := range []string{"GET / HTTP/1.0\r\n\r\n", strings.Repeat("\x00", 70000), "\x16\x03\x01\xff\xff" + strings.Repeat("A", 70000), "\x16\x03\x01\x00\x05hello"} {
			c := open(t)
			io.WriteString(c, s) // the other end may hang up half way
			if tc, ok := c.(*net.TCPConn); ok {
				tc.CloseWrite()
			}
			if got, _ := read(t, c); strings.Contains(got, "raft") {
				t.Errorf("garbage was answered with %q", got)
			}
		}
		mustGreet(t, d, "n1", ALPNRaft, "had-raft/1 for n2")
	})
	t.Run("a peer that sends a byte now and then is cut off", func(t *testing.T) {
		c := open(t)
		start := time.Now()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for _, b := range []byte("\x16\x03\x01\x40\x00" + strings.Repeat("A", 4000)) {
			if _, err := c.Write([]byte{b}); err != nil {
				break
			}
			<-tick.C
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("it was let go on for %v", took)
		}
	})
}

func TestThousandSilentConnections(t *testing.T) {
	w := newWorld(t)
	// A long handshake bound: the flood must not be survived by waiting.
	m, addr := w.listen(Config{Credentials: w.creds("n1"), Handshake: time.Minute})
	w.greeter(m, ALPNRaft)
	for range 1000 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
	start := time.Now()
	mustGreet(t, w.dialer("n2", addr), "n1", ALPNRaft, "had-raft/1 for n2")
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("a node needed %v to get through", took)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := len(m.pending); n > defaultMaxHandshakes {
		t.Errorf("%d handshakes under way", n)
	}
}

func TestFloodDrivesOutItself(t *testing.T) {
	w := newWorld(t)
	m, addr := w.listen(Config{Credentials: w.creds("n1"), Handshake: time.Minute, MaxHandshakes: 4})
	from := func(ip string) net.Conn {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
		c, err := d.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	from("127.0.0.2") // the oldest, but alone
	for range 20 {
		from("127.0.0.3")
	}
	until(t, "the flood is taken in", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return len(m.pending) == 4 && m.pending[0].from.String() == "127.0.0.2"
	})
}

// until polls a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestDialTriesEveryAddress(t *testing.T) {
	w := newWorld(t)
	m, addr := w.listen(Config{Credentials: w.creds("n1")})
	w.greeter(m, ALPNRaft)
	refused, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel connects, nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()

	d := w.dialer("n2", refused.Addr().String(), silent.Addr().String(), addr)
	d.Stagger = 50 * time.Millisecond
	start := time.Now()
	mustGreet(t, d, "n1", ALPNRaft, "had-raft/1 for n2")
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("needed %v past a refusing and a silent address", took)
	}
	if got := d.order("n1")[0]; got != addr {
		t.Errorf("tries %s first next time, not the good %s", got, addr)
	}
	none := w.dialer("n2", refused.Addr().String(), silent.Addr().String())
	none.Timeout = 200 * time.Millisecond
	if _, err := none.Dial(t.Context(), "n1", ALPNRaft); err == nil || !strings.Contains(err.Error(), refused.Addr().String()) ||
		!strings.Contains(err.Error(), silent.Addr().String()) {
		t.Errorf("the error does not name both addresses: %v", err)
	}
	if _, err := w.dialer("n2").Dial(t.Context(), "n1", ALPNRaft); err == nil {
		t.Error("dialed a node without addresses")
	}
}

func TestListenReportsEveryAddress(t *testing.T) {
	w := newWorld(t)
	_, addr := w.listen(Config{Credentials: w.creds("n1")})
	_, err := Listen([]string{addr, "127.0.0.1:99999"}, Config{Credentials: w.creds("n1")})
	if err == nil || !strings.Contains(err.Error(), "another had") || !strings.Contains(err.Error(), "99999") {
		t.Errorf("got %v", err)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	w := newWorld(t)
	m, addr := w.listen(Config{Credentials: w.creds("n1")})
	ln := m.Listener(ALPNRaft)
	d := w.dialer("n2", addr)
	c, err := d.Dial(t.Context(), "n1", ALPNRaft)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	silent, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
	if got, _ := read(t, c); got != "" {
		t.Errorf("open connection gave %q", got)
	}
	if _, err := d.Dial(t.Context(), "n1", ALPNRaft); err == nil {
		t.Error("dialed a closed port")
	}
}
