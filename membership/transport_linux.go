package membership

import (
	"bytes"
	"errors"
	"fmt"
	"log"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"

	"hacluster/internal/nowait"
)

const (
	maxDatagram   = 64 << 10
	receiveBuffer = 2 << 20 // of the kernel, as the library has it; halved until it is allowed
	faultFirst    = 5 * time.Millisecond
	faultMax      = time.Second
)

// netTransport does what the library's own does, with system calls for its packets that the scheduler of Go is not told of (nowait), and
// without 64 KiB of new memory for each. What came is read by memberlist only.
type netTransport struct {
	log     *log.Logger
	tcp     *net.TCPListener
	udp     *net.UDPConn
	raw     syscall.RawConn // of udp
	v6      bool            // udp is of family AF_INET6, as a rule for both
	packets chan *memberlist.Packet
	streams chan net.Conn
	done    chan struct{}
	once    sync.Once
	wg      sync.WaitGroup
}

func openTransport(bind string, port int, l *log.Logger) (transport, error) {
	t := &netTransport{log: l, packets: make(chan *memberlist.Packet), streams: make(chan net.Conn), done: make(chan struct{})}
	if err := t.open(net.ParseIP(bind), port); err != nil {
		return nil, errors.Join(err, t.Shutdown())
	}
	t.wg.Go(t.accept)
	t.wg.Go(t.receive)
	return t, nil
}

func (t *netTransport) open(ip net.IP, port int) (err error) {
	if t.tcp, err = net.ListenTCP("tcp", &net.TCPAddr{IP: ip, Port: port}); err != nil {
		return err
	}
	if t.udp, err = net.ListenUDP("udp", &net.UDPAddr{IP: ip, Port: t.GetAutoBindPort()}); err != nil {
		return err
	}
	size := receiveBuffer
	for err = t.udp.SetReadBuffer(size); err != nil && size > 1; {
		size /= 2
		err = t.udp.SetReadBuffer(size)
	}
	if err != nil {
		return fmt.Errorf("setting the receive buffer: %w", err)
	}
	if t.raw, err = t.udp.SyscallConn(); err != nil {
		return err
	}
	e := t.raw.Control(func(fd uintptr) {
		var own syscall.Sockaddr
		if own, err = syscall.Getsockname(int(fd)); err == nil {
			_, t.v6 = own.(*syscall.SockaddrInet6)
		}
	})
	return errors.Join(e, err)
}

// Shutdown implements memberlist.Transport. It may be called again.
func (t *netTransport) Shutdown() error {
	t.once.Do(func() {
		close(t.done)
		if t.tcp != nil {
			t.tcp.Close()
		}
		if t.udp != nil {
			t.udp.Close()
		}
	})
	t.wg.Wait()
	return nil
}

// GetAutoBindPort is the port that is open.
func (t *netTransport) GetAutoBindPort() int { return t.tcp.Addr().(*net.TCPAddr).Port }

// FinalAdvertiseAddr implements memberlist.Transport. This node always says what its address is.
func (t *netTransport) FinalAdvertiseAddr(ip string, port int) (net.IP, int, error) {
	a, err := netip.ParseAddr(ip)
	if err != nil {
		return nil, 0, err
	}
	return a.Unmap().AsSlice(), port, nil
}

// PacketCh implements memberlist.Transport.
func (t *netTransport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh implements memberlist.Transport.
func (t *netTransport) StreamCh() <-chan net.Conn { return t.streams }

// DialTimeout implements memberlist.Transport.
func (t *netTransport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", addr, timeout)
}

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (t *netTransport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

// WriteToAddress implements memberlist.NodeAwareTransport.
func (t *netTransport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

// WriteTo implements memberlist.Transport. The time is the one after the packet has left.
func (t *netTransport) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := netip.ParseAddrPort(addr)
	if err == nil && to.Addr().Zone() == "" && len(b) > 0 {
		err = t.send(b, to)
		return time.Now(), err
	}
	named, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return time.Time{}, err
	}
	_, err = t.udp.WriteToUDP(b, named)
	return time.Now(), err
}

// send waits while there is no room. Its errors are as package net has them: memberlist tells by them whose fault it was.
func (t *netTransport) send(b []byte, to netip.AddrPort) error {
	var err error
	e := t.raw.Write(func(fd uintptr) bool {
		for err = syscall.EINTR; err == syscall.EINTR; {
			err = nowait.SendTo(fd, b, to, t.v6)
		}
		return err != syscall.EAGAIN
	})
	if e == nil && err == nil {
		return nil
	}
	if e == nil {
		e = os.NewSyscallError("sendto", err)
	} else if op := (*net.OpError)(nil); errors.As(e, &op) {
		e = op.Err
	}
	return &net.OpError{Op: "write", Net: "udp", Source: t.udp.LocalAddr(), Addr: net.UDPAddrFromAddrPort(to), Err: e}
}

// receive hands packets over until Shutdown.
func (t *netTransport) receive() {
	b := make([]byte, maxDatagram)
	var n int
	var from netip.AddrPort
	var err error
	take := func(fd uintptr) bool {
		for err = syscall.EINTR; err == syscall.EINTR; {
			n, from, err = nowait.ReceiveFrom(fd, b)
		}
		return err != syscall.EAGAIN
	}
	var fault fault
	for {
		if e := t.raw.Read(take); e != nil {
			err = e
		}
		at := time.Now()
		switch {
		case err != nil:
			if !t.rest(fault.next(), "reading UDP packet", err) {
				return
			}
			continue
		case n == 0:
			t.log.Printf("[ERR] memberlist: UDP packet too short: 0 bytes from %s", from)
			continue
		}
		fault = 0
		select {
		case t.packets <- &memberlist.Packet{Buf: bytes.Clone(b[:n]), From: net.UDPAddrFromAddrPort(from), Timestamp: at}:
		case <-t.done:
			return
		}
	}
}

// accept hands connections over until Shutdown.
func (t *netTransport) accept() {
	var fault fault
	for {
		c, err := t.tcp.AcceptTCP()
		if err != nil {
			if !t.rest(fault.next(), "accepting TCP connection", err) {
				return
			}
			continue
		}
		fault = 0
		select {
		case t.streams <- c:
		case <-t.done:
			c.Close()
			return
		}
	}
}

// fault is how long to rest after the last error of a row.
type fault time.Duration

func (f *fault) next() time.Duration {
	*f = min(max(fault(faultFirst), 2**f), fault(faultMax))
	return time.Duration(*f)
}

// rest waits after an error; false: it came of Shutdown.
func (t *netTransport) rest(d time.Duration, doing string, err error) bool {
	select {
	case <-t.done:
		return false
	default:
	}
	t.log.Printf("[ERR] memberlist: Error %s: %v", doing, err)
	select {
	case <-t.done:
		return false
	case <-time.After(d):
		return true
	}
}
