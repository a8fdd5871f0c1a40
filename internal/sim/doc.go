// Package sim runs whole clusters in simulated time, from a seed: every message, clock, crash, freeze and administrator is
// drawn from one random source, so that a seed that breaks a guarantee breaks it again.
//
// The decisions are production's own: placement.Decide, placement.Reconcile, placement.State.Apply, lease.Holder and
// lease.Ledger are called as package node calls them. What stands around them is modelled: Raft by a small complete
// implementation over lossy links (raft.go), the operating system by addresses with lifetimes and processes that outlive
// the agent (machine.go), the loops of package node by events (agent.go, lead.go).
//
// After every change of what runs anywhere the guarantees S1, S2 and S3 are checked (check.go), after every applied command
// the invariants of the state; when the faults have ended, L1. Options.Weak breaks the code on purpose: a simulator that
// finds nothing then proves nothing.
//
// Not modelled: the dead man and other fences (an exclusive service of a dead or frozen agent counts as unprotected, see
// checkRuns), suspend, and a freeze between reading the clock and the system call that acts on it.
package sim
