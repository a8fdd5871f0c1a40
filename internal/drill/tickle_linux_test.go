package drill

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/internal/lab"
)

// waiter is a client that waits for an answer, or for nothing, on an open connection.
type waiter struct {
	kind string
	talk *talk
	at   time.Time
	err  error
}

// wait says what became of a connection.
func (w *waiter) wait(bound time.Duration) {
	if w.err = w.talk.SetDeadline(time.Now().Add(bound)); w.err == nil {
		_, w.err = w.talk.r.ReadByte()
	}
	w.at = time.Now()
}

// heard waits until the other side has all that was sent: what it has not is sent again, and finds out, too.
func (k *talk) heard() error {
	raw, err := k.Conn.(*net.TCPConn).SyscallConn()
	for end := time.Now().Add(2 * time.Second); err == nil; time.Sleep(time.Millisecond) {
		left := uint32(1)
		err = errors.Join(err, raw.Control(func(fd uintptr) {
			info, e := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
			if err = e; e == nil {
				left = info.Unacked
			}
		}))
		if err == nil && left == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d segments are not acknowledged", left)
		}
	}
	return err
}

// waiters are connections that were answered once: idle ones, and such that have asked what takes three seconds.
func (c *Cluster) waiters(ctx context.Context, t *testing.T, from string) (out []*waiter) {
	t.Helper()
	for _, kind := range []string{"idle", "slow", "idle", "slow"} {
		k, err := c.talk(ctx)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { k.Close() })
		if err := k.Conn.(*net.TCPConn).SetKeepAlive(false); err != nil { // its probes would find out, too, if only after a while
			t.Fatal(err)
		}
		if got, err := k.ask(5 * time.Second); err != nil || got != from {
			t.Fatalf("%q, %v, want %s", got, err, from)
		}
		out = append(out, &waiter{kind: kind, talk: k})
	}
	return out
}

// TestClientsNoticeThatTheOwnerIsLost cuts the power of the owner, and freezes it, while clients wait on connections that they keep:
// they notice within a second of the takeover. With tickle = false they go on waiting, which shows what would be.
func TestClientsNoticeThatTheOwnerIsLost(t *testing.T) {
	for name, o := range map[string]Options{"IPv4": {}, "IPv6": {IPv6: true}} {
		t.Run(name, func(t *testing.T) { noticed(t, o) })
	}
}

func noticed(t *testing.T, o Options) {
	c, ctx := formed(t, o)
	for _, fault := range []string{"power cut", "node frozen", "power cut, tickle off"} {
		off := strings.HasSuffix(fault, "off")
		if off {
			c.switchOff(ctx, t)
		}
		if err := c.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
		from, err := c.Owner(ctx)
		if err != nil {
			t.Fatal(err)
		}
		since, all := time.Now(), c.waiters(ctx, t, from)
		// The owner looks once a second, and what it tells shows nowhere: so long after they were opened the others know of them.
		<-time.After(4 * time.Second)
		for _, w := range all {
			if w.kind == "slow" {
				if _, err := io.WriteString(w.talk, "GET /slow HTTP/1.1\r\nHost: drill\r\n\r\n"); err != nil {
					t.Fatal(err)
				}
				if err := w.talk.heard(); err != nil {
					t.Fatal(err)
				}
			}
		}
		done := make(chan struct{})
		for _, w := range all {
			w.talk.r = bufio.NewReader(w.talk.Conn)
			go func() { w.wait(12 * time.Second); done <- struct{}{} }()
		}
		mark := c.Client.Mark()
		back := c.loseOwner(t, fault, from)
		if err := c.poll(ctx, "the new owner answers", func() (bool, string) { return c.Client.AnsweredBy(Other(from), mark), c.describe(ctx) }); err != nil {
			t.Fatal(err)
		}
		taken := time.Now()
		for range all {
			<-done
		}
		missed := false
		for _, w := range all {
			after := w.at.Sub(taken).Round(time.Millisecond)
			t.Logf("%s, %s: %v, %s after the new owner's first answer", fault, w.kind, w.err, after)
			switch {
			case off && !errors.Is(w.err, os.ErrDeadlineExceeded):
				t.Errorf("%s, %s: the client noticed %v although nobody told it: this test shows nothing", fault, w.kind, w.err)
			case !off && (!errors.Is(w.err, unix.ECONNRESET) || after > time.Second):
				t.Errorf("%s, %s: the client got %v after %s", fault, w.kind, w.err, after)
				missed = true
			}
		}
		if missed {
			t.Errorf("%s, taken %s after it:\n%s", fault, taken.Sub(mark).Round(time.Millisecond), c.aboutTickles(ctx, Other(from), mark))
		}
		if !off {
			c.recorded(ctx, t, from, len(all))
		}
		if err := back(); err != nil {
			t.Fatal(err)
		}
		out, err := c.Judge(Outcome{Fault: fault}, "gate", since)
		if err != nil || out.Breach() != "" {
			t.Errorf("%s: %s, %v", fault, out.Breach(), err)
		}
	}
}

// aboutTickles is what tells why clients did not notice: what the new owner said since, and whom it and the client take for their
// neighbours.
func (c *Cluster) aboutTickles(ctx context.Context, owner string, since time.Time) string {
	log, err := os.ReadFile(c.Agent(owner).Log)
	text := fmt.Sprintln(owner, err)
	for line := range strings.Lines(string(log)) {
		stamp, _, _ := strings.Cut(line, " ")
		if stamp, ok := strings.CutPrefix(stamp, "time="); ok && stamp >= since.UTC().Format(time.RFC3339) {
			text += line
		}
	}
	for _, n := range []*lab.Node{c.Lab.Node(owner), c.Lab.Client()} {
		out, err := n.Command(ctx, "ip", "-s", "neigh").CombinedOutput()
		text += fmt.Sprintf("neighbours:\n%s%v\n", out, err)
	}
	return text
}

// loseOwner takes the owner away without a word, and gives what brings it back.
func (c *Cluster) loseOwner(t *testing.T, fault, node string) func() error {
	t.Helper()
	n := c.Lab.Node(node)
	if fault == "node frozen" {
		if err := n.FreezeAll(); err != nil {
			t.Fatal(err)
		}
		return n.ThawAll
	}
	if err := n.PowerCut(); err != nil {
		t.Fatal(err)
	}
	return func() error { return c.PowerOn(node) }
}

// switchOff applies the configuration with tickle = false.
func (c *Cluster) switchOff(ctx context.Context, t *testing.T) {
	t.Helper()
	text, err := c.Config()
	if err != nil {
		t.Fatal(err)
	}
	file := c.Lab.Dir() + "/off.toml"
	text = strings.Replace(text, "type = \"address\"\n", "type = \"address\"\ntickle = false\n", 1)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := c.poll(ctx, "the configuration is applied", func() (bool, string) {
		out, err := c.Hactl(ctx, "witness", "apply", file)
		return err == nil, fmt.Sprint(out, err)
	}); err != nil {
		t.Fatal(err)
	}
}

// recorded checks that the log of the new owner, its move and the history say how many were told.
func (c *Cluster) recorded(ctx context.Context, t *testing.T, from string, least int) {
	t.Helper()
	n := 0
	if err := c.poll(ctx, "the record says how many were tickled", func() (bool, string) {
		st, err := c.Status(ctx)
		if err != nil {
			return false, err.Error()
		}
		m := Web(st).Move
		if m != nil {
			n = m.Tickled
		}
		return m != nil && m.To == Other(from) && m.Tickled >= least, fmt.Sprintf("%+v", m)
	}); err != nil {
		t.Error(err)
	}
	want := fmt.Sprintf("tickled %d clients of the lost owner", n)
	if err := c.poll(ctx, "the log says it", func() (bool, string) {
		log, err := os.ReadFile(c.Agent(Other(from)).Log)
		return err == nil && slices.ContainsFunc(strings.Split(string(log), "\n"), func(l string) bool { return strings.Contains(l, want) }), want
	}); err != nil {
		t.Error(err)
	}
	if out, err := c.Hactl(ctx, "witness", "why", Group); err != nil || !strings.Contains(out, want) {
		t.Errorf("hactl why: %s, %v", out, err)
	}
	t.Log(want)
}
