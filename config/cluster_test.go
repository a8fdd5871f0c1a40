package config

import (
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"hacluster/fence"
	"hacluster/health"
	"hacluster/lease"
	"hacluster/placement"
	"hacluster/resources"
)

func mustParse(t *testing.T, text string) Cluster {
	t.Helper()
	c, err := ParseCluster("cluster.toml", []byte(text), Known{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func loadFile(t *testing.T, file string) Cluster {
	t.Helper()
	c, err := LoadCluster(file)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAClusterIsFilledWithDefaults(t *testing.T) {
	c := mustParse(t, `name = "idm"
[[group]]
name = "idm"
[[group.resource]]
name = "tomcat"
type = "systemd"
unit = "tomcat10"
[[group.resource.probe]]
type = "systemd"
[[group.resource.probe]]
type = "ajp"
[[group.resource.probe]]
type = "tcp"
port = 8080
interval = "300ms"
[[group.resource]]
name = "vip"
type = "address"
address = "10.0.0.5/24"`)
	lan, err := lease.Derive(lease.LAN, lease.Address, lease.Overrides{})
	if err != nil {
		t.Fatal(err)
	}
	tomcat := placement.ResourcePolicy{Name: "tomcat", RunOn: placement.RunOnOwner, Exclusive: true, RestartAction: placement.RestartThenFailover,
		RestartThreshold: 1, RestartPeriod: 15 * time.Minute, RestartDelay: 500 * time.Millisecond, PendingTimeout: 3 * time.Minute, StopBudget: time.Second}
	vip := tomcat
	vip.Name, vip.Address, vip.Exclusive, vip.DependsOn = "vip", true, false, &placement.Expr{Name: "tomcat"}
	spec := resources.Spec{Group: "idm", Name: "tomcat", Kind: resources.KindSystemd, Unit: "tomcat10.service", PendingTimeout: 3 * time.Minute, StopBudget: time.Second}
	address := spec
	address.Name, address.Kind, address.Unit = "vip", resources.KindAddress, ""
	want := Cluster{Name: "idm", KernelLease: KernelAuto, Timing: lan, GroupWaitDelay: 2 * time.Minute, FencePolicy: fence.WhenUnsure, FenceAction: fence.Reboot, Groups: []Group{{
		GroupPolicy: placement.GroupPolicy{Name: "idm", FailoverThreshold: -1, FailoverPeriod: 6 * time.Hour, FailbackFrom: -1, FailbackTo: -1,
			RetryPeriod: time.Hour, Priority: 2000, Standby: placement.StandbyCold},
		Resources: []Resource{
			{ResourcePolicy: tomcat, Spec: spec, Deadlock: 30 * time.Second, Probes: []health.Spec{
				{Name: "systemd", Kind: health.KindSystemd, Level: health.LooksAlive, Interval: time.Second, Timeout: time.Second, Fall: 1, Rise: 1, Unit: "tomcat10.service"},
				{Name: "ajp", Kind: health.KindAJP, Level: health.IsAlive, Interval: 5 * time.Second, Timeout: time.Second, Fall: 3, Rise: 2, Host: "127.0.0.1", Port: 8009},
				{Name: "tcp", Kind: health.KindTCP, Level: health.LooksAlive, Interval: 300 * time.Millisecond, Timeout: 300 * time.Millisecond, Fall: 3, Rise: 2, Host: "127.0.0.1", Port: 8080},
			}},
			{ResourcePolicy: vip, Spec: address, Deadlock: 30 * time.Second, Address: netip.MustParsePrefix("10.0.0.5/24"), Tickle: true},
		},
	}}}
	if d := cmp.Diff(want, c, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Error(d)
	}
}

func TestHotStandbyChangesTheDefaults(t *testing.T) {
	c := loadFile(t, "../examples/minimal/cluster.toml")
	for _, r := range c.Groups[0].Resources {
		if r.RestartAction != placement.RestartFailoverFirst || r.Exclusive {
			t.Errorf("%s: restart_action %s, exclusive %v", r.Name, r.RestartAction, r.Exclusive)
		}
	}
	if g := c.Policy().Groups[0]; g.TakeoverWait != c.Timing.TakeoverWait(0) {
		t.Errorf("takeover wait %v, want %v: no exclusive resource", g.TakeoverWait, c.Timing.TakeoverWait(0))
	}
}

func TestAnAddressFollowsTheServicesUnlessTheyFollowIt(t *testing.T) {
	const address, service = "\n[[group.resource]]\nname = %\ntype = \"address\"\naddress = \"10.0.0.#/24\"\n", "\n[[group.resource]]\nname = %\ntype = \"systemd\"\nunit = #\n"
	res := func(kind, name, arg, deps string) string {
		s := strings.NewReplacer("%", `"`+name+`"`, "#", arg).Replace(kind)
		if deps != "-" {
			s += "depends_on = \"" + deps + "\"\n"
		}
		return s
	}
	for _, c := range []struct {
		name, text string
		want       map[string]string
	}{
		{"two services", res(service, "a", `"a"`, "-") + res(service, "b", `"b"`, "a") + res(address, "vip", "5", "-"), map[string]string{"a": "", "b": "a", "vip": "a and b"}},
		{"addresses only", res(address, "vip", "5", "-"), map[string]string{"vip": ""}},
		{"turned off", res(service, "a", `"a"`, "-") + res(address, "vip", "5", ""), map[string]string{"a": "", "vip": ""}},
		{"service binds to it", res(service, "a", `"a"`, "b") + res(service, "b", `"b"`, "vip") + res(address, "vip", "5", "-"), map[string]string{"a": "b", "b": "vip", "vip": ""}},
		{"only one of two is bound to", res(service, "a", `"a"`, "v1") + res(address, "v1", "5", "-") + res(address, "v2", "6", "-"), map[string]string{"a": "v1", "v1": "", "v2": "a"}},
		{"bound through another address", res(service, "a", `"a"`, "v2") + res(address, "v1", "5", "-") + res(address, "v2", "6", "v1"), map[string]string{"a": "v2", "v1": "", "v2": "v1"}},
	} {
		got := map[string]string{}
		for _, r := range mustParse(t, "name = \"c\"\n[[group]]\nname = \"g\"\n"+c.text).Groups[0].Resources {
			got[r.Name] = FormatDependsOn(r.DependsOn)
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s:\n%s", c.name, d)
		}
	}
}

func TestPolicyOfEveryKey(t *testing.T) {
	c := loadFile(t, "testdata/valid-everything.toml")
	p := c.Policy()
	var names []string
	for _, g := range p.Groups {
		names = append(names, g.Name)
	}
	if !slices.Equal(names, []string{"idm", "web"}) {
		t.Errorf("groups %v are not sorted", names)
	}
	if p.SuspectAfter != 4*time.Second || p.GroupWaitDelay != 0 {
		t.Errorf("suspect after %v, group wait delay %v", p.SuspectAfter, p.GroupWaitDelay)
	}
	idm, web := p.Groups[0], p.Groups[1]
	// S2: the wait covers the longest kill of an exclusive resource, and only of those: app 700 ms, not httpd's 2 s on every node.
	if want := 9*time.Second + 50*time.Millisecond + 700*time.Millisecond + 400*time.Millisecond; web.TakeoverWait != want {
		t.Errorf("web: takeover wait %v, want %v", web.TakeoverWait, want)
	}
	if want := 9*time.Second + 50*time.Millisecond + time.Second + 400*time.Millisecond; idm.TakeoverWait != want {
		t.Errorf("idm: takeover wait %v, want %v", idm.TakeoverWait, want)
	}
	if !slices.Equal(web.PossibleOwners, []string{"n2", "n1"}) || idm.PossibleOwners != nil {
		t.Errorf("possible owners %v and %v", web.PossibleOwners, idm.PossibleOwners)
	}
	if web.RetryPeriod != 0 || web.FailbackFrom != 22 || web.FailbackTo != 4 || !web.AutoFailback || web.FailoverThreshold != 0 {
		t.Errorf("web: %+v", web)
	}
	app, _ := web.Resource("app")
	if got := FormatDependsOn(app.DependsOn); got != "disk and (httpd or vip6)" {
		t.Errorf("app depends on %q", got)
	}
	vip4, _ := web.Resource("vip4")
	if got := FormatDependsOn(vip4.DependsOn); got != "httpd and app and disk" || !vip4.Address {
		t.Errorf("vip4 depends on %q, address %v", got, vip4.Address)
	}
}

func TestOwnersAreCheckedAgainstTheCluster(t *testing.T) {
	const text = "name = \"c\"\nNODES\n[[group]]\nname = \"g\"\npreferred_owners = [\"n1\", \"n2\"]\n[[group.resource]]\nname = \"v\"\ntype = \"address\"\naddress = \"10.0.0.5/24\"\n"
	for _, c := range []struct {
		name, nodes string
		known       Known
		want        string
	}{
		{"nobody knows", "", Known{}, ""},
		{"all known", "", Known{Members: []string{"n1", "n2"}}, ""},
		{"not a member", "", Known{Members: []string{"n1", "n3"}}, `cluster.toml:5: group.preferred_owners: node "n2" does not exist in the cluster: did you mean "n1"?`},
		{"a witness", "", Known{Members: []string{"n1"}, Witnesses: []string{"n2"}}, `cluster.toml:5: group.preferred_owners: "n2" is a witness: remove it: a witness votes and owns nothing`},
		{"expected later", `nodes = ["n1", "n2"]`, Known{Members: []string{"n1"}}, ""},
		{"listed as a member", `nodes = ["n1", "n2"]`, Known{Witnesses: []string{"n2"}}, `"n2" is a witness of the cluster`},
		{"listed as a witness", "nodes = [\"n1\", \"n2\"]\nwitnesses = [\"n3\"]", Known{Members: []string{"n3"}}, `"n3" is a member of the cluster, not a witness`},
	} {
		_, err := ParseCluster("cluster.toml", []byte(strings.Replace(text, "NODES", c.nodes, 1)), c.known)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
}

func TestAFileThatIsTooLargeIsRefused(t *testing.T) {
	_, err := ParseCluster("cluster.toml", slices.Repeat([]byte("# fill\n"), maxText/7+1), Known{})
	if len(Faults(err)) != 1 || !strings.Contains(err.Error(), "the limit is 1048576") {
		t.Error(err)
	}
}

// Every key that is declared is read, and every key that is read is declared: valid-everything has them all.
func TestEveryKeyIsUsedAndDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	title := ""
	for _, line := range strings.Split(string(doc), "\n") {
		if strings.HasPrefix(line, "##") {
			title = strings.Trim(line, "# ")
		}
		sections[title] += line + "\n"
	}
	where := map[string]string{"node": "had.toml", "cluster": "cluster.toml"}
	for file, keys := range map[string]map[string][]string{"testdata/valid-node-relative.toml": nodeKeys, "testdata/valid-everything.toml": clusterKeys} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for kind, list := range keys {
			section := where[kind]
			if section == "" {
				section = tableTitle[kind]
			}
			for _, key := range list {
				if !strings.Contains(sections[section], "\n| `"+key+"` |") {
					t.Errorf("docs/configuration.md: no row for %s in section %q", key, section)
				}
				if !regexp.MustCompile(`(?m)^\[*(group\.|group\.resource\.)?` + key + `(\]| =)`).Match(text) {
					t.Errorf("%s does not use %s of %s", file, key, kind)
				}
			}
			for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|").FindAllStringSubmatch(sections[section], -1) {
				if !slices.Contains(list, row[1]) {
					t.Errorf("docs/configuration.md: %s has a row for %s, which is no key", section, row[1])
				}
			}
		}
	}
}

func FuzzCluster(f *testing.F) {
	seedFuzz(f, "testdata/*.toml")
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ParseCluster("cluster.toml", text, Known{Members: []string{"tomcat1", "tomcat2"}, Witnesses: []string{"witness"}})
		if err != nil {
			checkFaults(t, string(text), err)
			return
		}
		if lines := Diff(c, c); len(lines) > 0 {
			t.Errorf("differs from itself: %v", lines)
		}
		for _, g := range c.Policy().Groups {
			if len(g.Resources) == 0 || g.TakeoverWait <= c.Timing.Duration {
				t.Errorf("group %s: %+v", g.Name, g)
			}
			for _, r := range g.Resources {
				if r.Exclusive && (r.Address || r.RunOn != placement.RunOnOwner) || r.Address && r.RunOn != placement.RunOnOwner {
					t.Errorf("resource %s: %+v", r.Name, r)
				}
			}
		}
	})
}
