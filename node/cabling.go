package node

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"hacluster/internal/wire"
	"hacluster/vip"
)

// maxCables bounds the addresses that are told, and taken; a node has few.
const maxCables = 64

// tellTries bounds how often a peer is told the same. One that does not hear it finds out by itself, later.
const tellTries = 5

// cables says which of a node's addresses are on interfaces without a carrier; all its others are in.
type cables struct {
	Boot string       `json:"boot"` // as of a renewal
	Seq  uint64       `json:"seq"`  // orders those of one process
	Out  []netip.Addr `json:"out,omitempty"`
}

// cabling has the connections of this node leave a network whose cable is out: at once, because the kernel says so. The other end
// hears it over another network. Without it each end would wait for the silence (DeadAfter) before it tried another address. It is
// about latency only: no lease, no vote and no decision depends on it, and a wrong word costs the connections to who said it.
type cabling struct {
	n     *Node
	paths *wire.Paths
	out   func() ([]netip.Addr, error) // addresses of this node that are out; tests replace it
	wake  chan struct{}
	own   []netip.Addr // of this node, at which it listens

	mu    sync.Mutex
	said  cables            // newest; Seq 0: nothing was ever out
	heard map[string]cables // node -> newest
}

func newCabling(n *Node, paths *wire.Paths) *cabling {
	c := &cabling{n: n, paths: paths, wake: make(chan struct{}, 1), heard: map[string]cables{}}
	c.out = func() ([]netip.Addr, error) { return n.vips.Unplugged() }
	for _, text := range n.cfg.Addresses {
		if a, err := netip.ParseAddr(text); err == nil {
			c.own = append(c.own, a.Unmap().WithZone(""))
		}
	}
	return c
}

// watchAddresses wakes the address resources at each event of the kernel, and follows the cables of this node.
func (n *Node) watchAddresses(ctx context.Context) {
	for ctx.Err() == nil {
		err := n.vips.Watch(ctx, func(c vip.Change) {
			n.cabling.follow(c) // first: the report of what failed is not to be sent into a dead network
			n.askVIPs.Store(true)
			n.wakeAct()
		})
		n.logError("watching addresses and links", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// follow looks at the interfaces after an event of one. It is quick: the events wait for it.
func (c *cabling) follow(e vip.Change) {
	if e.Kind != vip.LinkDown && e.Kind != vip.LinkUp && e.Kind != vip.Resync {
		return
	}
	out, err := c.out()
	if err != nil {
		c.n.logError("asking which cables are out", err)
		return
	}
	c.paths.Out(out)
	out = slices.DeleteFunc(out, func(a netip.Addr) bool { return !slices.Contains(c.own, a) })
	out = out[:min(len(out), maxCables)]
	c.mu.Lock()
	news := !slices.Equal(out, c.said.Out)
	if news {
		c.said = cables{Boot: c.n.renewer.boot, Seq: c.said.Seq + 1, Out: out}
	}
	c.mu.Unlock()
	if !news {
		return
	}
	c.n.log.Info("cables of this node", "out", out)
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// loop tells every other node what is new.
func (c *cabling) loop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
		for c.tellAll(ctx) {
		}
	}
}

// tellAll tells every other node the newest, until all have heard it or there is something newer; then it is true.
func (c *cabling) tellAll(ctx context.Context) (again bool) {
	ctx, end := context.WithCancel(ctx)
	defer end()
	c.mu.Lock()
	said := c.said
	c.mu.Unlock()
	if len(said.Out) == len(c.own) {
		return false // there is no network left to say it over
	}
	var telling sync.WaitGroup
	for peer := range c.n.raft.State().Nodes {
		if peer != c.n.name {
			telling.Go(func() { c.tell(ctx, peer, said) })
		}
	}
	told := make(chan struct{})
	go func() {
		telling.Wait()
		close(told)
	}()
	select {
	case <-told:
		return false
	case <-c.wake:
		end()
		<-told
		return true
	}
}

// tell says it to one node, until that has answered; a refusal is an answer, of a version that does not know the message.
func (c *cabling) tell(ctx context.Context, peer string, said cables) {
	limit := 2 * c.n.timing().Renew
	for range tellTries {
		a, err := c.n.links.call(ctx, peer, message{Cables: &said}, limit)
		if err == nil || a.Refused != "" {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(limit / 4):
		}
	}
}

// hear takes a peer's word about its own cables.
func (c *cabling) hear(peer string, said cables) {
	c.mu.Lock()
	old := c.heard[peer]
	news := old.Boot != said.Boot || old.Seq < said.Seq
	if news {
		c.heard[peer] = said
	}
	c.mu.Unlock()
	if news {
		c.n.log.Info("cables of another node", "node", peer, "out", said.Out[:min(len(said.Out), maxCables)])
		c.paths.PeerOut(peer, said.Out[:min(len(said.Out), maxCables)])
	}
}
