package main

import (
	"errors"
	"strings"
	"testing"

	"hacluster/api"
	"hacluster/internal/identity"
	"hacluster/placement"
	"hacluster/raft"
)

// survivors is what n1 of five finds and hears.
func survivors() (remains, []heard) {
	r := remains{id: identity.Identity{Cluster: "prod", Name: "n1"}, found: raft.Found{Position: raft.Position{Term: 4, Index: 90, Applied: 88}}}
	r.found.State = placement.State{Nodes: map[string]placement.NodeState{}, Groups: map[string]placement.GroupState{"web": {Owner: "n3", Phase: placement.PhaseOwned}}}
	var others []heard
	for _, name := range []string{"n1", "n2", "n3", "n4", "n5"} {
		r.found.Servers = append(r.found.Servers, raft.Server{Name: name, Voter: true})
		r.found.State.Nodes[name] = placement.NodeState{ID: name}
		if name != "n1" {
			others = append(others, heard{Name: name, Voter: true, Err: errors.New("does not answer")})
		}
	}
	others[0] = heard{Name: "n2", Voter: true, Answers: true, Status: &api.Status{Log: &api.Log{Term: 4, Index: 89, Applied: 88}}}
	return r, others
}

func TestForceAsksWhatACarefulColleagueWouldAsk(t *testing.T) {
	for _, tc := range []struct {
		name, lost, typed, want string
		change                  func(*forceVerb, []heard)
	}{
		{name: "all is well considered", lost: "n3,n4,n5", typed: "yes\nyes\nprod\n"},
		{name: "for a script", lost: "n3,n4,n5", change: func(v *forceVerb, _ []heard) { v.Sure = true }},
		{name: "not sure that they are off", lost: "n3,n4,n5", typed: "no\n", want: "nothing was changed"},
		{name: "not sure that the groups are down", lost: "n3,n4,n5", typed: "yes\nperhaps\n", want: "nothing was changed"},
		{name: "another cluster", lost: "n3,n4,n5", typed: "yes\nyes\ntest\n", want: "nothing was changed"},
		{name: "a lost node answers", lost: "n2,n3,n4,n5", want: "n2 is not gone"},
		{name: "something answers at a lost node's address", lost: "n3,n4,n5", want: "n5 is not gone", change: func(_ *forceVerb, o []heard) { o[3].Answers = true }},
		{name: "a node is forgotten", lost: "n3,n4", want: "n5 is not named as lost"},
		{name: "another survivor has a longer log", lost: "n3,n4,n5", want: "n2 knows more", change: func(_ *forceVerb, o []heard) { o[0].Status.Log.Index = 91 }},
		{name: "another survivor has a later term", lost: "n3,n4,n5", want: "n2 knows more", change: func(_ *forceVerb, o []heard) { o[0].Status.Log = &api.Log{Term: 5, Index: 3} }},
		{name: "and that is accepted", lost: "n3,n4,n5", typed: "yes\nyes\nprod\n", change: func(v *forceVerb, o []heard) { o[0].Status.Log.Index, v.Behind = 91, true }},
		{name: "a majority is there", lost: "n4,n5", want: "nothing is to be forced", change: func(_ *forceVerb, o []heard) { o[1] = o[0]; o[1].Name = "n3" }},
		{name: "somebody leads", lost: "n3,n4,n5", want: "n4 leads", change: func(_ *forceVerb, o []heard) { o[0].Status.Leader = "n4" }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := lone()
			e := d.env()
			e.In, e.Asks = strings.NewReader(tc.typed), true
			r, others := survivors()
			v := &forceVerb{env: e, Lost: names(tc.lost)}
			if tc.change != nil {
				tc.change(v, others)
			}
			err := v.needed(r, others)
			if err == nil {
				err = v.checkLost(r, others)
			}
			if err == nil {
				err = v.newest(r, others)
			}
			if err == nil {
				err = v.confirm(bounded(t), e.asker(), r)
			}
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Fatalf("got %v, want %q\n%s", err, tc.want, d.Out)
			}
			if tc.typed == "yes\nyes\nprod\n" && !strings.Contains(d.Out.String(), "web (on n3)") {
				t.Errorf("the groups of lost nodes are not named:\n%s", d.Out)
			}
		})
	}
}
