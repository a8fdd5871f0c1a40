package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"testing"

	"hacluster/placement"
)

// FuzzRequests sends any body to any write: the answer is an accepted write or a complete refusal, never a panic.
func FuzzRequests(f *testing.F) {
	for _, s := range []string{"", "{}", `{"to":"n2","force":true}`, `{"config":"x","dry_run":true}`, `{"role":"witness","ttl_ns":1}`, `[1]`, "null", "{\"to\":\xff}",
		`{"to":{"to":{}}}`, `{"ttl_ns":1e99}`, `{"TO":"x"}`, `{"token":"t","name":"n","id":"i","addresses":["a"],"csr":"AA=="}`} {
		f.Add([]byte(s))
	}
	bodies := func() []any { return []any{&applyBody{}, &moveBody{}, &forceBody{}, &tokenBody{}, &noBody{}, &Join{}} }
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, v := range bodies() {
			err := readJSON(bytes.NewReader(b), v)
			if err == nil {
				if len(bytes.TrimSpace(b)) > 0 && !json.Valid(b) {
					t.Fatalf("%T accepts %q, which is no JSON", v, b)
				}
				continue
			}
			var e *Error
			if !errors.As(err, &e) || e.Code != CodeInvalid || e.Message == "" || e.Hint == "" {
				t.Fatalf("%T refuses %q without a reason: %#v", v, b, err)
			}
		}
	})
}

// FuzzAnswers lets a client read any answer.
func FuzzAnswers(f *testing.F) {
	f.Add(500, []byte(`{"error":{"code":"internal","message":"m"}}`))
	f.Add(503, []byte(`{"serve":false}`))
	f.Add(200, []byte(`{}`))
	f.Add(404, []byte(`{"error":null}`))
	f.Fuzz(func(t *testing.T, status int, b []byte) {
		if e := refusal(status, b); e != nil && (e.Message == "" || e.Hint == "" || e.Code == "") {
			t.Fatalf("incomplete: %+v", e)
		}
	})
}

// FuzzEventStream lets a client read any stream.
func FuzzEventStream(f *testing.F) {
	f.Add([]byte("retry: 1000\n\nid: 1\ndata: {\"seq\":1}\n\n: alive\n\n"))
	f.Add([]byte("data: {\ndata: \"seq\":2}\n\n"))
	f.Add([]byte("data\n\ndata:\n\n\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := readEvents(bytes.NewReader(b), func(placement.Event) error { return nil }); err == nil {
			t.Fatal("a stream ended without an error")
		}
	})
}

// FuzzEventsQuery lets anyone ask for events.
func FuzzEventsQuery(f *testing.F) {
	f.Add("since=1&follow=1", "2")
	f.Add("since=-1", "")
	f.Add("%zz", "x")
	f.Fuzz(func(t *testing.T, query, last string) {
		r := httptest.NewRequest("GET", "/v1/events", nil)
		r.URL.RawQuery = query
		r.Header.Set("Last-Event-ID", last)
		if _, _, err := eventsQuery(r); err != nil && AsError(err).Code != CodeInvalid {
			t.Fatal(err)
		}
	})
}
