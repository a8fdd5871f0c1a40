package nowait

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A call that took long makes the next ones announced, for a while.
func TestBriefIsWaryAfterALongCall(t *testing.T) {
	var b Brief
	now := time.Unix(1_000_000, 0)
	calls := func(took time.Duration) {
		b.took(now, now.Add(took))
		now = now.Add(took)
	}
	is := func(announced bool) {
		t.Helper()
		if b.announced(now) != announced {
			t.Errorf("announced: %v", !announced)
		}
	}
	is(false)
	calls(briefMost)
	is(false)
	calls(briefMost + 1)
	is(true)
	now = now.Add(waryFor / 2)
	is(true)
	calls(2 * briefMost) // again
	now = now.Add(waryFor - 1)
	is(true)
	now = now.Add(1)
	is(false)
}

// Announced or not, a file is overwritten from its beginning, and an error names it.
func TestBriefWrites(t *testing.T) {
	for name, b := range map[string]*Brief{"not announced": {}, "announced": {wary: time.Now().Add(time.Hour)}} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			f, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, text := range []string{"the first text", "second"} {
				if err := b.WriteAt(f, []byte(text)); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != "secondrst text" {
				t.Errorf("%q %v", got, err)
			}
			f.Close()
			if err := b.WriteAt(f, []byte("x")); err == nil || !strings.Contains(err.Error(), "closed") {
				t.Errorf("a closed file: %v", err)
			}
			if f, err = os.Open(path); err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := b.WriteAt(f, []byte("x")); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("a file that is only read: %v", err)
			}
		})
	}
}
