package vip

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// goingOn are the states of connections that still have something to say. In fin-wait-2 this side has said all, and all of it
// was heard.
const goingOn = resetStates &^ (1<<unix.BPF_TCP_FIN_WAIT2 | 1<<unix.BPF_TCP_SYN_SENT)

// Connections lists the TCP connections to an address that this node has open.
func (m *Manager) Connections(a netip.Addr) ([]Conn, error) {
	conns, err := m.connections(plain(a))
	if err != nil {
		return nil, fmt.Errorf("listing the connections to %s: %w", a, err)
	}
	return conns, nil
}

func (m *Manager) connections(a netip.Addr) (all []Conn, err error) {
	s, err := m.openDiag()
	if err != nil {
		return nil, err
	}
	defer s.close()
	s.end = time.Now().Add(answerTimeout)
	socks, err := s.listAll(a, goingOn)
	for _, one := range socks {
		all = append(all, one.conn())
	}
	return all, err
}

// conn reads a struct inet_diag_sockid.
func (s tcpSocket) conn() Conn {
	addr := func(b []byte) netip.Addr {
		if s.family == unix.AF_INET {
			return netip.AddrFrom4([4]byte(b))
		}
		return netip.AddrFrom16([16]byte(b)).Unmap()
	}
	return Conn{Local: netip.AddrPortFrom(addr(s.id[4:20]), binary.BigEndian.Uint16(s.id[0:])),
		Remote: netip.AddrPortFrom(addr(s.id[20:36]), binary.BigEndian.Uint16(s.id[2:]))}
}

// key is the connection as the sets of drains have it.
func (k Conn) key() []byte {
	b := append(k.Remote.Addr().AsSlice(), k.Local.Addr().AsSlice()...)
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, k.Remote.Port()), k.Local.Port())
}
