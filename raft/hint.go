package raft

import (
	"sync"
	"time"

	hraft "github.com/hashicorp/raft"
)

// hinter tells the followers at once that an entry is committed. The library tells them with its next AppendEntries, up
// to twice CommitTimeout later; for a node that waits to act that is the largest part of a planned move.
//
// The hint is an AppendEntries without entries whose PrevLogEntry and LeaderCommitIndex are both the committed entry.
// DESIGN.md has why nothing but the latency changes.
//
// A follower gets it when two things have happened, in either order: the entry is committed, and the follower has
// acknowledged it. Earlier it would be refused.
type hinter struct {
	r *Raft

	mu     sync.Mutex
	closed bool
	newest entry // newest committed entry that a hint was asked for
	peers  map[hraft.ServerID]*hintPeer
	wg     sync.WaitGroup
}

type entry struct{ index, term uint64 }

// hintPeer sends one hint at a time, always the newest.
type hintPeer struct {
	has   uint64 // newest entry it acknowledged
	term  uint64 // in this term
	knows uint64 // newest commit index it was told
	busy  bool
}

func newHinter(r *Raft) *hinter { return &hinter{r: r, peers: map[hraft.ServerID]*hintPeer{}} }

// committed notes an entry of the current term that this node, as its leader, knows to be committed.
func (h *hinter) committed(index, term uint64) {
	if !h.leads(term) {
		return
	}
	f := h.r.raft.GetConfiguration()
	if f.Error() != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if term < h.newest.term || index <= h.newest.index {
		return
	}
	h.newest = entry{index, term}
	for _, s := range f.Configuration().Servers {
		if s.ID != hraft.ServerID(h.r.cfg.Name) {
			h.kick(s.ID, h.peer(s.ID))
		}
	}
}

// stored notes that a peer acknowledged a replication request of this node's.
func (h *hinter) stored(id hraft.ServerID, req *hraft.AppendEntriesRequest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.peer(id)
	if req.Term < p.term {
		return
	}
	if req.Term > p.term {
		*p = hintPeer{term: req.Term, busy: p.busy}
	}
	p.has = max(p.has, req.PrevLogEntry+uint64(len(req.Entries)))
	p.knows = max(p.knows, req.LeaderCommitIndex)
	h.kick(id, p)
}

// acknowledged is the newest entry of this term that a peer is known to have.
func (h *hinter) acknowledged(id hraft.ServerID) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.peer(id).has
}

// Remind tells a node what is committed, when it has been started again, or a hint was lost: it has every entry on its disk, and does not
// know how far they are committed before it hears of it, by the library up to twice CommitTimeout later. Leader only; best effort.
func (r *Raft) Remind(node string) {
	index, term := r.raft.CommitIndex(), r.Term()
	var l hraft.Log
	if r.store.GetLog(index, &l) != nil || l.Term != term || !r.hints.leads(term) {
		return
	}
	r.hints.again(hraft.ServerID(node), entry{index, term})
}

// again forgets what a peer was told.
func (h *hinter) again(id hraft.ServerID, e entry) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if e.term > h.newest.term || e.term == h.newest.term && e.index > h.newest.index {
		h.newest = e
	}
	p := h.peer(id)
	p.knows = 0
	h.kick(id, p)
}

func (h *hinter) forget(id hraft.ServerID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.peers[id]; p != nil {
		*p = hintPeer{busy: p.busy}
	}
}

func (h *hinter) peer(id hraft.ServerID) *hintPeer {
	p := h.peers[id]
	if p == nil {
		p = &hintPeer{}
		h.peers[id] = p
	}
	return p
}

// kick starts to send where there is something to say. h.mu is held.
func (h *hinter) kick(id hraft.ServerID, p *hintPeer) {
	if !h.closed && !p.busy && h.news(p) {
		p.busy = true
		h.wg.Go(func() { h.send(id, p) })
	}
}

func (h *hinter) news(p *hintPeer) bool {
	return p.term == h.newest.term && p.has >= h.newest.index && p.knows < h.newest.index
}

func (h *hinter) leads(term uint64) bool { return h.r.IsLeader() && h.r.Term() == term }

func (h *hinter) send(id hraft.ServerID, p *hintPeer) {
	for {
		h.mu.Lock()
		e := h.newest
		if h.closed || !h.news(p) {
			p.busy = false
			h.mu.Unlock()
			return
		}
		p.knows = e.index // told, or left to ordinary replication
		h.mu.Unlock()
		if h.leads(e.term) {
			h.tell(id, e)
		}
	}
}

// tell sends one hint. Best effort: neither the answer nor an error changes anything here. The pool may hold connections to a
// process that is gone; each fails once.
func (h *hinter) tell(id hraft.ServerID, e entry) {
	begun := time.Now()
	for try := 0; try <= maxConns && time.Since(begun) < h.r.cfg.Timing.Heartbeat; try++ {
		var resp hraft.AppendEntriesResponse
		if h.r.trans.NetworkTransport.AppendEntries(id, hraft.ServerAddress(id), h.request(e), &resp) == nil {
			return
		}
		h.r.trans.forgo(hraft.ServerAddress(id))
	}
}

func (h *hinter) request(e entry) *hraft.AppendEntriesRequest {
	self := hraft.ServerID(h.r.cfg.Name)
	addr := h.r.trans.EncodePeer(self, hraft.ServerAddress(self))
	return &hraft.AppendEntriesRequest{
		RPCHeader:         hraft.RPCHeader{ProtocolVersion: hraft.ProtocolVersionMax, ID: []byte(self), Addr: addr},
		Term:              e.term,
		PrevLogEntry:      e.index,
		PrevLogTerm:       e.term,
		LeaderCommitIndex: e.index, // never more than PrevLogEntry: nothing vouches for what lies beyond it on the follower
	}
}

func (h *hinter) close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.wg.Wait()
}
