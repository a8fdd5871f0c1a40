package fence

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"hacluster/internal/boottime"
)

// Bars is a small file, in memory, that outlives the process: the nodes whose pulses this voter does not answer, and until when
// (lease/DESIGN.md, "Takeover by pulse"). After a reboot none is left: it takes longer than a bar.
type Bars struct {
	Lost bool // there was no file that could be read: a process before may have barred somebody. Keep says who is barred instead

	path, boot string
}

// BarsPath is the file beside an agent's control socket.
func BarsPath(socket string) string { return filepath.Join(filepath.Dir(socket), "bars") }

// Everybody stands in the file for all nodes.
const Everybody = "*"

// maxBars bounds the file, in bytes.
const maxBars = 1 << 20

// OpenBars reads what the process before this one left. A file that is lost stays so until the first Keep: else the next process, if it comes
// soon, would take an empty one for the word of the process before both.
func OpenBars(path string, now time.Time) (Bars, map[string]time.Time, error) {
	b := Bars{path: path, boot: boottime.ID()}
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.Lost = true
		return b, nil, err
	}
	known, ok := ParseBars(string(text[:min(len(text), maxBars)]), b.boot)
	b.Lost = !ok
	for node, until := range known {
		if !now.Before(until) {
			delete(known, node)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return b, known, err
	}
	if b.Lost {
		return b, nil, nil
	}
	return b, known, b.Keep(known)
}

// ParseBars reads the file's text. One of another boot of the machine bars nobody; false: it is not such a file.
func ParseBars(text, boot string) (map[string]time.Time, bool) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) < 2 || lines[0] == "" || lines[len(lines)-1] != "end" {
		return nil, false
	}
	out := map[string]time.Time{}
	for _, line := range lines[1 : len(lines)-1] {
		node, end, _ := strings.Cut(line, " ")
		ns, err := strconv.ParseInt(end, 10, 64)
		if _, twice := out[node]; err != nil || ns <= 0 || node == "" || twice {
			return nil, false
		}
		out[node] = time.Unix(0, ns).UTC()
	}
	if lines[0] != boot {
		clear(out)
	}
	return out, true
}

// Keep writes down who is barred. The file is replaced as a whole, so that a process that is killed meanwhile leaves one of the two.
func (b Bars) Keep(barred map[string]time.Time) error {
	var text strings.Builder
	fmt.Fprintln(&text, b.boot)
	for node, until := range barred {
		fmt.Fprintf(&text, "%s %d\n", node, until.UnixNano())
	}
	fmt.Fprintln(&text, "end")
	next := b.path + ".new"
	if err := os.WriteFile(next, []byte(text.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(next, b.path)
}
