package api_test

import (
	"strings"
	"testing"
	"time"

	"hacluster/api"
	"hacluster/api/apitest"
	"hacluster/lease"
	"hacluster/placement"
)

// TestValidate has what each check looks at as a sentence: what is wrong, and what is said of it.
func TestValidate(t *testing.T) {
	gate := func(s *api.Status) {
		s.Timing, _ = lease.Derive(lease.LAN, lease.Gate, lease.Overrides{})
		for i := range s.Nodes {
			s.Nodes[i].Gate = true
		}
	}
	for name, c := range map[string]struct {
		set  func(s *api.Status)
		want api.Verdict
		line string // check, subject and part of the detail
	}{
		"a healthy cluster":            {func(*api.Status) {}, "ok", "leader : w1"},
		"no leader":                    {func(s *api.Status) { s.Leader = "" }, "fault", "leader : there is none"},
		"an answer without the leader": {func(s *api.Status) { s.Stale = true }, "fault", "leader : n1 answers from its own copy"},
		"a member is down":             {func(s *api.Status) { s.Nodes[1].State = "down" }, "fault", "member n2: is down"},
		"a member is paused":           {func(s *api.Status) { s.Nodes[1].State = "paused" }, "warn", "member n2: is paused"},
		"a member has not come yet":    {func(s *api.Status) { s.Nodes[1].State, s.Nodes[1].Voter = "joining", false }, "warn", "member n2: has joined"},
		"a member does not vote":       {func(s *api.Status) { s.Nodes[1].Voter = false }, "warn", "member n2: does not vote"},
		"enough others vote": {func(s *api.Status) {
			s.Nodes = append(s.Nodes, s.Nodes[1])
			s.Nodes[3].Name, s.Nodes[3].Voter = "n4", false
		}, "ok", "member n4: does not vote: 3 others do"},
		"no voter to spare":           {func(s *api.Status) { s.Quorum.Alive = 2 }, "warn", "quorum : 2 of 3"},
		"no quorum":                   {func(s *api.Status) { s.Quorum.Alive = 1 }, "fault", "quorum : 1 of 3"},
		"two versions":                {func(s *api.Status) { s.Nodes[1].Version = "0.1.0" }, "warn", "version n2: runs 0.1.0"},
		"lifetime, and who could not": {func(*api.Status) {}, "ok", "kernel-lease n2: could not carry the gate: no nf_tables"},
		"lifetime, and all could":     {func(s *api.Status) { gate(s); s.Timing, _ = lease.Derive(lease.LAN, lease.Address, lease.Overrides{}) }, "ok", "kernel-lease : address lifetime: a silent node is replaced after 1.757s; every node carries the gate"},
		"gate, and pulses": {func(s *api.Status) { gate(s); s.Timing, _ = lease.Derive(lease.Fast, lease.Gate, lease.Overrides{}) }, "ok",
			"kernel-lease : gate: a silent node is replaced after 964.5ms; where it has only addresses 125.625ms after its last pulse"},
		"gate":                             {gate, "ok", "kernel-lease : gate: a silent node is replaced after 964.5ms"},
		"gate, and one cannot":             {func(s *api.Status) { gate(s); s.Nodes[1].Gate = false }, "fault", "kernel-lease n2: owns nothing"},
		"gate, and the witness cannot":     {func(s *api.Status) { gate(s); s.Nodes[2].Gate = false }, "ok", "kernel-lease : gate"},
		"another configuration":            {func(s *api.Status) { s.Nodes[2].Config = 6 }, "warn", "config w1: follows version 6, not 7"},
		"a configuration that is not read": {func(s *api.Status) { s.Nodes[2].Config = 0 }, "warn", "config w1: does not say that it follows version 7"},
		"a new timing half in force":       {func(s *api.Status) { s.Nodes[2].Flags = []string{"retiming"} }, "warn", "config w1: waits to be started again"},
		"no group":                         {func(s *api.Status) { s.Groups = nil }, "warn", "group : there are none yet"},
		"a group that failed":              {func(s *api.Status) { s.Groups[0].State = "failed" }, "fault", "group web: failed"},
		"a group on its way":               {func(s *api.Status) { s.Groups[0].State = "pending" }, "warn", "group web: pending"},
		"a group that is wanted offline":   {func(s *api.Status) { s.Groups[0].State, s.Groups[0].Why.Rule = "offline", placement.RuleOffline }, "ok", "group web: offline, as"},
		"a group that is offline":          {func(s *api.Status) { s.Groups[0].State = "offline" }, "fault", "group web: offline"},
		"no standby is ready":              {func(s *api.Status) { s.Groups[0].Standbys[0] = api.StandbyStatus{Node: "n2", Why: "down"} }, "warn", "standby web: none is ready: n2 (down)"},
		"nowhere to go":                    {func(s *api.Status) { s.Groups[0].Standbys = nil }, "warn", "standby web: no other node"},
		"a node warns":                     {func(s *api.Status) { s.Warnings = []string{"n1: the unit is enabled"} }, "warn", "report n1: the unit is enabled"},
		"what another check has said": {func(s *api.Status) {
			s.Warnings = []string{"group web has no node to fail over to", "n1: " + api.NoGateWarning}
		}, "ok", "report : no node warns"},
	} {
		t.Run(name, func(t *testing.T) {
			st := apitest.Tomcats(time.Unix(0, 0))
			c.set(&st)
			v := api.Validate(st)
			if v.Verdict != c.want {
				t.Errorf("verdict %s, want %s: %+v", v.Verdict, c.want, v.Checks)
			}
			found := false
			for _, check := range v.Checks {
				found = found || strings.HasPrefix(check.Check+" "+check.Subject+": "+check.Detail, c.line)
				if check.Verdict == "" || check.Detail == "" {
					t.Errorf("incomplete: %+v", check)
				}
			}
			if !found {
				t.Errorf("nothing says %q: %+v", c.line, v.Checks)
			}
		})
	}
}
