// Package sim runs whole clusters in simulated time, from a seed: every message, clock, crash, freeze and administrator is
// drawn from one random source, so that a seed that breaks a guarantee breaks it again.
//
// The decisions are production's own: placement.Decide, placement.Reconcile, placement.State.Apply, lease.Holder,
// lease.Ledger and lease.Derive are called as package node calls them. What stands around them is modelled: Raft by a small
// complete implementation over lossy links (raft.go), the agent's loops by events (agent.go, act.go, lead.go), the dead man
// as a process of its own with the executor and the init that starts it again (deadman.go), the kernel lease with address
// lifetimes and the gate, on timers that stand still in suspend (kernel.go), machines whose processes outlive the agent (machine.go).
//
// After every change of what is served anywhere the guarantees S1, S2 and S3 are checked (check.go), after every applied command
// the invariants of the state, at every election and at the end S4; when the faults have ended L1, and then L2 and L3 by an epilogue.
// To hold an address means to answer for it: one that is present behind a closed gate is not held. Where no layer could have
// prevented two runs, and docs/design.md says so, it is counted and not called a fault (World.excused).
//
// Options.Weak breaks the code on purpose: a simulator that finds nothing then proves nothing.
package sim
