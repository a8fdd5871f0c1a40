package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestAReasonShowsNoToken(t *testing.T) {
	err := errors.New("hactl join 198.18.0.11 --token had1.abc --name n39 on n39: exit status 69: hactl: the node cannot be reached\nmore")
	if got := why(err); got != "hactl: the node cannot be reached" {
		t.Error(got)
	}
	if got := why(errors.New("hactl join --token had1.abc --name n39: signal: killed")); got != "hactl join --token ... --name n39: signal: killed" {
		t.Error(got)
	}
	if got := why(errors.New("waiting\nlong")); got != "waiting" {
		t.Error(got)
	}
}

func TestTooManyNeighbours(t *testing.T) {
	file := filepath.Join(t.TempDir(), "gc_thresh3")
	if err := neighbours(64, file); err != nil {
		t.Errorf("nothing is known: %v", err)
	}
	for text, fits := range map[string]bool{"4160\n": true, "4159\n": false, "many": false} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := neighbours(64, file); (err == nil) != fits {
			t.Errorf("%q: %v", text, err)
		}
	}
}
