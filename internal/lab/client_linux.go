package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ClientOptions describes a stream of requests.
type ClientOptions struct {
	Target  netip.AddrPort // required
	Echo    bool           // optional: send "ping\n" and take one line as the answer, instead of HTTP GET
	Path    string         // optional: of the GET, "/"
	Every   time.Duration  // optional: time between two new connections, 5ms
	Timeout time.Duration  // optional: of each connection, 1s
}

// Request is one finished request.
type Request struct {
	Start, End time.Time
	Err        string // "" for success, else a class: refused, reset, unreachable, timeout, closed, status NNN
	Node       string // what followed "node=" in the answer
}

// maxRequests bounds the memory of a client: 100 minutes at 5 ms. The older half is forgotten beyond it.
const maxRequests = 1_200_000

// Client opens a new connection at a fixed rate, each with its own timeout, and records what came of it. It is one thread
// with nonblocking sockets, in the client's namespace with a neighbour cache of its own: about 2 % of a core, and no
// goroutine that waits for its turn.
type Client struct {
	o    ClientOptions
	poll *poller
	done chan struct{}
	stop sync.Once

	// of the thread only
	sa       unix.Sockaddr
	family   int
	payload  []byte
	byFD     map[int]*conn
	order    []*conn // oldest first; finished ones are skipped
	next     time.Time
	readBuf  [4096]byte
	nodeName map[string]string // one string per node, however many answers

	mu       sync.Mutex // guards the rest
	requests []Request  // in order of End
	inFlight int
	oldest   time.Time // start of the oldest request in flight
	mark     time.Time
	err      error // a fault of the instrument itself
}

// StartClient starts a client in the lab's client namespace. Close ends it, at the latest Lab.Close does.
func (l *Lab) StartClient(o ClientOptions) (*Client, error) {
	if l.client == nil {
		return nil, errors.New("starting a client: the lab was made without Options.Client")
	}
	c, err := StartClientIn(l.client.NetNS(), o)
	if err == nil {
		l.onClose(c.Close)
	}
	return c, err
}

// StartClientIn starts a client in any network namespace, given by file.
func StartClientIn(netns string, o ClientOptions) (*Client, error) {
	if !o.Target.IsValid() {
		return nil, errors.New("starting a client: no target given")
	}
	if o.Every == 0 {
		o.Every = 5 * time.Millisecond
	}
	if o.Timeout == 0 {
		o.Timeout = time.Second
	}
	if o.Path == "" {
		o.Path = "/"
	}
	c := &Client{o: o, done: make(chan struct{}), byFD: map[int]*conn{}, nodeName: map[string]string{}}
	c.payload = []byte("GET " + o.Path + " HTTP/1.1\r\nHost: " + o.Target.String() + "\r\nConnection: close\r\n\r\n")
	if o.Echo {
		c.payload = []byte("ping\n")
	}
	if a := o.Target.Addr(); a.Is4() {
		c.family, c.sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(o.Target.Port()), Addr: a.As4()}
	} else {
		c.family, c.sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(o.Target.Port()), Addr: a.As16()}
	}
	ns, err := os.Open(netns)
	if err != nil {
		return nil, fmt.Errorf("starting a client: %w", err)
	}
	if c.poll, err = newPoller(unix.NsecToTimespec(int64(o.Every))); err != nil {
		ns.Close()
		return nil, fmt.Errorf("starting a client: %w", err)
	}
	entered := make(chan error, 1)
	onInstrumentThread(func() {
		defer close(c.done)
		err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		ns.Close()
		entered <- err
		if err == nil {
			c.loop()
		}
		c.poll.close()
	})
	if err := <-entered; err != nil {
		return nil, fmt.Errorf("entering the client's network namespace: %w", err)
	}
	return c, nil
}

// Close ends the client; requests in flight are forgotten, Report still works.
func (c *Client) Close() error {
	c.stop.Do(func() {
		c.poll.stop()
		<-c.done
	})
	return nil
}

// Mark remembers this moment, to be called right before a fault, and returns it.
func (c *Client) Mark() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mark = time.Now()
	return c.mark
}

// Marked is the moment of the last Mark.
func (c *Client) Marked() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mark
}

// Settled tells whether every request that was started before at has ended, so that Report counts them all.
func (c *Client) Settled(at time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inFlight == 0 || c.oldest.After(at)
}

// AnsweredBy tells whether a request started after since was answered, by that node if one is named.
func (c *Client) AnsweredBy(node string, since time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range slices.Backward(c.requests) {
		if r.End.Before(since) {
			return false
		}
		if r.Err == "" && r.Start.After(since) && (node == "" || node == r.Node) {
			return true
		}
	}
	return false
}

// Requests returns what ended at or after since.
func (c *Client) Requests(since time.Time) []Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.requests[c.firstLocked(since):])
}

// firstLocked is the index of the first request that ended at or after since.
func (c *Client) firstLocked(since time.Time) int {
	i, _ := slices.BinarySearchFunc(c.requests, since, func(r Request, t time.Time) int { return r.End.Compare(t) })
	return i
}

// Report tells what clients saw from since until now. An error says that the client itself could not work (out of
// descriptors, say) and the report is worth nothing.
func (c *Client) Report(since time.Time) (ClientReport, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	// The gap that holds the fault begins with the last answer before it.
	last := time.Time{}
	first := c.firstLocked(since)
	for i := first - 1; i >= 0; i-- {
		if c.requests[i].Err == "" {
			last = c.requests[i].End
			break
		}
	}
	r := reportRequests(c.requests[first:], last, since, now)
	r.InFlight = c.inFlight
	return r, c.err
}
