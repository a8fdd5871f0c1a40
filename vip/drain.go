package vip

import (
	"fmt"
	"net"
	"net/netip"
	"time"
)

// DrainLongest is the longest that connections may go on to a node that has given its address away.
const DrainLongest = time.Hour

// DrainTable is the name of the tables, one in family ip and one in ip6, that are there while connections are forwarded.
const DrainTable = "had-drain"

// Peer is another node as it is seen on the link of a floating address.
type Peer struct {
	Address netip.Addr       // of the family of the floating address, and not floating itself
	MAC     net.HardwareAddr // Ethernet
}

// String is the form that ParsePeer reads.
func (p Peer) String() string { return p.Address.String() + " " + p.MAC.String() }

// ParsePeer reads what Peer.String wrote.
func ParsePeer(s string) (p Peer, err error) {
	var addr, mac string
	if _, err := fmt.Sscan(s, &addr, &mac); err != nil {
		return p, fmt.Errorf("peer %q: want an address and a hardware address: %w", s, err)
	}
	if p.Address, err = netip.ParseAddr(addr); err != nil {
		return p, err
	}
	p.MAC, err = net.ParseMAC(mac)
	return p, err
}

// check refuses a peer that no rule could send to.
func (p Peer) check(a netip.Addr) error {
	if p.Address.Is4() != a.Is4() || len(p.MAC) != 6 {
		return fmt.Errorf("%s cannot be reached by what is sent to %s: an address of the same family and an Ethernet address are needed", p, a)
	}
	return nil
}

// Drain is what the kernel does about an address whose connections are on two nodes.
type Drain struct {
	Address netip.Addr
	There   netip.Addr    // this node gave the address away: new connections are forwarded to that one; invalid: it did not
	Back    netip.Addr    // this node took the address: connections it does not know are forwarded to that one; invalid: it did not
	Left    time.Duration // until the kernel ends the longer of the two by itself
}

// Conn is one TCP connection to a floating address, as this node has it.
type Conn struct {
	Local, Remote netip.AddrPort
}
