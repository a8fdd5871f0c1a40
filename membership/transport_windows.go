package membership

import (
	"log"

	"github.com/hashicorp/memberlist"
)

// openTransport is that of the library.
func openTransport(bind string, port int, l *log.Logger) (transport, error) {
	t, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{BindAddrs: []string{bind}, BindPort: port, Logger: l})
	if err != nil {
		return nil, err // not t: an interface that holds a nil is none
	}
	return t, nil
}
