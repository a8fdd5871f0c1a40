package vip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// answerTimeout bounds the wait for the kernel. It answers within the system call; only lost answers take longer.
const answerTimeout = 2 * time.Second

// batchSize keeps the answers of one batch within the default receive buffer.
const batchSize = 64

// route is one rtnetlink socket; it may be used by several goroutines.
type route struct {
	mu     sync.Mutex
	sock   *nl.NetlinkSocket
	pid    uint32
	seq    uint32
	closed bool // the number of the file descriptor may belong to another file by now
	buf    []byte

	allAddresses shared[[]kernelAddr]
	allLinks     shared[map[int]kernelLink]
}

// request is one rtnetlink message to be acknowledged.
type request struct {
	kind  uint16
	flags uint16
	body  []byte
}

func openRoute() (*route, error) {
	sock, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	r := &route{sock: sock, buf: make([]byte, nl.RECEIVE_BUFFER_SIZE)}
	timeout := unix.NsecToTimeval(int64(answerTimeout))
	if err = errors.Join(sock.SetSendTimeout(&timeout), sock.SetReceiveTimeout(&timeout)); err == nil {
		r.pid, err = sock.GetPid()
	}
	if err != nil {
		sock.Close()
		return nil, fmt.Errorf("preparing a netlink socket: %w", err)
	}
	// Both only make error messages better; old kernels do without.
	_ = unix.SetsockoptInt(sock.GetFd(), unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(sock.GetFd(), unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	return r, nil
}

func (r *route) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.closed = true
		r.sock.Close()
	}
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
	var b []byte
	base := r.seq + 1
	for _, q := range reqs {
		r.seq++
		q.flags |= unix.NLM_F_ACK
		b = appendMessage(b, q, r.seq)
	}
	if err := r.send(b); err != nil {
		return err
	}
	for missing := len(reqs); missing > 0; {
		msgs, err := r.receive()
		if err != nil {
			return err
		}
		for _, m := range msgs {
			i := m.Header.Seq - base
			if i >= uint32(len(reqs)) || m.Header.Type != unix.NLMSG_ERROR {
				continue
			}
			errs[i] = ackError(m)
			missing--
		}
	}
	return nil
}

// dump asks for all objects of a kind and visits the payload of each.
func (r *route) dump(kind uint16, body []byte, visit func([]byte)) error {
	var interrupted bool
	var items [][]byte
	for range 5 {
		items, interrupted = items[:0], false
		err := r.collect(request{kind: kind, flags: unix.NLM_F_DUMP, body: body}, &items, &interrupted)
		if err != nil {
			return err
		}
		if !interrupted {
			break
		}
	}
	if interrupted {
		return errors.New("the kernel's list kept changing while it was read")
	}
	for _, b := range items {
		visit(b)
	}
	return nil
}

// collect sends one request whose answer is data and gathers it.
func (r *route) collect(q request, items *[][]byte, interrupted *bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seq++
	if err := r.send(appendMessage(nil, q, r.seq)); err != nil {
		return err
	}
	for {
		msgs, err := r.receive()
		if err != nil {
			return err
		}
		for _, m := range msgs {
			if m.Header.Seq != r.seq {
				continue // the late answer to a request that timed out
			}
			*interrupted = *interrupted || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return nil
			case unix.NLMSG_ERROR:
				return ackError(m)
			}
			*items = append(*items, slices.Clone(m.Data))
			if m.Header.Flags&unix.NLM_F_MULTI == 0 {
				return nil
			}
		}
	}
}

func (r *route) send(b []byte) error {
	if r.closed {
		return net.ErrClosed
	}
	for {
		err := unix.Sendto(r.sock.GetFd(), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// receive reads one datagram of the kernel; it is good until the next. The socket's own Receive would allocate 64 KiB for each, and each
// look at an address takes several.
func (r *route) receive() ([]syscall.NetlinkMessage, error) {
	for {
		n, from, err := unix.Recvfrom(r.sock.GetFd(), r.buf, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) { // seldom: the kernel answers within the system call
			if n, err = unix.Poll([]unix.PollFd{{Fd: int32(r.sock.GetFd()), Events: unix.POLLIN}}, int(answerTimeout.Milliseconds())); err == nil && n == 0 {
				err = unix.EAGAIN
			} else if err == nil {
				continue
			}
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading the kernel's answer: %w", err)
		}
		if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != nl.PidKernel {
			continue
		}
		msgs, err := syscall.ParseNetlinkMessage(r.buf[:n])
		if err != nil {
			return nil, fmt.Errorf("reading the kernel's answer: %w", err)
		}
		ours := msgs[:0]
		for _, m := range msgs {
			if m.Header.Pid == r.pid {
				ours = append(ours, m)
			}
		}
		return ours, nil
	}
}

// ackError is the error in an acknowledgement, with the kernel's own explanation when it gave one.
func ackError(m syscall.NetlinkMessage) error {
	if len(m.Data) < 4 {
		return errors.New("the kernel's answer is cut short")
	}
	errno := -int32(binary.NativeEndian.Uint32(m.Data))
	if errno == 0 {
		return nil
	}
	err := error(unix.Errno(errno))
	const header = 4 + unix.SizeofNlMsghdr
	if m.Header.Flags&unix.NLM_F_ACK_TLVS != 0 && m.Header.Flags&unix.NLM_F_CAPPED != 0 && len(m.Data) > header {
		eachAttr(m.Data[header:], func(kind uint16, v []byte) {
			if kind == unix.NLMSGERR_ATTR_MSG {
				err = fmt.Errorf("%w (%s)", err, unix.ByteSliceToString(v))
			}
		})
	}
	return err
}

// addresses lists all addresses of both families.
func (r *route) addresses() ([]kernelAddr, error) {
	all, err := r.allAddresses.get(r.listAddresses)
	return slices.Clone(all), err
}

func (r *route) listAddresses() ([]kernelAddr, error) {
	var all []kernelAddr
	err := r.dump(unix.RTM_GETADDR, make([]byte, unix.SizeofIfAddrmsg), func(b []byte) {
		if a, ok := parseAddr(b); ok {
			all = append(all, a)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listing addresses: %w", err)
	}
	return all, nil
}

// links lists all interfaces by index.
func (r *route) links() (map[int]kernelLink, error) {
	all, err := r.allLinks.get(r.listLinks)
	return maps.Clone(all), err
}

func (r *route) listLinks() (map[int]kernelLink, error) {
	all := map[int]kernelLink{}
	err := r.dump(unix.RTM_GETLINK, make([]byte, unix.SizeofIfInfomsg), func(b []byte) {
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
