package raft

import (
	"sync"

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
			var resp hraft.AppendEntriesResponse
			// Best effort: neither the answer nor an error changes anything here.
			_ = h.r.trans.NetworkTransport.AppendEntries(id, hraft.ServerAddress(id), h.request(e), &resp)
		}
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
