package health

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"
)

// peer listens on loopback and hands each connection to serve until the test ends.
func peer(t *testing.T, serve func(net.Conn)) (port int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	closed := false
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			if closed {
				c.Close()
			}
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		closed = true
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().(*net.TCPAddr).Port
}

// Hostile and friendly peers.
func silent(c net.Conn)  { io.Copy(io.Discard, c) }
func closing(c net.Conn) { io.ReadFull(c, make([]byte, 1)) }
func reset(c net.Conn) {
	io.ReadFull(c, make([]byte, 1))
	c.(*net.TCPConn).SetLinger(0)
}
func saying(b string) func(net.Conn) {
	return func(c net.Conn) {
		io.ReadFull(c, make([]byte, 5))
		io.WriteString(c, b)
		io.Copy(io.Discard, c)
	}
}

// dripping sends one byte at a time, slower than a probe likes, and never ends.
func dripping(prefix string, every time.Duration) func(net.Conn) {
	return func(c net.Conn) {
		io.ReadFull(c, make([]byte, 1)) // an answer before the question is another fault
		go io.Copy(io.Discard, c)
		for i := 0; ; i++ {
			b := byte('x')
			if i < len(prefix) {
				b = prefix[i]
			}
			if _, err := c.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(every)
		}
	}
}

// refused is a port where nobody listens, as it was just given back.
func refused(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	ln.Close()
	return port
}

// slack is what a loaded test machine may add to a bound.
const slack = 500 * time.Millisecond

// check runs one check with no deadline of its own and holds it to the probe's.
func check(t *testing.T, s Spec) Result {
	t.Helper()
	s.Name = "probe"
	if s.Timeout == 0 {
		s.Timeout = 5 * time.Second
	}
	p, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	r := p.Check(context.Background())
	if took := time.Since(begin); took > s.Timeout+Epsilon+slack {
		t.Errorf("the check took %v, timeout %v", took, s.Timeout)
	}
	if r.Probe != "probe" || r.Detail == "" || r.At.IsZero() || r.Latency <= 0 {
		t.Errorf("incomplete result %+v", r)
	}
	return r
}

func expect(t *testing.T, got Result, want Outcome, detail string) {
	t.Helper()
	if got.Outcome != want || !strings.Contains(got.Detail, detail) {
		t.Errorf("got %s (%s), want %s (...%s...)", got.Outcome, got.Detail, want, detail)
	}
}

const brief = 150 * time.Millisecond // timeout where the peer never answers

func TestTCP(t *testing.T) {
	t.Run("a listening port passes", func(t *testing.T) {
		expect(t, check(t, Spec{Kind: KindTCP, Host: "127.0.0.1", Port: peer(t, silent)}), Pass, "connected")
	})
	t.Run("a port where nobody listens fails", func(t *testing.T) {
		expect(t, check(t, Spec{Kind: KindTCP, Host: "127.0.0.1", Port: refused(t)}), Fail, "refused")
	})
	t.Run("of all addresses of a name the most telling counts", func(t *testing.T) {
		expect(t, check(t, Spec{Kind: KindTCP, Host: "localhost", Port: refused(t)}), Fail, "refused")
	})
	t.Run("a name that does not resolve is no evidence", func(t *testing.T) {
		expect(t, check(t, Spec{Kind: KindTCP, Host: "no-such-host.invalid", Port: 80, Timeout: time.Second}), Skip, "resolving")
	})
}

func TestAJP(t *testing.T) {
	pong := string(cpong)
	tests := []struct {
		name    string
		serve   func(net.Conn)
		timeout time.Duration
		want    Outcome
		detail  string
	}{
		{"a CPONG passes", saying(pong), 0, Pass, "CPONG"},
		{"a CPONG byte by byte in time passes", dripping(pong, time.Millisecond), 0, Pass, "CPONG"},
		{"a peer that accepts and never answers times out", silent, brief, Timeout, "in time"},
		{"a peer that accepts and closes fails", closing, 0, Fail, ""},
		{"a peer that resets fails", reset, 0, Fail, ""},
		{"garbage fails at once", saying("HTTP/1.1 400 Bad Request\r\n"), 0, Fail, "not a CPONG: got 48"},
		{"half a frame of something else fails at once", saying("AB\x00\x02"), 0, Fail, "not a CPONG: got 41 42 00 02"},
		{"half a CPONG times out", saying(pong[:3]), brief, Timeout, "in time"},
		{"bytes slower than the timeout time out", dripping(pong, 100*time.Millisecond), brief, Timeout, "in time"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			expect(t, check(t, Spec{Kind: KindAJP, Host: "127.0.0.1", Port: peer(t, tt.serve), Timeout: tt.timeout}), tt.want, tt.detail)
		})
	}
	t.Run("a slow CPONG warns", func(t *testing.T) {
		port := peer(t, dripping(pong, 20*time.Millisecond))
		expect(t, check(t, Spec{Kind: KindAJP, Host: "127.0.0.1", Port: port, MaxLatency: 30 * time.Millisecond}), Warn, "slow")
	})
}

func TestAJPSendsACPING(t *testing.T) {
	got := make(chan []byte, 1)
	port := peer(t, func(c net.Conn) {
		b := make([]byte, 5)
		io.ReadFull(c, b)
		got <- b
		c.Write(cpong)
	})
	expect(t, check(t, Spec{Kind: KindAJP, Host: "127.0.0.1", Port: port}), Pass, "")
	if b, want := <-got, []byte{0x12, 0x34, 0, 1, 0x0a}; !bytes.Equal(b, want) {
		t.Errorf("got % x, want % x", b, want)
	}
}

// answers serves CPONGs until the connection ends, or until it has given as many as it may.
func answers(limit int) func(net.Conn) {
	return func(c net.Conn) {
		b := make([]byte, len(cping))
		for range limit {
			if _, err := io.ReadFull(c, b); err != nil {
				return
			}
			c.Write(cpong)
		}
	}
}

func TestAJPKeepsItsConnection(t *testing.T) {
	var conns atomic.Int64
	var serve atomic.Pointer[func(net.Conn)]
	port := peer(t, func(c net.Conn) { conns.Add(1); (*serve.Load())(c) })
	steps := []struct {
		name  string
		serve func(net.Conn)
		asks  int
		want  Outcome
		conns int64 // made by the end of this step
	}{
		{"one connection for many questions", answers(100), 20, Pass, 1},
		{"a kept connection that the connector has closed is replaced in the same check", nil, 1, Pass, 2},
		{"silence on a kept connection is a timeout", nil, 1, Timeout, 2},
		{"then a new one is made", answers(100), 2, Pass, 3},
	}
	p := &ajpProbe{host: "127.0.0.1", port: strconv.Itoa(port), keep: time.Hour}
	ask := func() answer {
		ctx, cancel := context.WithTimeout(t.Context(), brief)
		defer cancel()
		return p.ask(ctx)
	}
	once, quiet := answers(1), func(c net.Conn) { answers(1)(c); silent(c) }
	for _, s := range steps {
		switch {
		case s.conns == 2 && s.want == Pass:
			p.conn.Close() // as a connector does, but without waiting for its FIN
			serve.Store(&quiet)
		case s.serve != nil:
			serve.Store(&s.serve)
		}
		for range s.asks {
			if got := ask(); got.outcome != s.want {
				t.Fatalf("%s: got %s (%s), want %s", s.name, got.outcome, got.detail, s.want)
			}
		}
		if n := conns.Load(); n != s.conns {
			t.Errorf("%s: %d connections, want %d", s.name, n, s.conns)
		}
	}

	t.Run("the peer's own end of it", func(t *testing.T) {
		serve.Store(&once)
		p := &ajpProbe{host: p.host, port: p.port, keep: time.Hour}
		for i := range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if got := p.ask(ctx); got.outcome != Pass {
				t.Errorf("question %d: %s (%s)", i, got.outcome, got.detail)
			}
			cancel()
		}
	})
	t.Run("not for ever", func(t *testing.T) {
		many := answers(100)
		serve.Store(&many)
		p := &ajpProbe{host: p.host, port: p.port, keep: time.Millisecond}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		before := conns.Load()
		for conns.Load() < before+2 && ctx.Err() == nil {
			if got := p.ask(ctx); got.outcome != Pass {
				t.Fatalf("%s: %s", got.outcome, got.detail)
			}
		}
		if ctx.Err() != nil {
			t.Error("one connection was used for seconds")
		}
	})
}

func FuzzReadPong(f *testing.F) {
	for _, s := range []string{"", "A", string(cpong), "AB\x00\x01\x09more", "AB\x00\x02", "\x12\x34\x00\x01\x0a", "HTTP/1.1 200 OK"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		want := bytes.HasPrefix(b, cpong)
		whole := bytes.NewReader(b)
		if err := readPong(whole); (err == nil) != want {
			t.Errorf("whole % x: %v", b, err)
		}
		if read := len(b) - whole.Len(); read > len(cpong) {
			t.Errorf("read %d bytes", read)
		}
		if err := readPong(iotest.OneByteReader(bytes.NewReader(b))); (err == nil) != want {
			t.Errorf("byte by byte % x: %v", b, err)
		}
	})
}

func TestHTTPAnswers(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Role", "primary")
		fmt.Fprintf(w, "status=UP host=%s token=%s user=%s", r.Host, r.Header.Get("X-Token"), r.Header.Get("Authorization"))
	})
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/broken", http.StatusFound) })
	mux.HandleFunc("/broken", func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusServiceUnavailable) })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) { time.Sleep(50 * time.Millisecond) })
	mux.HandleFunc("/huge", func(w http.ResponseWriter, r *http.Request) {
		for chunk := bytes.Repeat([]byte("x"), 32<<10); ; {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/late-match", func(w http.ResponseWriter, r *http.Request) {
		w.Write(bytes.Repeat([]byte("x"), maxBody))
		io.WriteString(w, "UP")
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)

	tests := []struct {
		name   string
		path   string
		spec   Spec
		want   Outcome
		detail string
	}{
		{"200 passes", "/ok", Spec{}, Pass, "200 OK"},
		{"503 fails", "/broken", Spec{}, Fail, "503"},
		{"503 passes when it is wanted", "/broken", Spec{Status: []int{503}}, Pass, "503"},
		{"200 fails when it is not wanted", "/ok", Spec{Status: []int{204}}, Fail, "200"},
		{"a redirect is an answer and not followed", "/moved", Spec{}, Pass, "302"},
		{"a body that matches passes", "/ok", Spec{Body: `status=UP\b`}, Pass, ""},
		{"a body that does not match fails", "/ok", Spec{Body: "DOWN"}, Fail, "do not match"},
		{"a request header is sent", "/ok", Spec{Header: map[string]string{"X-Token": "abc"}, Body: "token=abc"}, Pass, ""},
		{"a Host header is sent as the host", "/ok", Spec{Header: map[string]string{"host": "app.example"}, Body: "host=app.example"}, Pass, ""},
		{"a wanted header passes", "/ok", Spec{WantHeader: map[string]string{"x-role": "^prim"}}, Pass, ""},
		{"a wrong header fails", "/ok", Spec{WantHeader: map[string]string{"X-Role": "^standby$"}}, Fail, "header X-Role"},
		{"a missing header fails", "/ok", Spec{WantHeader: map[string]string{"X-None": ""}}, Fail, "header X-None"},
		{"a slow answer warns", "/slow", Spec{MaxLatency: 20 * time.Millisecond}, Warn, "slow"},
		{"an endless body is read to its bound", "/huge", Spec{Body: "^x+$"}, Pass, ""},
		{"beyond the bound nothing matches", "/late-match", Spec{Body: "UP"}, Fail, "65536 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.spec.Kind, tt.spec.URL = KindHTTP, srv.URL+tt.path
			expect(t, check(t, tt.spec), tt.want, tt.detail)
		})
	}
}

func TestHTTPHostilePeers(t *testing.T) {
	tests := []struct {
		name    string
		serve   func(net.Conn)
		timeout time.Duration
		want    Outcome
	}{
		{"a peer that accepts and never answers times out", silent, brief, Timeout},
		{"a peer that accepts and closes fails", closing, 0, Fail},
		{"a peer that resets fails", reset, 0, Fail},
		{"a start that could yet become a status line is waited for", saying(string(cpong)), brief, Timeout},
		{"a line of garbage fails", saying("hello\r\n\r\n"), 0, Fail},
		{"a header byte by byte times out", dripping("HTTP/1.1 200 OK\r\nX: ", 10*time.Millisecond), brief, Timeout},
		{"an endless header fails", func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			for line := "X-Pad: " + strings.Repeat("x", 1000) + "\r\n"; ; {
				if _, err := io.WriteString(c, line); err != nil {
					return
				}
			}
		}, 0, Fail},
		{"a body that stalls times out", saying("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"), brief, Timeout},
		{"a body cut short fails", func(c net.Conn) {
			c.Read(make([]byte, 4096))
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
			c.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, c)
		}, 0, Fail},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			url := fmt.Sprintf("http://127.0.0.1:%d/", peer(t, tt.serve))
			expect(t, check(t, Spec{Kind: KindHTTP, URL: url, Timeout: tt.timeout}), tt.want, "")
		})
	}
	t.Run("a port where nobody listens fails", func(t *testing.T) {
		expect(t, check(t, Spec{Kind: KindHTTP, URL: fmt.Sprintf("http://127.0.0.1:%d/", refused(t))}), Fail, "refused")
	})
	t.Run("a name that does not resolve is no evidence", func(t *testing.T) {
		expect(t, check(t, Spec{Kind: KindHTTP, URL: "http://no-such-host.invalid/", Timeout: time.Second}), Skip, "resolving")
	})
}

// A kept connection can be served by a thread that still lives while no new connection is accepted.
func TestHTTPOpensANewConnectionForEachCheckAndUsesNoProxy(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("http_proxy", "http://127.0.0.1:1")
	var conns atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	p, err := New(Spec{Name: "web", Kind: KindHTTP, URL: srv.URL, Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		expect(t, p.Check(t.Context()), Pass, "")
	}
	if got := conns.Load(); got != 3 {
		t.Errorf("got %d connections for 3 checks", got)
	}
}

// authority makes a CA file and a server certificate for the name app.example that it signed.
func authority(t *testing.T) (caFile string, cert tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"app.example"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return caFile, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestHTTPS(t *testing.T) {
	caFile, cert := authority(t)
	otherCA, _ := authority(t)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // of the handshakes that must fail
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	tests := []struct {
		name   string
		spec   Spec
		want   Outcome
		detail string
	}{
		{"the right CA and name pass", Spec{CAFile: caFile, ServerName: "app.example"}, Pass, ""},
		{"the wrong CA fails", Spec{CAFile: otherCA, ServerName: "app.example"}, Fail, "certificate"},
		{"the wrong name fails", Spec{CAFile: caFile, ServerName: "other.example"}, Fail, "other.example"},
		{"the name is that of the URL unless given", Spec{CAFile: caFile}, Fail, "127.0.0.1"},
		{"the system roots do not know it", Spec{ServerName: "app.example"}, Fail, "certificate"},
		{"a CA file that is missing is no evidence", Spec{CAFile: caFile + ".none"}, Skip, "reading the CA file"},
		{"an empty CA file is no evidence", Spec{CAFile: empty}, Skip, "no certificate"},
		{"a server without TLS fails", Spec{CAFile: caFile, URL: strings.Replace(plain.URL, "http:", "https:", 1)}, Fail, ""},
		{"a TLS peer that never answers times out", Spec{URL: fmt.Sprintf("https://127.0.0.1:%d", peer(t, silent)), Timeout: brief}, Timeout, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.spec.Kind = KindHTTP
			if tt.spec.URL == "" {
				tt.spec.URL = srv.URL
			}
			expect(t, check(t, tt.spec), tt.want, tt.detail)
		})
	}
}
