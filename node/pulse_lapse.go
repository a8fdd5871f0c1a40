package node

import (
	"context"
	"maps"
	"slices"
	"time"

	"hacluster/lease"
	"hacluster/placement"
)

// proveAgain is between two attempts to prove that the promise of a silent node has ended.
const proveAgain = 20 * time.Millisecond

// lapseProof is what the voters attested.
type lapseProof struct {
	asked  time.Time     // before the first of them was
	voters []string      // of which they are a quorum
	bar    time.Duration // for so long they do not answer the node
	lapse  placement.Lapse
}

// lapse has the nodes looked at whose promise has ended by this voter's own clock; called when one has.
func (l *leader) lapse() {
	if !l.n.raft.IsLeader() {
		return
	}
	nodes := l.n.listener.silent()
	for _, node := range nodes {
		l.mu.Lock()
		if l.ledger == nil || l.fencing == nil || l.proving[node] {
			l.mu.Unlock()
			continue
		}
		l.proving[node] = true
		term := l.term
		l.proofs.Go(func() { l.prove(l.n.ctx, node, term) })
		l.mu.Unlock()
	}
}

// prove asks the other voters until a quorum has attested, the node is heard again, or its lease is over anyway.
func (l *leader) prove(ctx context.Context, node string, term uint64) {
	defer func() {
		l.mu.Lock()
		delete(l.proving, node)
		l.mu.Unlock()
	}()
	again := time.NewTicker(proveAgain)
	defer again.Stop()
	for l.worthProving(node, term) && !(l.provable() && l.attested(ctx, node, term)) {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
	}
}

// worthProving says that there is something to take over that a proof is good for.
func (l *leader) worthProving(node string, term uint64) bool {
	nodes := l.n.listener.silent()
	if !slices.Contains(nodes, node) || !l.n.raft.IsLeader() {
		return false
	}
	st := l.n.raft.State()
	on := false
	for _, g := range st.Policy.Groups {
		on = on || g.OnPulse && st.Groups[g.Name].Owner == node
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return on && l.ledger != nil && l.term == term
}

// provable says that a proof can be used: the voters that this leader counts have been the same for so long that no lease is left which was
// granted with others. Until then it is asked again.
func (l *leader) provable() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ledger == nil {
		return false
	}
	now := l.n.clock()
	l.countVoters(now)
	wait := l.n.barFor(l.n.raft.State().Floor) - proofLasts
	return now.Sub(l.ledger.Since()) >= wait && now.Sub(l.counted) >= wait
}

// countVoters notes a change of the voters. Each grant does, so none is granted with voters that were not noted. The caller holds mu.
func (l *leader) countVoters(now time.Time) []string {
	if voters := l.n.voters(); !slices.Equal(voters, l.voters) {
		l.voters, l.counted = voters, now
	}
	return l.voters
}

// attested asks once.
func (l *leader) attested(ctx context.Context, node string, term uint64) bool {
	l.mu.Lock()
	asked := l.n.clock()
	voters := slices.Clone(l.countVoters(asked))
	l.mu.Unlock()
	bar := l.n.barFor(l.n.raft.State().Floor)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan string, len(voters))
	others := 0
	for _, voter := range voters {
		if voter == node || voter == l.n.name {
			continue
		}
		others++
		l.proofs.Go(func() {
			a, err := l.n.links.call(ctx, voter, message{Attest: &attest{Node: node, Term: term, Bar: bar}}, 2*attestWait)
			if err != nil || !a.Lapsed {
				voter = ""
			}
			answers <- voter
		})
	}
	said := map[string]bool{}
	with := func() map[string]bool { // and this one, last: it goes on answering a node that the others hear
		out := map[string]bool{l.n.name: true}
		for v := range said {
			out[v] = true
		}
		return out
	}
	for range others {
		if voter := <-answers; voter != "" {
			said[voter] = true
		}
		if lease.AttestedBy(voters, node, with()) {
			break
		}
	}
	if !lease.AttestedBy(voters, node, with()) || !l.n.listener.attest(ctx, attest{Node: node, Term: term, Bar: bar}) {
		return false
	}
	l.proven(node, term, lapseProof{asked: asked, voters: voters, bar: bar}, with())
	return true
}

// proven keeps what was attested and has it decided by.
func (l *leader) proven(node string, term uint64, proof lapseProof, by map[string]bool) {
	silent, bound := l.n.listener.last(node)
	l.mu.Lock()
	if l.ledger != nil && l.term == term {
		proof.lapse = placement.Lapse{Silent: silent, Bound: bound, By: slices.Sorted(maps.Keys(by))}
		l.lapses[node] = proof
	}
	l.mu.Unlock()
	l.kick()
}

// viewLapses fills in which nodes are proven to have their gates shut, and which will for a while. The caller holds mu, and withholds what it takes by it before
// it lets go.
func (l *leader) viewLapses(v *placement.View) {
	now := l.n.clock()
	v.Lapsed, v.Unheard = map[string]placement.Lapse{}, l.n.listener.unheard()
	for node, p := range l.lapses {
		switch {
		case now.Sub(p.asked) >= proofLasts, !slices.Equal(p.voters, l.countVoters(now)), p.bar < l.n.barFor(l.n.raft.State().Floor):
			delete(l.lapses, node)
		default:
			v.Lapsed[node] = p.lapse
		}
	}
}
