package config

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDiffSaysWhatChanges(t *testing.T) {
	const old = `name = "idm"
[[group]]
name = "idm"
[[group.resource]]
name = "tomcat"
type = "systemd"
unit = "tomcat10"
[[group.resource.probe]]
type = "ajp"
[[group.resource.probe]]
type = "tcp"
port = 8080
[[group.resource]]
name = "vip"
type = "address"
address = "10.0.0.5/24"
[[group]]
name = "web"
[[group.resource]]
name = "vip"
type = "address"
address = "10.0.0.9/24"
`
	before := mustParse(t, old)
	for _, c := range []struct {
		name string
		edit []string
		want []string
	}{
		{"nothing", nil, nil},
		{"address", []string{"10.0.0.5", "10.0.0.6"}, []string{"group idm: resource vip: address 10.0.0.5/24 -> 10.0.0.6/24"}},
		{"tickle", []string{"10.0.0.5/24\"", "10.0.0.5/24\"\ntickle = false"}, []string{"group idm: resource vip: tickle true -> false"}},
		{"group renamed", []string{`"web"`, `"www"`}, []string{"group web: removed (vip)", "group www: added (vip)"}},
		{"resource renamed", []string{`"tomcat"`, `"app"`}, []string{"group idm: resource tomcat: removed (systemd tomcat10.service)",
			"group idm: resource vip: depends_on tomcat -> app", "group idm: resource app: added (systemd tomcat10.service)"}},
		{"probe exchanged", []string{`"ajp"`, `"systemd"`}, []string{"group idm: resource tomcat: probe ajp: removed (ajp)", "group idm: resource tomcat: probe systemd: added (systemd)"}},
		{"values", []string{"name = \"web\"\n", "name = \"web\"\npreferred_owners = [\"a\", \"b\"]\nfailback_window = \"22-4\"\nretry_period_on_failure = \"never\"\nfailover_threshold = 2\n", "port = 8080", "port = 8443"},
			[]string{"group idm: resource tomcat: probe tcp: port 8080 -> 8443", "group web: preferred_owners none -> a, b", "group web: failover_threshold nodes - 1 -> 2",
				"group web: failback_window none -> 22-4", "group web: retry_period_on_failure 1h -> never"}},
		{"kernel lease", []string{"name = \"idm\"\n[[group]]", "name = \"idm\"\ntiming = \"wan\"\nkernel_lease = \"gate\"\n[[group]]"}, []string{
			"timing lan -> wan", "kernel_lease auto -> gate", "kernel lease in force address -> gate", "renew 200ms -> 1s", "duration 1.4s -> 8s", "drift 7ms -> 40ms",
			"margin 100ms -> 500ms", "kernel_slack 250ms -> 10ms", "heartbeat 250ms -> 1.5s", "election 250ms -> 1.5s", "leader_lease 250ms -> 1.5s", "suspect 600ms -> 3s"}},
		{"timing", []string{"name = \"idm\"\n[[group]]", "name = \"idm\"\ntiming_override = { margin = \"150ms\" }\n[[group]]"}, []string{"margin 100ms -> 150ms"}},
	} {
		got := Diff(before, mustParse(t, strings.NewReplacer(c.edit...).Replace(old)))
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s:\n%s", c.name, d)
		}
	}
	swapped := mustParse(t, old)
	slices.Reverse(swapped.Groups[0].Resources)
	if d := cmp.Diff([]string{"group idm: order of resources tomcat, vip -> vip, tomcat"}, Diff(before, swapped)); d != "" {
		t.Error(d)
	}
}

// unseen are the fields that Diff need not show: identities, which show as removed and added, and what Policy derives.
var unseen = []string{"Fences.Name", "Groups.GroupPolicy.Name", "Groups.GroupPolicy.PossibleOwners", "Groups.GroupPolicy.TakeoverWait", "Groups.GroupPolicy.OnPulse", "Groups.GroupPolicy.Resources",
	"Groups.GroupPolicy.FailbackTo",   // shown with FailbackFrom
	"Groups.Resources.Spec.EveryNode", // shown as run_on
	"Groups.Resources.ResourcePolicy.Address", "Groups.Resources.Spec.Group", "Groups.Resources.Spec.Name",
	"Groups.Resources.Spec.PendingTimeout", "Groups.Resources.Spec.StopBudget", "Groups.Resources.Spec.StateDir"}

// No field of a configuration may change unseen: a change that apply does not show is one nobody agreed to.
func TestDiffSeesEveryField(t *testing.T) {
	base := func() Cluster { return loadFile(t, "testdata/valid-everything.toml") }
	count := 0
	var visit func(get func(c *Cluster) reflect.Value, path string)
	visit = func(get func(c *Cluster) reflect.Value, path string) {
		c := base()
		v := get(&c)
		if slices.Contains(unseen, path) {
			return
		}
		switch {
		case v.Kind() == reflect.Struct && v.Type() != reflect.TypeFor[netip.Prefix]():
			for i := range v.NumField() {
				name := v.Type().Field(i).Name
				visit(func(c *Cluster) reflect.Value { return get(c).Field(i) }, strings.TrimPrefix(path+"."+name, "."))
			}
			return
		case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct && path != "Groups.Resources.ResourcePolicy.DependsOn":
			visit(func(c *Cluster) reflect.Value { return get(c).Index(0) }, path)
			return
		}
		change(t, path, v)
		count++
		if lines := Diff(base(), c); len(lines) == 0 {
			t.Errorf("a change of %s is not seen", path)
		}
	}
	visit(func(c *Cluster) reflect.Value { return reflect.ValueOf(c).Elem() }, "")
	if count < 70 {
		t.Errorf("only %d fields were changed", count)
	}
}

// change gives a field another value.
func change(t *testing.T, path string, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.String:
		v.SetString(v.String() + "x")
	case reflect.Int, reflect.Int64:
		v.SetInt(v.Int() + 1)
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Slice:
		v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
		if last := v.Index(v.Len() - 1); last.Kind() == reflect.String {
			last.SetString("x")
		}
	case reflect.Map:
		m := reflect.MakeMap(v.Type())
		m.SetMapIndex(reflect.ValueOf("x"), reflect.New(v.Type().Elem()).Elem())
		v.Set(m)
	case reflect.Pointer:
		e, err := ParseDependsOn("x")
		if err != nil {
			t.Fatal(err)
		}
		v.Set(reflect.ValueOf(e))
	case reflect.Struct:
		v.Set(reflect.ValueOf(netip.MustParsePrefix("10.9.9.9/24")))
	default:
		t.Fatalf("%s: no change for a %s", path, v.Kind())
	}
}
