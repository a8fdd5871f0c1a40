package raft

import (
	"context"
	"net"
	"sync/atomic"
	"testing"

	hraft "github.com/hashicorp/raft"

	"hacluster/internal/wire"
)

// dials counts them.
type dials struct {
	Dialer
	n atomic.Int64
}

func (d *dials) Dial(ctx context.Context, node, alpn string) (net.Conn, error) {
	d.n.Add(1)
	return d.Dialer.Dial(ctx, node, alpn)
}

// Who needs one connection more than there are gets one that is made already, and one whose node has failed is not used.
func TestASpareConnectionIsKept(t *testing.T) {
	c := newCluster(t)
	c.must(c.add("n2").start(true))
	mux, err := wire.Listen([]string{"127.0.0.1:0"}, wire.Config{Credentials: c.creds("n1")})
	c.must(err)
	defer mux.Close()
	d := &dials{Dialer: &wire.Dialer{Credentials: c.creds("n1"), Resolve: c.resolve}}
	st := newStream(Config{Name: "n1", Listener: mux.Listener(wire.ALPNRaft), Timing: c.timing, Dialer: d})
	st.spareAfter = 0
	defer func() { st.closeConns(); st.wait() }()
	spare := func() *conn {
		st.mu.Lock()
		defer st.mu.Unlock()
		return st.spares.of["n2"]
	}
	dial := func(want int64, what string) net.Conn {
		t.Helper()
		got, err := st.Dial(hraft.ServerAddress("n2"), rpcTimeout)
		c.must(err)
		t.Cleanup(func() { got.Close() })
		c.until("a spare one is made", func() bool { return spare() != nil })
		if n := d.n.Load(); n != want {
			t.Errorf("%s: %d handshakes, want %d", what, n, want)
		}
		return got
	}
	dial(2, "the first connection, and a spare one")
	kept := spare()
	if got := dial(3, "the second one is the spare one"); got != net.Conn(kept) {
		t.Error("the spare connection was not used")
	}
	kept = spare()
	st.forgo("n2")
	if _, err := kept.Write([]byte("x")); err == nil || spare() != nil {
		t.Errorf("a spare connection outlives the failure of another: %v", err)
	}
	if got := dial(5, "after a failure"); got == net.Conn(kept) {
		t.Error("it was used again")
	}
}
