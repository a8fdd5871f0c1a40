package health

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"
)

// fault is an error of the network that already knows what it proves.
type fault struct {
	outcome Outcome
	err     error
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

// newTCP asks whether the port accepts a connection.
func newTCP(s Spec) (asker, error) {
	if err := needHostPort(s); err != nil {
		return nil, err
	}
	return func(ctx context.Context) answer {
		conn, err := dial(ctx, s.Host, strconv.Itoa(s.Port))
		if err != nil {
			return judge(err)
		}
		conn.Close()
		return say(Pass, "connected to %s", conn.RemoteAddr())
	}, nil
}

func needHostPort(s Spec) error {
	var errs []error
	if s.Host == "" {
		errs = append(errs, fmt.Errorf("host: %w", ErrMissing))
	}
	if s.Port < 1 || s.Port > 65535 {
		errs = append(errs, fmt.Errorf("port %d: want 1 to 65535", s.Port))
	}
	return errors.Join(errs...)
}

// dial connects to the first address of host that accepts. Unlike net.Dialer it reports the most telling error of all
// addresses and not that of the first: with "localhost" on a machine without IPv6 the first says "cannot assign
// address" (no evidence) while the second says "connection refused" (evidence).
func dial(ctx context.Context, host, port string) (net.Conn, error) {
	addrs, err := resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	var worst *fault
	for i, addr := range addrs {
		conn, err := dialOne(ctx, net.JoinHostPort(addr.String(), port), len(addrs)-i)
		if err == nil {
			return conn, nil
		}
		if f := connectFault(err); worst == nil || telling(f.outcome) > telling(worst.outcome) {
			worst = f
		}
	}
	return nil, worst
}

// dialOne gives each address an equal share of the time left.
func dialOne(ctx context.Context, addr string, left int) (net.Conn, error) {
	if end, ok := ctx.Deadline(); ok && left > 1 {
		share, cancel := context.WithTimeout(ctx, time.Until(end)/time.Duration(left))
		defer cancel()
		ctx = share
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", addr)
}

// resolve turns host into at least one address. That a name cannot be resolved says nothing about the service behind
// it: the outcome is Skip, also when the name server does not answer in time.
func resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr.Unmap()}, nil
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err == nil && len(addrs) == 0 {
		err = fmt.Errorf("no address for %q", host)
	}
	if err != nil {
		return nil, &fault{outcome: Skip, err: fmt.Errorf("resolving %q: %w", host, err)}
	}
	const most = 8
	addrs = addrs[:min(len(addrs), most)]
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, nil
}

func telling(o Outcome) int {
	switch o {
	case Fail:
		return 2
	case Timeout:
		return 1
	}
	return 0
}

// connectFault judges an error from before the peer could say anything. Only what a peer (or its host) caused is
// evidence; everything else, such as a lack of file descriptors or of a route, is this node's own trouble.
func connectFault(err error) *fault {
	switch {
	case isAny(err, peerErrors):
		return &fault{outcome: Fail, err: err}
	case isTimeout(err):
		return &fault{outcome: Timeout, err: err}
	}
	return &fault{outcome: Skip, err: err}
}

// judge turns an error of a conversation into an answer. After the connection stands, the peer is to blame unless the
// fault is known to be ours.
func judge(err error) answer {
	var f *fault
	var roots x509.SystemRootsError
	switch {
	case errors.As(err, &f):
		return say(f.outcome, "%v", f.err)
	case isTimeout(err):
		return say(Timeout, "no answer in time: %v", err)
	case isAny(err, ownErrors), errors.As(err, &roots), errors.Is(err, context.Canceled):
		return say(Skip, "%v", err)
	}
	return say(Fail, "%v", err)
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) ||
		isAny(err, silenceErrors) || (errors.As(err, &ne) && ne.Timeout())
}

func isAny(err error, targets []error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}

// deadlined is what both a connection and a socket file have.
type deadlined interface{ SetDeadline(t time.Time) error }

// bind ends all reads and writes of c when ctx ends, for whatever reason. Call the returned function when done.
func bind(ctx context.Context, c deadlined) (release func()) {
	if end, ok := ctx.Deadline(); ok {
		// A connection that cannot take a deadline is still bounded by the guard around the check.
		_ = c.SetDeadline(end)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}
