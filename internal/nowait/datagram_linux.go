package nowait

import (
	"net/netip"
	"strconv"
	"syscall"
	"unsafe"
)

// SendTo sends b, which is not empty, as one datagram to an address without a zone. v6 says that the socket is of family AF_INET6; it
// reaches IPv4 as well then, unless it was made for IPv6 only. The error is a syscall.Errno: EAGAIN where there is no room now, EINTR to
// try again.
func SendTo(fd uintptr, b []byte, to netip.AddrPort, v6 bool) error {
	var name syscall.RawSockaddrInet6 // the longer one
	size := unsafe.Sizeof(name)
	switch {
	case v6:
		name = syscall.RawSockaddrInet6{Family: syscall.AF_INET6, Addr: to.Addr().As16()}
		*(*[2]byte)(unsafe.Pointer(&name.Port)) = bigEndian(to.Port())
	case to.Addr().Unmap().Is4():
		four := (*syscall.RawSockaddrInet4)(unsafe.Pointer(&name))
		*four = syscall.RawSockaddrInet4{Family: syscall.AF_INET, Addr: to.Addr().Unmap().As4()}
		*(*[2]byte)(unsafe.Pointer(&four.Port)) = bigEndian(to.Port())
		size = unsafe.Sizeof(*four)
	default:
		return syscall.EAFNOSUPPORT
	}
	happens()
	_, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL,
		uintptr(unsafe.Pointer(&name)), size)
	if errno != 0 {
		return errno
	}
	return nil
}

// ReceiveFrom takes one datagram that is there from a socket into b, which is not empty; what does not fit is lost. An IPv4 address is
// never in its IPv6 form, and a zone is the number of an interface. The error is a syscall.Errno: EAGAIN where nothing is there now,
// EINTR to try again.
func ReceiveFrom(fd uintptr, b []byte) (n int, from netip.AddrPort, err error) {
	var name syscall.RawSockaddrInet6
	size := uint32(unsafe.Sizeof(name))
	r, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), syscall.MSG_DONTWAIT,
		uintptr(unsafe.Pointer(&name)), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return 0, netip.AddrPort{}, errno
	}
	happened()
	port := *(*[2]byte)(unsafe.Pointer(&name.Port)) // at the same place in both
	var ip netip.Addr
	switch name.Family {
	case syscall.AF_INET:
		ip = netip.AddrFrom4((*syscall.RawSockaddrInet4)(unsafe.Pointer(&name)).Addr)
	case syscall.AF_INET6:
		if ip = netip.AddrFrom16(name.Addr).Unmap(); name.Scope_id != 0 && ip.Is6() {
			ip = ip.WithZone(strconv.FormatUint(uint64(name.Scope_id), 10))
		}
	}
	return int(r), netip.AddrPortFrom(ip, uint16(port[0])<<8|uint16(port[1])), nil
}

func bigEndian(port uint16) [2]byte { return [2]byte{byte(port >> 8), byte(port)} }
