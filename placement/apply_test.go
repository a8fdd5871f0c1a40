package placement

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

// testState has members n1 and n2, the witness w, and the group web: unowned at epoch 0.
func testState(t *testing.T) State {
	t.Helper()
	var s State
	p := Policy{Groups: []GroupPolicy{testGroup("web", testResource("ip"))}}
	for _, c := range []Command{
		{Kind: CmdInit, Cluster: "c", ID: "id"},
		{Kind: CmdNode, Node: "n1", NodeInfo: &NodeState{ID: "i1", Role: RoleMember}},
		{Kind: CmdNode, Node: "n2", NodeInfo: &NodeState{ID: "i2", Role: RoleMember}},
		{Kind: CmdNode, Node: "w", NodeInfo: &NodeState{ID: "iw", Role: RoleWitness}},
		{Kind: CmdConfig, Policy: &p},
	} {
		s = applied(t, s, c)
	}
	return s
}

func applied(t *testing.T, s State, c Command) State {
	t.Helper()
	if c.At.IsZero() {
		c.At = wall
	}
	s.Index++
	next, res := s.Apply(c)
	if !res.Applied {
		t.Fatalf("%s: %+v", c.Kind, res)
	}
	if err := CheckStep(s, next); err != nil {
		t.Fatal(err)
	}
	if err := next.Check(); err != nil {
		t.Fatal(err)
	}
	return next
}

var (
	assignN1   = Command{Kind: CmdAssign, Group: "web", Node: "n1"}
	releaseN1  = Command{Kind: CmdRelease, Group: "web", Epoch: 1, Node: "n2"}
	offlineWeb = Command{Kind: CmdGroupAdmin, Group: "web", Offline: true}
	failedWeb  = Command{Kind: CmdGroupFailed, Group: "web", Epoch: 1, RetryAt: wall.Add(time.Hour)}
)

// TestApply has every command as a sentence: what it needs, and what becomes of it. want begins with "applied", "stale"
// or "refused".
func TestApply(t *testing.T) {
	policy := func(groups ...GroupPolicy) *Policy { return &Policy{Groups: groups} }
	web := testGroup("web", testResource("ip"))
	for name, c := range map[string]struct {
		before []Command
		c      Command
		want   string
		then   func(s State) bool
	}{
		"an unknown command is refused":                {nil, Command{Kind: "dance"}, "refused: command", nil},
		"init happens once":                            {nil, Command{Kind: CmdInit, Cluster: "c", ID: "x"}, "stale: the cluster is initialised", nil},
		"a note makes an event":                        {nil, Command{Kind: CmdNote, Reason: Reason{Text: "x"}}, "applied", func(s State) bool { return s.Events[len(s.Events)-1].Reason.Text == "x" }},
		"a configuration for another version is stale": {nil, Command{Kind: CmdConfig, Version: 7, Policy: policy(web)}, "stale: configuration is at version 1", nil},
		"a configuration without policy is refused":    {nil, Command{Kind: CmdConfig, Version: 1}, "refused: configuration without policy", nil},
		"a configuration replaces the policy": {nil, Command{Kind: CmdConfig, Version: 1, Policy: policy(web, testGroup("x")), Config: "text"}, "applied", func(s State) bool {
			return s.ConfigVersion == 2 && s.ConfigText == "text" && s.Groups["x"].Phase == PhaseUnowned
		}},
		"a configuration brings the kernel lease it was resolved to": {nil, Command{Kind: CmdConfig, Version: 1, Policy: policy(web), KernelLease: "gate"}, "applied", func(s State) bool { return s.KernelLease == "gate" }},
		"a configuration without one takes the former away":          {[]Command{{Kind: CmdConfig, Version: 1, Policy: policy(web), KernelLease: "gate"}}, Command{Kind: CmdConfig, Version: 2, Policy: policy(web)}, "applied", func(s State) bool { return s.KernelLease == "" }},
		"a group of priority 0 begins offline":                       {nil, Command{Kind: CmdConfig, Version: 1, Policy: policy(web, GroupPolicy{Name: "x"})}, "applied", func(s State) bool { return s.Groups["x"].Offline }},
		"an owned group cannot be removed":                           {[]Command{assignN1}, Command{Kind: CmdConfig, Version: 1, Policy: policy()}, "refused: group web is still owned by n1", nil},
		"a removed group leaves its epoch behind":                    {[]Command{assignN1, releaseN1, {Kind: CmdReleased, Group: "web", Epoch: 1}}, Command{Kind: CmdConfig, Version: 1, Policy: policy()}, "applied", func(s State) bool { return s.Retired["web"] == 1 }},
		"a group that comes back goes on from its epoch":             {[]Command{assignN1, releaseN1, {Kind: CmdReleased, Group: "web", Epoch: 1}, {Kind: CmdConfig, Version: 1, Policy: policy()}}, Command{Kind: CmdConfig, Version: 2, Policy: policy(web)}, "applied", func(s State) bool { return s.Groups["web"].Epoch == 1 && len(s.Retired) == 0 }},
		"a shorter takeover wait leaves the old one as floor":        {nil, Command{Kind: CmdConfig, Version: 1, Policy: policy(GroupPolicy{Name: "web", TakeoverWait: time.Second})}, "applied", func(s State) bool { return s.Floor == testWait && s.FloorIndex == s.Index }},
		"a longer takeover wait needs no floor":                      {nil, Command{Kind: CmdConfig, Version: 1, Policy: policy(GroupPolicy{Name: "web", TakeoverWait: time.Minute})}, "applied", func(s State) bool { return s.Floor == 0 }},
		"settling ends the floor":                                    {[]Command{{Kind: CmdConfig, Version: 1, Policy: policy(GroupPolicy{Name: "web", TakeoverWait: time.Second})}}, Command{Kind: CmdSettle, Epoch: 6}, "applied", func(s State) bool { return s.Floor == 0 }},
		"settling another change is stale":                           {[]Command{{Kind: CmdConfig, Version: 1, Policy: policy(GroupPolicy{Name: "web", TakeoverWait: time.Second})}}, Command{Kind: CmdSettle, Epoch: 5}, "stale", nil},
		"settling without a floor is stale":                          {nil, Command{Kind: CmdSettle}, "stale", nil},

		"a node without information is refused": {nil, Command{Kind: CmdNode, Node: "n3"}, "refused: node command without node", nil},
		"a node of an unknown role is refused":  {nil, Command{Kind: CmdNode, Node: "n3", NodeInfo: &NodeState{Role: "king"}}, "refused: node n3 has the unknown role", nil},
		"a name belongs to one identity":        {nil, Command{Kind: CmdNode, Node: "n1", NodeInfo: &NodeState{ID: "other", Role: RoleMember}}, "refused: node name n1 belongs to", nil},
		"a role is for life":                    {nil, Command{Kind: CmdNode, Node: "n1", NodeInfo: &NodeState{ID: "i1", Role: RoleWitness}}, "refused: node n1 is a member", nil},
		"an update keeps what others decided":   {[]Command{{Kind: CmdAdmin, Node: "n1", Admin: AdminDrain}}, Command{Kind: CmdNode, Node: "n1", NodeInfo: &NodeState{ID: "i1", Role: RoleMember, Version: "2"}}, "applied", func(s State) bool { return s.Nodes["n1"].Admin == AdminDrain && s.Nodes["n1"].Version == "2" }},
		"a removed identity does not come back": {[]Command{{Kind: CmdRemoveNode, Node: "n1"}}, Command{Kind: CmdNode, Node: "n1", NodeInfo: &NodeState{ID: "i1", Role: RoleMember}}, "refused: node n1 was removed with this identity", nil},
		"a removed name may":                    {[]Command{{Kind: CmdRemoveNode, Node: "n1"}}, Command{Kind: CmdNode, Node: "n1", NodeInfo: &NodeState{ID: "new", Role: RoleMember}}, "applied", nil},
		"an owner is not removed":               {[]Command{assignN1}, Command{Kind: CmdRemoveNode, Node: "n1"}, "refused: node n1 owns group web", nil},
		"an owner is removed by force": {[]Command{assignN1}, Command{Kind: CmdRemoveNode, Node: "n1", Force: true}, "applied", func(s State) bool {
			return s.Groups["web"].Phase == PhaseUnowned && s.Groups["web"].Epoch == 1 && s.Groups["web"].LastOwner == "n1"
		}},
		"removing a stranger is stale":             {nil, Command{Kind: CmdRemoveNode, Node: "n9"}, "stale", nil},
		"pausing a stranger is refused":            {nil, Command{Kind: CmdAdmin, Node: "n9", Admin: AdminPaused}, "refused: node n9 is not a member", nil},
		"an unknown node state is refused":         {nil, Command{Kind: CmdAdmin, Node: "n1", Admin: "tired"}, "refused: node state", nil},
		"a node is paused":                         {nil, Command{Kind: CmdAdmin, Node: "n1", Admin: AdminPaused}, "applied", func(s State) bool { return s.Nodes["n1"].Admin == AdminPaused }},
		"a node is seen lost once":                 {[]Command{{Kind: CmdNodeSeen, Node: "n1", Lost: true}}, Command{Kind: CmdNodeSeen, Node: "n1", Lost: true}, "stale", nil},
		"offline for a group that is not there":    {nil, Command{Kind: CmdGroupAdmin, Group: "x"}, "refused: group x does not exist", nil},
		"offline for a resource that is not there": {nil, Command{Kind: CmdGroupAdmin, Group: "web", Resource: "x"}, "refused: group web has no resource x", nil},
		"a resource goes offline":                  {nil, Command{Kind: CmdGroupAdmin, Group: "web", Resource: "ip", Offline: true}, "applied", func(s State) bool { return s.Groups["web"].Resources["ip"] }},
		"online forgives":                          {[]Command{assignN1, failedWeb}, Command{Kind: CmdGroupAdmin, Group: "web"}, "applied", func(s State) bool { g := s.Groups["web"]; return !g.Failed && g.RetryAt.IsZero() && g.Round == 1 }},

		"assign gives the next epoch": {nil, assignN1, "applied", func(s State) bool {
			g := s.Groups["web"]
			return g.Phase == PhaseOwned && g.Owner == "n1" && g.Epoch == 1 && g.AssignIndex == s.Index
		}},
		"assign for an old epoch is stale":        {[]Command{assignN1, releaseN1, {Kind: CmdReleased, Group: "web", Epoch: 1}}, assignN1, "stale: group web is at epoch 1, not 0", nil},
		"assign of an owned group is stale":       {[]Command{assignN1}, Command{Kind: CmdAssign, Group: "web", Epoch: 1, Node: "n2"}, "stale: group web is owned", nil},
		"assign to a witness is refused":          {nil, Command{Kind: CmdAssign, Group: "web", Node: "w"}, "refused: node w is a witness", nil},
		"assign to a stranger is refused":         {nil, Command{Kind: CmdAssign, Group: "web", Node: "n9"}, "refused: node n9 is not a member", nil},
		"assign of an offline group is stale":     {[]Command{offlineWeb}, assignN1, "stale: group web is wanted offline", nil},
		"assign of a group that is gone is stale": {nil, Command{Kind: CmdAssign, Group: "x", Node: "n1"}, "stale: group x does not exist", nil},
		"release keeps owner and epoch": {[]Command{assignN1}, releaseN1, "applied", func(s State) bool {
			g := s.Groups["web"]
			return g.Phase == PhaseReleasing && g.Owner == "n1" && g.Epoch == 1 && g.MoveTo == "n2"
		}},
		"release of an unowned group is stale": {nil, Command{Kind: CmdRelease, Group: "web"}, "stale", nil},
		"release towards a witness is refused": {[]Command{assignN1}, Command{Kind: CmdRelease, Group: "web", Epoch: 1, Node: "w"}, "refused", nil},
		"a failover is counted and given up on": {[]Command{assignN1}, Command{Kind: CmdRelease, Group: "web", Epoch: 1, Counted: true, Failing: "n1", RetryAt: wall.Add(time.Hour)}, "applied", func(s State) bool {
			g := s.Groups["web"]
			return len(g.Failovers) == 1 && g.GivenUp["n1"].Equal(wall.Add(time.Hour))
		}},
		"an administrator's move forgives": {[]Command{assignN1, failedWeb}, Command{Kind: CmdRelease, Group: "web", Epoch: 1, Reason: Reason{Rule: RuleMove}}, "applied", func(s State) bool { return !s.Groups["web"].Failed }},
		"released goes to the next owner": {[]Command{assignN1, releaseN1}, Command{Kind: CmdReleased, Group: "web", Epoch: 1, Node: "n2"}, "applied", func(s State) bool {
			g := s.Groups["web"]
			return g.Owner == "n2" && g.Epoch == 2 && g.LastOwner == "n1" && g.MoveTo == ""
		}},
		"released without next owner is unowned": {[]Command{assignN1, releaseN1}, Command{Kind: CmdReleased, Group: "web", Epoch: 1}, "applied", func(s State) bool {
			g := s.Groups["web"]
			return g.Phase == PhaseUnowned && g.Epoch == 1 && g.LastOwner == "n1"
		}},
		"released while wanted offline is unowned":       {[]Command{assignN1, releaseN1, offlineWeb}, Command{Kind: CmdReleased, Group: "web", Epoch: 1, Node: "n2"}, "applied", func(s State) bool { return s.Groups["web"].Phase == PhaseUnowned }},
		"released of an owned group is stale":            {[]Command{assignN1}, Command{Kind: CmdReleased, Group: "web", Epoch: 1, Node: "n2"}, "stale", nil},
		"released for an old epoch is stale":             {[]Command{assignN1, releaseN1}, Command{Kind: CmdReleased, Group: "web", Epoch: 0, Node: "n2"}, "stale", nil},
		"released to a witness is refused":               {[]Command{assignN1, releaseN1}, Command{Kind: CmdReleased, Group: "web", Epoch: 1, Node: "w"}, "refused", nil},
		"takeover from an owner":                         {[]Command{assignN1}, Command{Kind: CmdTakeover, Group: "web", Epoch: 1, Node: "n2"}, "applied", func(s State) bool { return s.Groups["web"].Owner == "n2" && s.Groups["web"].Epoch == 2 }},
		"takeover by the owner itself is a new epoch":    {[]Command{assignN1}, Command{Kind: CmdTakeover, Group: "web", Epoch: 1, Node: "n1"}, "applied", func(s State) bool { return s.Groups["web"].Owner == "n1" && s.Groups["web"].Epoch == 2 }},
		"takeover while releasing":                       {[]Command{assignN1, releaseN1}, Command{Kind: CmdTakeover, Group: "web", Epoch: 1, Node: "n2"}, "applied", func(s State) bool { return s.Groups["web"].Owner == "n2" && s.Groups["web"].MoveTo == "" }},
		"takeover of an unowned group is stale":          {nil, Command{Kind: CmdTakeover, Group: "web", Node: "n2"}, "stale", nil},
		"takeover for an old epoch is stale":             {[]Command{assignN1}, Command{Kind: CmdTakeover, Group: "web", Epoch: 0, Node: "n2"}, "stale", nil},
		"takeover by a witness is refused":               {[]Command{assignN1}, Command{Kind: CmdTakeover, Group: "web", Epoch: 1, Node: "w"}, "refused", nil},
		"takeover of an offline group leaves it unowned": {[]Command{assignN1, offlineWeb}, Command{Kind: CmdTakeover, Group: "web", Epoch: 1, Node: "n2"}, "applied", func(s State) bool { return s.Groups["web"].Phase == PhaseUnowned }},
		"a group fails with a retry": {[]Command{assignN1}, failedWeb, "applied", func(s State) bool {
			return s.Groups["web"].Failed && s.Groups["web"].RetryAt.Equal(wall.Add(time.Hour))
		}},
		"a group fails once":                {[]Command{assignN1, failedWeb}, failedWeb, "stale", nil},
		"retry is one new round":            {[]Command{assignN1, failedWeb}, Command{Kind: CmdRetry, Group: "web", Epoch: 1}, "applied", func(s State) bool { g := s.Groups["web"]; return !g.Failed && g.Retries == 1 && g.Round == 1 }},
		"a second failure has no retry":     {[]Command{assignN1, failedWeb, {Kind: CmdRetry, Group: "web", Epoch: 1}}, failedWeb, "applied", func(s State) bool { return s.Groups["web"].Failed && s.Groups["web"].RetryAt.IsZero() }},
		"retry of a well group is stale":    {[]Command{assignN1}, Command{Kind: CmdRetry, Group: "web", Epoch: 1}, "stale", nil},
		"recovery clears the mark":          {[]Command{assignN1, failedWeb}, Command{Kind: CmdGroupWell, Group: "web", Epoch: 1}, "applied", func(s State) bool { return !s.Groups["web"].Failed && s.Groups["web"].RetryAt.IsZero() }},
		"recovery of a well group is stale": {[]Command{assignN1}, Command{Kind: CmdGroupWell, Group: "web", Epoch: 1}, "stale", nil},

		"a token without id is refused": {nil, Command{Kind: CmdToken}, "refused", nil},
		"a token is used once":          {[]Command{{Kind: CmdToken, ID: "t", Token: &Token{Expires: wall.Add(1)}}, {Kind: CmdUseToken, ID: "t", Node: "n3"}}, Command{Kind: CmdUseToken, ID: "t", Node: "n4"}, "refused: join token t was used by node n3", nil},
		"a token expires":               {[]Command{{Kind: CmdToken, ID: "t", Token: &Token{Expires: wall}}}, Command{Kind: CmdUseToken, ID: "t", Node: "n4"}, "refused: join token t has expired", nil},
		"an unknown token is refused":   {nil, Command{Kind: CmdUseToken, ID: "t"}, "refused: join token t is unknown", nil},
		"spent tokens go with the next": {[]Command{{Kind: CmdToken, ID: "t", Token: &Token{Expires: wall.Add(1)}}, {Kind: CmdUseToken, ID: "t", Node: "n3"}}, Command{Kind: CmdToken, ID: "u", Token: &Token{Expires: wall.Add(1)}}, "applied", func(s State) bool { return len(s.Tokens) == 1 }},
	} {
		t.Run(name, func(t *testing.T) {
			s := testState(t)
			for _, b := range c.before {
				s = applied(t, s, b)
			}
			c.c.At = wall
			s.Index++
			seq := s.Seq
			next, res := s.Apply(c.c)
			if got := sayResult(res); !strings.HasPrefix(got, c.want) {
				t.Fatalf("got %q, want %q", got, c.want)
			}
			if !res.Applied && !reflect.DeepEqual(next, s) {
				t.Error("a command that was not applied changed the state")
			}
			if res.Applied && c.c.Kind != CmdSettle && next.Seq != seq+1 {
				t.Errorf("%d events, want one", next.Seq-seq)
			}
			if c.then != nil && !c.then(next) {
				t.Errorf("not as it should be: %+v", next.Groups["web"])
			}
			if err := next.Check(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestEveryCommandHasATable(t *testing.T) {
	for _, kind := range []CommandKind{CmdInit, CmdConfig, CmdNode, CmdRemoveNode, CmdAdmin, CmdGroupAdmin, CmdAssign, CmdRelease, CmdReleased, CmdTakeover,
		CmdGroupFailed, CmdGroupWell, CmdRetry, CmdNodeSeen, CmdToken, CmdUseToken, CmdSettle, CmdReplaceNode, CmdNote} {
		if appliers[kind] == nil {
			t.Errorf("%s cannot be applied", kind)
		}
	}
}

func TestEventsAreBounded(t *testing.T) {
	s := testState(t)
	for range MaxEvents + 10 {
		s = applied(t, s, Command{Kind: CmdNote})
	}
	if len(s.Events) != MaxEvents || s.Events[len(s.Events)-1].Seq != s.Seq {
		t.Errorf("%d events, the newest %d of %d", len(s.Events), s.Events[len(s.Events)-1].Seq, s.Seq)
	}
}

// TestCheckSeesABrokenState breaks each invariant once.
func TestCheckSeesABrokenState(t *testing.T) {
	good := applied(t, testState(t), assignN1)
	set := func(f func(g *GroupState)) State {
		g := good.Groups["web"]
		f(&g)
		return good.withGroup("web", g)
	}
	lost := good
	lost.Policy = Policy{}
	extra := good
	extra.Policy.Groups = append([]GroupPolicy{testGroup("more")}, good.Policy.Groups...)
	gap := good
	gap.Seq++
	for want, s := range map[string]State{
		"invariant 2: group web is owned with owner":     set(func(g *GroupState) { g.Owner = "" }),
		"invariant 3: group web: node n9 is not":         set(func(g *GroupState) { g.Owner = "n9" }),
		"invariant 3: group web: node w is a witness":    set(func(g *GroupState) { g.Owner = "w" }),
		"invariant 4: group web has no policy":           lost,
		"invariant 4: group more has no state":           extra,
		"invariant 5: event at 0 has seq 1, not 2":       gap,
		"invariant 6: group web is owned with a move to": set(func(g *GroupState) { g.MoveTo = "n2" }),
	} {
		if err := s.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	for want, s := range map[string]State{
		"epoch of group web fell from 1 to 0":                 set(func(g *GroupState) { g.Epoch = 0 }),
		"group web went from \"n1\" to \"n2\" within epoch 1": set(func(g *GroupState) { g.Owner = "n2" }),
		"group web went at epoch 1, kept 0":                   {},
	} {
		if err := CheckStep(good, s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
