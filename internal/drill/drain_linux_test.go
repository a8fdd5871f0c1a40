package drill

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/internal/lab"
)

// long is requests of one kind, many at a time.
type long struct {
	kind    string
	want    int64 // bytes of the answer, 0: any
	client  *http.Client
	workers sync.WaitGroup

	mu     sync.Mutex
	done   int
	failed []string
	worst  time.Duration
}

// startLong begins a request of the path every so often, each on a connection of its own, or where keep is set one after another on
// connections that are kept, one for each worker.
func (c *Cluster) startLong(ctx context.Context, kind string, want int64, every time.Duration, keep int, stop <-chan struct{}) *long {
	dial := func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		err = c.Lab.Client().Do(func() (err error) {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
			return err
		})
		return conn, err
	}
	l := &long{kind: kind, want: want, client: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: keep == 0,
		MaxIdleConnsPerHost: keep}}}
	url := "http://" + netip.AddrPortFrom(c.VIP.Addr(), Port).String() + kind
	for range max(keep, 1) {
		l.workers.Go(func() {
			tick := time.NewTicker(every)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				if keep > 0 {
					l.one(ctx, url)
				} else {
					l.workers.Go(func() { l.one(ctx, url) })
				}
			}
		})
	}
	return l
}

func (l *long) one(ctx context.Context, url string) {
	began := time.Now()
	err := func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := l.client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		n := int64(0)
		for err == nil && n < l.want { // as slowly as the test service answers
			var part int64
			part, err = io.CopyN(io.Discard, resp.Body, min(l.want-n, l.want/128))
			n += part
			time.Sleep(3 * time.Second / 128)
		}
		if err == nil {
			var rest int64
			rest, err = io.Copy(io.Discard, resp.Body)
			n += rest
		}
		if err == nil && (resp.StatusCode != http.StatusOK || l.want > 0 && n != l.want) {
			err = fmt.Errorf("status %s, %d bytes", resp.Status, n)
		}
		return err
	}()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done++
	l.worst = max(l.worst, time.Since(began))
	if err != nil {
		l.failed = append(l.failed, err.Error())
	}
}

func (l *long) verdict(t *testing.T) {
	l.workers.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	t.Logf("%-9s %5d requests, %d failed, the longest took %s", l.kind, l.done, len(l.failed), l.worst.Round(time.Millisecond))
	if len(l.failed) > 0 || l.done == 0 {
		t.Errorf("%s: %d of %d failed: %v", l.kind, len(l.failed), l.done, l.failed[:min(len(l.failed), 3)])
	}
}

// TestPlannedMovesThatNobodyNotices moves the group to and fro under load of every kind: short requests, kept connections, slow
// answers and long downloads, and none of them may fail or be cut short.
func TestPlannedMovesThatNobodyNotices(t *testing.T) {
	profile := strings.Split(*timing, ",")[0]
	for name, v := range map[string]struct {
		o     Options
		moves int // times -drill.n
	}{
		"IPv4": {Options{Timing: profile}, 10},
		"IPv6": {Options{Timing: profile, IPv6: true}, 3},
		"fast": {Options{Timing: "fast"}, 3},
	} {
		// A machine that stands still for 180 ms costs a lease of fast, and the machines of a CI do.
		if name == "fast" && *runs == 1 && !strings.Contains(*timing, "fast") {
			continue
		}
		v.o.Service = *service
		t.Run(name, func(t *testing.T) { movesUnnoticed(t, v.o, v.moves**runs) })
	}
}

func movesUnnoticed(t *testing.T, o Options, moves int) {
	c, ctx := formed(t, o)
	since := time.Now()
	short, err := c.Lab.StartClient(lab.ClientOptions{Target: netip.AddrPortFrom(c.VIP.Addr(), Port), Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	short.Mark()
	stop := make(chan struct{})
	loads := []*long{c.startLong(ctx, "/", 0, 10*time.Millisecond, 4, stop)}
	loads = append(loads, c.startLong(ctx, "/big", bigFile, 500*time.Millisecond, 0, stop))
	slow := "/slow"
	if o.Service == "tomcat" {
		slow = lab.TomcatSlow
	}
	loads = append(loads, c.startLong(ctx, slow, 0, 200*time.Millisecond, 0, stop))
	from, err := c.Owner(ctx)
	if err != nil {
		t.Fatal(err)
	}
	first := from
	for i := range moves {
		if err := c.steady(ctx, time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := c.drainTo(ctx, Other(from)); err != nil {
			t.Fatalf("move %d: %v", i, err)
		}
		from = Other(from)
		if err := c.poll(ctx, "a connection is drained", func() (bool, string) {
			st, err := c.Status(ctx)
			if err != nil {
				return false, err.Error()
			}
			return slices.ContainsFunc(Web(st).Notes, func(n string) bool { return strings.Contains(n, "connections on "+Other(from)+" until") }), fmt.Sprint(Web(st).Notes)
		}); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	for _, l := range loads {
		l.verdict(t)
	}
	end := time.Now()
	if err := c.poll(ctx, "short requests have ended", func() (bool, string) { return short.Settled(end), "" }); err != nil {
		t.Error(err)
	}
	r, err := short.Report(since)
	if err != nil || r.Failed > 0 || r.OK == 0 {
		t.Errorf("short requests: %s, %v", r, err)
	}
	if r.P99 > 500*time.Millisecond {
		t.Errorf("one in a hundred short requests took over %s: what opens a connection is lost between the gates", r.P99)
	}
	t.Logf("short: %s, max %s", r, r.Max.Round(time.Millisecond))
	out, err := c.Judge(Outcome{Fault: fmt.Sprintf("%d moves from %s", moves, first)}, "gate", since)
	t.Logf("%s: two nodes answered for %s", out.Fault, out.Double)
	if err != nil || out.Breach() != "" {
		t.Errorf("%s, %v", out.Breach(), err)
	}
	for _, l := range loads {
		l.client.CloseIdleConnections()
	}
	c.drainRecorded(ctx, t)
}

// drainTo moves the group with its connections. A leader that a busy machine has just lost is waited for.
func (c *Cluster) drainTo(ctx context.Context, node string) error {
	return c.poll(ctx, "the move is accepted", func() (bool, string) {
		out, err := c.Hactl(ctx, "witness", "group", "move", Group, "--to", node, "--drain-timeout", "20s")
		if st, serr := c.Status(ctx); serr == nil && Web(st).Owner == node && Web(st).State == "online" {
			return true, ""
		}
		return err == nil && strings.Contains(out, "may finish on "+Other(node)), fmt.Sprint(out, err)
	})
}

// talk is one connection of a client that is kept.
type talk struct {
	net.Conn
	r *bufio.Reader
}

func (c *Cluster) talk(ctx context.Context) (*talk, error) {
	var k net.Conn
	err := c.Lab.Client().Do(func() (err error) {
		k, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", netip.AddrPortFrom(c.VIP.Addr(), Port).String())
		return err
	})
	return &talk{k, bufio.NewReader(k)}, err
}

// ask sends a request and returns which node answered.
func (k *talk) ask(bound time.Duration) (string, error) {
	if err := k.SetDeadline(time.Now().Add(bound)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(k, "GET / HTTP/1.1\r\nHost: drill\r\n\r\n"); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(k.r, nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	node, _, _ := strings.Cut(strings.TrimPrefix(string(body), "node="), " ")
	return node, err
}

// TestADrainOutlivesANode cuts the power of either node while connections of the old owner finish: those of the node that lives
// go on, those of the dead one are reset as soon as it is known to be lost, and new ones have one owner throughout.
func TestADrainOutlivesANode(t *testing.T) {
	beside(t)
	c, ctx := formed(t, Options{})
	since := time.Now()
	for _, lost := range []string{"the new owner", "the old owner", "an agent, which starts again"} {
		if err := c.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
		from, err := c.Owner(ctx)
		if err != nil {
			t.Fatal(err)
		}
		old, err := c.talk(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer old.Close()
		if got, err := old.ask(5 * time.Second); err != nil || got != from {
			t.Fatalf("%q, %v, want %s", got, err, from)
		}
		if err := c.drainTo(ctx, Other(from)); err != nil {
			t.Fatal(err)
		}
		mark := c.Client.Mark()
		if err := c.poll(ctx, "the new owner answers", func() (bool, string) { return c.Client.AnsweredBy(Other(from), mark), c.describe(ctx) }); err != nil {
			t.Fatal(err)
		}
		if got, err := old.ask(5 * time.Second); err != nil || got != from {
			t.Errorf("%s: before it, the open connection is answered by %q, %v", lost, got, err)
		}
		switch lost {
		case "the new owner":
			mark = c.Client.Mark()
			if err := c.Lab.Node(Other(from)).PowerCut(); err != nil {
				t.Fatal(err)
			}
			if err := c.poll(ctx, from+" answers again", func() (bool, string) { return c.Client.AnsweredBy(from, mark), c.describe(ctx) }); err != nil {
				t.Error(err)
			}
			if got, err := old.ask(5 * time.Second); err != nil || got != from {
				t.Errorf("%s is lost: the open connection is answered by %q, %v", lost, got, err)
			}
			err = c.PowerOn(Other(from))
		case "the old owner":
			if err := c.Lab.Node(from).PowerCut(); err != nil {
				t.Fatal(err)
			}
			cut := time.Now()
			if got, err := old.ask(15 * time.Second); !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("%s is lost: the open connection got %q, %v, want a reset", lost, got, err)
			}
			t.Logf("the connection of the dead node was reset after %s", time.Since(cut).Round(time.Millisecond))
			err = c.PowerOn(from)
		default:
			err = errors.Join(c.RestartAgent(from), c.RestartAgent(Other(from)))
			if got, err := old.ask(5 * time.Second); err != nil || got != from {
				t.Errorf("agents started again: the open connection is answered by %q, %v", got, err)
			}
			if err := c.WaitReady(ctx); err != nil {
				t.Error(err)
			}
			if got, err := old.ask(5 * time.Second); err != nil || got != from {
				t.Errorf("agents are back: the open connection is answered by %q, %v", got, err)
			}
			old.Close()
			c.drainRecorded(ctx, t)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	out, err := c.Judge(Outcome{Fault: "a node is lost in a drain"}, "gate", since)
	if err != nil || out.Breach() != "" {
		t.Errorf("%s, %v", out.Breach(), err)
	}
}

// TestWhatDoesNotFinishIsCut shows the end of the time: what is open is reset, not left hanging, and the record counts it.
func TestWhatDoesNotFinishIsCut(t *testing.T) {
	beside(t)
	c, ctx := formed(t, Options{})
	from, err := c.Owner(ctx)
	if err != nil {
		t.Fatal(err)
	}
	old, err := c.talk(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if got, err := old.ask(5 * time.Second); err != nil || got != from {
		t.Fatalf("%q, %v, want %s", got, err, from)
	}
	began := time.Now()
	if out, err := c.Hactl(ctx, "witness", "group", "move", Group, "--to", Other(from), "--drain-timeout", "2s"); err != nil || !strings.Contains(out, "for 2s") {
		t.Fatalf("%q, %v", out, err)
	}
	if err := old.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, err = old.r.ReadByte()
	took := time.Since(began)
	if !errors.Is(err, unix.ECONNRESET) || took < 1500*time.Millisecond {
		t.Errorf("the connection ended after %s: %v, want a reset after 2s", took, err)
	}
	if record := c.drainRecorded(ctx, t); !strings.Contains(record, "were cut") || strings.Contains(record, " 0 were cut") {
		t.Errorf("record %q", record)
	}
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	if out, err := c.Hactl(ctx, "witness", "group", "move", Group, "--to", from, "--drain-timeout", "0"); err != nil || strings.Contains(out, "connections") {
		t.Errorf("without a drain: %q, %v", out, err)
	}
}

// drainRecorded waits for the record of what became of the connections of the newest move.
func (c *Cluster) drainRecorded(ctx context.Context, t *testing.T) string {
	t.Helper()
	record := ""
	err := c.poll(ctx, "the record of the drain", func() (bool, string) {
		st, err := c.Status(ctx)
		if err != nil {
			return false, err.Error()
		}
		draining := slices.ContainsFunc(Web(st).Notes, func(n string) bool { return strings.Contains(n, "draining") })
		if st.LastEvent != nil && st.LastEvent.Reason.Rule == "drained" {
			record = st.LastEvent.Reason.Text
		}
		return !draining && record != "", fmt.Sprint(Web(st).Notes, st.LastEvent)
	})
	t.Logf("record: %s", record)
	if err != nil {
		t.Error(err)
	}
	return record
}
