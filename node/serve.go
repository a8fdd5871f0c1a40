package node

import (
	"bufio"
	"context"
	"net"
	"sync"
	"time"

	"hacluster/internal/wire"
)

// maxServed bounds the questions of one peer that are answered at the same time.
const maxServed = 32

// serveLeases answers the lease connections of other agents until the listener is closed.
func (n *Node) serveLeases(ctx context.Context, ln net.Listener) {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		conns.Go(func() { n.serveLease(ctx, conn) })
	}
}

// serveLease answers the frames of one peer. The peer's name comes from its certificate, never from what it says.
func (n *Node) serveLease(ctx context.Context, conn net.Conn) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	peer, ok := wire.PeerOf(conn)
	if !ok {
		return
	}
	var out sync.Mutex
	var answers sync.WaitGroup
	defer answers.Wait()
	slots := make(chan struct{}, maxServed)
	reply := func(m message) {
		a := n.answer(ctx, peer.Name, m)
		a.ID = m.ID
		out.Lock()
		defer out.Unlock()
		conn.SetWriteDeadline(time.Now().Add(n.timing().Duration))
		if writeFrame(conn, a) != nil {
			conn.Close()
		}
	}
	r := bufio.NewReader(conn)
	for {
		m, err := readFrame(r)
		if err != nil {
			return
		}
		if n.prompt(peer.Name, m) { // at rest all are: a goroutine for each would have to grow its stack first
			reply(m)
			continue
		}
		slots <- struct{}{}
		answers.Go(func() {
			defer func() { <-slots }()
			reply(m)
		})
	}
}

// prompt says that the answer to a question waits for nobody.
func (n *Node) prompt(peer string, m message) bool {
	return m.AskTerm || m.Pulse != nil || m.Renew != nil && n.leader.prompt(peer, *m.Renew)
}

func (n *Node) answer(ctx context.Context, peer string, m message) message {
	switch {
	case m.AskTerm:
		return message{Term: n.raft.Term()}
	case m.Pulse != nil:
		return message{Heard: n.listener.hear(peer, *m.Pulse), By: n.listener.ledger.Boot}
	case m.Attest != nil:
		return message{Lapsed: n.listener.attest(ctx, *m.Attest)}
	case m.Cables != nil:
		n.cabling.hear(peer, *m.Cables)
		return message{}
	case m.Conns != nil:
		if err := n.tickles.hear(peer, *m.Conns); err != nil {
			return message{Refused: err.Error()}
		}
		return message{}
	case m.Renew != nil:
		grant, err := n.leader.renew(ctx, peer, *m.Renew)
		if err != nil {
			return message{Refused: err.Error()}
		}
		return message{Grant: grant, Known: m.Renew.Version, Again: n.leader.hasTurn(peer, m.Renew.Boot)}
	}
	return message{Refused: errUnknown.Error()}
}
