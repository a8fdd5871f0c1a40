package fence

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"hacluster/internal/nowait"
	"hacluster/resources"
)

// held is what must end here and by when, on file: for a dead man whose predecessor was killed together with its agent. The agent
// writes it before it tells its dead man and before it starts anything, so what a killed process had begun is always on it. The file is
// in a runtime directory and never synced: it has to survive processes, not the machine; one of another boot says nothing.
type held struct {
	until int64            // end of the lease, boot time in ns since the clock's base; 0: nothing is held
	kill  []resources.Spec // exclusive resources of this node
}

const (
	// heldVar names the file to the agent.
	heldVar   = "HAD_DEADMAN_HELD"
	heldMagic = "had-held-1"
	// maxHeld bounds the file, in bytes: what two agents told.
	maxHeld = 2*maxWord + 256
)

// heldPath is beside the will.
func heldPath(will string) string {
	if will == "" {
		return ""
	}
	return filepath.Join(filepath.Dir(will), "held")
}

// head is the file's first line. It is always of one length, because it is overwritten in its place: one write into one page,
// which a kill cannot cut in two.
func (h held) head(boot string) string { return fmt.Sprintf("%s %s %020d\n", heldMagic, boot, h.until) }

func (h held) encode(boot string) ([]byte, error) {
	list, err := json.Marshal(h.kill)
	return append([]byte(h.head(boot)), list...), err
}

// parseHeld reads the file's text; known is false where it is of another boot, in which everything is gone that it tells of.
func parseHeld(text []byte, boot string) (h held, known bool, err error) {
	head, list, ok := bytes.Cut(text, []byte("\n"))
	f := strings.Split(string(head), " ")
	if !ok || len(f) != 3 || f[0] != heldMagic || len(f[1]) != len(boot) || len(f[2]) != 20 || len(text) > maxHeld {
		return held{}, false, fmt.Errorf("what is held here: the file is damaged: it begins %.80q", head)
	}
	if f[1] != boot {
		return held{}, false, nil
	}
	if h.until, err = strconv.ParseInt(f[2], 10, 64); err != nil || h.until < 0 || f[2][0] == '+' {
		return held{}, false, fmt.Errorf("what is held here: the file is damaged: a deadline of %q", f[2])
	}
	if err := json.Unmarshal(list, &h.kill); err != nil {
		return held{}, false, fmt.Errorf("what is held here: the file is damaged: %w", err)
	}
	return h, true, nil
}

// readHeld reads the file; none at all is of no known boot.
func readHeld(path, boot string) (h held, known bool, err error) {
	if path == "" || boot == "" {
		return held{}, false, nil
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return held{}, false, nil
	}
	if err != nil {
		return held{}, false, err
	}
	return parseHeld(text, boot)
}

// keeper is the agent's hand on the file. The zero value keeps nothing.
type keeper struct {
	path, boot string

	file   *os.File // nil: not written by this process
	brief  nowait.Brief
	now    held  // as on the file
	former *held // left by a process before; it stands until this one has a lease: it may know better what runs
	kill   []resources.Spec
	failed bool
}

// begin reads what is there at the first write, when no process before this one can write any more.
func (k *keeper) begin() bool {
	if k.path == "" || k.boot == "" {
		return false
	}
	if k.file == nil && k.former == nil {
		h, known, err := readHeld(k.path, k.boot)
		if err != nil { // the dead man takes it for the worst, and so will its successor
			k.complain(err)
			h, known = held{until: 1}, true
		}
		if known && h.until != 0 {
			k.former, k.now = &h, h
		}
	}
	return true
}

// exclusive notes what is to be killed.
func (k *keeper) exclusive(kill []resources.Spec) {
	if !k.begin() {
		return
	}
	k.kill = kill
	next := held{until: k.now.until, kill: kill}
	if k.former != nil {
		next.kill = union(k.former.kill, kill)
	}
	k.save(next)
}

// deadline notes until when; 0 where nothing is held. A process that has had no lease cannot say that of what ran before it.
func (k *keeper) deadline(until int64) {
	if !k.begin() || until == 0 && k.former != nil {
		return
	}
	next := held{until: until, kill: k.kill}
	if k.former != nil || k.file == nil {
		k.former = nil
		k.save(next)
		return
	}
	if err := k.brief.WriteAt(k.file, []byte(next.head(k.boot))); err != nil {
		k.complain(err)
		return
	}
	k.now.until = until
}

// save replaces the file, all of it or nothing.
func (k *keeper) save(next held) {
	text, err := next.encode(k.boot)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(k.path), 0o755)
	}
	if err != nil {
		k.complain(err)
		return
	}
	f, err := os.OpenFile(k.path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		k.complain(err)
		return
	}
	if _, err = f.Write(text); err == nil {
		err = os.Rename(k.path+".new", k.path)
	}
	if err != nil {
		f.Close()
		k.complain(err)
		return
	}
	if k.file != nil {
		k.file.Close()
	}
	k.file, k.now = f, next
}

// complain says once that the file cannot be kept: then a dead man that is started anew knows less than it should.
func (k *keeper) complain(err error) {
	if !k.failed {
		slog.Error("what must end with the lease cannot be kept on file", "file", k.path, "err", err)
	}
	k.failed = true
}

// union is both lists, and once what is in both.
func union(a, b []resources.Spec) []resources.Spec {
	out := slices.Clone(a)
	for _, s := range b {
		if !slices.ContainsFunc(out, func(o resources.Spec) bool { return reflect.DeepEqual(o, s) }) {
			out = append(out, s)
		}
	}
	return out
}

// inherit finds out what an agent left that nobody took leave of: the one of a dead man that was killed. From the first moment on
// this dead man ends it in time, whatever its own agent comes to know.
func (d *DeadMan) inherit(now time.Time, boot string) {
	h, known, err := readHeld(heldPath(d.Will), boot)
	will := ReadWill(d.Will)
	switch {
	case err != nil: // no crash leaves that. The lease is over with the will at the latest, and without one perhaps now
		d.Log.Error("what the agent before this dead man held is not known: addresses go at the end of its lease, and what else runs may run on", "err", err)
		d.lost = true
		if will.IsZero() {
			will = now
		}
		d.clock.hand(will)
	case known && h.until == 0:
	case known:
		until := time.Unix(0, h.until).UTC()
		if !will.IsZero() && will.Before(until) { // the lease was dropped, after a suspend say
			until = will
		}
		d.former = h.kill
		d.clock.hand(until)
		d.Log.Info("an agent before this dead man held something; it ends with its lease unless that is renewed", "left", until.Sub(now), "exclusive", len(h.kill))
	case d.Watchdog != nil && now.Sub(will) < WatchdogPatience+d.Watchdog.Info().Timeout:
		// An older lease than the watchdog's own time does not count: a machine that survived it was not left that way.
		d.clock.inherit(will)
	}
}

// exclusive is what is to be killed at the end of the lease. The caller holds mu.
func (d *DeadMan) exclusive() []resources.Spec { return union(d.former, d.kill) }
