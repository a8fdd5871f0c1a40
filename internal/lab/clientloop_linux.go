package lab

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// conn is one request in flight.
type conn struct {
	fd    int
	start time.Time
	sent  bool
	done  bool
	in    []byte // the answer as far as it came, at most maxAnswer bytes
	size  int    // of the answer, also beyond that
}

// maxAnswer bounds what is kept of an answer: the status line, the headers and the node's name are near its start.
const maxAnswer = 4096

func (c *Client) loop() {
	c.next = time.Now()
	for {
		ready, tick, stop := c.poll.wait()
		if stop {
			c.closeAll()
			return
		}
		now := time.Now()
		for _, e := range ready {
			if k := c.byFD[int(e.Fd)]; k != nil {
				c.serve(k, e.Events, now)
			}
		}
		if tick {
			c.expire(now)
			// A tick stands for one request; when the thread was held up, the ones it missed are due now, but no flood.
			for n := 0; !c.next.After(now); n++ {
				if n == 10 {
					c.next = now.Add(c.o.Every)
					break
				}
				c.open(now)
				c.next = c.next.Add(c.o.Every)
			}
			c.publish()
		}
	}
}

// publish tells Settled how far the thread is.
func (c *Client) publish() {
	for len(c.order) > 0 && c.order[0].done {
		c.order = c.order[1:]
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inFlight, c.oldest = len(c.byFD), time.Time{}
	if len(c.order) > 0 {
		c.oldest = c.order[0].start
	}
}

func (c *Client) open(now time.Time) {
	k := &conn{start: now, fd: -1}
	fd, err := unix.Socket(c.family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		c.mu.Lock()
		c.err = fmt.Errorf("opening a client socket: %w", err)
		c.mu.Unlock()
		return
	}
	k.fd = fd
	if err := unix.Connect(fd, c.sa); err != nil && err != unix.EINPROGRESS {
		c.finish(k, now, class(err))
		return
	}
	if err := c.poll.add(fd, unix.EPOLLOUT|unix.EPOLLIN|unix.EPOLLRDHUP); err != nil {
		c.finish(k, now, class(err))
		return
	}
	c.byFD[fd] = k
	c.order = append(c.order, k)
}

// expire fails what is over its time. All requests have the same timeout, so the oldest come first.
func (c *Client) expire(now time.Time) {
	for _, k := range c.order {
		if now.Sub(k.start) < c.o.Timeout {
			return
		}
		if !k.done {
			c.finish(k, now, "timeout")
		}
	}
}

func (c *Client) serve(k *conn, events uint32, now time.Time) {
	if !k.sent {
		if code, err := unix.GetsockoptInt(k.fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || code != 0 {
			c.finish(k, now, class(errors.Join(err, unix.Errno(code))))
			return
		}
		if events&unix.EPOLLOUT == 0 {
			return
		}
		if _, err := unix.Write(k.fd, c.payload); err != nil {
			c.finish(k, now, class(err))
			return
		}
		k.sent = true
		if err := c.poll.mod(k.fd, unix.EPOLLIN|unix.EPOLLRDHUP); err != nil {
			c.finish(k, now, class(err))
		}
		return
	}
	for {
		n, err := unix.Read(k.fd, c.readBuf[:])
		if err == unix.EAGAIN {
			return
		}
		if err != nil {
			c.finish(k, now, class(err))
			return
		}
		k.in = append(k.in, c.readBuf[:min(n, maxAnswer-len(k.in))]...)
		k.size += n
		if done, problem := c.answer(k, n == 0); done {
			c.finish(k, now, problem)
			return
		}
	}
}

// answer judges what has come so far.
func (c *Client) answer(k *conn, eof bool) (done bool, problem string) {
	if c.o.Echo {
		if bytes.IndexByte(k.in, '\n') >= 0 {
			return true, ""
		}
		return eof, "closed"
	}
	head, body, ok := bytes.Cut(k.in, []byte("\r\n\r\n"))
	if !ok {
		return eof || len(k.in) == maxAnswer, "closed"
	}
	status, length := parseHead(head)
	if length >= 0 && k.size-len(k.in)+len(body) < length {
		return eof, "closed"
	}
	if length < 0 && !eof {
		return false, ""
	}
	if status < 200 || status > 399 {
		return true, "status " + strconv.Itoa(status)
	}
	return true, ""
}

// parseHead reads the status and the Content-Length (-1 without one) of an HTTP answer; 0 is a status that is none.
func parseHead(head []byte) (status, length int) {
	length = -1
	for i, line := range bytes.Split(head, []byte("\r\n")) {
		if i == 0 {
			if f := bytes.Fields(line); len(f) >= 2 && bytes.HasPrefix(f[0], []byte("HTTP/1.")) {
				status, _ = strconv.Atoi(string(f[1]))
			}
			continue
		}
		if name, value, ok := bytes.Cut(line, []byte(":")); ok && bytes.EqualFold(name, []byte("Content-Length")) {
			if n, err := strconv.Atoi(string(bytes.TrimSpace(value))); err == nil && n >= 0 {
				length = n
			}
		}
	}
	return status, length
}

// nodeOf finds "node=NAME" in an answer; NAME ends at the first byte that cannot be in a node's name.
func nodeOf(answer []byte) []byte {
	_, rest, ok := bytes.Cut(answer, []byte("node="))
	if !ok {
		return nil
	}
	end := bytes.IndexFunc(rest, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.')
	})
	if end >= 0 {
		rest = rest[:end]
	}
	return rest
}

// class names an error in few words, so that reports can count them.
func class(err error) string {
	for _, c := range []struct {
		errno unix.Errno
		name  string
	}{
		{unix.ECONNREFUSED, "refused"}, {unix.ECONNRESET, "reset"}, {unix.EPIPE, "reset"}, {unix.EHOSTUNREACH, "unreachable"},
		{unix.ENETUNREACH, "unreachable"}, {unix.ETIMEDOUT, "timeout"},
	} {
		if errors.Is(err, c.errno) {
			return c.name
		}
	}
	return err.Error()
}

func (c *Client) finish(k *conn, now time.Time, problem string) {
	k.done = true
	delete(c.byFD, k.fd)
	unix.Close(k.fd) // epoll forgets it with the last descriptor
	r := Request{Start: k.start, End: now, Err: problem}
	if problem == "" {
		name := nodeOf(k.in)
		node, ok := c.nodeName[string(name)] // no allocation
		if !ok && len(c.nodeName) < 1000 {
			node = string(name)
			c.nodeName[node] = node
		}
		r.Node = node
	}
	k.in = nil
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.requests) >= maxRequests {
		c.requests = append(c.requests[:0], c.requests[maxRequests/2:]...)
	}
	c.requests = append(c.requests, r)
}

func (c *Client) closeAll() {
	for fd := range c.byFD {
		unix.Close(fd)
	}
	c.byFD = nil
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inFlight = 0
}
