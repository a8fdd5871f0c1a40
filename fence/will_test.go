package fence

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"hacluster/internal/boottime"
)

func TestAWillCoversWhatItsLeaseCoveredAndNothingElse(t *testing.T) {
	if boottime.ID() == "" {
		t.Skip("needs an id of this boot")
	}
	file := filepath.Join(t.TempDir(), "run", "lease")
	now, limit := boottime.Now(), 2*time.Second
	w, until := OpenWill(file, now, limit)
	if !until.IsZero() {
		t.Errorf("nobody was here before, and yet until %v", until)
	}
	want := now.Add(time.Second)
	w.Leave(now.Add(time.Minute)) // overwritten, shorter or not
	w.Leave(want)
	w.Close()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text string
		now  time.Time
		want time.Time
	}{
		"the next process":           {string(text), now, want},
		"when it has ended":          {string(text), want, time.Time{}},
		"longer than any lease":      {string(text), now.Add(-limit), time.Time{}},
		"from before a reboot":       {"00000000-0000-0000-0000-000000000000 " + string(text[len(boottime.ID())+1:]), now, time.Time{}},
		"cut off while it was saved": {string(text[:len(boottime.ID())]), now, time.Time{}},
		"empty":                      {"", now, time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			w, got := OpenWill(file, c.now, limit)
			w.Close()
			if !got.Equal(c.want) {
				t.Errorf("covers until %v, want %v", got, c.want)
			}
		})
	}
}
