package fence

// Policy says when a silent owner is fenced before another node takes its groups over.
type Policy string

const (
	Never      Policy = "never"       // only on request (hactl node fence)
	WhenUnsure Policy = "when-unsure" // where the lease cannot prove that the owner has let go
	Always     Policy = "always"      // whenever an owner is silent, also when its lease would prove it
)

// Policies in the order they are documented.
var Policies = []Policy{Never, WhenUnsure, Always}

// Proof is what is known about the old owner having let go.
type Proof string

const (
	// NoProof: the lease cannot prove it: a layer that enforces it is missing or failed on the owner, a stop overran its
	// budget, or a standby sees the address answering still.
	NoProof Proof = "none"
	// ProofLease: the takeover wait will prove it, every configured layer being in force.
	ProofLease Proof = "lease"
	// ProofReleased: the owner itself has released, read back from its OS, and said so.
	ProofReleased Proof = "released"
	// ProofFenced: fencing was confirmed for this epoch.
	ProofFenced Proof = "fenced"
)

// Needed says whether the old owner has to be fenced before a takeover. A node that has said itself that it released is
// never fenced, under any policy: it is alive and may serve other groups. An unknown proof counts as none, an unknown
// policy as the default.
func Needed(policy Policy, proof Proof) bool {
	if policy == Never || proof == ProofReleased || proof == ProofFenced {
		return false
	}
	return policy == Always || proof != ProofLease
}
