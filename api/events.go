package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"hacluster/placement"
)

// streamWrite bounds one write to a follower: one that does not read is cut off instead of holding memory.
const streamWrite = 10 * time.Second

// events answers with the events newer than since: a JSON list, or a stream that goes on (server-sent events, see
// https://html.spec.whatwg.org/multipage/server-sent-events.html).
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	since, follow, err := eventsQuery(r)
	if err != nil {
		writeError(w, err)
		return
	}
	events, changed, err := s.backend.Events(r.Context(), since)
	if err != nil {
		writeError(w, err)
		return
	}
	if !follow {
		if events == nil {
			events = []placement.Event{}
		}
		writeJSON(w, http.StatusOK, events)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	if err := s.stream(w, r, since, events, changed); err != nil {
		s.opt.Log.Debug("event stream ended", "remote", r.RemoteAddr, "err", err)
	}
}

// stream writes events until the client leaves, the server closes or the backend refuses.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, since uint64, events []placement.Event, changed <-chan struct{}) error {
	rc := http.NewResponseController(w)
	send := func(b []byte) error {
		if err := rc.SetWriteDeadline(time.Now().Add(streamWrite)); err != nil {
			return fmt.Errorf("bounding the write: %w", err)
		}
		if _, err := w.Write(b); err != nil {
			return fmt.Errorf("writing to the follower: %w", err)
		}
		return rc.Flush()
	}
	if err := send([]byte("retry: 1000\n\n")); err != nil {
		return err
	}
	beat := time.NewTicker(s.opt.Heartbeat)
	defer beat.Stop()
	for {
		var buf bytes.Buffer
		for _, e := range events {
			if err := encodeEvent(&buf, e); err != nil {
				return err
			}
			since = max(since, e.Seq)
		}
		if buf.Len() > 0 {
			if err := send(buf.Bytes()); err != nil {
				return err
			}
		}
		events = nil
		select {
		case <-changed:
			var err error
			if events, changed, err = s.backend.Events(r.Context(), since); err != nil {
				return fmt.Errorf("reading events: %w", err)
			}
		case <-beat.C:
			if err := send([]byte(": alive\n\n")); err != nil {
				return err
			}
		case <-r.Context().Done():
			return r.Context().Err()
		case <-s.closed:
			return http.ErrServerClosed
		}
	}
}

// encodeEvent writes one server-sent event. Its JSON has no line feed, so one data line is enough.
func encodeEvent(buf *bytes.Buffer, e placement.Event) error {
	b, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encoding event %d: %w", e.Seq, err)
	}
	fmt.Fprintf(buf, "id: %d\ndata: %s\n\n", e.Seq, b)
	return nil
}

// eventsQuery reads since and follow. Last-Event-ID wins over since: a client that reconnects repeats its first URL.
func eventsQuery(r *http.Request) (since uint64, follow bool, err error) {
	q := r.URL.Query()
	for k := range q {
		if k != "since" && k != "follow" {
			return 0, false, Errorf(CodeInvalid, "the parameters are since=N and follow=1", "the parameter %q is unknown", k)
		}
	}
	number := func(name, v string, dst *uint64) {
		if v == "" || err != nil {
			return
		}
		n, perr := strconv.ParseUint(v, 10, 64)
		if perr != nil {
			err = Errorf(CodeInvalid, "use the number (seq) of an event; 0 for all", "%s %q is not the number of an event", name, v)
		}
		*dst = n
	}
	number("since", q.Get("since"), &since)
	number("Last-Event-ID", r.Header.Get("Last-Event-ID"), &since)
	switch v := q.Get("follow"); v {
	case "", "0", "false":
		follow = strings.Contains(r.Header.Get("Accept"), "text/event-stream")
	case "1", "true":
		follow = true
	default:
		err = Errorf(CodeInvalid, "use follow=1 or follow=0", "follow %q is neither 0 nor 1", v)
	}
	return since, follow, err
}
