package vip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// linux/sock_diag.h, linux/inet_diag.h, net/tcp_states.h
const (
	sockDiagByFamily = 20
	sockDestroy      = 21
	diagID           = 8  // offset of struct inet_diag_sockid in the request, 4 in the answer
	diagRequest      = 56 // length of struct inet_diag_req_v2
	// goingOn are the states of connections that still have something to say: established, syn-recv, fin-wait-1, close-wait,
	// last-ack, closing, new-syn-recv. In fin-wait-2 this side has said all, and all of it was heard.
	goingOn = 1<<1 | 1<<3 | 1<<4 | 1<<8 | 1<<9 | 1<<11 | 1<<12
)

// Connections lists the TCP connections to an address that this node has open.
func (m *Manager) Connections(a netip.Addr) ([]Conn, error) {
	conns, err := m.connections(plain(a))
	if err != nil {
		return nil, fmt.Errorf("listing the connections to %s: %w", a, err)
	}
	return conns, nil
}

func (m *Manager) connections(a netip.Addr) (all []Conn, err error) {
	families := []byte{unix.AF_INET6}
	if a.Is4() { // a socket for both families has its IPv4 connections among those of IPv6
		families = append(families, unix.AF_INET)
	}
	err = m.diag(func(fd int) error {
		for _, family := range families {
			req := make([]byte, diagRequest)
			req[0], req[1] = family, unix.IPPROTO_TCP
			binary.NativeEndian.PutUint32(req[4:], goingOn)
			err := askDiag(fd, sockDiagByFamily, unix.NLM_F_DUMP, req, func(body []byte) {
				if k, ok := parseConn(body); ok && k.Local.Addr() == a {
					all = append(all, k)
				}
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return all, err
}

// diag opens a socket for some questions.
func (m *Manager) diag(do func(fd int) error) error {
	fd := -1
	err := m.ns.do(func() (err error) {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
		return err
	})
	if err != nil {
		return fmt.Errorf("opening a netlink socket: %w", err)
	}
	defer unix.Close(fd)
	timeout := unix.NsecToTimeval(int64(answerTimeout))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return err
	}
	return do(fd)
}

// askDiag sends one request and hands the bodies of the answers to each, until the kernel says that there are no more.
func askDiag(fd int, kind, flags uint16, body []byte, each func([]byte)) error {
	msg := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(body))
	binary.NativeEndian.PutUint32(msg, uint32(unix.SizeofNlMsghdr+len(body)))
	binary.NativeEndian.PutUint16(msg[4:], kind)
	binary.NativeEndian.PutUint16(msg[6:], unix.NLM_F_REQUEST|flags)
	if err := unix.Sendto(fd, append(msg, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		for b := buf[:n]; len(b) >= unix.SizeofNlMsghdr; {
			size := int(binary.NativeEndian.Uint32(b))
			if size < unix.SizeofNlMsghdr || size > len(b) {
				return errors.New("the kernel's answer is cut off")
			}
			answer := b[unix.SizeofNlMsghdr:size]
			switch binary.NativeEndian.Uint16(b[4:]) {
			case unix.NLMSG_DONE:
				return nil
			case unix.NLMSG_ERROR:
				if errno := -int32(binary.NativeEndian.Uint32(answer)); errno != 0 {
					return unix.Errno(errno)
				}
				return nil
			default:
				each(answer)
			}
			b = b[min(len(b), (size+3)&^3):]
		}
	}
}

// parseConn reads a struct inet_diag_msg.
func parseConn(b []byte) (k Conn, ok bool) {
	if len(b) < 4+48 {
		return k, false
	}
	k.family = b[0]
	id := b[4:]
	addr := func(b []byte) netip.Addr {
		if k.family == unix.AF_INET {
			return netip.AddrFrom4([4]byte(b))
		}
		return netip.AddrFrom16([16]byte(b)).Unmap()
	}
	k.Local = netip.AddrPortFrom(addr(id[4:]), binary.BigEndian.Uint16(id))
	k.Remote = netip.AddrPortFrom(addr(id[20:]), binary.BigEndian.Uint16(id[2:]))
	k.wild = binary.NativeEndian.Uint32(id[36:])
	copy(k.cookie[:], id[40:48])
	return k, true
}

// key is the connection as the sets of drains have it.
func (k Conn) key() []byte {
	b := append(k.Remote.Addr().AsSlice(), k.Local.Addr().AsSlice()...)
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, k.Remote.Port()), k.Local.Port())
}

// Reset ends connections of this node: both sides learn it at once. It returns how many there were still. The error wraps
// unix.EOPNOTSUPP where the kernel cannot (CONFIG_INET_DIAG_DESTROY).
func (m *Manager) Reset(conns []Conn) (n int, err error) {
	if len(conns) == 0 {
		return 0, nil
	}
	err = m.diag(func(fd int) error {
		for _, k := range conns {
			err := askDiag(fd, sockDestroy, unix.NLM_F_ACK, k.request(), func([]byte) {})
			switch {
			case err == nil:
				n++
			case !errors.Is(err, unix.ENOENT):
				return err
			}
		}
		return nil
	})
	if err != nil {
		return n, fmt.Errorf("resetting connections: %w", err)
	}
	return n, nil
}

func (k Conn) request() []byte {
	req := make([]byte, diagRequest)
	req[0], req[1] = k.family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(req[4:], ^uint32(0))
	id := req[diagID:]
	binary.BigEndian.PutUint16(id, k.Local.Port())
	binary.BigEndian.PutUint16(id[2:], k.Remote.Port())
	put := func(to []byte, a netip.Addr) {
		if k.family == unix.AF_INET6 {
			b := a.As16()
			copy(to, b[:])
			return
		}
		copy(to, a.AsSlice())
	}
	put(id[4:], k.Local.Addr())
	put(id[20:], k.Remote.Addr())
	binary.NativeEndian.PutUint32(id[36:], k.wild)
	copy(id[40:], k.cookie[:])
	return req
}
