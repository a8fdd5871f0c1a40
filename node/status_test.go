package node

import (
	"testing"

	"hacluster/api"
)

func TestAGroupThatHasNowhereToGoSaysWhy(t *testing.T) {
	down, ready := api.StandbyStatus{Node: "n", Why: "down"}, api.StandbyStatus{Node: "r", Ready: true}
	for _, c := range []struct {
		standbys []api.StandbyStatus
		want     string
	}{
		{nil, "group web has no node to fail over to"},
		{[]api.StandbyStatus{{Node: "b", Why: "vip: interface eth0 has no carrier"}}, "group web has no node to fail over to (b: vip: interface eth0 has no carrier)"},
		{[]api.StandbyStatus{down, down, down, down, down}, "group web has no node to fail over to (n: down; n: down; n: down; and 2 more)"},
		{[]api.StandbyStatus{down, down, down, down, ready}, ""},
	} {
		if got := noStandby(api.GroupStatus{Name: "web", Standbys: c.standbys}); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}
