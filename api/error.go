package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Code is the stable word of a refusal, for scripts. Messages and hints may change from release to release, codes do not.
type Code string

const (
	CodeNoQuorum     Code = "no-quorum"          // 503: nothing can be decided now
	CodeNotFound     Code = "not-found"          // 404
	CodeMethod       Code = "method-not-allowed" // 405
	CodeInvalid      Code = "invalid"            // 400: the request itself is wrong; Faults lists all of it
	CodeTooLarge     Code = "too-large"          // 413
	CodeRefused      Code = "refused"            // 409: understood, but not possible now
	CodeUnauthorized Code = "unauthorized"       // 403
	CodeTimeout      Code = "timeout"            // 504: the outcome is unknown
	CodeInternal     Code = "internal"           // 500
	CodeUnreachable  Code = "unreachable"        // no answer from any agent; made by the client only
)

// codes has the HTTP status of each code and the hint for a refusal that brings none: every refusal says what to do.
var codes = map[Code]struct {
	status int
	hint   string
}{
	CodeNoQuorum:     {http.StatusServiceUnavailable, "start the missing nodes; `hactl status` shows which are down"},
	CodeNotFound:     {http.StatusNotFound, "check the name; `hactl status` lists the nodes and groups there are"},
	CodeMethod:       {http.StatusMethodNotAllowed, "use one of the methods in the Allow header"},
	CodeInvalid:      {http.StatusBadRequest, "correct the request and send it again"},
	CodeTooLarge:     {http.StatusRequestEntityTooLarge, "send at most 1 MiB"},
	CodeRefused:      {http.StatusConflict, "see `hactl status` for the present state, then try again"},
	CodeUnauthorized: {http.StatusForbidden, "use a certificate or a token of this cluster"},
	CodeTimeout:      {http.StatusGatewayTimeout, "look at `hactl status` first: the call may have taken effect; then try again"},
	CodeInternal:     {http.StatusInternalServerError, "this is a fault of the agent: see its log (`journalctl -u had`) and report it"},
	CodeUnreachable:  {http.StatusBadGateway, "check that the agent runs: `systemctl status had`"},
}

// Errorf returns a refusal with the hint that says what to do; an empty hint takes the code's own.
func Errorf(code Code, hint, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// Untried is Errorf for a refusal before anything was begun, which the moment of an election explains: the same call may be made again.
func Untried(hint, format string, args ...any) *Error {
	e := Errorf(CodeNoQuorum, hint, format, args...)
	e.Untried = true
	return e
}

// Error is the message alone; Hint and Faults are shown by who prints it.
func (e *Error) Error() string { return e.Message }

// Unwrap is the error on this side of the wire behind a timeout or an unreachable agent, if any.
func (e *Error) Unwrap() error { return e.cause }

// AsError returns err as a complete refusal, with status, code, message and hint all set; nil for nil. An error that is
// no *Error becomes timeout when a deadline or a cancelled context is behind it, else internal.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		c := *e
		if prefix, ok := strings.CutSuffix(err.Error(), e.Message); ok && prefix != "" {
			c.Message = err.Error() // keep what was wrapped around it
		}
		return c.complete()
	}
	code := CodeInternal
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		code = CodeTimeout
	}
	return (&Error{Code: code, Message: err.Error(), cause: err}).complete()
}

func (e *Error) complete() *Error {
	if e.Code == "" {
		e.Code = CodeInternal
	}
	known, ok := codes[e.Code]
	if !ok {
		known = codes[CodeInternal]
	}
	if e.Status == 0 {
		e.Status = known.status
	}
	if e.Hint == "" {
		e.Hint = known.hint
	}
	if e.Message == "" {
		e.Message = "the agent gave no reason (" + string(e.Code) + ")"
	}
	return e
}

// errorBody is the JSON around an Error.
type errorBody struct {
	Error *Error `json:"error"`
}

// writeError answers with a refusal.
func writeError(w http.ResponseWriter, err error) {
	e := AsError(err)
	writeJSON(w, e.Status, errorBody{e})
}

// writeJSON answers with v, indented: the API is read by people with curl too.
func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		status = http.StatusInternalServerError
		b, _ = json.Marshal(errorBody{AsError(fmt.Errorf("encoding the answer: %w", err))})
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(append(b, '\n'))
}
