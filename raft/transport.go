package raft

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	hraft "github.com/hashicorp/raft"

	"hacluster/internal/wire"
)

// stream is the library's view of package wire: a server's address is its node name. It keeps account of its connections
// because the library does not close or join them.
type stream struct {
	name    string
	hello   string // says which incarnation of the cluster this node is of
	dialer  Dialer
	ln      net.Listener
	connect time.Duration // bound on one connection attempt

	spareAfter time.Duration

	mu     sync.Mutex
	closed bool
	conns  map[*conn]struct{}
	spares spares
	making sync.WaitGroup // spares
	open   sync.WaitGroup // accepted connections: each has a goroutine of the library
	ctx    context.Context
	cancel context.CancelFunc
}

type nodeAddr string

func (a nodeAddr) Network() string { return "node" }
func (a nodeAddr) String() string  { return string(a) }

func newStream(cfg Config) *stream {
	s := &stream{name: cfg.Name, hello: cfg.Incarnation + "\n", dialer: cfg.Dialer, ln: cfg.Listener, conns: map[*conn]struct{}{},
		connect: max(500*time.Millisecond, 2*cfg.Timing.Heartbeat), spareAfter: spareAfter,
		spares: spares{map[hraft.ServerAddress]*conn{}, map[hraft.ServerAddress]bool{}}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

type conn struct {
	net.Conn
	done  func()
	once  sync.Once
	greet func(net.Conn) error // before the first byte is read; nil: done, or not needed
}

// Read implements net.Conn. One goroutine reads a connection.
func (c *conn) Read(b []byte) (int, error) {
	if greet := c.greet; greet != nil {
		c.greet = nil
		if err := greet(c.Conn); err != nil {
			c.Conn.Close()
			return 0, err
		}
	}
	return c.Conn.Read(b)
}

func (c *conn) Close() error {
	c.once.Do(c.done)
	return c.Conn.Close()
}

func (s *stream) track(raw net.Conn, accepted bool) (*conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		raw.Close()
		return nil, net.ErrClosed
	}
	c := &conn{Conn: raw}
	c.done = func() {
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
		if accepted {
			s.open.Done()
		}
	}
	if accepted {
		s.open.Add(1)
	}
	s.conns[c] = struct{}{}
	return c, nil
}

// Dial implements hraft.StreamLayer. The library's timeout is meant for answers; a connection is there much sooner or
// tried again.
func (s *stream) Dial(address hraft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	c := s.spare(address)
	if c == nil {
		var err error
		if c, err = s.dial(address, timeout); err != nil {
			return nil, err
		}
	}
	s.refill(address)
	return c, nil
}

func (s *stream) dial(address hraft.ServerAddress, timeout time.Duration) (*conn, error) {
	ctx, cancel := context.WithTimeout(s.ctx, min(timeout, s.connect))
	defer cancel()
	raw, err := s.dialer.Dial(ctx, string(address), wire.ALPNRaft)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	raw.SetDeadline(deadline)
	err = s.expect(raw)
	if err == nil {
		_, err = io.WriteString(raw, s.hello)
	}
	if err != nil {
		raw.Close()
		if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "remote error" { // a TLS alert: crypto/tls, conn.go
			err = fmt.Errorf("%s refuses the certificate of this node (%w): this node was removed, or the cluster went on without it: run `hactl node rejoin` here", address, err)
		}
		return nil, err
	}
	raw.SetDeadline(time.Time{})
	return s.track(raw, false)
}

// greet exchanges the first lines of an accepted connection. The accepting side speaks first: where its TLS refuses the
// caller, whose handshake is done before that is known, the caller reads why.
func (s *stream) greet(c net.Conn) error {
	if _, err := io.WriteString(c, s.hello); err != nil {
		return err
	}
	return s.expect(c)
}

// expect reads the other side's first line, its incarnation of the cluster. After a forced quorum the same names live on in
// two histories, which must never be mixed; here that holds whatever certificates say.
func (s *stream) expect(c net.Conn) error {
	got := make([]byte, 0, len(s.hello))
	for b := make([]byte, 1); ; {
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		if got = append(got, b[0]); b[0] == '\n' || len(got) > maxHello {
			break
		}
	}
	if string(got) == s.hello {
		return nil
	}
	return errOtherIncarnation
}

var errOtherIncarnation = errors.New("the two nodes are of different incarnations of the cluster since `hactl quorum force`: run `hactl node rejoin` on the one that was not chosen")

// maxHello bounds the first line, in bytes.
const maxHello = 128

// Accept implements net.Listener.
func (s *stream) Accept() (net.Conn, error) {
	raw, err := s.ln.Accept()
	if err != nil {
		return nil, err
	}
	c, err := s.track(raw, true)
	if err != nil {
		return nil, err
	}
	c.greet = s.greet
	return c, nil
}

// Close implements net.Listener.
func (s *stream) Close() error {
	s.cancel()
	return s.ln.Close()
}

// Addr implements net.Listener: the node's name, which is its Raft address.
func (s *stream) Addr() net.Addr { return nodeAddr(s.name) }

// closeConns ends every connection, now and to come.
func (s *stream) closeConns() {
	s.cancel()
	s.mu.Lock()
	s.closed = true
	var open []*conn
	for c := range s.conns {
		open = append(open, c)
	}
	s.mu.Unlock()
	for _, c := range open {
		c.Conn.Close() // not c.Close: the user's goroutine does that when it ends, and wait waits for it
	}
}

func (s *stream) wait() {
	s.making.Wait()
	s.open.Wait()
}

// transport is the library's, except that replication to a peer that is away is retried here: the library would back off
// up to 10 s and let a node that has come back wait that long.
type transport struct {
	*hraft.NetworkTransport
	r     *Raft
	ready chan struct{} // closed when r is complete
	awake chan struct{} // a heartbeat is sent, or was heard
	begun time.Time     // heartbeats are due at whole intervals from here

	handle func(hraft.RPC) // what the library does with a heartbeat; it says so before it is there

	mu       sync.Mutex
	answered map[hraft.ServerID]time.Time // newest answer of a peer
	beats    map[hraft.ServerID]beat      // newest of a peer; none after a failure
	heard    map[hraft.ServerID]beat      // newest renewal of a peer that stands for one
	wakers   map[hraft.ServerID]chan struct{}
	handover time.Time // when a transfer of leadership was asked for last
	recalled time.Time // when recall asked last
	unheard  int       // how often it has asked since the library showed that it hears
}

// handoverPatience is how long after a transfer was asked for replication fails as the library expects: it waits for a
// failure in the middle of a transfer, and without one the next transfer would hang and block all proposals.
const handoverPatience = 15 * time.Second

func newTransport(r *Raft, logger hclog.Logger) *transport {
	return &transport{r: r, ready: make(chan struct{}), awake: make(chan struct{}, 1), begun: time.Now(), answered: map[hraft.ServerID]time.Time{},
		beats: map[hraft.ServerID]beat{}, heard: map[hraft.ServerID]beat{}, wakers: map[hraft.ServerID]chan struct{}{}, NetworkTransport: hraft.NewNetworkTransportWithConfig(&hraft.NetworkTransportConfig{
			Logger:          logger,
			Stream:          r.stream,
			MaxPool:         maxConns,
			MaxRPCsInFlight: 1, // no pipelining: one way to fail less, and batches do the rest for this little traffic
			Timeout:         rpcTimeout,
		})}
}

// AppendEntries implements hraft.Transport. A heartbeat fails at once; a replication lasts until it is answered, or this
// node no longer leads in its term, or the peer is no longer in the group.
func (t *transport) AppendEntries(id hraft.ServerID, target hraft.ServerAddress, req *hraft.AppendEntriesRequest, resp *hraft.AppendEntriesResponse) error {
	<-t.ready
	heartbeat := req.PrevLogEntry == 0 && len(req.Entries) == 0 && req.LeaderCommitIndex == 0 // as in the library's transport
	if heartbeat {
		t.recalls(id)
	}
	if heartbeat && t.pace(id, req.Term) {
		t.recall()
		resp.Term, resp.Success = req.Term, true
		return nil
	}
	pause := 10 * time.Millisecond
	for {
		begun := time.Now()
		err := t.NetworkTransport.AppendEntries(id, target, req, resp)
		t.mu.Lock()
		switch {
		case err != nil:
			delete(t.beats, id)
			t.forgo(target)
		case heartbeat:
			t.beats[id] = beat{term: req.Term, begun: begun}
		}
		if err == nil {
			t.answered[id] = time.Now()
		}
		t.mu.Unlock()
		if err == nil && resp.Success && !heartbeat {
			t.r.hints.stored(id, req)
		}
		if err == nil || heartbeat || !t.wanted(id, req.Term) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-t.r.ctx.Done():
			return errors.Join(err, t.r.Err())
		}
		pause = min(2*pause, t.r.cfg.Timing.Heartbeat/2)
	}
}

// forgo closes the spare connection to a node, which may be as dead as the one that has just failed.
func (t *transport) forgo(target hraft.ServerAddress) { t.r.stream.forgo(target) }

// beatsPerTimeout is how often a follower hears of its leader in the time after which it stands for election: two beats may be lost.
const beatsPerTimeout = 3

// beat is a heartbeat that was answered, or a renewal that stood for one.
type beat struct {
	term  uint64
	begun time.Time
	quiet bool // a renewal
}

// pace waits until the next heartbeat to a peer is due; true: a renewal of the peer's lease has stood for it, and none is to be sent. The
// library sends five to ten in one timeout, which was the larger part of what a cluster at rest used of the CPU. The first of a term, and
// one after a failure, are sent at once. The library counts the contact from the answer, which comes after the wait.
//
// Those to all peers are due at the same instants, and so is what waits for Beat: waking up is most of what each of them costs.
func (t *transport) pace(id hraft.ServerID, term uint64) (quiet bool) {
	due := time.NewTimer(time.Hour)
	defer due.Stop()
	for {
		t.mu.Lock()
		last, heard, wake := t.beats[id], t.heard[id], t.waker(id)
		if last.term == term && heard.term == term && heard.begun.After(last.begun) {
			t.beats[id] = heard
			t.mu.Unlock()
			return true
		}
		t.mu.Unlock()
		if last.term != term {
			return false
		}
		due.Reset(time.Until(t.due(last)))
		select {
		case <-due.C:
			t.beat()
			return false
		case <-wake:
		case <-t.r.ctx.Done():
			return false
		}
	}
}

// due is the last of the common instants that is not later than one interval after the heartbeat before; after a renewal, when the next one
// is not waited for any longer.
func (t *transport) due(last beat) time.Time {
	every, begun := t.every(), last.begun
	if last.quiet {
		if wait := quietFor(t.timeout(), t.r.renews()); wait > every {
			return begun.Add(wait)
		}
	}
	return t.begun.Add(begun.Sub(t.begun)/every*every + every)
}

// every is the interval of heartbeats.
func (t *transport) every() time.Duration { return interval(t.timeout(), t.r.renews()) }

// timeout is after how long without one a follower stands for election: whichever nodes go by while it changes.
func (t *transport) timeout() time.Duration {
	return min(t.r.cfg.Timing.Heartbeat, t.r.raft.ReloadableConfig().HeartbeatTimeout)
}

// interval is the time between two heartbeats: a third of the timeout, or as much less as it takes for one of them to come just
// before this node's lease is to be renewed. Then one wake serves both.
func interval(timeout, renew time.Duration) time.Duration {
	most := timeout / beatsPerTimeout
	count := (renew + most/2) / most
	if fits := (renew - renew/beatLead) / max(1, count); count > 0 && fits <= most {
		return fits
	}
	return most
}

// beatLead is the part of the time between two renewals by which a heartbeat comes before the next one.
const beatLead = 50

// beat tells that this node is awake for a heartbeat.
func (t *transport) beat() {
	select {
	case t.awake <- struct{}{}:
	default:
	}
}

// SetHeartbeatHandler implements hraft.Transport.
func (t *transport) SetHeartbeatHandler(handle func(hraft.RPC)) {
	t.handle = handle
	t.NetworkTransport.SetHeartbeatHandler(func(rpc hraft.RPC) {
		handle(rpc)
		t.beat()
	})
}

// Beat gets a value when a heartbeat is sent or heard: what is due soon costs least then, because this process is awake. It is for
// one goroutine, and nothing may depend on it: a node without a leader has no heartbeats.
func (r *Raft) Beat() <-chan struct{} { return r.trans.awake }

// silence is how long ago a peer answered; a very long time when it never did.
func (t *transport) silence(id hraft.ServerID) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Since(t.answered[id])
}

func (t *transport) handingOver() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.handover = time.Now()
}

func (t *transport) wanted(id hraft.ServerID, term uint64) bool {
	t.mu.Lock()
	handover := t.handover
	t.mu.Unlock()
	hr := t.r.raft
	if time.Since(handover) < handoverPatience {
		return false
	}
	if hr.State() != hraft.Leader || hr.CurrentTerm() != term {
		return false
	}
	f := hr.GetConfiguration()
	if f.Error() != nil {
		return false
	}
	for _, s := range f.Configuration().Servers {
		if s.ID == id {
			return true
		}
	}
	return false
}
