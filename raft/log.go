package raft

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// newLogger hands the library's warnings and errors to slog. The library repeats itself several times a second while a
// peer is away; each message about each peer passes once in half a minute.
func newLogger(log *slog.Logger) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "raft", Level: hclog.Off, Output: io.Discard})
	l.RegisterSink(&sink{log: log, last: map[string]time.Time{}})
	return l
}

const repeatAfter = 30 * time.Second

type sink struct {
	log *slog.Logger

	mu   sync.Mutex
	last map[string]time.Time // message and peer -> when it passed
}

// expected are warnings about what is ordinary here.
var expected = []string{
	"failed to get previous log", // a follower that lags
	"previous log term mis-match",
	"appendEntries rejected, sending older logs",
	"failed to decode incoming command", // a connection ended; its other end says why
	"skipping application of old log",
	"no known peers, aborting election", // a joining node
	"not part of stable configuration, aborting election",
	"not part of a stable configuration or a non-voter",
}

// peerAway are errors that say no more than that another node does not answer.
var peerAway = []string{"failed to heartbeat to", "failed to appendEntries to", "failed to make requestVote RPC"}

// Accept implements hclog.SinkAdapter.
func (s *sink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	l := slog.LevelDebug
	switch {
	case level >= hclog.Error:
		l = slog.LevelError
	case level >= hclog.Warn:
		l = slog.LevelWarn
	}
	contains := func(part string) bool { return strings.Contains(msg, part) }
	switch {
	case slices.ContainsFunc(expected, contains):
		l = slog.LevelDebug
	case slices.ContainsFunc(peerAway, contains):
		l = slog.LevelWarn
	}
	if !s.log.Enabled(context.Background(), l) {
		return
	}
	attrs := make([]any, 0, len(args))
	key := msg
	for i := 0; i+1 < len(args); i += 2 {
		name, ok := args[i].(string)
		if !ok {
			continue
		}
		if name == "error" {
			name = "err"
		}
		v := args[i+1]
		if f, ok := v.(hclog.Format); ok && len(f) > 0 {
			v = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
		if name == "peer" || name == "target" || name == "from" {
			key += fmt.Sprint(v)
		}
		attrs = append(attrs, name, v)
	}
	if l >= slog.LevelWarn && s.repeated(key) {
		return
	}
	s.log.Log(context.Background(), l, "raft: "+msg, attrs...)
}

func (s *sink) repeated(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if t, ok := s.last[key]; ok && now.Sub(t) < repeatAfter {
		return true
	}
	if len(s.last) > 256 {
		clear(s.last)
	}
	s.last[key] = now
	return false
}
