package placement

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// bench is one call of Reconcile on node n1, for the group web: address ip, which needs the exclusive service tomcat,
// which needs the mount disk; and log, which runs on every node.
type bench struct {
	p   Policy
	s   State
	l   Local
	now time.Time
}

var online = LocalResource{State: StateOnline, Running: true, Healthy: true, Ready: true}

func newBench(t *testing.T) *bench {
	t.Helper()
	disk, tomcat, ip, log := testResource("disk"), testResource("tomcat"), testResource("ip"), testResource("log")
	tomcat.Exclusive, tomcat.DependsOn = true, &Expr{Name: "disk"}
	ip.Address, ip.DependsOn = true, &Expr{Name: "tomcat"}
	log.RunOn = RunOnEveryNode
	p := Policy{Groups: []GroupPolicy{testGroup("web", ip, tomcat, disk, log)}}
	b := &bench{p: p, now: boot.Add(time.Hour)}
	for _, c := range []Command{
		{Kind: CmdInit, Cluster: "c", ID: "id"},
		{Kind: CmdNode, Node: "n1", NodeInfo: &NodeState{ID: "i1", Role: RoleMember}},
		{Kind: CmdNode, Node: "n2", NodeInfo: &NodeState{ID: "i2", Role: RoleMember}},
		{Kind: CmdConfig, Policy: &p},
		{Kind: CmdAssign, Group: "web", Node: "n1"},
	} {
		b.s = applied(t, b.s, c)
	}
	b.l = Local{Node: "n1", Leased: map[string]time.Time{"web": b.now.Add(time.Second)}, Released: map[string]uint64{},
		Resources: map[string]map[string]LocalResource{"web": {}}}
	b.all(LocalResource{State: StateOffline})
	b.set("log", online)
	return b
}

func (b *bench) set(name string, lr LocalResource) { b.l.Resources["web"][name] = lr }

func (b *bench) all(lr LocalResource) {
	for _, n := range []string{"ip", "tomcat", "disk"} {
		b.set(n, lr)
	}
}

func (b *bench) group(f func(g *GroupState)) {
	g := b.s.Groups["web"]
	f(&g)
	b.s = b.s.withGroup("web", g)
}

func (b *bench) resource(name string, f func(r *ResourcePolicy)) {
	rs := slices.Clone(b.p.Groups[0].Resources)
	for i := range rs {
		if rs[i].Name == name {
			f(&rs[i])
		}
	}
	b.p.Groups = slices.Clone(b.p.Groups)
	b.p.Groups[0].Resources = rs
}

func (b *bench) noLease() { b.l.Leased = nil }
func (b *bench) expired() { b.l.Leased["web"] = b.now }
func (b *bench) releasing() {
	b.group(func(g *GroupState) { g.Phase, g.MoveTo = PhaseReleasing, "n2" })
}
func (b *bench) elsewhere() {
	b.group(func(g *GroupState) { g.Owner, g.Epoch = "n2", 2 })
	b.noLease()
}

func (b *bench) failed(name string, ago time.Duration, restarts ...time.Duration) {
	lr := LocalResource{State: StateFailed, Failure: "process gone", FailedAt: b.now.Add(-ago)}
	for _, r := range restarts {
		lr.Restarts = append(lr.Restarts, b.now.Add(-r))
	}
	b.set(name, lr)
}

// asked is what Reconcile wants done, in order.
func asked(p Plan) string {
	var out []string
	for _, a := range p.Actions {
		text := string(a.Kind) + " " + a.Resource
		if a.Restart {
			text = "re" + text
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

// TestReconcile has every rule of the node as a sentence.
func TestReconcile(t *testing.T) {
	pending := LocalResource{State: StateOnlinePending, Running: true, Doing: ActStart}
	stopping := LocalResource{State: StateOfflinePending, Running: true, Doing: ActStop}
	killing := LocalResource{State: StateOfflinePending, Running: true, Doing: ActKill}
	offline := LocalResource{State: StateOffline}
	for name, c := range map[string]struct {
		set  func(b *bench)
		want string
	}{
		"what others need comes first":               {func(b *bench) {}, "start disk"},
		"then what needs it":                         {func(b *bench) { b.set("disk", online) }, "start tomcat"},
		"not while it is only starting":              {func(b *bench) { b.set("disk", pending) }, ""},
		"then the next":                              {func(b *bench) { b.set("disk", online); b.set("tomcat", online) }, "start ip"},
		"when all is online nothing is to be done":   {func(b *bench) { b.all(online) }, ""},
		"without a lease nothing starts":             {func(b *bench) { b.noLease() }, ""},
		"at the end of the lease nothing starts":     {func(b *bench) { b.expired() }, ""},
		"a process that just began starts nothing":   {func(b *bench) { b.noLease(); b.l.Inherited = b.now.Add(1) }, ""},
		"a restarted agent adopts what runs":         {func(b *bench) { b.all(online); b.noLease(); b.l.Inherited = b.now.Add(1) }, ""},
		"and no longer than its predecessor's lease": {func(b *bench) { b.all(online); b.noLease(); b.l.Inherited = b.now }, "kill ip, kill tomcat"},
		"a promise is kept":                          {func(b *bench) { b.l.Released["web"] = 1 }, ""},
		"a promise of an older epoch does not bind":  {func(b *bench) { b.group(func(g *GroupState) { g.Epoch = 2 }); b.l.Released["web"] = 1 }, "start disk"},
		"a resource that is wanted offline stays so": {func(b *bench) {
			b.set("disk", online)
			b.group(func(g *GroupState) { g.Resources = map[string]bool{"tomcat": true} })
		}, ""},
		"a group that is wanted offline stops in order": {func(b *bench) { b.all(online); b.group(func(g *GroupState) { g.Offline = true }) }, "stop ip, stop log"},
		"a running start is ended by a stop": {func(b *bench) {
			b.set("disk", online)
			b.set("tomcat", pending)
			b.group(func(g *GroupState) { g.Offline = true })
		}, "stop tomcat, stop log"},

		"at the end of the lease address and exclusive are killed": {func(b *bench) { b.all(online); b.expired() }, "kill ip, kill tomcat"},
		"a stop under way becomes a kill":                          {func(b *bench) { b.set("ip", offline); b.set("tomcat", stopping); b.set("disk", online); b.expired() }, "kill tomcat"},
		"a start under way is killed":                              {func(b *bench) { b.set("disk", online); b.set("tomcat", pending); b.expired() }, "kill tomcat"},
		"a kill under way is not asked again":                      {func(b *bench) { b.set("ip", killing); b.set("tomcat", killing); b.set("disk", online); b.expired() }, ""},
		"the rest stops in order when they are gone":               {func(b *bench) { b.set("disk", online); b.expired() }, "stop disk"},
		"a failed exclusive one that still runs is killed": {func(b *bench) {
			b.set("disk", online)
			b.set("tomcat", LocalResource{State: StateFailed, Running: true})
			b.expired()
		}, "kill tomcat"},
		"what another node owns is killed": {func(b *bench) { b.all(online); b.elsewhere() }, "kill ip, kill tomcat"},
		"what nobody owns is killed": {func(b *bench) {
			b.all(online)
			b.group(func(g *GroupState) { g.Owner, g.Phase = "", PhaseUnowned })
			b.noLease()
		}, "kill ip, kill tomcat"},

		"releasing stops in order":                   {func(b *bench) { b.all(online); b.releasing() }, "stop ip"},
		"releasing, next":                            {func(b *bench) { b.all(online); b.set("ip", offline); b.releasing() }, "stop tomcat"},
		"releasing waits for what is being stopped":  {func(b *bench) { b.all(online); b.set("ip", stopping); b.releasing() }, ""},
		"releasing without a lease kills":            {func(b *bench) { b.all(online); b.releasing(); b.expired() }, "kill ip, kill tomcat"},
		"releasing never starts anything":            {func(b *bench) { b.releasing() }, ""},
		"releasing kills what failed and still runs": {func(b *bench) { b.set("tomcat", LocalResource{State: StateFailed, Running: true}); b.releasing() }, "kill tomcat"},

		"every-node resources run without a lease":         {func(b *bench) { b.set("log", offline); b.elsewhere() }, "start log"},
		"every-node resources are not killed with a lease": {func(b *bench) { b.expired() }, ""},
		"every-node resources stop where the group cannot live": {func(b *bench) {
			b.elsewhere()
			b.p.Groups = slices.Clone(b.p.Groups)
			b.p.Groups[0].PossibleOwners = []string{"n2"}
		}, "stop log"},
		"every-node resources do not run on a witness": {func(b *bench) { b.elsewhere(); n := b.s.Nodes["n1"]; n.Role = RoleWitness; b.s = b.s.withNode("n1", n) }, "stop log"},

		"a failed one that runs is terminated": {func(b *bench) { b.all(online); b.set("tomcat", LocalResource{State: StateFailed, Running: true}) }, "stop ip, kill tomcat"},
		"a failed one that cannot be killed is not asked again": {func(b *bench) {
			b.set("disk", online)
			b.set("tomcat", LocalResource{State: StateFailed, Running: true, Blocked: "stuck"})
		}, ""},
		"dependents go down before a restart": {func(b *bench) { b.all(online); b.failed("tomcat", time.Minute) }, "stop ip"},
		"restart_delay is waited for":         {func(b *bench) { b.set("disk", online); b.failed("tomcat", 499*time.Millisecond) }, ""},
		"then it is restarted":                {func(b *bench) { b.set("disk", online); b.failed("tomcat", 500*time.Millisecond) }, "restart tomcat"},
		"restarts are counted":                {func(b *bench) { b.set("disk", online); b.failed("tomcat", time.Second, time.Minute) }, ""},
		"old restarts no longer count":        {func(b *bench) { b.set("disk", online); b.failed("tomcat", time.Second, 15*time.Minute) }, "restart tomcat"},
		"a threshold of three": {func(b *bench) {
			b.resource("tomcat", func(r *ResourcePolicy) { r.RestartThreshold = 3 })
			b.set("disk", online)
			b.failed("tomcat", time.Second, 2, 1)
		}, "restart tomcat"},
		"restart_action none never restarts": {func(b *bench) {
			b.resource("tomcat", func(r *ResourcePolicy) { r.RestartAction = RestartNone })
			b.set("disk", online)
			b.failed("tomcat", time.Second)
		}, ""},
		"a group that was given up is left alone": {func(b *bench) {
			b.group(func(g *GroupState) { g.Failed = true })
			b.set("disk", online)
			b.failed("tomcat", time.Second)
		}, ""},
		"a standby restarts whatever became of the group": {func(b *bench) {
			b.elsewhere()
			b.group(func(g *GroupState) { g.Failed = true })
			b.failed("log", time.Second)
		}, "restart log"},
		"no restart while what it needs is down": {func(b *bench) { b.failed("disk", time.Second, time.Minute); b.failed("tomcat", time.Second) }, ""},
		"a dependent stops when what it needs is gone": {func(b *bench) {
			b.all(online)
			b.set("disk", LocalResource{State: StateOfflinePending, Running: true, Doing: ActStop})
		}, "stop ip"},
		"a chain goes down from its end":               {func(b *bench) { b.all(online); b.failed("disk", time.Minute) }, "stop ip"},
		"a chain goes down, next":                      {func(b *bench) { b.all(online); b.set("ip", offline); b.failed("disk", time.Minute) }, "stop tomcat"},
		"a chain goes down, and its root is restarted": {func(b *bench) { b.failed("disk", time.Minute) }, "restart disk"},
		"what others need goes offline after them": {func(b *bench) {
			b.all(online)
			b.group(func(g *GroupState) { g.Resources = map[string]bool{"tomcat": true} })
		}, "stop ip"},
		"nothing starts on what is about to go": {func(b *bench) {
			b.set("disk", online)
			b.set("tomcat", online)
			b.group(func(g *GroupState) { g.Resources = map[string]bool{"disk": true} })
		}, "stop tomcat"},
		"a circle of dependencies ends": {func(b *bench) {
			b.resource("disk", func(r *ResourcePolicy) { r.DependsOn = &Expr{Name: "ip"} })
			b.all(online)
		}, ""},
		"an address stays while its service is not known": {func(b *bench) { b.all(online); b.set("tomcat", LocalResource{State: StateInitializing, Running: true}) }, ""},
		"no address is added while its service is unknown": {func(b *bench) {
			b.all(online)
			b.set("ip", offline)
			b.set("tomcat", LocalResource{State: StateInitializing, Running: true})
		}, ""},
		"an unknown state is not acted on": {func(b *bench) { b.set("disk", LocalResource{State: StateInitializing, Running: true}) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			c.set(b)
			plan := Reconcile(b.p, b.s, b.l, b.now)
			if got := asked(plan); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			for _, a := range plan.Actions {
				if a.Group != "web" || a.Why == "" || a.Epoch != b.s.Groups["web"].Epoch {
					t.Errorf("unexplained: %+v", a)
				}
			}
		})
	}
}

// TestAPromiseIsMadeWhenAllIsProvenOffline: S1 and S2 hang on this.
func TestAPromiseIsMadeWhenAllIsProvenOffline(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(b *bench)
		want uint64
	}{
		"all offline":                             {func(b *bench) {}, 1},
		"what runs on every node does not count":  {func(b *bench) { b.set("log", online) }, 1},
		"failed and gone is offline too":          {func(b *bench) { b.failed("tomcat", 0) }, 1},
		"not while the address is there":          {func(b *bench) { b.set("ip", online) }, 0},
		"not while something fails and runs":      {func(b *bench) { b.set("tomcat", LocalResource{State: StateFailed, Running: true}) }, 0},
		"not while something is done":             {func(b *bench) { b.set("disk", LocalResource{State: StateOffline, Doing: ActStart}) }, 0},
		"not while a state is not known":          {func(b *bench) { b.set("disk", LocalResource{State: StateUnknown}) }, 0},
		"not before the OS has been asked":        {func(b *bench) { b.set("disk", LocalResource{State: StateInitializing, Running: true}) }, 0},
		"not for a resource nobody has looked at": {func(b *bench) { delete(b.l.Resources["web"], "disk") }, 0},
		"not while the OS says that it runs":      {func(b *bench) { b.set("disk", LocalResource{State: StateOffline, Running: true}) }, 0},
		"also when the lease has ended":           {func(b *bench) { b.expired() }, 1},
		"not while it owns the group":             {func(b *bench) { b.group(func(g *GroupState) { g.Phase, g.MoveTo = PhaseOwned, "" }) }, 0},
		"not when another node releases":          {func(b *bench) { b.group(func(g *GroupState) { g.Owner = "n2" }) }, 0},
		"once":                                    {func(b *bench) { b.l.Released["web"] = 1 }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.releasing()
			c.set(b)
			plan := Reconcile(b.p, b.s, b.l, b.now)
			if got := plan.Released["web"]; got != c.want {
				t.Errorf("promises %d, want %d", got, c.want)
			}
			told := max(c.want, b.l.Released["web"])
			if got := plan.Report.Groups["web"].Released; got != told {
				t.Errorf("reports %d, want %d", got, told)
			}
			if c.want > 0 && plan.Report.Groups["web"].Holding {
				t.Error("promises and holds")
			}
		})
	}
}

func TestTheNodeReports(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(b *bench)
		want func(r GroupReport) bool
	}{
		"a standby that is ready":          {func(b *bench) {}, func(r GroupReport) bool { return r.Ready && !r.Holding && r.Trouble == "" }},
		"a standby that is not ready":      {func(b *bench) { b.set("log", LocalResource{State: StateOnline, Running: true}) }, func(r GroupReport) bool { return !r.Ready }},
		"a standby that is wanted offline": {func(b *bench) { b.group(func(g *GroupState) { g.Resources = map[string]bool{"log": true} }) }, func(r GroupReport) bool { return !r.Ready }},
		"what it holds":                    {func(b *bench) { b.set("disk", online) }, func(r GroupReport) bool { return r.Holding }},
		"a failure with restarts left": {func(b *bench) { b.failed("tomcat", 0) }, func(r GroupReport) bool {
			return r.Trouble == TroubleFailing && r.Resource == "tomcat" && len(r.Evidence) == 1
		}},
		"a failure without restarts left": {func(b *bench) { b.failed("tomcat", 0, time.Minute) }, func(r GroupReport) bool { return r.Trouble == TroubleGivenUp }},
		"the worse of two failures":       {func(b *bench) { b.failed("tomcat", 0); b.failed("disk", 0, time.Minute) }, func(r GroupReport) bool { return r.Trouble == TroubleGivenUp && r.Resource == "disk" }},
		"the carrier is gone": {func(b *bench) {
			b.set("disk", LocalResource{State: StateFailed, Failure: "no carrier", Cause: CauseCarrier})
		}, func(r GroupReport) bool { return r.Trouble != "" && r.Cause == CauseCarrier }},
		"the carrier is gone, and something else failed": {func(b *bench) {
			b.set("disk", LocalResource{State: StateFailed, Failure: "no carrier", Cause: CauseCarrier})
			b.failed("tomcat", 0)
		}, func(r GroupReport) bool { return r.Trouble != "" && r.Cause == CauseOther }},
		"the cable is out at a standby":               {func(b *bench) { b.elsewhere(); b.set("disk", LocalResource{Unfit: "no carrier"}) }, func(r GroupReport) bool { return r.Unfit == "disk: no carrier" && r.Trouble == "" }},
		"what runs on every node is not kept from it": {func(b *bench) { b.set("log", LocalResource{Unfit: "no carrier"}) }, func(r GroupReport) bool { return r.Unfit == "" }},
		"no failure of what it does not own":          {func(b *bench) { b.failed("tomcat", 0, time.Minute); b.elsewhere() }, func(r GroupReport) bool { return r.Trouble == "" }},
		"a group that was given up":                   {func(b *bench) { b.failed("tomcat", 0); b.group(func(g *GroupState) { g.Failed = true }) }, func(r GroupReport) bool { return r.Trouble == TroubleGivenUp }},
		"a failure of what is wanted offline does not count": {func(b *bench) {
			b.failed("tomcat", 0)
			b.group(func(g *GroupState) { g.Resources = map[string]bool{"tomcat": true} })
		}, func(r GroupReport) bool { return r.Trouble == "" }},
		"what is blocked": {func(b *bench) {
			b.set("disk", LocalResource{State: StateFailed, Running: true, Blocked: "cannot unmount"})
		}, func(r GroupReport) bool { return r.Blocked == "disk: cannot unmount" && r.Holding }},
		"what was blocked and has ended blocks nothing any more": {func(b *bench) {
			b.elsewhere()
			b.set("disk", LocalResource{State: StateOffline, Blocked: "cannot unmount"})
		}, func(r GroupReport) bool { return r.Blocked == "" }},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			c.set(b)
			b.l.Leaving = true
			plan := Reconcile(b.p, b.s, b.l, b.now)
			if got := plan.Report.Groups["web"]; !c.want(got) {
				t.Errorf("got %+v", got)
			}
			if r := plan.Report; r.Node != "n1" || r.ID != "i1" || r.Applied != b.s.Index || !r.Leaving || len(r.Groups["web"].Resources) != 4 {
				t.Errorf("report %+v", r)
			}
		})
	}
}

func TestTheNodeWakesWhenSomethingIsDue(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(b *bench)
		want time.Duration
	}{
		"when its lease ends":                        {func(b *bench) {}, time.Second},
		"when its lease ends while it releases":      {func(b *bench) { b.releasing() }, time.Second},
		"when its predecessor's lease ends":          {func(b *bench) { b.noLease(); b.l.Inherited = b.now.Add(time.Minute) }, time.Minute},
		"when the restart is due":                    {func(b *bench) { b.set("disk", online); b.failed("tomcat", 400*time.Millisecond) }, 100 * time.Millisecond},
		"when a restart falls out of restart_period": {func(b *bench) { b.elsewhere(); b.failed("log", time.Second, 14*time.Minute) }, time.Minute},
	} {
		b := newBench(t)
		c.set(b)
		if got := Reconcile(b.p, b.s, b.l, b.now).Wake.Sub(b.now); got != c.want {
			t.Errorf("%s: wakes after %v, want %v", name, got, c.want)
		}
	}
	b := newBench(t)
	b.elsewhere()
	if got := Reconcile(b.p, b.s, b.l, b.now).Wake; !got.IsZero() {
		t.Errorf("with nothing due it wakes at %v", got)
	}
}
