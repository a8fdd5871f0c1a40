package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"hacluster/api"
	"hacluster/api/apitest"
	"hacluster/lease"
	"hacluster/placement"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// serve puts a world behind a real server on a unix socket, and returns a client for it.
func serve(t *testing.T, w *apitest.World, o api.Options) (*api.Client, string) {
	t.Helper()
	sock := filepath.Join(t.TempDir(), "had.sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	srv := api.NewServer(w, o).HTTP()
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Errorf("shutting down: %v", err)
		}
		<-done
	})
	c := api.NewSocketClient(sock)
	t.Cleanup(c.Close)
	return c, sock
}

func tomcats() *apitest.World {
	w := &apitest.World{}
	w.Update(func(s *api.Status) { *s = apitest.Tomcats(noon) })
	w.OnWrite = func(_ *apitest.World, wr api.Write) (api.Reply, error) {
		return api.Reply{Message: "done", Epoch: 5}, nil
	}
	return w
}

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// ask sends one raw request to a handler.
func ask(h http.Handler, method, path, body string) (*httptest.ResponseRecorder, *api.Error) {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(method, path, strings.NewReader(body)))
	var b struct{ Error *api.Error }
	json.Unmarshal(rec.Body.Bytes(), &b)
	return rec, b.Error
}

func TestEveryRouteAnswersAndEveryRefusalSaysWhatToDo(t *testing.T) {
	big := `{"config":"` + strings.Repeat("x", api.MaxBody) + `"}`
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		code                     api.Code
		text                     string // in the answer
	}{
		{"status", "GET", "/v1/status", "", 200, "", `"leader": "w1"`},
		{"nodes", "GET", "/v1/nodes", "", 200, "", `"name": "n2"`},
		{"one node", "GET", "/v1/nodes/n2", "", 200, "", `"name": "n2"`},
		{"a node that is not there", "GET", "/v1/nodes/n9", "", 404, api.CodeNotFound, "the nodes are: n1, n2, w1"},
		{"groups", "GET", "/v1/groups", "", 200, "", `"owner": "n1"`},
		{"one group", "GET", "/v1/groups/web", "", 200, "", `"epoch": 4`},
		{"a group that is not there", "GET", "/v1/groups/x", "", 404, api.CodeNotFound, "the groups are: web"},
		{"resources", "GET", "/v1/resources", "", 200, "", "CPONG in 2ms"},
		{"events", "GET", "/v1/events", "", 200, "", "[]"},
		{"events since a word", "GET", "/v1/events?since=x", "", 400, api.CodeInvalid, "not the number of an event"},
		{"events with an unknown parameter", "GET", "/v1/events?from=1", "", 400, api.CodeInvalid, `\"from\" is unknown`},
		{"events follow maybe", "GET", "/v1/events?follow=maybe", "", 400, api.CodeInvalid, "neither 0 nor 1"},
		{"timing", "GET", "/v1/timing", "", 200, "", `"fault": "node-loss"`},
		{"version", "GET", "/v1/version", "", 200, "", `"version": "1.2.3"`},
		{"apply", "POST", "/v1/config", `{"config":"x"}`, 200, "", "done"},
		{"apply nothing", "POST", "/v1/config", `{}`, 400, api.CodeInvalid, "the configuration is empty"},
		{"move", "POST", "/v1/groups/web/move", `{"to":"n2"}`, 200, "", "done"},
		{"move without a body", "POST", "/v1/groups/web/move", "", 200, "", "done"},
		{"online", "POST", "/v1/groups/web/online", "", 200, "", "done"},
		{"offline", "POST", "/v1/groups/web/offline", "", 200, "", "done"},
		{"pause", "POST", "/v1/nodes/n1/pause", "", 200, "", "done"},
		{"drain", "POST", "/v1/nodes/n1/drain", `{"force":true}`, 200, "", "done"},
		{"resume", "POST", "/v1/nodes/n1/resume", "", 200, "", "done"},
		{"remove", "DELETE", "/v1/nodes/n1", "", 200, "", "done"},
		{"token", "POST", "/v1/tokens", `{"role":"witness","ttl_ns":3600000000000}`, 200, "", "done"},
		{"token for a king", "POST", "/v1/tokens", `{"role":"king"}`, 400, api.CodeInvalid, "use member or witness"},
		{"token for ever", "POST", "/v1/tokens", `{"ttl_ns":9000000000000000}`, 400, api.CodeInvalid, "one week"},
		{"join without anything", "POST", "/v1/join", `{}`, 400, api.CodeInvalid, "token is missing"},
		{"join refused", "POST", "/v1/join", `{"token":"t","name":"n","id":"i","addresses":["a"],"csr":"AA=="}`, 403, api.CodeUnauthorized, "make a new token"},
		{"unknown route", "GET", "/v1/nonsense", "", 404, api.CodeNotFound, "GET /v1/status"},
		{"root", "GET", "/", "", 404, api.CodeNotFound, "GET /v1/status"},
		{"unclean path", "GET", "/v1//status", "", 404, api.CodeNotFound, "there is no /v1//status"},
		{"path with dots", "GET", "/v1/groups/../status", "", 404, api.CodeNotFound, "there is no"},
		{"slash at the end", "GET", "/v1/status/", "", 404, api.CodeNotFound, "there is no"},
		{"wrong method", "POST", "/v1/status", "", 405, api.CodeMethod, "use GET /v1/status"},
		{"wrong method of two", "PUT", "/v1/nodes/n1", "", 405, api.CodeMethod, "use GET or DELETE"},
		{"unknown field", "POST", "/v1/groups/web/move", `{"target":"n2"}`, 400, api.CodeInvalid, `unknown field \"target\"`},
		{"field of another verb", "POST", "/v1/groups/web/move", `{"ttl_ns":1}`, 400, api.CodeInvalid, `unknown field \"ttl_ns\"`},
		{"wrong type", "POST", "/v1/groups/web/move", `{"to":1}`, 400, api.CodeInvalid, `field \"to\" cannot be a JSON number`},
		{"a list", "POST", "/v1/groups/web/move", `[]`, 400, api.CodeInvalid, "cannot be a JSON array"},
		{"half of it", "POST", "/v1/groups/web/move", `{"to":`, 400, api.CodeInvalid, "ends in the middle"},
		{"garbage", "POST", "/v1/groups/web/move", "\x16\x03\x01", 400, api.CodeInvalid, "is not JSON"},
		{"two values", "POST", "/v1/groups/web/move", `{} {}`, 400, api.CodeInvalid, "more after the JSON value"},
		{"too large", "POST", "/v1/config", big, 413, api.CodeTooLarge, "send at most 1048576 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			rec, e := ask(api.NewServer(tomcats(), api.Options{Node: "n1", Version: "1.2.3"}), c.method, c.path, c.body)
			if rec.Code != c.status || !strings.Contains(rec.Body.String(), c.text) {
				t.Fatalf("got %d %s, want %d with %q", rec.Code, rec.Body, c.status, c.text)
			}
			if ct := rec.Header().Get("Content-Type"); ct != "application/json" {
				t.Errorf("content type %q", ct)
			}
			if c.code == "" {
				return
			}
			if e == nil || e.Code != c.code || e.Message == "" || e.Hint == "" {
				t.Fatalf("refusal is incomplete: %+v", e)
			}
		})
	}
}

func TestAnErrorOfTheBackendIsACompleteRefusal(t *testing.T) {
	for _, c := range []struct {
		name   string
		err    error
		status int
		code   api.Code
		text   string
	}{
		{"no hint of its own", api.Errorf(api.CodeNoQuorum, "", "1 of 3 voters"), 503, api.CodeNoQuorum, "1 of 3 voters"},
		{"wrapped", fmt.Errorf("moving web: %w", api.Errorf(api.CodeRefused, "", "n2 is paused")), 409, api.CodeRefused, "moving web: n2 is paused"},
		{"a deadline", fmt.Errorf("asking the leader: %w", context.DeadlineExceeded), 504, api.CodeTimeout, "asking the leader"},
		{"any other", errors.New("disk on fire"), 500, api.CodeInternal, "disk on fire"},
		{"an unknown code", &api.Error{Code: "odd", Message: "m"}, 500, "odd", "m"},
		{"an empty one", &api.Error{}, 500, api.CodeInternal, "no reason"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := tomcats()
			w.Fail(c.err)
			rec, e := ask(api.NewServer(w, api.Options{}), "GET", "/v1/status", "")
			if rec.Code != c.status || e == nil || e.Code != c.code || !strings.Contains(e.Message, c.text) || e.Hint == "" {
				t.Fatalf("got %d %+v", rec.Code, e)
			}
		})
	}
}

func TestAPanicIsA500AndIsLogged(t *testing.T) {
	w := tomcats()
	w.OnWrite = func(*apitest.World, api.Write) (api.Reply, error) { panic("boom") }
	var log bytes.Buffer
	rec, e := ask(api.NewServer(w, api.Options{Log: slog.New(slog.NewTextHandler(&log, nil))}), "POST", "/v1/groups/web/move", "")
	if rec.Code != 500 || e == nil || e.Code != api.CodeInternal || strings.Contains(rec.Body.String(), "boom") {
		t.Fatalf("got %d %s", rec.Code, rec.Body)
	}
	if !strings.Contains(log.String(), "boom") || !strings.Contains(log.String(), "stack=") {
		t.Fatalf("log: %s", log.String())
	}
}

func TestGroupHealthIs200OnlyWhereTheGroupServes(t *testing.T) {
	for _, c := range []struct {
		name   string
		node   string
		change func(*api.Status)
		status int
		why    string
	}{
		{"the owner, online", "n1", nil, 200, "owns the group"},
		{"a standby", "n2", nil, 503, "the owner is n1"},
		{"the answering node when the server has no name", "", nil, 200, "owns the group"},
		{"the owner, pending", "n1", func(s *api.Status) { s.Groups[0].State = "pending" }, 503, "the group is pending here"},
		{"the owner, releasing", "n1", func(s *api.Status) { s.Groups[0].Phase = placement.PhaseReleasing }, 503, "released"},
		{"no owner", "n1", func(s *api.Status) { s.Groups[0].Owner = "" }, 503, "no node owns"},
		{"cut off, lease alive", "n1", func(s *api.Status) { s.Stale = true }, 200, "owns the group"},
		{"cut off, lease over", "n1", func(s *api.Status) { s.Stale = true; s.Nodes[0].Lease = 0 }, 503, "its lease has ended"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := tomcats()
			if c.change != nil {
				w.Update(c.change)
			}
			rec, _ := ask(api.NewServer(w, api.Options{Node: c.node}), "GET", "/v1/groups/web/health", "")
			var h api.GroupHealth
			if err := json.Unmarshal(rec.Body.Bytes(), &h); err != nil || rec.Code != c.status || !strings.Contains(h.Why, c.why) || h.Serve != (c.status == 200) {
				t.Fatalf("got %d %s (%v)", rec.Code, rec.Body, err)
			}
		})
	}
	rec, e := ask(api.NewServer(tomcats(), api.Options{}), "GET", "/v1/groups/x/health", "")
	if rec.Code != 404 || e == nil {
		t.Fatalf("an unknown group: %d %s", rec.Code, rec.Body)
	}
}

func TestTheJoinServerServesNothingElse(t *testing.T) {
	s := api.NewJoinServer(tomcats(), api.Options{})
	for _, path := range []string{"/v1/status", "/v1/events", "/v1/config", "/v1/tokens", "/v1/groups/web/move"} {
		for _, method := range []string{"GET", "POST"} {
			if rec, e := ask(s, method, path, ""); rec.Code != 404 || e == nil || strings.Contains(e.Hint, "tokens") {
				t.Errorf("%s %s: got %d %s", method, path, rec.Code, rec.Body)
			}
		}
	}
	if rec, _ := ask(s, "POST", "/v1/join", `{}`); rec.Code != 400 {
		t.Errorf("join: got %d %s", rec.Code, rec.Body)
	}
}

func TestAWriteArrivesAsItWasSent(t *testing.T) {
	w := tomcats()
	c, _ := serve(t, w, api.Options{})
	want := []api.Write{
		{Verb: api.VerbApply, Config: "name = \"x\"\n", File: "c.toml", DryRun: true},
		{Verb: api.VerbMove, Group: "web", Node: "n2", Force: true},
		{Verb: api.VerbMove, Group: "a b/c", Node: ""},
		{Verb: api.VerbGroupOnline, Group: "web"},
		{Verb: api.VerbGroupOffline, Group: "web", Force: true},
		{Verb: api.VerbPause, Node: "n1"},
		{Verb: api.VerbDrain, Node: "n1", Force: true},
		{Verb: api.VerbResume, Node: "n1"},
		{Verb: api.VerbRemove, Node: "n1", Force: true},
		{Verb: api.VerbFence, Node: "n2", Action: "off"},
		{Verb: api.VerbFence, Node: "n2", DryRun: true},
		{Verb: api.VerbFenceCheck},
		{Verb: api.VerbFenceCheck, Node: "n2"},
		{Verb: api.VerbToken, Role: placement.RoleWitness, TTL: time.Hour},
	}
	for _, wr := range want {
		if r, err := c.Write(bounded(t), wr); err != nil || r.Epoch != 5 {
			t.Fatalf("%+v: got %+v, %v", wr, r, err)
		}
	}
	if d := cmp.Diff(want, w.Writes()); d != "" {
		t.Fatal(d)
	}
	for _, wr := range []api.Write{{Verb: "fly"}, {Verb: api.VerbMove}, {Verb: api.VerbMove, Group: ".."}, {Verb: api.VerbPause, Group: "web"}} {
		_, err := c.Write(bounded(t), wr)
		var e *api.Error
		if !errors.As(err, &e) || e.Code != api.CodeInvalid || e.Hint == "" {
			t.Errorf("%+v: got %v", wr, err)
		}
	}
}

func TestTheClientReadsWhatTheServerWrites(t *testing.T) {
	w := tomcats()
	w.Happen(placement.Event{Kind: "note"})
	c, _ := serve(t, w, api.Options{Node: "n1", Version: "1.2.3"})
	st, err := c.Status(bounded(t))
	if d := cmp.Diff(apitest.Tomcats(noon), st); d != "" || err != nil {
		t.Fatal(err, d)
	}
	if g, err := c.Group(bounded(t), "web"); err != nil || g.Owner != "n1" {
		t.Fatal(g, err)
	}
	if h, err := c.GroupHealth(bounded(t), "web"); err != nil || !h.Serve {
		t.Fatal(h, err)
	}
	w.Update(func(s *api.Status) { s.Groups[0].Owner = "n2" })
	if h, err := c.GroupHealth(bounded(t), "web"); err != nil || h.Serve || h.Owner != "n2" {
		t.Fatalf("503 with a body is an answer, not an error: %+v, %v", h, err)
	}
	if v, err := c.Version(bounded(t)); err != nil || v.Version != "1.2.3" {
		t.Fatal(v, err)
	}
	if r, err := c.Timing(bounded(t)); err != nil || len(r.Outages) != 5 {
		t.Fatal(r, err)
	}
	if ev, err := c.Events(bounded(t), 0); err != nil || len(ev) != 1 {
		t.Fatal(ev, err)
	}
	if ev, err := c.Events(bounded(t), 1); err != nil || len(ev) != 0 {
		t.Fatal(ev, err)
	}
}

func TestAStatusWithoutTimingGetsThatOfItsProfile(t *testing.T) {
	w := tomcats()
	w.Update(func(s *api.Status) { s.Timing, s.Profile = lease.Timing{}, lease.WAN })
	c, _ := serve(t, w, api.Options{})
	r, err := c.Timing(bounded(t))
	want, _ := lease.Derive(lease.WAN, lease.Address, lease.Overrides{})
	if err != nil || r.Timing != want {
		t.Fatalf("got %+v, %v", r.Timing, err)
	}
}

func TestAForwardedCallSaysWhoForwardedIt(t *testing.T) {
	var got string
	w := &forwardProbe{World: tomcats(), by: &got}
	h := api.NewServer(w, api.Options{})
	srv := httptest.NewServer(h)
	defer srv.Close()
	c := api.NewClient("the test server", func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", srv.Listener.Addr().String())
	})
	defer c.Close()
	c.By = "n3"
	if _, err := c.Status(bounded(t)); err != nil || got != "n3" {
		t.Fatalf("got %q, %v", got, err)
	}
}

type forwardProbe struct {
	*apitest.World
	by *string
}

func (f *forwardProbe) Status(ctx context.Context) (api.Status, error) {
	*f.by = api.ForwardedBy(ctx)
	return f.World.Status(ctx)
}

func TestWhatGoesWrongBetweenClientAndAgentIsTold(t *testing.T) {
	answer := func(t *testing.T, h http.HandlerFunc) *api.Client {
		srv := httptest.NewServer(h)
		t.Cleanup(srv.Close)
		c := api.NewClient("the test server", func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", srv.Listener.Addr().String())
		})
		t.Cleanup(c.Close)
		return c
	}
	check := func(t *testing.T, err error, code api.Code, text string) {
		t.Helper()
		var e *api.Error
		if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Message+" "+e.Hint, text) || e.Hint == "" {
			t.Fatalf("got %#v, want %s with %q", err, code, text)
		}
	}
	t.Run("no socket", func(t *testing.T) {
		_, err := api.NewSocketClient(filepath.Join(t.TempDir(), "none")).Status(bounded(t))
		check(t, err, api.CodeUnreachable, "start the agent")
	})
	t.Run("dial knows better", func(t *testing.T) {
		c := api.NewClient("x", func(context.Context) (net.Conn, error) { return nil, api.Errorf(api.CodeUnauthorized, "h", "m") })
		_, err := c.Status(bounded(t))
		check(t, err, api.CodeUnauthorized, "m")
	})
	t.Run("no answer in time", func(t *testing.T) {
		c := answer(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		_, err := c.Status(ctx)
		check(t, err, api.CodeTimeout, "did not answer in time")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal("the cause is lost")
		}
	})
	t.Run("cut in the middle", func(t *testing.T) {
		c := answer(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, "{")
		})
		_, err := c.Status(bounded(t))
		check(t, err, api.CodeUnreachable, "reading the answer")
	})
	t.Run("not JSON", func(t *testing.T) {
		c := answer(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") })
		_, err := c.Status(bounded(t))
		check(t, err, api.CodeInternal, "is not understood")
	})
	t.Run("a refusal of someone else", func(t *testing.T) {
		c := answer(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "nginx", http.StatusBadGateway) })
		_, err := c.Status(bounded(t))
		check(t, err, api.CodeInternal, "HTTP 502")
	})
	t.Run("a newer agent", func(t *testing.T) {
		c := answer(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"cluster":"c","new_field":1}`) })
		if st, err := c.Status(bounded(t)); err != nil || st.Cluster != "c" {
			t.Fatal(st, err)
		}
	})
}

func TestOutagesAreOrderedAndHoldTheLease(t *testing.T) {
	for _, c := range []struct {
		p lease.Profile
		l lease.Layer
	}{{lease.Fast, lease.Address}, {lease.Fast, lease.Gate}, {lease.LAN, lease.Address}, {lease.LAN, lease.Gate}, {lease.WAN, lease.Address}, {lease.WAN, lease.Gate}} {
		p := string(c.p) + ", " + string(c.l)
		timing, err := lease.Derive(c.p, c.l, lease.Overrides{})
		if err != nil {
			t.Fatal(err)
		}
		hot := api.Outages(timing, api.Load{})
		cold := api.Outages(timing, api.Load{Start: 4 * time.Second, StopBudget: time.Second})
		for i, o := range hot {
			if o.Best > o.Typical || o.Typical > o.Worst || o.Best < 0 || o.How == "" {
				t.Errorf("%s: %+v is not ordered", p, o)
			}
			if cold[i].Worst < o.Worst+4*time.Second {
				t.Errorf("%s: a cold %s is no slower: %+v", p, o.Fault, cold[i])
			}
		}
		min := timing.TakeoverWait(0) - timing.Renew
		if timing.Pulse > 0 {
			min = timing.PulseWait() - timing.Pulse
		}
		if hot[0].Fault != "node-loss" || hot[0].Best < min || cold[0].Best < timing.TakeoverWait(time.Second)-timing.Renew {
			t.Errorf("%s: %+v, %+v promise less than the lease or the pulse, %v", p, hot[0], cold[0], min)
		}
		if worst := timing.TakeoverWait(0) + 3*timing.Heartbeat + timing.Election; hot[0].Worst < worst || hot[1].Worst < hot[0].Worst-timing.Served() {
			t.Errorf("%s: %+v, %+v say less than what a new leader waits, %v", p, hot[0], hot[1], worst)
		}
	}
	// What the default profile promises, on either layer, and fast with the gate.
	for _, c := range []struct {
		p    lease.Profile
		l    lease.Layer
		loss time.Duration
	}{{lease.LAN, lease.Address, 2 * time.Second}, {lease.LAN, lease.Gate, time.Second}, {lease.Fast, lease.Gate, 160 * time.Millisecond}} {
		timing, _ := lease.Derive(c.p, c.l, lease.Overrides{})
		for i, limit := range map[int]time.Duration{0: c.loss, 2: 150 * time.Millisecond, 4: 100 * time.Millisecond} {
			if o := api.Outages(timing, api.Load{})[i]; o.Typical > limit {
				t.Errorf("%s, %s: %+v is over %v", c.p, c.l, o, limit)
			}
		}
	}
}

var ignoreUnexported = cmpopts.IgnoreUnexported(api.Error{})

// An agent that is killed after it has promised: its gates shut 45 ms before the promise ends, and another node takes over after that.
func TestTheLossOfAnAgentThatPromisedIsSeen(t *testing.T) {
	timing, err := lease.Derive(lease.Fast, lease.Gate, lease.Overrides{})
	if err != nil {
		t.Fatal(err)
	}
	gap := timing.PulseWait() - (timing.PulseBound - 45*time.Millisecond)
	hot := api.Outages(timing, api.Load{})[1]
	if hot.Fault != "agent-loss" || hot.Best != 0 || hot.Typical < gap || hot.Typical > gap+50*time.Millisecond {
		t.Errorf("%+v; the gates are shut for %v before anybody may act", hot, gap)
	}
	for name, l := range map[string]api.Load{"cold": {Start: time.Millisecond}, "stopped in order": {Stop: time.Millisecond}, "exclusive": {StopBudget: time.Millisecond}} {
		if o := api.Outages(timing, l)[1]; o.Typical != 0 {
			t.Errorf("%s: %+v: such a group is not given away by a pulse", name, o)
		}
	}
}

func TestARefusalSurvivesTheWire(t *testing.T) {
	w := tomcats()
	want := &api.Error{Status: 400, Code: api.CodeInvalid, Message: "2 faults", Hint: "correct them", Faults: []string{"a", "b"}}
	w.OnWrite = func(*apitest.World, api.Write) (api.Reply, error) { return api.Reply{}, want }
	c, _ := serve(t, w, api.Options{})
	_, err := c.Write(bounded(t), api.Write{Verb: api.VerbApply, Config: "x"})
	var got *api.Error
	if !errors.As(err, &got) {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, ignoreUnexported); d != "" {
		t.Fatal(d)
	}
}
