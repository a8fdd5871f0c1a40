// Package lab runs real nodes on one Linux machine: network namespaces joined by a bridge, with real links, ARP caches,
// processes and, where wanted, a real systemd as process 1. It owns the topology, the faults (power cut, cable, partition
// whole or one-way, loss, delay, duplication, reordering, freeze, starvation, full disk), and the instruments that judge a
// failover: a client that counts what users lose, an observer that reports every moment in which two nodes had one address, and a
// prober that reports every moment in which two nodes answered for it. Having an address behind a shut packet filter hurts
// nobody: the prober's word is what counts for guarantee S1, the observer's says how close it was.
//
// What it is not: it knows nothing of had. It starts commands, and what those do is the caller's affair.
//
// Everything a Lab makes carries its prefix ("had-" and four random characters) and is written down in a registry before it
// is made, so that SweepStale finds and removes what a crashed run left behind.
//
//	l, err := lab.New(ctx, lab.Options{Nodes: []string{"n1", "n2", "n3"}, Client: true})
//	defer l.Close()
//	p, err := l.Node("n1").Start(lab.ProcOptions{Name: "service", Args: []string{"/path/to/service"}})
//	c, err := l.StartClient(lab.ClientOptions{Target: netip.AddrPortFrom(l.VIP(0).Addr(), 8080)})
//	c.Mark()
//	l.Node("n1").PowerCut()
//	report := c.Report(c.Marked())
//
// The first network is 198.18.0.0/24 (and fd00:18::/64 with Options.IPv6), the second 198.18.1.0/24 (fd00:18:1::/64). Nodes
// have .11, .12 and so on in the order given, the client .200, the switch answers pings on .1, floating addresses are
// .100 to .199. A node's interfaces are eth0 and eth1; neighbour settings are left at the kernel's defaults, so that caches
// behave as they do at a user's site.
//
// All of it is for Linux; on other systems the package is empty.
package lab
