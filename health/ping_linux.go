package health

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// resend is how often a request is repeated within the timeout: one lost packet on the way is no evidence.
const resend = 200 * time.Millisecond

// newPing asks a host, usually the gateway, for an ICMP echo. It tells "nobody reaches this node" from "the service is
// broken". Without the right to ask, the answer is Skip.
func newPing(s Spec) (asker, error) {
	if s.Host == "" {
		return nil, fmt.Errorf("host: %w", ErrMissing)
	}
	return func(ctx context.Context) answer {
		addrs, err := resolve(ctx, s.Host)
		if err != nil {
			return judge(err)
		}
		return ping(ctx, addrs[0])
	}, nil
}

func ping(ctx context.Context, to netip.Addr) answer {
	f, raw, err := openICMP(to)
	if err != nil {
		return judge(connectFault(fmt.Errorf("opening an ICMP socket to %s: %w", to, err)))
	}
	defer f.Close()
	defer bind(ctx, f)()
	payload := make([]byte, 16)
	if _, err := rand.Read(payload); err != nil {
		return say(Skip, "%v", err)
	}
	packet := make([]byte, 1500)
	for seq := uint16(1); ; seq++ {
		if _, err := f.Write(echo(to.Is6(), uint16(os.Getpid()), seq, payload)); err != nil {
			return judge(connectFault(fmt.Errorf("sending an echo request to %s: %w", to, err)))
		}
		next := time.Now().Add(resend)
		if end, ok := ctx.Deadline(); ok && end.Before(next) {
			next = end
		}
		if err := f.SetReadDeadline(next); err != nil {
			return say(Skip, "%v", err)
		}
		for {
			n, err := f.Read(packet)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return judge(connectFault(fmt.Errorf("waiting for %s: %w", to, err)))
			}
			for s := uint16(1); s <= seq; s++ { // a late reply to an earlier request counts
				if isReply(packet[:n], to.Is6(), raw, s, payload) {
					return say(Pass, "%s answered", to)
				}
			}
		}
		if end, ok := ctx.Deadline(); ctx.Err() != nil || ok && !time.Now().Before(end) {
			return say(Timeout, "%s did not answer %d echo requests", to, seq)
		}
	}
}

// openICMP takes an unprivileged echo socket (net.ipv4.ping_group_range) and else a raw one (CAP_NET_RAW), connected,
// so that the kernel drops what others send and reports ICMP errors.
func openICMP(to netip.Addr) (f *os.File, raw bool, err error) {
	family, proto, sa, err := sockaddr(to)
	if err != nil {
		return nil, false, err
	}
	const flags = unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|flags, proto)
	if err != nil {
		raw = true
		if fd, err = unix.Socket(family, unix.SOCK_RAW|flags, proto); err != nil {
			return nil, raw, err
		}
	}
	if err := unix.Connect(fd, sa); err != nil {
		unix.Close(fd)
		return nil, raw, err
	}
	// Non-blocking: os.File then uses the runtime's poller and honours deadlines.
	return os.NewFile(uintptr(fd), "icmp"), raw, nil
}

func sockaddr(to netip.Addr) (family, proto int, sa unix.Sockaddr, err error) {
	if to.Is4() {
		return unix.AF_INET, unix.IPPROTO_ICMP, &unix.SockaddrInet4{Addr: to.As4()}, nil
	}
	six := &unix.SockaddrInet6{Addr: to.As16()}
	if to.Zone() != "" {
		nic, err := net.InterfaceByName(to.Zone())
		if err != nil {
			return 0, 0, nil, err
		}
		six.ZoneId = uint32(nic.Index)
	}
	return unix.AF_INET6, unix.IPPROTO_ICMPV6, six, nil
}
