package main

import (
	"strings"
	"testing"
)

func TestAFencingIsAskedForFirst(t *testing.T) {
	for typed, want := range map[string]int{"yes\n": 1, "y\n": 0, "\n": 0, "": 0} {
		w := tomcats()
		w.OnWrite = fencing(true)
		d := sit(t, w)
		code := d.answers(t, typed, "node", "fence", "n1")
		if got := len(w.Writes()); got != want || (code == 0) != (want == 1) {
			t.Errorf("%q: %d writes, exit %d: %s", typed, got, code, d.Err)
		}
		if out := d.Out.String(); !strings.Contains(out, "Owns     web") || !strings.Contains(out, "hactl node drain n1") {
			t.Errorf("it does not say what is at stake:\n%s", out)
		}
	}
}
