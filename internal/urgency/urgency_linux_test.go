package urgency

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

func niceOf(t *testing.T, run func(*exec.Cmd) error) string {
	t.Helper()
	cmd := exec.Command("nice") // prints the nice value it runs at
	var out strings.Builder
	cmd.Stdout = &out
	if err := run(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out.String())
}

func TestWhatIsStartedOrdinarilyHasNoPrecedence(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if err := Raise(); err != nil {
		t.Fatal(err)
	}
	if got := niceOf(t, (*exec.Cmd).Start); got != "-15" {
		t.Errorf("a plain child of a raised process runs at %s, want -15", got)
	}
	if got := niceOf(t, func(c *exec.Cmd) error { return Ordinary(c.Start) }); got != "0" {
		t.Errorf("an ordinary child runs at %s, want 0", got)
	}
	// The thread that was lowered has ended: those that are left start children with precedence as before.
	for range 20 {
		if got := niceOf(t, (*exec.Cmd).Start); got != "-15" {
			t.Fatalf("after an ordinary child a plain one runs at %s", got)
		}
	}
}
