package fence

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hacluster/internal/boottime"
	"hacluster/internal/nowait"
)

// Will is a small file, in memory, that outlives the process: until when its lease lasts, and who granted it. The next process reads it and
// knows that what it finds running is still covered. A file that is missing, foreign or from before a reboot covers nothing.
type Will struct {
	Leader string // who granted that lease: of the process before until this one sets it; empty: not known

	file  *os.File // nil: cannot be kept; a restart then finds nothing covered
	brief nowait.Brief
	boot  string
}

// OpenWill opens the file and returns what the process before this one left. No lease can be longer than limit from now.
func OpenWill(path string, now time.Time, limit time.Duration) (*Will, time.Time) {
	w := &Will{boot: boottime.ID()}
	if os.MkdirAll(filepath.Dir(path), 0o755) != nil {
		return w, time.Time{}
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return w, time.Time{}
	}
	w.file = f
	text := make([]byte, 256)
	n, _ := f.ReadAt(text, 0)
	until := ParseWill(string(text[:n]), w.boot)
	if f := strings.Fields(string(text[:n])); len(f) == 3 && !until.IsZero() {
		w.Leader = f[2]
	}
	if !until.After(now) || until.Sub(now) > limit {
		return w, time.Time{}
	}
	return w, until
}

// ParseWill reads the file's text; zero unless it is of this boot.
func ParseWill(text, boot string) time.Time {
	var id string
	var ns int64
	if n, err := fmt.Sscanf(strings.TrimSpace(text), "%s %d", &id, &ns); n != 2 || err != nil || id != boot || boot == "" || ns <= 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

// Leave writes the end of the lease down.
func (w *Will) Leave(until time.Time) {
	if w.file != nil {
		// Always of one length: a shorter text would leave the end of the one before.
		w.brief.WriteAt(w.file, []byte(fmt.Sprintf("%s %020d %-64.64s\n", w.boot, until.UnixNano(), w.Leader)))
	}
}

// Close closes the file; what it says stays.
func (w *Will) Close() {
	if w.file != nil {
		w.file.Close()
	}
}

// ReadWill is until when the newest lease of this node lasts or lasted; zero: nothing is known.
func ReadWill(path string) time.Time {
	text, err := os.ReadFile(path)
	if err != nil {
		return time.Time{}
	}
	return ParseWill(string(text), boottime.ID())
}

// WillPath is where the agent with that control socket keeps its will.
func WillPath(socket string) string { return filepath.Join(filepath.Dir(socket), "lease") }
