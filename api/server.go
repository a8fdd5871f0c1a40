package api

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"path"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"
)

// MaxBody bounds every request body, in bytes.
const MaxBody = 1 << 20

// forwardedHeader names the node that forwarded a call to the leader; see ForwardedBy.
const forwardedHeader = "Had-Forwarded-By"

// Options of a server. All are optional.
type Options struct {
	Node      string        // name of this node: group health answers 200 only for groups it owns. Empty: Status().Node
	Version   string        // of the agent
	Log       *slog.Logger  // nil: discard
	Heartbeat time.Duration // between two comments on a silent event stream; 0: 10s
}

// Version is GET /v1/version.
type Version struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
	Node    string `json:"node,omitempty"`
}

// Server answers the API over a Backend. It is an http.Handler; Close ends its event streams.
type Server struct {
	backend Backend
	opt     Options
	mux     *http.ServeMux
	closed  chan struct{}
	once    sync.Once
}

// route is one line of the API.
type route struct {
	method, path string
	handle       func(*Server, *http.Request) (any, error)
	stream       func(*Server, http.ResponseWriter, *http.Request) // instead of handle
}

// routes is the whole API, in the order it is documented.
var routes = []route{
	{method: "GET", path: "/v1/status", handle: (*Server).status},
	{method: "GET", path: "/v1/nodes", handle: (*Server).nodes},
	{method: "GET", path: "/v1/nodes/{node}", handle: (*Server).node},
	{method: "GET", path: "/v1/groups", handle: (*Server).groups},
	{method: "GET", path: "/v1/groups/{group}", handle: (*Server).group},
	{method: "GET", path: "/v1/groups/{group}/health", stream: (*Server).groupHealth},
	{method: "GET", path: "/v1/resources", handle: (*Server).resources},
	{method: "GET", path: "/v1/events", stream: (*Server).events},
	{method: "GET", path: "/v1/timing", handle: (*Server).timing},
	{method: "GET", path: "/v1/version", handle: (*Server).version},
	{method: "POST", path: "/v1/config", handle: writes[VerbApply].handle},
	{method: "POST", path: "/v1/groups/{group}/move", handle: writes[VerbMove].handle},
	{method: "POST", path: "/v1/groups/{group}/online", handle: writes[VerbGroupOnline].handle},
	{method: "POST", path: "/v1/groups/{group}/offline", handle: writes[VerbGroupOffline].handle},
	{method: "POST", path: "/v1/nodes/{node}/pause", handle: writes[VerbPause].handle},
	{method: "POST", path: "/v1/nodes/{node}/drain", handle: writes[VerbDrain].handle},
	{method: "POST", path: "/v1/nodes/{node}/resume", handle: writes[VerbResume].handle},
	{method: "DELETE", path: "/v1/nodes/{node}", handle: writes[VerbRemove].handle},
	{method: "POST", path: "/v1/nodes/{node}/fence", handle: writes[VerbFence].handle},
	{method: "POST", path: "/v1/fence/check", handle: writes[VerbFenceCheck].handle},
	{method: "POST", path: "/v1/tokens", handle: writes[VerbToken].handle},
	{method: "POST", path: "/v1/join", handle: (*Server).join},
}

// NewServer returns the whole API. Whoever can reach it may do everything: serve it on the local socket and to peers
// with a certificate of the cluster only.
func NewServer(b Backend, o Options) *Server { return newServer(b, o, routes) }

// NewJoinServer returns POST /v1/join and nothing else, for peers that have no certificate yet.
func NewJoinServer(b Backend, o Options) *Server {
	return newServer(b, o, slices.DeleteFunc(slices.Clone(routes), func(r route) bool { return r.path != "/v1/join" }))
}

func newServer(b Backend, o Options, rs []route) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Heartbeat <= 0 {
		o.Heartbeat = 10 * time.Second
	}
	s := &Server{backend: b, opt: o, mux: http.NewServeMux(), closed: make(chan struct{})}
	allowed := map[string][]string{}
	var list []string
	for _, r := range rs {
		s.mux.HandleFunc(r.method+" "+r.path, s.handler(r))
		allowed[r.path] = append(allowed[r.path], r.method)
		list = append(list, r.method+" "+r.path)
	}
	for p, methods := range allowed {
		s.mux.HandleFunc(p, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Allow", strings.Join(methods, ", "))
			writeError(w, Errorf(CodeMethod, "use "+strings.Join(methods, " or ")+" "+p, "%s is not possible on %s", r.Method, r.URL.Path))
		})
	}
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, Errorf(CodeNotFound, "the routes are: "+strings.Join(list, ", "), "there is no %s", r.URL.Path))
	})
	return s
}

// handler wraps a route's function into HTTP.
func (s *Server) handler(r route) http.HandlerFunc {
	if r.stream != nil {
		return func(w http.ResponseWriter, req *http.Request) { r.stream(s, w, req) }
	}
	return func(w http.ResponseWriter, req *http.Request) {
		v, err := r.handle(s, req)
		if err != nil {
			writeError(w, err)
			return
		}
		writeJSON(w, http.StatusOK, v)
	}
}

// ServeHTTP answers one call. A panic below it becomes a 500 and a log record; the agent lives on.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if p == http.ErrAbortHandler {
			panic(p)
		}
		s.opt.Log.Error("handling an API call panicked", "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
		writeError(w, Errorf(CodeInternal, "", "the agent failed on %s %s", r.Method, r.URL.Path))
	}()
	// ServeMux would answer an unclean path with a redirect in HTML.
	if p := r.URL.Path; !strings.HasPrefix(p, "/") || (p != "/" && path.Clean(p) != p) {
		writeError(w, Errorf(CodeNotFound, "use a path without //, . and a slash at the end", "there is no %s", p))
		return
	}
	if r.Body != nil {
		r.Body = http.MaxBytesReader(w, r.Body, MaxBody)
	}
	if by := r.Header.Get(forwardedHeader); by != "" {
		r = r.WithContext(context.WithValue(r.Context(), forwardedKey{}, by))
	}
	s.mux.ServeHTTP(w, r)
}

// Close ends the event streams, so that a shutdown need not wait for them. Other calls finish.
func (s *Server) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// HTTP returns an http.Server around s with every read bounded; its Shutdown ends the event streams too.
func (s *Server) HTTP() *http.Server {
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.opt.Log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return context.Background() },
	}
	srv.RegisterOnShutdown(func() { s.Close() })
	return srv
}

type forwardedKey struct{}

// ForwardedBy returns the node that forwarded this call to the leader, or "". A backend that receives a forwarded call
// and does not lead must refuse it, else two nodes with an old idea of the leader would pass it to and fro.
func ForwardedBy(ctx context.Context) string {
	by, _ := ctx.Value(forwardedKey{}).(string)
	return by
}

func (s *Server) version(*http.Request) (any, error) {
	return Version{Version: s.opt.Version, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH, Node: s.opt.Node}, nil
}
