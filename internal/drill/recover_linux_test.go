package drill

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/api"
	"hacluster/internal/lab"
	"hacluster/placement"
)

// rescue is a drill cluster in the hands of an administrator with bad luck.
type rescue struct {
	*Cluster
	t   *testing.T
	ctx context.Context
}

func rescued(t *testing.T, o Options) *rescue {
	t.Helper()
	c, ctx := formed(t, o)
	return &rescue{c, t, ctx}
}

func (r *rescue) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rescue) until(what string, ok func() (bool, string)) {
	r.t.Helper()
	r.must(r.poll(r.ctx, what, ok))
}

// here runs hactl with the node's own had.toml.
func (r *rescue) here(node string, args ...string) (string, error) {
	return r.Hactl(r.ctx, node, append([]string{"--config", r.Lab.Node(node).Path("etc", "had", "had.toml")}, args...)...)
}

// refused runs what must fail with a text.
func (r *rescue) refused(text, node string, args ...string) {
	r.t.Helper()
	_, err := r.here(node, args...)
	if err == nil || !strings.Contains(err.Error(), text) {
		r.t.Fatalf("hactl %v on %s: got %v, want %q", args, node, err, text)
	}
}

func (r *rescue) data(node string, parts ...string) string {
	return r.Lab.Node(node).Path(append([]string{"var", "lib", "had"}, parts...)...)
}

func (r *rescue) addr(node string) string { return r.Lab.Node(node).Addr(0).String() }

func (r *rescue) log(node string) string {
	text, err := os.ReadFile(r.Agent(node).Log)
	r.must(err)
	return string(text)
}

// ends waits for the agent to end by itself.
func (r *rescue) ends(node string) {
	r.t.Helper()
	select {
	case <-r.Agent(node).Done():
	case <-time.After(20 * time.Second):
		r.t.Fatalf("had on %s goes on", node)
	}
}

func (r *rescue) rejoinToken(by, node string) string {
	r.t.Helper()
	out, err := r.here(by, "-o", "json", "token", "--rejoin", node)
	r.must(err)
	var reply api.Reply
	r.must(json.Unmarshal([]byte(out), &reply))
	return reply.Token
}

// votes waits until that many voters are there and alive.
func (r *rescue) votes(n int) time.Duration {
	r.t.Helper()
	since := time.Now()
	r.until(fmt.Sprint(n, " voters"), func() (bool, string) {
		st, err := r.Status(r.ctx)
		if err != nil || st.Stale {
			return false, fmt.Sprint(err)
		}
		return st.Quorum.Voters == n && st.Quorum.Alive == n, fmt.Sprintf("%+v", st.Quorum)
	})
	return time.Since(since)
}

// apart waits until the cluster is ready, and says who owns and who leads: two nodes, of one and the same answer. In two answers
// an owner may have become the leader in between, and a test that stops the leader would stop the owner.
func (r *rescue) apart() (owner, leader string) {
	r.t.Helper()
	r.must(r.WaitReady(r.ctx))
	r.until("somebody else than the owner leads", func() (bool, string) {
		st, err := r.Status(r.ctx)
		owner, leader = Web(st).Owner, st.Leader
		return err == nil && !st.Stale && owner != "" && leader != "" && owner != leader, fmt.Sprintf("%q owns, %q leads, %v", owner, leader, err)
	})
	return owner, leader
}

func (r *rescue) double(since time.Time) {
	r.t.Helper()
	st, err := r.Status(r.ctx)
	r.must(err)
	out, err := r.Judge(Outcome{Fault: r.t.Name()}, string(st.Timing.Layer), since)
	r.must(err)
	if b := out.Breach(); b != "" {
		r.t.Error(b)
	}
}

func (r *rescue) events(node string) (out []placement.Event) {
	r.t.Helper()
	r.until(node+" tells its history", func() (bool, string) { // an agent that was just started may not listen yet
		client := api.NewSocketClient(r.socket(node))
		defer client.Close()
		e, err := client.Events(r.ctx, 0)
		out = e
		return err == nil, fmt.Sprint(err)
	})
	return out
}

// TestForceTheQuorum: two of three nodes are gone, the third goes on, the others come back under new identities.
func TestForceTheQuorum(t *testing.T) { // S1, S4
	beside(t)
	r := rescued(t, Options{})
	start := time.Now()
	owner, err := r.Owner(r.ctx)
	r.must(err)
	last := Other(owner)
	lost := []string{owner, "witness"}
	r.refused("had is running", last, "quorum", "force", "--lost", strings.Join(lost, ","), "--yes-i-know")
	for _, n := range lost {
		r.must(r.Lab.Node(n).PowerCut())
	}
	r.must(r.Agent(last).Stop(20 * time.Second))
	r.refused("witness is not named as lost", last, "quorum", "force", "--lost", owner, "--yes-i-know")
	r.refused("is this node", last, "quorum", "force", "--lost", last, "--yes-i-know")
	r.refused("not a node of this cluster", last, "quorum", "force", "--lost", owner+",nobody", "--yes-i-know")
	r.refused("nobody is here to answer", last, "quorum", "force")
	out, err := r.here(last, "quorum", "force", "--lost", strings.Join(lost, ","), "--yes-i-know")
	r.must(err)
	t.Logf("hactl quorum force\n%s", out)
	since := r.Client.Mark()
	r.must(r.StartAgent(last))
	r.until(last+" answers", func() (bool, string) { return r.Client.AnsweredBy(last, since), r.describe(r.ctx) })
	t.Logf("FIGURE online %s after the start of had on the forced node", time.Since(since).Round(time.Millisecond))
	if !slices.ContainsFunc(r.events(last), func(e placement.Event) bool { return e.Reason.Rule == placement.RuleQuorumForce }) {
		t.Error("no event tells of it")
	}
	// The lost owner comes back with its old disk.
	r.must(r.PowerOn(owner))
	r.until("the lost node sees why it is alone", func() (bool, string) {
		return strings.Contains(r.log(owner), "node rejoin") || strings.Contains(r.log(owner), "bad certificate"), "its log says nothing"
	})
	st, err := r.Status(r.ctx)
	r.must(err)
	if st.Leader != last || st.Quorum.Voters != 1 || Web(st).Owner != last {
		t.Errorf("the lost node was let in: %+v, %s on %s", st.Quorum, st.Leader, Web(st).Owner)
	}
	r.must(r.Lab.Node(owner).KillAll())
	r.ends(owner)
	r.refused("hactl token --rejoin "+owner, owner, "node", "rejoin", r.addr(last), "--yes")
	out, err = r.here(owner, "node", "rejoin", r.addr(last), "--token", r.rejoinToken(last, owner), "--yes")
	r.must(err)
	t.Logf("hactl node rejoin\n%s", out)
	r.must(r.StartAgent(owner))
	t.Logf("FIGURE the first rejoined node votes after %s", r.votes(2).Round(time.Millisecond))
	// The witness lost its disk and its certificate.
	r.must(r.Lab.Node("witness").PowerOn())
	r.must(os.RemoveAll(r.data("witness")))
	r.must(os.RemoveAll(r.Lab.Node("witness").Path("etc", "had", "tls")))
	r.refused("cannot be read", "witness", "node", "rejoin", r.addr(last), "--yes")
	r.refused("and nobody else", "witness", "node", "rejoin", r.addr(last), "--token", r.rejoinToken(last, owner), "--yes")
	_, err = r.here("witness", "node", "rejoin", r.addr(last), "--token", r.rejoinToken(last, "witness"), "--yes")
	r.must(err)
	r.must(r.StartAgent("witness"))
	r.votes(3)
	r.must(r.WaitReady(r.ctx))
	r.double(start)
}

// TestADamagedStoreIsRefusedAndRejoins: whatever happened to the store, had says what to do, and that works.
func TestADamagedStoreIsRefusedAndRejoins(t *testing.T) { // S4
	r := rescued(t, Options{})
	start := time.Now()
	for _, tc := range []struct {
		name, finding string
		hurt          func(data string) error
	}{
		{"truncated", "raft.db", func(data string) error { return os.Truncate(filepath.Join(data, "raft.db"), 9000) }},
		{"bits flipped", "raft.db", func(data string) error { return flip(filepath.Join(data, "raft.db")) }},
		{"raft.db gone", "raft.db", func(data string) error { return os.Remove(filepath.Join(data, "raft.db")) }},
		{"everything gone", "data directory", os.RemoveAll},
	} {
		owner, leader := r.apart()
		victim := Other(owner) // a standby, or the leader
		if tc.name == "truncated" {
			victim = leader
		}
		r.must(r.Agent(victim).Stop(20 * time.Second))
		r.ends(victim)
		if tc.name == "everything gone" { // as where a disk was replaced: nothing runs that the agent could not know of any more
			if err := r.signalService(victim, (*lab.Node).Kill9); err != nil {
				t.Log(err)
			}
		}
		r.must(tc.hurt(r.data(victim)))
		r.must(r.StartAgent(victim))
		r.ends(victim)
		if text := r.log(victim); !strings.Contains(text, "hactl node rejoin") || !strings.Contains(text, tc.finding) {
			t.Fatalf("%s: had says:\n%s", tc.name, text[max(0, len(text)-600):])
		}
		if end, _ := r.Agent(victim).State(); !strings.Contains(end, "78") {
			t.Errorf("%s: had ended with %s: systemd would start it again and again", tc.name, end)
		}
		since := time.Now()
		var out string
		r.until("rejoin", func() (bool, string) { // its lease must have been silent for a moment
			var err error
			out, err = r.here(victim, "node", "rejoin", r.addr(owner), "--yes")
			return err == nil, fmt.Sprint(err)
		})
		t.Logf("%s\n%s", tc.name, out)
		r.must(r.StartAgent(victim))
		r.votes(3)
		t.Logf("FIGURE %s: votes again %s after hactl node rejoin", tc.name, time.Since(since).Round(time.Millisecond))
		kept, err := filepath.Glob(r.data(victim, "before-rejoin-*"))
		r.must(err)
		if len(kept) == 0 {
			t.Errorf("%s: nothing was kept", tc.name)
		}
		r.refused("had is running", victim, "node", "rejoin", r.addr(owner), "--yes")
	}
	r.must(r.WaitReady(r.ctx))
	r.double(start)
	report, err := r.Client.Report(start)
	r.must(err)
	if report.Failed > 0 {
		t.Errorf("clients noticed: %s (L2)", report.String())
	}
}

// flip changes one bit in every page, so that one in use is hit.
func flip(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for at := 2*4096 + 40; at < len(b); at += 4096 {
		b[at] ^= 0x10
	}
	return os.WriteFile(path, b, 0o600)
}

// TestKilledMinorityLosesNothing: what the cluster has confirmed is in the history of every node at the end.
func TestKilledMinorityLosesNothing(t *testing.T) { // S4
	beside(t)
	r := rescued(t, Options{})
	limit := 20 * time.Second
	if testing.Short() {
		limit = 8 * time.Second
	}
	ctx, cancel := context.WithTimeout(r.ctx, limit)
	defer cancel()
	var mu sync.Mutex
	confirmed, failed := map[string]bool{}, 0
	var writer sync.WaitGroup
	writer.Go(func() { // the journal of a client
		for i := 1; ctx.Err() == nil && i < 700; i++ {
			ttl := time.Hour + time.Duration(i)*time.Second // makes the event's text unique
			client := api.NewSocketClient(r.socket(Nodes[i%len(Nodes)]))
			one, done := context.WithTimeout(ctx, time.Second)
			_, err := client.Write(one, api.Write{Verb: api.VerbToken, TTL: ttl})
			done()
			client.Close()
			mu.Lock()
			if err == nil {
				confirmed["a join token for one member, valid for "+ttl.String()] = true
			} else {
				failed++
			}
			mu.Unlock()
			time.Sleep(5 * time.Millisecond)
		}
	})
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 1))
	kills := 0
	for ctx.Err() == nil {
		victim := Nodes[rnd.IntN(len(Nodes))]
		time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond)
		r.must(r.Lab.Node(victim).KillAll()) // all of the machine, the dead man too
		kills++
		time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond)
		r.must(r.StartAgent(victim))
		r.until(victim+" is back", func() (bool, string) {
			st, err := r.Status(r.ctx)
			return err == nil && !st.Stale && st.Quorum.Alive == len(Nodes), fmt.Sprint(err)
		})
	}
	writer.Wait()
	r.votes(3)
	for _, node := range Nodes {
		var missing []string
		r.until(node+" has caught up", func() (bool, string) {
			have := map[string]bool{}
			for _, e := range r.events(node) {
				have[e.Reason.Text] = true
			}
			missing = missing[:0]
			for text := range confirmed {
				if !have[text] {
					missing = append(missing, text)
				}
			}
			return len(missing) == 0, fmt.Sprintf("%d confirmed proposals are missing, like %v", len(missing), missing[:min(3, len(missing))])
		})
	}
	t.Logf("FIGURE seed %d: %d kills, %d proposals confirmed, %d not, none lost", seed, kills, len(confirmed), failed)
	if len(confirmed) < 50 || kills < 3 {
		t.Errorf("too little happened: %d confirmed, %d kills", len(confirmed), kills)
	}
}

// TestAFullDiskCostsOneNode: it stops with a clear error and without its addresses; the others go on.
func TestAFullDiskCostsOneNode(t *testing.T) { // S1, S4
	beside(t)
	var mounts []string
	r := rescued(t, Options{Prepare: func(l *lab.Lab) error {
		for _, node := range Nodes[:2] {
			dir := l.Node(node).Path("var", "lib")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			if err := unix.Mount("had-drill", dir, "tmpfs", 0, "size=2m"); err != nil {
				return err
			}
			mounts = append(mounts, dir)
		}
		return nil
	}})
	t.Cleanup(func() {
		for _, dir := range mounts {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		}
	})
	start := time.Now()
	owner, err := r.Owner(r.ctx)
	r.must(err)
	since := r.Client.Mark()
	ballast := filepath.Join(filepath.Dir(r.data(owner)), "ballast")
	f, err := os.Create(ballast)
	r.must(err)
	for n, page := 0, make([]byte, 4096); err == nil && n < 1024; n++ {
		_, err = f.Write(page)
	}
	r.must(f.Close())
	i := 0
	r.until("the disk is noticed", func() (bool, string) {
		i++
		_, err := r.Hactl(r.ctx, "witness", "token", "--ttl", fmt.Sprintf("%ds", 3600+i))
		return strings.Contains(r.log(owner), "disk is full"), fmt.Sprint(err)
	})
	r.until(Other(owner)+" answers", func() (bool, string) { return r.Client.AnsweredBy(Other(owner), since), r.describe(r.ctx) })
	held, err := r.Lab.Node(owner).Addrs()
	r.must(err)
	if slices.Contains(held, r.VIP) {
		t.Error("the node with the full disk still has the address")
	}
	report, err := r.Client.Report(since)
	r.must(err)
	t.Logf("FIGURE full disk on the owner: outage %s", report.Gap.Round(time.Millisecond))
	// With room again it comes back by itself, or at a start.
	r.must(os.Remove(ballast))
	if !r.answers(owner) {
		r.must(r.StartAgent(owner))
	}
	r.votes(3)
	r.must(r.WaitReady(r.ctx))
	r.double(start)
}
