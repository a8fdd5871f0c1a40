package vip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// tcpDiag is TCPDIAG_GETSOCK (include/uapi/linux/inet_diag.h), which asks for both families at once.
	tcpDiag = 18
	// sockDestroy is SOCK_DESTROY (include/uapi/linux/sock_diag.h).
	sockDestroy = 21
	// condLocal is INET_DIAG_BC_S_COND: a condition on the local address (include/uapi/linux/inet_diag.h).
	condLocal = 7
	// attrFilter is INET_DIAG_REQ_BYTECODE.
	attrFilter = 1
	// idOffset and idLen are where struct inet_diag_msg has the identity of the socket, and how much of it the kernel wants back.
	idOffset, idLen = 4, 48
	// resetBatch is how many sockets one system call ends; between two the time is looked at.
	resetBatch = 32
)

// resetStates are those of a connection in which the other side waits for something. Listeners stay: a hot standby keeps its.
const resetStates = 1<<unix.BPF_TCP_ESTABLISHED | 1<<unix.BPF_TCP_SYN_SENT | 1<<unix.BPF_TCP_SYN_RECV | 1<<unix.BPF_TCP_FIN_WAIT1 |
	1<<unix.BPF_TCP_FIN_WAIT2 | 1<<unix.BPF_TCP_CLOSE_WAIT | 1<<unix.BPF_TCP_LAST_ACK | 1<<unix.BPF_TCP_CLOSING | 1<<unix.BPF_TCP_NEW_SYN_RECV

// ResetSupported is nil where the kernel has what Reset needs.
func (m *Manager) ResetSupported() error {
	s, err := m.openDiag()
	if err != nil {
		return err
	}
	defer s.close()
	// Nobody has the unspecified address: the kernel looks for the socket, if it has the call at all.
	_, err = s.destroy([]tcpSocket{{family: unix.AF_INET}})
	return err
}

// Reset has the kernel end every TCP connection of this node's address a, so that the other side learns of it at once instead of
// waiting for answers that nobody gives, and returns how many were ended. Call it when the gate is shut and the address still is here:
// nothing new gets in then, and the resets get out. It returns after resetLimit at the latest. Errors: ErrNoReset, ErrResetLate.
func (m *Manager) Reset(a netip.Addr) (int, error) {
	s, err := m.openDiag()
	if err == nil {
		s.end = time.Now().Add(resetLimit)
		var n int
		if n, err = inTime(resetLimit, func() (int, error) {
			defer s.close()
			return s.reset(plain(a))
		}); err == nil {
			return n, nil
		}
	}
	return 0, fmt.Errorf("resetting connections of %s: %w", a, err)
}

// inTime waits for f until the limit is over: a single call of the kernel may take long where there are very many connections.
func inTime(limit time.Duration, f func() (int, error)) (int, error) {
	type outcome struct {
		n   int
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		n, err := f()
		done <- outcome{n, err}
	}()
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case o := <-done:
		return o.n, o.err
	case <-late.C:
		return 0, ErrResetLate
	}
}

// tcpSocket is one connection as the kernel names it.
type tcpSocket struct {
	family byte
	state  byte
	id     [idLen]byte // ports, addresses, interface and cookie: the cookie belongs to this one socket and no later one
}

// diag is a socket to the kernel's socket monitoring.
type diag struct {
	*kernelSocket
	end time.Time // reset begins nothing after it
}

func (m *Manager) openDiag() (*diag, error) {
	s, err := m.kernelSocket(unix.NETLINK_INET_DIAG)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, fmt.Errorf("%w: %w", ErrNoReset, err)
	}
	return &diag{kernelSocket: s}, err
}

// listAll asks for the connections of one local address in some states.
func (s *diag) listAll(a netip.Addr, states uint32) (all []tcpSocket, err error) {
	return s.listBy(localFilter(a), states)
}

// reset ends the connections of one local address.
func (s *diag) reset(a netip.Addr) (int, error) {
	all, err := s.listAll(a, resetStates)
	if err != nil {
		return 0, err
	}
	n := 0
	for len(all) > 0 {
		if !time.Now().Before(s.end) {
			return n, ErrResetLate
		}
		batch := all[:min(resetBatch, len(all))]
		all = all[len(batch):]
		ended, err := s.destroy(batch)
		if n += ended; err != nil {
			return n, err
		}
	}
	return n, nil
}

// listBy is listAll with a filter for any local addresses. The kernel walks through its table of connections, those of all
// namespaces, which takes half a millisecond and more: the table grows with the memory. So it is asked once for both families, which only the old
// form of the question can: a service that listens on all addresses of both has its IPv4 connections in sockets of family IPv6.
func (s *diag) listBy(filter []byte, states uint32) ([]tcpSocket, error) {
	body := make([]byte, 4+idLen, 4+idLen+8) // struct inet_diag_req
	body = binary.NativeEndian.AppendUint32(body, states)
	body = append(body, 0, 0, 0, 0)
	body = binary.NativeEndian.AppendUint16(body, uint16(unix.SizeofRtAttr+len(filter)))
	body = binary.NativeEndian.AppendUint16(body, attrFilter)
	body = append(body, filter...)
	if err := s.change(appendMessage(nil, request{tcpDiag, unix.NLM_F_DUMP, body}, 1)); err != nil {
		return nil, err
	}
	var found []tcpSocket
	for {
		if !time.Now().Before(s.end) {
			return nil, ErrResetLate
		}
		b, err := s.next()
		over := false
		if err == nil {
			err = eachMessage(b, func(h header, data []byte) error {
				switch {
				case h.kind == unix.NLMSG_DONE:
					over = true
				case h.kind == unix.NLMSG_ERROR:
					err := ackError(h.flags, data)
					if errors.Is(err, unix.ENOENT) { // no module for TCP
						err = fmt.Errorf("%w: %w", ErrNoReset, err)
					}
					over = true
					return err
				case len(data) >= idOffset+idLen:
					found = append(found, tcpSocket{data[0], data[1], [idLen]byte(data[idOffset:])})
				}
				return nil
			})
		}
		switch {
		case err != nil:
			return nil, err
		case over:
			return found, nil
		}
	}
}

// destroy ends sockets and returns how many; one that has ended by itself is no error. The kernel works within the system call and
// answers only what failed.
func (s *diag) destroy(socks []tcpSocket) (int, error) {
	var b []byte
	for i, one := range socks {
		b = appendMessage(b, request{sockDestroy, 0, diagRequest(one.family, ^uint32(0), one.id)}, uint32(i))
	}
	if err := s.send(b); err != nil {
		return 0, err
	}
	n := len(socks)
	var errs []error
	for {
		b, err := s.answer()
		if errors.Is(err, unix.EAGAIN) {
			return n, errors.Join(errs...)
		}
		if err == nil {
			err = eachMessage(b, func(h header, data []byte) error {
				if h.kind != unix.NLMSG_ERROR {
					return nil
				}
				n--
				switch err := ackError(h.flags, data); {
				case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPERM):
					return fmt.Errorf("%w: %w", ErrNoReset, err)
				case err != nil && !errors.Is(err, unix.ENOENT):
					errs = append(errs, err)
				}
				return nil
			})
		}
		if err != nil {
			return n, err
		}
	}
}

// diagRequest is struct inet_diag_req_v2.
func diagRequest(family byte, states uint32, id [idLen]byte) []byte {
	b := []byte{family, unix.IPPROTO_TCP, 0, 0}
	b = binary.NativeEndian.AppendUint32(b, states)
	return append(b, id[:]...)
}

// localFilter is a program of one step (struct inet_diag_bc_op and inet_diag_hostcond): a socket with the address leaves it at its end,
// which accepts, any other behind its end, which does not. IPv4 also fits IPv4 within IPv6.
func localFilter(a netip.Addr) []byte {
	family := byte(unix.AF_INET6)
	if a.Is4() {
		family = unix.AF_INET
	}
	const head = 4 + 8
	length := byte(head + a.BitLen()/8)
	b := []byte{condLocal, length}
	b = binary.NativeEndian.AppendUint16(b, uint16(length)+4)
	b = append(b, family, byte(a.BitLen()), 0, 0)
	b = binary.NativeEndian.AppendUint32(b, ^uint32(0)) // any port
	return append(b, a.AsSlice()...)
}
