package vip

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"hacluster/internal/nowait"
)

// kernelSocket is a plain netlink socket, for requests that the kernel works off within the system call. It is for one goroutine.
type kernelSocket struct {
	fd    int
	seq   uint32
	buf   []byte
	brief nowait.Brief
}

// kernelSocket opens one in the namespace of the Manager.
func (m *Manager) kernelSocket(protocol int) (*kernelSocket, error) {
	s := &kernelSocket{buf: make([]byte, 64<<10)}
	err := m.ns.do(func() (err error) {
		s.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	timeout := unix.NsecToTimeval(int64(answerTimeout))
	if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return nil, errors.Join(fmt.Errorf("preparing a netlink socket: %w", err), s.close())
	}
	_ = unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1) // keeps answers short; old kernels do without
	return s, nil
}

func (s *kernelSocket) close() error { return unix.Close(s.fd) }

func (s *kernelSocket) send(b []byte) error {
	for {
		if err := unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// change sends what the kernel works off at once: a transaction of a few elements takes it some 50 µs.
func (s *kernelSocket) change(b []byte) error {
	for {
		if _, err := s.brief.Send(uintptr(s.fd), b); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// answer reads one datagram that is there already; EAGAIN: there is none. It is good until the next.
func (s *kernelSocket) answer() ([]syscall.NetlinkMessage, error) {
	for {
		n, err := nowait.Receive(uintptr(s.fd), s.buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return syscall.ParseNetlinkMessage(s.buf[:n])
	}
}

// receive reads one datagram; it is good until the next.
func (s *kernelSocket) receive(flags int) ([]syscall.NetlinkMessage, error) {
	for {
		n, _, err := unix.Recvfrom(s.fd, s.buf, flags)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return syscall.ParseNetlinkMessage(s.buf[:n])
	}
}
