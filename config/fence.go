package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"hacluster/fence"
	"hacluster/placement"
)

const (
	defaultFencePolicy = fence.WhenUnsure
	defaultFenceAction = fence.Reboot
	maxFenceRetries    = 10
	maxFenceTime       = 10 * time.Minute
)

const nodesExample = `nodes = { tomcat1 = { plug = "1" }, tomcat2 = { plug = "2" } }`

var (
	fenceAgentPattern = regexp.MustCompile(`^[a-z][a-z0-9_-]*$`)
	fenceParamPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)
)

// Watchdog is [watchdog] of had.toml.
type Watchdog struct {
	Mode    fence.WatchdogMode
	Device  string
	Timeout time.Duration
}

// parsedFence is a [[fence]] with its place in the file.
type parsedFence struct {
	t     *table
	nodes *table
	d     fence.Device
}

// parseFence reads a [[fence]] as far as that is possible without its agent, which is not installed everywhere: what the
// agent knows of its parameters is fence.Check's business.
func parseFence(t *table) *parsedFence {
	p := &parsedFence{t: t}
	d := &p.d
	d.Name = t.name("fence device")
	d.Agent = parseFenceAgent(t)
	d.Params = parseParams(t.sub("params"))
	d.Secrets = t.texts("secrets", secretFault)
	d.Method = enum(t, "method", fence.OnOff, fence.Methods)
	d.Level = t.integer("level", fence.DefaultLevel, 1, fence.MaxLevel)
	d.Delay = t.fenceTime("delay", 0, 0)
	d.Timeout = t.fenceTime("timeout", fence.DefaultTimeout, time.Second)
	d.Retries = t.integer("retries", fence.DefaultRetries, 0, maxFenceRetries)
	d.RetryDelay = t.fenceTime("retry_delay", fence.DefaultRetryDelay, 0)
	p.parseNodes()
	t.done()
	for name := range d.Secrets {
		if _, twice := d.Params[name]; twice {
			t.fault("secrets", "remove it from params", "%s is in secrets and in params", name)
		}
	}
	return p
}

// fenceTime reads a duration that keeps a takeover waiting, and is therefore bounded.
func (t *table) fenceTime(key string, def, low time.Duration) time.Duration {
	d := t.duration(key, def, low)
	if d > maxFenceTime {
		t.fault(key, "use at most "+human(maxFenceTime), "%s is too long", human(d))
	}
	return d
}

func parseFenceAgent(t *table) string {
	agent, ok := t.required("agent", `name an agent of the package fence-agents, like "fence_ipmilan", or write the whole path of one`)
	if ok && !isAbs(agent) && !fenceAgentPattern.MatchString(agent) {
		t.fault("agent", `write a name like "fence_ipmilan", or the whole path`, "%s is neither the name of an agent nor an absolute path", show(agent))
	}
	return agent
}

// parseNodes reads which nodes the device can fence, with the parameters of each.
func (p *parsedFence) parseNodes() {
	p.nodes = p.t.sub("nodes")
	if _, isTable := p.t.m["nodes"].(map[string]any); !isTable {
		if !p.t.has("nodes") {
			p.t.fault("nodes", nodesExample, "is missing")
		}
		return
	}
	if len(p.nodes.m) == 0 {
		p.t.fault("nodes", nodesExample, "is empty")
	}
	p.d.Nodes = map[string]fence.Params{}
	for _, node := range slices.Sorted(maps.Keys(p.nodes.m)) {
		p.d.Nodes[node] = parseParams(p.nodes.sub(node))
	}
}

// parseParams reads options of an agent: strings, whole numbers and booleans, which all become the text the agent gets.
func parseParams(t *table) fence.Params {
	params := fence.Params{}
	for _, name := range slices.Sorted(maps.Keys(t.m)) {
		var value string
		switch v := t.m[name].(type) {
		case string:
			value = v
		case int64:
			value = strconv.FormatInt(v, 10)
		case bool:
			value = map[bool]string{true: "1", false: "0"}[v]
		default:
			t.fault(name, `write a string, a whole number, true or false`, "%s is none of them", show(v))
			continue
		}
		switch {
		case !fenceParamPattern.MatchString(name):
			t.fault(name, "use the names that the agent's metadata lists", "%s is not the name of a parameter", show(name))
		case strings.ContainsAny(value, "\n\r\x00"):
			t.fault(name, "remove it", "the value contains a line break or NUL, which would begin another option")
		case fence.IsSecret(name):
			t.fault(name, fmt.Sprintf(`write the value into a file on every node, for its owner only, and name it by secrets = { %s = "/etc/had/fence/%s" }`, name, name),
				"this file is shown and copied to all nodes in clear text")
		default:
			params[name] = value
		}
	}
	if len(params) == 0 {
		return nil
	}
	return params
}

func secretFault(name, path string) (reason, hint string) {
	switch {
	case !fenceParamPattern.MatchString(name):
		return show(name) + " is not the name of a parameter", "use the names that the agent's metadata lists"
	case !isAbs(path):
		return show(path) + " is not an absolute path", "write the whole path of a file whose first line is the secret"
	}
	return "", ""
}

// checkFences reports what is wrong between the devices, the nodes and the policy.
func checkFences(t *table, policy fence.Policy, devices []*parsedFence, owners roster) {
	names, fenced := map[string]bool{}, map[string]bool{}
	for _, p := range devices {
		if p.d.Name != "" && names[p.d.Name] {
			p.t.fault("name", "rename one of them", "there are two fence devices called %q", p.d.Name)
		}
		names[p.d.Name] = true
		for _, node := range slices.Sorted(maps.Keys(p.d.Nodes)) {
			fenced[node] = true
			if !slices.Contains(owners.witnesses, node) { // an administrator may order a witness to be fenced
				owners.check(p.t, "nodes", []elem{{node, p.nodes.line(node)}})
			}
		}
	}
	if policy != fence.Always {
		return
	}
	if len(devices) == 0 {
		t.fault("fence_policy", `add a [[fence]] for each node, or use "when-unsure"`, "%q without any fence device would stop every failover", policy)
		return
	}
	for _, node := range owners.members {
		if !fenced[node] {
			t.fault("fence_policy", `name the node in a [[fence]], or use "when-unsure"`, "%q needs a fence device for node %s", policy, node)
		}
	}
}

// fencing is what decisions depend on: the nodes that some device can fence.
func (c Cluster) fencing() placement.FencingPolicy {
	nodes := map[string]bool{}
	for _, d := range c.Fences {
		for node := range d.Nodes {
			nodes[node] = true
		}
	}
	if len(nodes) == 0 {
		return placement.FencingPolicy{}
	}
	return placement.FencingPolicy{When: placement.FenceWhen(c.FencePolicy), Action: placement.FenceAction(c.FenceAction), Nodes: slices.Sorted(maps.Keys(nodes))}
}

// parseWatchdog reads [watchdog] of had.toml.
func parseWatchdog(t *table, def Watchdog) Watchdog {
	w := Watchdog{Mode: enum(t, "mode", def.Mode, fence.WatchdogModes), Device: t.filePath("device", def.Device)}
	w.Timeout = t.duration("timeout", def.Timeout, time.Second)
	if w.Timeout > fence.MaxWatchdogTimeout {
		t.fault("timeout", "use 5s to 10m", "%s is too long", human(w.Timeout))
	}
	if w.Timeout < fence.MinWatchdogTimeout {
		t.fault("timeout", "use 5s to 10m", "%s is shorter than a restart of had may take: it would reset a healthy machine", human(w.Timeout))
	}
	if w.Timeout%time.Second != 0 {
		t.fault("timeout", "watchdog devices count whole seconds", "%s is not a whole number of seconds", human(w.Timeout))
	}
	return w
}

func fenceFact(d fence.Device) fact {
	nodes := map[string]string{}
	for name, p := range d.Nodes {
		nodes[name] = pairs(p)
	}
	return fact{scope: "fence " + d.Name, what: " (" + d.Agent + ")", properties: []property{
		{"agent", d.Agent},
		{"nodes", pairs(nodes)},
		{"params", pairs(d.Params)},
		{"secrets", pairs(d.Secrets)},
		{"method", string(d.Method)},
		{"level", strconv.Itoa(d.Level)},
		{"delay", human(d.Delay)},
		{"timeout", human(d.Timeout)},
		{"retries", strconv.Itoa(d.Retries)},
		{"retry_delay", human(d.RetryDelay)},
	}}
}
