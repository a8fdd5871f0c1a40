package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"hacluster/placement"
)

// maxAnswer bounds what a client reads of one answer, in bytes.
const maxAnswer = 64 << 20

// Dial opens a connection to an agent: plain over its socket, or mutual TLS already negotiated.
type Dial func(ctx context.Context) (net.Conn, error)

// Client calls one agent. All errors of its methods are *Error. It is safe for concurrent use.
type Client struct {
	By   string // name of the node on whose behalf calls are forwarded; see ForwardedBy
	http *http.Client
	name string // for messages
}

// NewClient returns a client over connections that dial opens; name says in messages whom it calls.
func NewClient(name string, dial Dial) *Client {
	return &Client{name: name, http: &http.Client{
		Transport: &http.Transport{
			DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
			MaxIdleConnsPerHost: 2,
			IdleConnTimeout:     time.Minute,
			DisableCompression:  true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// NewSocketClient returns a client over the agent's unix socket.
func NewSocketClient(path string) *Client {
	return NewClient("the agent at "+path, func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	})
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status is GET /v1/status.
func (c *Client) Status(ctx context.Context) (st Status, err error) {
	return st, c.call(ctx, "GET", "/v1/status", nil, &st)
}

// Group is GET /v1/groups/{name}.
func (c *Client) Group(ctx context.Context, name string) (g GroupStatus, err error) {
	return g, c.call(ctx, "GET", "/v1/groups/"+url.PathEscape(name), nil, &g)
}

// GroupHealth is GET /v1/groups/{name}/health. A group that is not served there is no error: see GroupHealth.Serve.
func (c *Client) GroupHealth(ctx context.Context, name string) (h GroupHealth, err error) {
	return h, c.call(ctx, "GET", "/v1/groups/"+url.PathEscape(name)+"/health", nil, &h)
}

// Timing is GET /v1/timing.
func (c *Client) Timing(ctx context.Context) (t TimingReport, err error) {
	return t, c.call(ctx, "GET", "/v1/timing", nil, &t)
}

// Version is GET /v1/version.
func (c *Client) Version(ctx context.Context) (v Version, err error) {
	return v, c.call(ctx, "GET", "/v1/version", nil, &v)
}

// Events is GET /v1/events: the events newer than since.
func (c *Client) Events(ctx context.Context, since uint64) (e []placement.Event, err error) {
	return e, c.call(ctx, "GET", fmt.Sprintf("/v1/events?since=%d", since), nil, &e)
}

// Write sends a write to the path of its verb.
func (c *Client) Write(ctx context.Context, w Write) (r Reply, err error) {
	v, ok := writes[w.Verb]
	if !ok {
		return r, Errorf(CodeInvalid, "use one of the Verb constants", "the verb %q is unknown", w.Verb).complete()
	}
	for placeholder, value := range map[string]string{"{group}": w.Group, "{node}": w.Node} {
		if strings.Contains(v.path, placeholder) && (value == "" || value == "." || value == "..") {
			return r, Errorf(CodeInvalid, "name one that `hactl status` shows", "%q is no name for a %s", value, strings.Trim(placeholder, "{}")).complete()
		}
	}
	path := strings.NewReplacer("{group}", url.PathEscape(w.Group), "{node}", url.PathEscape(w.Node)).Replace(v.path)
	return r, c.call(ctx, v.method, path, v.body(w), &r)
}

// PostJoin is POST /v1/join.
func (c *Client) PostJoin(ctx context.Context, j Join) (r Joined, err error) {
	return r, c.call(ctx, "POST", "/v1/join", j, &r)
}

// request builds one HTTP request; the host is a placeholder, dial decides where it goes.
func (c *Client) request(ctx context.Context, method, path string, body any) (*http.Request, error) {
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encoding the request: %w", err)
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://had"+path, r)
	if err != nil {
		return nil, fmt.Errorf("building the request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.By != "" {
		req.Header.Set(forwardedHeader, c.By)
	}
	return req, nil
}

// call sends one request and decodes the answer into v. Fields that v does not know are ignored: the agent may be newer.
func (c *Client) call(ctx context.Context, method, path string, body, v any) error {
	req, err := c.request(ctx, method, path, body)
	if err != nil {
		return AsError(err)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return c.transport(ctx, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return c.transport(ctx, fmt.Errorf("reading the answer: %w", err))
	}
	if e := refusal(res.StatusCode, b); e != nil {
		return e
	}
	if err := json.Unmarshal(b, v); err != nil {
		return &Error{Status: res.StatusCode, Code: CodeInternal, Message: fmt.Sprintf("%s gave an answer that is not understood: %v", c.name, err),
			Hint: "check that hactl and had are of one version: `hactl version`", cause: err}
	}
	return nil
}

// refusal returns the error in an answer, nil for an answer that is none.
func refusal(status int, body []byte) *Error {
	if status >= 200 && status < 300 {
		return nil
	}
	var eb errorBody
	if err := json.Unmarshal(body, &eb); err == nil && eb.Error != nil {
		eb.Error.Status = status
		return eb.Error.complete()
	}
	// Group health answers 503 with a body of its own.
	if status == http.StatusServiceUnavailable && bytes.Contains(body, []byte(`"serve"`)) {
		return nil
	}
	return (&Error{Status: status, Code: CodeInternal, Message: fmt.Sprintf("the agent answered HTTP %d without a reason", status)}).complete()
}

// transport turns a failed exchange into an *Error with what to do.
func (c *Client) transport(ctx context.Context, err error) *Error {
	var known *Error
	if errors.As(err, &known) {
		return known.complete() // dial knew better
	}
	var uerr *url.Error
	if errors.As(err, &uerr) {
		err = uerr.Err // the placeholder URL means nothing to a reader
	}
	if ctx.Err() != nil {
		return (&Error{Code: CodeTimeout, Message: fmt.Sprintf("%s did not answer in time", c.name), cause: errors.Join(ctx.Err(), err)}).complete()
	}
	e := &Error{Code: CodeUnreachable, Message: fmt.Sprintf("%s cannot be reached: %v", c.name, err), cause: err}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.Hint = "start the agent (`systemctl start had`), or name its socket with --socket, or another node with --node"
	case errors.Is(err, fs.ErrPermission):
		e.Hint = "run hactl as root"
	}
	return e.complete()
}
