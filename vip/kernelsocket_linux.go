package vip

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"hacluster/internal/nowait"
)

// errInterrupted: what the kernel listed changed while it was listed.
var errInterrupted = errors.New("the list was interrupted by a change")

// errCut: what came from the kernel does not end where it says.
var errCut = errors.New("the kernel's answer is cut short")

// kernelSocket is a plain netlink socket, for requests that the kernel works off within the system call. It is for one goroutine. Nobody
// but the kernel can send to it.
type kernelSocket struct {
	fd    int
	seq   uint32
	buf   []byte
	brief nowait.Brief
}

// kernelSocket opens one in the namespace of the Manager.
func (m *Manager) kernelSocket(protocol int) (*kernelSocket, error) {
	return m.ns.kernelSocket(protocol)
}

func (n namespace) kernelSocket(protocol int) (*kernelSocket, error) {
	s := &kernelSocket{buf: make([]byte, 64<<10)}
	err := n.do(func() (err error) {
		s.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	timeout := unix.NsecToTimeval(int64(answerTimeout))
	err = unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)
	if err == nil {
		err = unix.Connect(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) // refuses what others send: netlink(7)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("preparing a netlink socket: %w", err), s.close())
	}
	_ = unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1) // keeps answers short; old kernels do without
	return s, nil
}

func (s *kernelSocket) close() error { return unix.Close(s.fd) }

// send sends what the kernel may take its time for.
func (s *kernelSocket) send(b []byte) error {
	for {
		if err := unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// change sends what the kernel works off at once: a transaction of a few elements takes it some 50 µs, and so does the first part of a
// list.
func (s *kernelSocket) change(b []byte) error {
	for {
		if _, err := s.brief.Send(uintptr(s.fd), b); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// answer reads one datagram that is there already; EAGAIN: there is none. It is good until the next.
func (s *kernelSocket) answer() ([]byte, error) {
	for {
		n, err := nowait.Receive(uintptr(s.fd), s.buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return s.buf[:max(n, 0)], err
	}
}

// next reads one datagram; it is good until the next. As a rule the kernel gave it within the call before, or gives it within this one:
// each part of a list that is taken has it make the following.
func (s *kernelSocket) next() ([]byte, error) {
	for {
		n, err := s.brief.Receive(uintptr(s.fd), s.buf)
		if errors.Is(err, unix.EAGAIN) { // seldom
			n, _, err = unix.Recvfrom(s.fd, s.buf, 0)
		}
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, fmt.Errorf("reading the kernel's answer: %w", err)
		default:
			return s.buf[:n], nil
		}
	}
}

// list sends one request for a list and visits what comes of it, to the end. After an error answers may be left in the socket.
func (s *kernelSocket) list(request []byte, each func(data []byte) error) error {
	s.seq++
	binary.NativeEndian.PutUint32(request[8:], s.seq)
	if err := s.change(request); err != nil {
		return err
	}
	interrupted, over := false, false
	for !over {
		b, err := s.next()
		if err == nil {
			err = eachMessage(b, func(h header, data []byte) error {
				if h.seq != s.seq {
					return fmt.Errorf("the kernel answered %d to question %d", h.seq, s.seq)
				}
				interrupted = interrupted || h.flags&unix.NLM_F_DUMP_INTR != 0
				if h.kind == unix.NLMSG_ERROR || h.kind == unix.NLMSG_DONE { // the second has its own error where it broke off
					over = true
					return ackError(h.flags, data)
				}
				return each(data)
			})
		}
		if err != nil {
			return err
		}
	}
	if interrupted {
		return errInterrupted
	}
	return nil
}

// header is the part of struct nlmsghdr that is looked at.
type header struct {
	kind, flags uint16
	seq         uint32
}

// eachMessage visits the messages of one datagram, until an error.
func eachMessage(b []byte, visit func(h header, data []byte) error) error {
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return errCut
		}
		h := header{binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:]), binary.NativeEndian.Uint32(b[8:])}
		if err := visit(h, b[unix.SizeofNlMsghdr:size]); err != nil {
			return err
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return nil
}

// ackError is the error in an acknowledgement, with the kernel's own explanation when it gave one.
func ackError(flags uint16, data []byte) error {
	if len(data) < 4 {
		return errCut
	}
	errno := -int32(binary.NativeEndian.Uint32(data))
	if errno == 0 {
		return nil
	}
	err := error(unix.Errno(errno))
	const head = 4 + unix.SizeofNlMsghdr
	if flags&unix.NLM_F_ACK_TLVS != 0 && flags&unix.NLM_F_CAPPED != 0 && len(data) > head {
		eachAttr(data[head:], func(kind uint16, v []byte) {
			if kind == unix.NLMSGERR_ATTR_MSG {
				err = fmt.Errorf("%w (%s)", err, unix.ByteSliceToString(v))
			}
		})
	}
	return err
}
