package node

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// errLinkDown ends the calls that were under way when their connection broke.
var errLinkDown = errors.New("connection to the peer broke")

// link is one lease connection to a peer, made when first needed and made again after a fault. A call that gets no
// answer in time closes it, so that the next one tries the peer's other addresses.
type link struct {
	dial func(ctx context.Context) (net.Conn, error) // required

	dialing sync.Mutex // one attempt at a time; taken before mu
	mu      sync.Mutex
	conn    net.Conn
	next    uint64
	waiting map[uint64]chan message
	readers sync.WaitGroup
	closed  bool
}

// call sends a question and waits for its answer.
func (l *link) call(ctx context.Context, m message) (message, error) {
	conn, err := l.connect(ctx)
	if err != nil {
		return message{}, err
	}
	answer := make(chan message, 1)
	l.mu.Lock()
	if l.conn != conn {
		l.mu.Unlock()
		return message{}, errLinkDown
	}
	l.next++
	m.ID = l.next
	l.waiting[m.ID] = answer
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetWriteDeadline(deadline)
	}
	err = writeFrame(conn, m)
	l.mu.Unlock()
	if err != nil {
		l.broke(conn)
		return message{}, err
	}
	select {
	case a, ok := <-answer:
		if !ok {
			return message{}, errLinkDown
		}
		if a.Refused != "" {
			return a, errors.New(a.Refused)
		}
		return a, nil
	case <-ctx.Done():
		l.mu.Lock()
		delete(l.waiting, m.ID)
		l.mu.Unlock()
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			l.broke(conn)
		}
		return message{}, ctx.Err()
	}
}

func (l *link) connect(ctx context.Context) (net.Conn, error) {
	l.dialing.Lock()
	defer l.dialing.Unlock()
	l.mu.Lock()
	conn, closed := l.conn, l.closed
	l.mu.Unlock()
	if closed {
		return nil, net.ErrClosed
	}
	if conn != nil {
		return conn, nil
	}
	conn, err := l.dial(ctx)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		conn.Close()
		return nil, net.ErrClosed
	}
	l.conn, l.waiting = conn, map[uint64]chan message{}
	l.readers.Go(func() { l.read(conn) })
	return conn, nil
}

// read hands answers to their callers until the connection ends.
func (l *link) read(conn net.Conn) {
	r := bufio.NewReader(conn)
	for {
		m, err := readFrame(r)
		if err != nil {
			l.broke(conn)
			return
		}
		l.mu.Lock()
		answer := l.waiting[m.ID]
		delete(l.waiting, m.ID)
		l.mu.Unlock()
		if answer != nil {
			answer <- m
		}
	}
}

// broke forgets a connection and ends the calls on it.
func (l *link) broke(conn net.Conn) {
	l.mu.Lock()
	if l.conn == conn {
		l.conn = nil
		for _, answer := range l.waiting {
			close(answer)
		}
		l.waiting = nil
	}
	l.mu.Unlock()
	conn.Close()
}

func (l *link) close() {
	l.mu.Lock()
	l.closed = true
	conn := l.conn
	l.mu.Unlock()
	if conn != nil {
		l.broke(conn)
	}
	l.readers.Wait()
}

// links keeps one link for each peer.
type links struct {
	dial func(ctx context.Context, peer string) (net.Conn, error)
	mu   sync.Mutex
	all  map[string]*link
}

func (l *links) to(peer string) *link {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all == nil {
		l.all = map[string]*link{}
	}
	if l.all[peer] == nil {
		l.all[peer] = &link{dial: func(ctx context.Context) (net.Conn, error) { return l.dial(ctx, peer) }}
	}
	return l.all[peer]
}

// call asks a peer and waits at most timeout.
func (l *links) call(ctx context.Context, peer string, m message, timeout time.Duration) (message, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return l.to(peer).call(ctx, m)
}

func (l *links) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, one := range l.all {
		one.close()
	}
}
