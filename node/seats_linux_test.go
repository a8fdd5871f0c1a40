package node

import (
	"fmt"
	"testing"
	"time"

	"hacluster/api"
)

// A node without a vote has a lease, owns a group through many renewals, and gets a vote when a voter is removed.
func TestANodeWithoutAVoteTakesPart(t *testing.T) {
	c := form(t, "a", "b", "c", "d")
	spare, voters := "", 0
	st, err := c.nodes["a"].client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range st.Nodes {
		if n.Voter {
			voters++
		} else {
			spare = n.Name
		}
	}
	if voters != 3 || spare == "" {
		t.Fatalf("%d of 4 nodes vote", voters)
	}
	c.do(api.Write{Verb: api.VerbApply, Config: c.webConfig(fmt.Sprintf("preferred_owners = [%q]", spare))})
	first := c.serving(spare, 0)
	time.Sleep(2 * c.nodes[spare].n.timing().Duration) // nothing is waited for: a lease that is not renewed has ended by then
	if again := c.serving(spare, 0); again != first {
		t.Errorf("%+v was followed by %+v: the lease of a node without a vote has ended", first, again)
	}

	var leaves *member
	for _, m := range c.running() {
		if m != c.leader() && m.name != spare && m.name != "a" {
			leaves = m
		}
	}
	leaves.stop()
	c.do(api.Write{Verb: api.VerbRemove, Node: leaves.name, Force: true})
	c.until("the node votes in the place of the removed one", func() error {
		st, err := c.leader().client.Status(t.Context())
		if err != nil {
			return err
		}
		for _, n := range st.Nodes {
			if !n.Voter || n.State != "up" {
				return fmt.Errorf("node %s: voter %v, %s", n.Name, n.Voter, n.State)
			}
		}
		return nil
	})
	if again := c.serving(spare, 0); again != first {
		t.Errorf("%+v was followed by %+v: getting a vote was noticed", first, again)
	}
}
