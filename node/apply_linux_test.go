package node

import (
	"slices"
	"strings"
	"testing"

	"hacluster/api"
	"hacluster/lease"
	"hacluster/placement"
)

// reportGate lets a node of the desk renew and say whether its kernel carries the gate; why is empty: it does.
func (d *desk) reportGate(node, why string) {
	d.t.Helper()
	d.seq++
	m := renewal{Seq: d.seq, Boot: "boot of " + node, Report: placement.Report{Gate: why == "", NoGate: why}}
	if err := d.leader.take(node, m); err != nil {
		d.t.Fatal(err)
	}
	d.leader.mu.Lock()
	defer d.leader.mu.Unlock()
	d.leader.ledger.Confirm(node, nil, d.clock())
}

// One layer of the kernel counts for the whole cluster, and it is decided when a configuration is applied.
func TestApplyDecidesWhichKernelLeaseCounts(t *testing.T) {
	d := newDesk(t)
	text := d.Node.raft.State().ConfigText
	apply := func(text string) (api.Reply, error) {
		return backend{d.Node}.apply(t.Context(), api.Write{Config: text})
	}
	inForceNow := func(want lease.Layer) {
		t.Helper()
		st := d.raft.State()
		c, err := parseApplied(st)
		if err != nil || inForce(st) != want || c.Timing.Layer != want || st.Policy.NeedsGate != (want == lease.Gate) ||
			st.Policy.Groups[0].TakeoverWait != c.Policy().Groups[0].TakeoverWait {
			t.Fatalf("in force: %s, timing %s, needs the gate %v (%v), want %s", inForce(st), c.Timing.Layer, st.Policy.NeedsGate, err, want)
		}
	}
	inForceNow(lease.Address) // b and c have never spoken
	for _, name := range []string{"a", "b"} {
		d.reportGate(name, "")
	}
	d.reportGate("c", "no nf_tables")
	r, err := apply(text)
	if err != nil || !r.Already || !strings.Contains(r.Message, "because node c: no nf_tables") {
		t.Fatalf("while c cannot: %+v, %v", r, err)
	}
	gate := strings.Replace(text, `timing = "lan"`, "timing = \"lan\"\nkernel_lease = \"gate\"", 1)
	_, err = apply(gate)
	refused(t, err, api.CodeRefused, "node c", "nf_tables")
	inForceNow(lease.Address)

	d.reportGate("c", "")
	long := d.raft.State().Policy.Groups[0].TakeoverWait
	r, err = apply(text) // the same text, and auto comes to something else
	if err != nil || r.Already || !strings.HasSuffix(r.Message, "kernel lease: gate") || !slices.Contains(r.Changes, "kernel lease in force address -> gate") {
		t.Fatalf("once c can: %+v, %v", r, err)
	}
	inForceNow(lease.Gate)
	if st := d.raft.State(); st.Floor != long {
		t.Errorf("the leases of the longer timing are waited for %v, want %v", st.Floor, long)
	}
	if r, err = apply(text); err != nil || !r.Already {
		t.Fatalf("again: %+v, %v", r, err)
	}

	d.pass(2 * d.timing().Suspect) // all but the leader's own word is old
	d.reportGate("a", "")
	if r, err = apply(text); err != nil || !r.Already {
		t.Fatalf("nodes that are away do not end the gate: %+v, %v", r, err)
	}
	if r, err = apply(gate); err != nil || len(r.Warnings) != 2 {
		t.Fatalf("gate, and two are away: %+v, %v", r, err)
	}
	inForceNow(lease.Gate)
	d.reportGate("b", "the tables belong to somebody else")
	if r, err = apply(text); err != nil || !strings.Contains(r.Message, "because node b: the tables belong to somebody else") {
		t.Fatalf("b cannot any more: %+v, %v", r, err)
	}
	inForceNow(lease.Address)
}

// A state from before there was a choice means the address lifetime.
func TestAnOldStateMeansTheAddressLifetime(t *testing.T) {
	c, err := parseApplied(placement.State{ConfigText: "name = \"lab\"\n"})
	if err != nil || c.Timing.Layer != lease.Address {
		t.Errorf("%s, %v", c.Timing.Layer, err)
	}
}
