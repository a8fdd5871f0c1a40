package api_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hacluster/api"
	"hacluster/api/apitest"
	"hacluster/placement"
)

// stream opens the raw event stream.
func stream(t *testing.T, sock, path string, header map[string]string) *bufio.Scanner {
	t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", sock)
	}}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	req, err := http.NewRequestWithContext(ctx, "GET", "http://had"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); res.Body.Close(); tr.CloseIdleConnections() })
	if ct := res.Header.Get("Content-Type"); ct != "text/event-stream" {
		t.Fatalf("content type %q", ct)
	}
	return bufio.NewScanner(res.Body)
}

// until returns the lines up to the first that has the prefix.
func until(t *testing.T, sc *bufio.Scanner, prefix string) (lines []string) {
	t.Helper()
	for sc.Scan() {
		lines = append(lines, sc.Text())
		if strings.HasPrefix(sc.Text(), prefix) {
			return lines
		}
	}
	t.Fatalf("no line %q in %q: %v", prefix, lines, sc.Err())
	return nil
}

func TestAStreamSendsOldAndNewEventsAndStaysAlive(t *testing.T) {
	w := tomcats()
	w.Happen(placement.Event{Kind: "note"}, placement.Event{Kind: "note"})
	_, sock := serve(t, w, api.Options{Heartbeat: 20 * time.Millisecond})
	for _, c := range []struct {
		name, path string
		header     map[string]string
		first      string
	}{
		{"from the beginning", "/v1/events?follow=1", nil, "id: 1"},
		{"by accept header", "/v1/events?since=1", map[string]string{"Accept": "text/event-stream"}, "id: 2"},
		{"last event id wins over since", "/v1/events?since=0&follow=1", map[string]string{"Last-Event-ID": "1"}, "id: 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			sc := stream(t, sock, c.path, c.header)
			lines := until(t, sc, "id: ")
			if got := lines[len(lines)-1]; got != c.first || lines[0] != "retry: 1000" {
				t.Fatalf("got %q, want first %q", lines, c.first)
			}
			until(t, sc, ": alive")
		})
	}
	sc := stream(t, sock, "/v1/events?follow=1&since=2", nil)
	until(t, sc, ": alive")
	w.Happen(placement.Event{Kind: "note"})
	until(t, sc, "id: 3")
	until(t, sc, `data: {"seq":3`)
}

func TestAStreamOutlivesTheTimeARequestMayTakeToArrive(t *testing.T) {
	srv := httptest.NewUnstartedServer(nil)
	srv.Config = api.NewServer(tomcats(), api.Options{Heartbeat: 10 * time.Millisecond}).HTTP()
	srv.Config.ReadTimeout = 50 * time.Millisecond
	srv.Start()
	defer srv.Close()
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", srv.URL+"/v1/events?follow=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	sc := bufio.NewScanner(res.Body)
	for range 20 {
		until(t, sc, ": alive")
	}
}

func TestShuttingTheServerDownEndsItsStreams(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "had.sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	srv := api.NewServer(tomcats(), api.Options{Heartbeat: time.Minute}).HTTP()
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
	sc := stream(t, sock, "/v1/events?follow=1", nil)
	until(t, sc, "retry:")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		t.Fatalf("shutting down with an open stream: %v", err)
	}
	for sc.Scan() { // to its end
	}
}

func TestAnEventThatIsSentAgainIsNotSeenAgain(t *testing.T) {
	// An agent that ignores Last-Event-ID, such as one behind a cache.
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "id: 1\ndata: {\"seq\":1}\n\nid: 2\ndata: {\"seq\":2}\n\n")
	}))
	defer srv.Close()
	c := api.NewClient("the test server", func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", srv.Listener.Addr().String())
	})
	defer c.Close()
	ctx, cancel := context.WithCancel(bounded(t))
	var got []uint64
	lost := 0
	c.Follow(ctx, 0, func(e placement.Event) error { got = append(got, e.Seq); return nil }, func(error) {
		if lost++; lost == 2 {
			cancel()
		}
	})
	if len(got) != 2 {
		t.Fatalf("got %v", got)
	}
}

// flaky hands out connections that it can cut.
type flaky struct {
	sock  string
	mu    sync.Mutex
	conns []net.Conn
	dials int
}

func (f *flaky) dial(ctx context.Context) (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dials++; f.dials == 3 {
		return nil, errors.New("no route to host")
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", f.sock)
	if err == nil {
		f.conns = append(f.conns, c)
	}
	return c, err
}

func (f *flaky) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		c.Close()
	}
	f.conns = nil
}

func TestFollowSurvivesCutsAndDeliversEachEventOnce(t *testing.T) {
	w := tomcats()
	w.Happen(placement.Event{Kind: "note"}, placement.Event{Kind: "note"})
	_, sock := serve(t, w, api.Options{Heartbeat: 10 * time.Millisecond})
	f := &flaky{sock: sock}
	c := api.NewClient("the test server", f.dial)
	defer c.Close()
	var got []uint64
	lost := 0
	enough := errors.New("enough")
	err := c.Follow(bounded(t), 0, func(e placement.Event) error {
		got = append(got, e.Seq)
		switch e.Seq {
		case 2, 4:
			f.cut()
			w.Happen(placement.Event{Kind: "note"}, placement.Event{Kind: "note"})
		case 6:
			return enough
		}
		return nil
	}, func(error) { lost++ })
	if err != enough || lost < 2 {
		t.Fatalf("got %v after %d losses", err, lost)
	}
	for i, seq := range got {
		if seq != uint64(i+1) {
			t.Fatalf("got %v, want each once and in order", got)
		}
	}
}

func TestFollowEndsWhereItCannotHelp(t *testing.T) {
	t.Run("the first connection fails", func(t *testing.T) {
		err := api.NewSocketClient("/nonexistent").Follow(bounded(t), 0, nil, nil)
		var e *api.Error
		if !errors.As(err, &e) || e.Code != api.CodeUnreachable {
			t.Fatal(err)
		}
	})
	t.Run("the agent refuses", func(t *testing.T) {
		w := tomcats()
		w.Fail(api.Errorf(api.CodeNoQuorum, "", "none"))
		c, _ := serve(t, w, api.Options{})
		var e *api.Error
		if err := c.Follow(bounded(t), 0, nil, nil); !errors.As(err, &e) || e.Code != api.CodeNoQuorum {
			t.Fatal(err)
		}
	})
	t.Run("time is up", func(t *testing.T) {
		c, _ := serve(t, &apitest.World{}, api.Options{})
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
		defer cancel()
		if err := c.Follow(ctx, 0, nil, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	})
}

func TestAnEventStreamThatIsNoneIsNotFollowedForEver(t *testing.T) {
	// Garbage instead of events: every attempt fails, and the caller's context ends it.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "data: {\n\n") })}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	defer func() { srv.Close(); <-done }()
	c := api.NewClient("garbage", func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", l.Addr().String())
	})
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	lost := 0
	err = c.Follow(ctx, 0, nil, func(err error) {
		if lost++; lost == 2 {
			cancel()
		}
	})
	if lost != 2 || !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v after %d", err, lost)
	}
}
