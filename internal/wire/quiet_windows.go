package wire

import "net"

// hush changes nothing: there the runtime's poller makes every call.
func hush(c net.Conn) (net.Conn, error) { return c, nil }
