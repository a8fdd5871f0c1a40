package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"hacluster/placement"
)

// Bodies of the writes: only the fields that the verb knows, so that a field of another verb is refused by its name.
type (
	applyBody struct {
		Config string `json:"config"`
		File   string `json:"file,omitempty"`
		DryRun bool   `json:"dry_run,omitempty"`
	}
	moveBody struct {
		To     string        `json:"to,omitempty"`
		Force  bool          `json:"force,omitempty"`
		DryRun bool          `json:"dry_run,omitempty"`
		Drain  time.Duration `json:"drain_ns,omitempty"`
	}
	forceBody struct {
		Force  bool `json:"force,omitempty"`
		DryRun bool `json:"dry_run,omitempty"`
	}
	tokenBody struct {
		Role   placement.Role `json:"role,omitempty"`
		TTL    time.Duration  `json:"ttl_ns,omitempty"`
		Rejoin string         `json:"rejoin,omitempty"`
	}
	fenceBody struct {
		Action string `json:"action,omitempty"`
		DryRun bool   `json:"dry_run,omitempty"`
	}
	checkBody struct {
		Node string `json:"node,omitempty"`
	}
	noBody struct{}
)

// write is how one verb travels: its method and path, and both directions between Write and the body.
type write struct {
	verb         Verb
	method, path string // {group} and {node} are replaced
	parse        func(*http.Request, *Write) error
	body         func(Write) any
}

// parseInto reads the body strictly into a T and lets fill copy it.
func parseInto[T any](fill func(T, *Write) error) func(*http.Request, *Write) error {
	return func(r *http.Request, w *Write) error {
		var b T
		if err := readJSON(r.Body, &b); err != nil {
			return err
		}
		return fill(b, w)
	}
}

var (
	parseForce = parseInto(func(b forceBody, w *Write) error { w.Force, w.DryRun = b.Force, b.DryRun; return nil })
	parseNone  = parseInto(func(noBody, *Write) error { return nil })
	forceOf    = func(w Write) any { return forceBody{w.Force, w.DryRun} }
	noneOf     = func(Write) any { return noBody{} }
)

var writes = map[Verb]write{
	VerbApply: {VerbApply, "POST", "/v1/config", parseInto(func(b applyBody, w *Write) error {
		w.Config, w.File, w.DryRun = b.Config, b.File, b.DryRun
		if strings.TrimSpace(b.Config) == "" {
			return Errorf(CodeInvalid, `put the text of cluster.toml into "config"`, "the configuration is empty")
		}
		return nil
	}), func(w Write) any { return applyBody{w.Config, w.File, w.DryRun} }},
	VerbMove: {VerbMove, "POST", "/v1/groups/{group}/move", parseInto(func(b moveBody, w *Write) error {
		w.Node, w.Force, w.DryRun, w.Drain = b.To, b.Force, b.DryRun, b.Drain
		if b.Drain < 0 || b.Drain > maxDrain {
			return Errorf(CodeInvalid, "use a time from 0 (not at all) to 50m", "connections cannot go on for %v", b.Drain)
		}
		return nil
	}), func(w Write) any { return moveBody{w.Node, w.Force, w.DryRun, w.Drain} }},
	VerbGroupOnline:  {VerbGroupOnline, "POST", "/v1/groups/{group}/online", parseForce, forceOf},
	VerbGroupOffline: {VerbGroupOffline, "POST", "/v1/groups/{group}/offline", parseForce, forceOf},
	VerbPause:        {VerbPause, "POST", "/v1/nodes/{node}/pause", parseNone, noneOf},
	VerbDrain:        {VerbDrain, "POST", "/v1/nodes/{node}/drain", parseForce, forceOf},
	VerbResume:       {VerbResume, "POST", "/v1/nodes/{node}/resume", parseNone, noneOf},
	VerbRemove:       {VerbRemove, "DELETE", "/v1/nodes/{node}", parseForce, forceOf},
	VerbFence: {VerbFence, "POST", "/v1/nodes/{node}/fence", parseInto(func(b fenceBody, w *Write) error {
		w.Action, w.DryRun = b.Action, b.DryRun
		if !slices.Contains([]string{"", "reboot", "off", "on"}, b.Action) {
			return Errorf(CodeInvalid, "use reboot, off or on", "the action %q is unknown", b.Action)
		}
		return nil
	}), func(w Write) any { return fenceBody{w.Action, w.DryRun} }},
	VerbFenceCheck: {VerbFenceCheck, "POST", "/v1/fence/check", parseInto(func(b checkBody, w *Write) error {
		w.Node = b.Node
		return nil
	}), func(w Write) any { return checkBody{w.Node} }},
	VerbToken: {VerbToken, "POST", "/v1/tokens", parseInto(func(b tokenBody, w *Write) error {
		w.Role, w.TTL, w.Rejoin = b.Role, b.TTL, b.Rejoin
		switch {
		case b.Role == "":
			w.Role = placement.RoleMember
		case b.Role != placement.RoleMember && b.Role != placement.RoleWitness:
			return Errorf(CodeInvalid, "use member or witness", "role %q is unknown", b.Role)
		}
		if b.TTL < 0 || b.TTL > maxTTL {
			return Errorf(CodeInvalid, "use a time from 1s to 168h (one week)", "a token cannot live for %v", b.TTL)
		}
		return nil
	}), func(w Write) any { return tokenBody{w.Role, w.TTL, w.Rejoin} }},
}

// maxDrain bounds how long connections may finish on the old owner.
const maxDrain = 50 * time.Minute

// maxTTL bounds the life of a join token.
const maxTTL = 7 * 24 * time.Hour

// handle answers one write.
func (v write) handle(s *Server, r *http.Request) (any, error) {
	w := Write{Verb: v.verb, Group: r.PathValue("group")}
	w.Node = r.PathValue("node")
	if err := v.parse(r, &w); err != nil {
		return nil, err
	}
	reply, err := s.backend.Write(r.Context(), w)
	if err != nil {
		return nil, err
	}
	return reply, nil
}

func (s *Server) join(r *http.Request) (any, error) {
	var j Join
	if err := readJSON(r.Body, &j); err != nil {
		return nil, err
	}
	var faults []string
	for _, f := range []struct {
		name  string
		empty bool
	}{{"token", j.Token == ""}, {"name", j.Name == ""}, {"id", j.ID == ""}, {"addresses", len(j.Addresses) == 0}, {"csr", len(j.CSR) == 0}} {
		if f.empty {
			faults = append(faults, f.name+" is missing")
		}
	}
	if faults != nil {
		e := Errorf(CodeInvalid, "join with `hactl join ADDRESS --token TOKEN`", "the join request is incomplete: %s", strings.Join(faults, ", "))
		e.Faults = faults
		return nil, e
	}
	return s.backend.Join(r.Context(), j)
}

// readJSON reads one JSON value strictly: a field that v does not have, a value of the wrong type and anything after the
// value are refused. An empty body is {}.
func readJSON(r io.Reader, v any) error {
	if r == nil {
		return nil
	}
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = errors.New("there is more after the JSON value")
		}
	}
	return jsonFault(err)
}

// jsonFault turns a decoding error into a refusal that names the field.
func jsonFault(err error) error {
	var (
		tooLarge *http.MaxBytesError
		kind     *json.UnmarshalTypeError
		syntax   *json.SyntaxError
	)
	const hint = "send one JSON object; docs/cli.md and the agent's routes say which fields it has"
	switch {
	case errors.As(err, &tooLarge):
		return Errorf(CodeTooLarge, fmt.Sprintf("send at most %d bytes", tooLarge.Limit), "the request body is too large")
	case errors.As(err, &kind) && kind.Field != "":
		return Errorf(CodeInvalid, hint, "field %q cannot be a JSON %s", kind.Field, kind.Value)
	case errors.As(err, &kind):
		return Errorf(CodeInvalid, hint, "the request body cannot be a JSON %s", kind.Value)
	case errors.As(err, &syntax):
		return Errorf(CodeInvalid, hint, "the request body is not JSON: %s at byte %d", syntax.Error(), syntax.Offset)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return Errorf(CodeInvalid, hint, "the request body ends in the middle of the JSON")
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return Errorf(CodeInvalid, "remove the field, or correct its name", "the request has the unknown field %s", name)
	}
	return Errorf(CodeInvalid, hint, "reading the request body: %v", err)
}
