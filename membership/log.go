package membership

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
)

const repeatAfter = 30 * time.Second

// logWriter hands memberlist's lines to slog. Anyone can cause them with garbage on the port, so each kind of warning
// passes once in half a minute; everything else is for debugging.
type logWriter struct {
	log *slog.Logger

	mu   sync.Mutex
	last map[string]time.Time
}

func newLogWriter(log *slog.Logger) *logWriter {
	return &logWriter{log: log, last: map[string]time.Time{}}
}

// Write implements io.Writer; memberlist writes "[LEVEL] memberlist: text".
func (w *logWriter) Write(b []byte) (int, error) {
	line := strings.TrimSpace(string(b))
	level := slog.LevelDebug
	if tag, rest, ok := strings.Cut(line, "] "); ok && strings.HasPrefix(tag, "[") {
		if tag == "[WARN" || tag == "[ERR" || tag == "[ERROR" {
			level = slog.LevelWarn
		}
		line = rest
	}
	line = strings.TrimPrefix(line, "memberlist: ")
	kind, _, _ := strings.Cut(line, ":")
	if level >= slog.LevelWarn && w.repeated(kind) {
		return len(b), nil
	}
	w.log.Log(context.Background(), level, "gossip: "+kind, "detail", line)
	return len(b), nil
}

func (w *logWriter) repeated(kind string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if t, ok := w.last[kind]; ok && now.Sub(t) < repeatAfter {
		return true
	}
	if len(w.last) > 256 {
		clear(w.last)
	}
	w.last[kind] = now
	return false
}
