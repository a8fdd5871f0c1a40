// Package sim runs whole clusters in simulated time, from a seed: every message, clock, crash, freeze and administrator is
// drawn from one random source, so that a seed that breaks a guarantee breaks it again.
//
// The decisions are production's own: placement.Decide, placement.Reconcile, placement.State.Apply, lease.Holder,
// lease.Ledger and lease.Derive are called as package node calls them. What stands around them is modelled: Raft by a small
// complete implementation over lossy links (raft.go), the agent's loops by events (agent.go, act.go, lead.go), the dead man
// as a process of its own with the executor and the init that starts it again (deadman.go), the kernel lease with address
// lifetimes and the gate, on timers that stand still in suspend (kernel.go), machines whose processes outlive the agent (machine.go).
//
// Planned moves let open connections finish where they began, where production does (moves.go): the old owner's agent (drain.go), the rules
// of both kernels by which a packet is answered, forwarded or dropped (forward.go), and clients with connections across the move
// (clients.go). Not modelled: openings that are held between the two gates (vip.HoldOpenings), loss between a client and a node, IPv6.
//
// After every change of what is served anywhere the guarantees S1, S2 and S3 are checked (check.go), after every applied command
// the invariants of the state, at every election and at the end S4; when the faults have ended L1, and then L2 and L3 by an epilogue.
// To hold an address means to answer for it: one that is present behind a closed gate is not held. Where no layer could have
// prevented two runs, and docs/design.md says so, it is counted and not called a fault (World.excused).
//
// In a planned move the old owner is excused for connections that it accepted as the owner, and only for those. Where nothing fails (World.gentle)
// each connection is judged: it is not reset and not left alone before the time that it was given is over.
//
// Pulses (pulse.go, attest.go) are lease.PulseHolder and lease.PulseLedger. Not modelled: when production promises (lease.Pace; here it is drawn, and sooner),
// changes of the voters, announcements.
//
// Options.Weak breaks the code on purpose: a simulator that finds nothing then proves nothing.
package sim
