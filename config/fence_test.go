package config

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"hacluster/fence"
)

func TestAFenceDeviceIsFilledWithDefaults(t *testing.T) {
	c := mustParse(t, `name = "idm"
[[fence]]
name = "bmc"
agent = "fence_ipmilan"
params = { lanplus = true, inet6_only = false, ipport = 623, username = "fence" }
secrets = { password = "/etc/had/fence/bmc" }
nodes = { tomcat1 = { ip = "10.0.1.1" }, tomcat2 = {} }
[[group]]
name = "idm"
[[group.resource]]
name = "vip"
type = "address"
address = "10.0.0.5/24"`)
	want := []fence.Device{{Name: "bmc", Agent: "fence_ipmilan", Method: fence.OnOff, Level: 1, Timeout: time.Minute, Retries: 1, RetryDelay: time.Second,
		Params:  fence.Params{"lanplus": "1", "inet6_only": "0", "ipport": "623", "username": "fence"},
		Secrets: map[string]string{"password": "/etc/had/fence/bmc"},
		Nodes:   map[string]fence.Params{"tomcat1": {"ip": "10.0.1.1"}, "tomcat2": nil}}}
	if d := cmp.Diff(want, c.Fences, cmp.Transformer("map", func(p fence.Params) map[string]string { return p })); d != "" {
		t.Error(d)
	}
}

// The parameters of the example are those that the real agents know.
func TestExampleOfFencingFitsTheAgents(t *testing.T) {
	c := loadFile(t, "../examples/fencing/cluster.toml")
	for _, d := range c.Fences {
		if _, err := os.Stat("/usr/sbin/" + d.Agent); err != nil {
			t.Skip("needs fence-agents")
		}
	}
	if _, err := fence.Load(t.Context(), c.Fences, fence.Options{Self: "witness"}); err != nil {
		t.Error(err)
	}
	for _, node := range c.Nodes {
		if levels := fence.Plan(c.Fences, node); len(levels) != 2 || len(levels[0].Devices) != 1 || len(levels[1].Devices) != 2 {
			t.Errorf("%s: %+v", node, levels)
		}
	}
}

func TestSecretsAreRefusedWithoutBeingRepeated(t *testing.T) {
	text, err := os.ReadFile("testdata/invalid-fence.toml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseCluster("cluster.toml", text, Known{}); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v", err)
	}
}
