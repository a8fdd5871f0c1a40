package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestTheAnswerNamesNodeAndEpoch(t *testing.T) {
	srv := httptest.NewServer(handler(options{name: "n1", epoch: "7"}, newHang()))
	defer srv.Close()
	resp, err := http.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(b); !strings.HasPrefix(got, "node=n1 pid=") || !strings.HasSuffix(got, " epoch=7\n") {
		t.Errorf("answer %q", got)
	}
}

func TestAHungServiceAcceptsButDoesNotAnswerUntilResumed(t *testing.T) {
	h := newHang()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go serveAJP(ln, h)
	h.set(true)
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte{0x12, 0x34, 0, 1, ajpPing}); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := c.Read(got); err == nil {
		t.Fatalf("answered %d bytes while hung", n)
	}
	h.set(false)
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, ajpPong) {
		t.Errorf("after resume: % x, %v", got, err)
	}
}

func TestServeEndsWithItsContextEvenWhileStartingLate(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := serve(ctx, options{startDelay: time.Hour}, io.Discard); err != nil {
		t.Error(err)
	}
}

func FuzzReadAJP(f *testing.F) {
	f.Add([]byte{0x12, 0x34, 0, 1, 0x0a})
	f.Add([]byte{0x12, 0x34, 0xff, 0xff})
	f.Add([]byte{0x41, 0x42, 0, 1, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		body, err := readAJP(bytes.NewReader(b))
		if err == nil && (len(body) == 0 || len(body) > ajpMaxLen || len(body)+4 > len(b)) {
			t.Errorf("body of %d bytes out of %d", len(body), len(b))
		}
	})
}
