package membership

import (
	"log"
	"strings"

	"github.com/hashicorp/memberlist"
)

// bindTries is how often a port of the kernel's choice is tried: it is free for TCP, and may be taken for UDP.
const bindTries = 10

// transport is what gossip goes over: a port for UDP and TCP.
type transport interface {
	memberlist.NodeAwareTransport
	GetAutoBindPort() int
}

// listen opens the gossip port; bind is one IP, or empty for every address of the machine, port 0 any.
func listen(bind string, port int, l *log.Logger) (t transport, err error) {
	tries := 1
	if port == 0 {
		tries = bindTries
	}
	for range tries {
		if t, err = openTransport(bind, port, l); err == nil {
			return t, nil
		}
		if !strings.Contains(err.Error(), "address already in use") {
			break
		}
	}
	return nil, err
}
