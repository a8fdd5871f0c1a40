package fence

import "testing"

func TestNeeded(t *testing.T) {
	proofs := []Proof{NoProof, ProofLease, ProofReleased, ProofFenced, "", "nonsense"}
	for policy, want := range map[Policy][]bool{
		Never:      {false, false, false, false, false, false},
		WhenUnsure: {true, false, false, false, true, true},
		Always:     {true, true, false, false, true, true},
		"":         {true, false, false, false, true, true},
	} {
		for i, proof := range proofs {
			if got := Needed(policy, proof); got != want[i] {
				t.Errorf("Needed(%q, %q) = %v, want %v", policy, proof, got, want[i])
			}
		}
	}
}
