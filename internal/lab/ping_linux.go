package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Ping sends one ICMP echo request from the node and waits for its answer; nil means that it came.
func (n *Node) Ping(to netip.Addr, timeout time.Duration) error {
	lost, err := n.PingMany(to, 1, 0, timeout)
	if err == nil && lost > 0 {
		err = fmt.Errorf("pinging %s from node %s: no answer within %s", to, n.Name, timeout)
	}
	return err
}

// PingMany sends count echo requests, one every interval or as soon as the one before is answered if that is later, and
// counts the unanswered. An unreachable destination counts as unanswered.
func (n *Node) PingMany(to netip.Addr, count int, interval, timeout time.Duration) (lost int, err error) {
	family, proto, kind, reply := unix.AF_INET, unix.IPPROTO_ICMP, byte(8), byte(0) // RFC 792
	var sa unix.Sockaddr
	if to.Is6() {
		family, proto, kind, reply = unix.AF_INET6, unix.IPPROTO_ICMPV6, 128, 129 // RFC 4443
		sa = &unix.SockaddrInet6{Addr: to.As16()}
	} else {
		sa = &unix.SockaddrInet4{Addr: to.As4()}
	}
	var fd int
	err = n.Do(func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("pinging %s from node %s: %w", to, n.Name, err)
	}
	defer unix.Close(fd)
	id := uint16(fd)<<8 ^ uint16(time.Now().UnixNano())
	for seq := range count {
		start := time.Now()
		ok, err := pingOnce(fd, sa, kind, reply, id, uint16(seq), start.Add(timeout))
		if err != nil {
			return lost, fmt.Errorf("pinging %s from node %s: %w", to, n.Name, err)
		}
		if !ok {
			lost++
		}
		if wait := interval - time.Since(start); wait > 0 && seq < count-1 {
			time.Sleep(wait)
		}
	}
	return lost, nil
}

func pingOnce(fd int, sa unix.Sockaddr, kind, reply byte, id, seq uint16, deadline time.Time) (bool, error) {
	b := []byte{kind, 0, 0, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], seq)
	sum := uint32(kind)<<8 + uint32(id) + uint32(seq) // RFC 1071; the kernel fills ICMPv6's in itself
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(b[2:], ^uint16(sum+sum>>16))
	if err := unix.Sendto(fd, b, 0, sa); err != nil {
		if errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.ENETDOWN) {
			return false, nil
		}
		return false, err
	}
	var in [1500]byte
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return false, nil
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Ppoll(fds, ptr(unix.NsecToTimespec(int64(left))), nil); err != nil && !errors.Is(err, unix.EINTR) {
			return false, err
		}
		size, _, err := unix.Recvfrom(fd, in[:], unix.MSG_DONTWAIT)
		if err != nil {
			continue // nothing yet, or an error message for an earlier request
		}
		p := in[:size]
		if reply == 0 && size > 20 { // IPv4 raw sockets show the IP header
			p = p[min(size, int(p[0]&15)*4):]
		}
		if len(p) >= 8 && p[0] == reply && binary.BigEndian.Uint16(p[4:]) == id && binary.BigEndian.Uint16(p[6:]) == seq {
			return true, nil
		}
	}
}

func ptr[T any](v T) *T { return &v }
