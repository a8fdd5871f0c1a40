package resources

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// At the end of a lease the agent and the dead man kill side by side, and the agent may start again at once. No start may
// be left without a record: nothing would ever find it again (S2).
func TestAKillBesideAnotherOneNeverLosesTheNextStart(t *testing.T) {
	s := Spec{Group: "g", Name: "two", Kind: KindProcess, Command: []string{"/bin/sleep", "1000"}, StateDir: t.TempDir(),
		PendingTimeout: time.Second, StopBudget: time.Second}
	ctx := context.Background()
	for range 50 {
		agent, err1 := New(s, slog.New(slog.DiscardHandler))
		deadMan, err2 := New(s, slog.New(slog.DiscardHandler))
		if err := errors.Join(err1, err2, agent.Start(ctx, 1)); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { defer close(done); _ = deadMan.Kill(ctx) }()
		_, _ = agent.Kill(ctx), agent.Start(ctx, 2) // the dead man may end that start too
		<-done
		if err := agent.Kill(ctx); err != nil {
			t.Fatal(err)
		}
		if left := marked(t, "HAD_RESOURCE=two"); len(left) > 0 {
			t.Fatalf("processes %v run after a proven kill", left)
		}
	}
}

// marked lists the living processes with a variable in their environment, and kills them.
func marked(t *testing.T, variable string) (pids []int) {
	all, err := allStats()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		env, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/environ")
		if err == nil && !p.dead() && strings.Contains("\x00"+string(env), "\x00"+variable+"\x00") {
			pids = append(pids, p.PID)
			_ = proc{p.PID, p.Start}.signal(9)
		}
	}
	return pids
}
