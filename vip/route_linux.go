package vip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// answerTimeout bounds the wait for the kernel. It answers within the system call; only lost answers take longer.
const answerTimeout = 2 * time.Second

// batchSize keeps the answers of one batch within the default receive buffer.
const batchSize = 64

// listTries bounds how often a list is asked for again that changed while the kernel told it.
const listTries = 5

// route asks rtnetlink; it may be used by several goroutines.
type route struct {
	ns     namespace
	mu     sync.Mutex
	sock   *kernelSocket // kept open; nil until needed and after any fault, because answers may be left in it
	closed bool

	allAddresses shared[addressTable]
	allLinks     shared[map[int]kernelLink]
}

// request is one rtnetlink message to be acknowledged.
type request struct {
	kind  uint16
	flags uint16
	body  []byte
}

func openRoute(ns namespace) (*route, error) {
	r := &route{ns: ns}
	_, err := r.socket()
	return r, err
}

// socket is the socket to ask by. The caller holds mu.
func (r *route) socket() (*kernelSocket, error) {
	if r.closed {
		return nil, net.ErrClosed
	}
	if r.sock == nil {
		s, err := r.ns.kernelSocket(unix.NETLINK_ROUTE)
		if err != nil {
			return nil, err
		}
		_ = unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1) // error messages say more; old kernels do without
		r.sock = s
	}
	return r.sock, nil
}

func (r *route) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	_ = r.forget()
}

// forget ends the socket. The caller holds mu.
func (r *route) forget() (err error) {
	if r.sock != nil {
		err = r.sock.close()
		r.sock = nil
	}
	return err
}

// appendMessage adds a netlink message; body must be padded to 4 bytes.
func appendMessage(b []byte, q request, seq uint32) []byte {
	b = binary.NativeEndian.AppendUint32(b, uint32(unix.SizeofNlMsghdr+len(q.body)))
	b = binary.NativeEndian.AppendUint16(b, q.kind)
	b = binary.NativeEndian.AppendUint16(b, q.flags|unix.NLM_F_REQUEST)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	return append(b, q.body...)
}

// do sends all requests back to back, each batch in a single system call so that no stop of this process can come
// between two of them, and returns one error for each.
func (r *route) do(reqs ...request) []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	errs := make([]error, len(reqs))
	for first := 0; first < len(reqs); first += batchSize {
		last := min(first+batchSize, len(reqs))
		if err := r.batch(reqs[first:last], errs[first:last]); err != nil {
			for i := first; i < len(reqs); i++ {
				errs[i] = err
			}
			return errs
		}
	}
	return errs
}

// batch fills in one error per request, or returns the error that made the answers unknown.
func (r *route) batch(reqs []request, errs []error) error {
	s, err := r.socket()
	if err != nil {
		return err
	}
	var b []byte
	base := s.seq + 1
	for _, q := range reqs {
		s.seq++
		q.flags |= unix.NLM_F_ACK
		b = appendMessage(b, q, s.seq)
	}
	err = s.change(b)
	for missing := len(reqs); err == nil && missing > 0; {
		var answers []byte
		if answers, err = s.next(); err != nil {
			break
		}
		err = eachMessage(answers, func(h header, data []byte) error {
			if i := h.seq - base; i < uint32(len(reqs)) && h.kind == unix.NLMSG_ERROR {
				errs[i] = ackError(h.flags, data)
				missing--
			}
			return nil
		})
	}
	if err != nil {
		err = errors.Join(err, r.forget())
	}
	return err
}

// list asks for all objects of a kind and visits the payload of each; begin is called before each attempt.
func (r *route) list(kind uint16, body []byte, begin func(), visit func([]byte)) error {
	for range listTries {
		begin()
		err := r.collect(request{kind: kind, flags: unix.NLM_F_DUMP, body: body}, visit)
		if !errors.Is(err, errInterrupted) {
			return err
		}
	}
	return errors.New("the kernel's list kept changing while it was read")
}

func (r *route) collect(q request, visit func([]byte)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, err := r.socket()
	if err != nil {
		return err
	}
	err = s.list(appendMessage(nil, q, 0), func(data []byte) error {
		visit(data)
		return nil
	})
	if err != nil && !errors.Is(err, errInterrupted) {
		err = errors.Join(err, r.forget())
	}
	return err
}

// addresses lists all addresses of both families, as they were at some moment after the call.
func (r *route) addresses() (addressTable, error) { return r.allAddresses.get(r.listAddresses) }

func (r *route) listAddresses() (addressTable, error) {
	var all []kernelAddr
	err := r.list(unix.RTM_GETADDR, make([]byte, unix.SizeofIfAddrmsg), func() { all = all[:0] }, func(b []byte) {
		if a, ok := parseAddr(b); ok {
			all = append(all, a)
		}
	})
	if err != nil {
		return addressTable{}, fmt.Errorf("listing addresses: %w", err)
	}
	return newAddressTable(all), nil
}

// skipStats is RTEXT_FILTER_SKIP_STATS (include/uapi/linux/rtnetlink.h): counters of an interface are most of what there is to tell of it.
const skipStats = 1 << 3

// links lists all interfaces by index, as they were at some moment after the call; to be read only.
func (r *route) links() (map[int]kernelLink, error) { return r.allLinks.get(r.listLinks) }

func (r *route) listLinks() (map[int]kernelLink, error) {
	all := map[int]kernelLink{}
	body := appendAttr(make([]byte, unix.SizeofIfInfomsg), unix.IFLA_EXT_MASK, binary.NativeEndian.AppendUint32(nil, skipStats))
	err := r.list(unix.RTM_GETLINK, body, func() { clear(all) }, func(b []byte) {
		if l, ok := parseLink(b); ok {
			all[l.index] = l
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	return all, nil
}

// namespace is the network namespace in which a Manager lives. A daemon has only one; a lab or a test opens Managers in
// several, and sockets opened later, on whatever thread, must belong to the right one.
type namespace struct{ fd int }

func currentNamespace() (namespace, error) {
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return namespace{}, fmt.Errorf("opening the network namespace: %w", err)
	}
	return namespace{fd}, nil
}

// do runs f with the calling thread in the namespace.
func (n namespace) do(f func() error) error {
	runtime.LockOSThread()
	var want, have unix.Stat_t
	err := errors.Join(unix.Fstat(n.fd, &want), unix.Stat("/proc/thread-self/ns/net", &have))
	if err != nil || want.Ino == have.Ino && want.Dev == have.Dev {
		defer runtime.UnlockOSThread()
		if err != nil {
			return fmt.Errorf("comparing network namespaces: %w", err)
		}
		return f()
	}
	runtime.UnlockOSThread()
	done := make(chan error)
	go func() {
		// Never unlocked: the runtime ends the thread with the goroutine, so nothing else can inherit the namespace.
		runtime.LockOSThread()
		if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("entering the network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

func (n namespace) close() error { return unix.Close(n.fd) }
