package config

import (
	"regexp"
	"strings"

	"hacluster/health"
	"hacluster/lease"
	"hacluster/placement"
	"hacluster/resources"
)

// nodeKeys are the keys of had.toml by table, in the order of docs/configuration.md.
var nodeKeys = map[string][]string{
	"node":     {"name", "role", "addresses", "port", "gossip_port", "data_dir", "socket", "tls", "log", "watchdog"},
	"tls":      {"ca", "cert", "key", "gossip_key"},
	"log":      {"level", "format"},
	"watchdog": {"mode", "device", "timeout"},
}

// clusterKeys are the keys of cluster.toml by table.
var clusterKeys = map[string][]string{
	"cluster":         {"name", "timing", "kernel_lease", "timing_override", "group_wait_delay", "nodes", "witnesses", "fence_policy", "fence_action", "fence", "group"},
	"timing_override": {"renew", "duration", "drift", "margin", "kernel_slack", "heartbeat", "election", "leader_lease", "suspect", "pulse", "pulse_bound"},
	"fence":           {"name", "agent", "nodes", "params", "secrets", "method", "level", "delay", "timeout", "retries", "retry_delay"},
	"group": {"name", "preferred_owners", "failover_threshold", "failover_period", "auto_failback", "failback_window",
		"retry_period_on_failure", "priority", "anti_affinity", "enforce_anti_affinity", "standby", "resource"},
	"group.resource": {"name", "type", "depends_on", "run_on", "exclusive", "possible_owners", "restart_action", "restart_threshold",
		"restart_period", "restart_delay", "pending_timeout", "deadlock_timeout", "stop_budget", "persistent_state", "looks_alive_interval", "is_alive_interval",
		"address", "interface", "tickle", "unit", "command", "dir", "env", "user", "stop_signal", "start", "stop", "status", "probe"},
	"group.resource.probe": {"name", "type", "level", "interval", "timeout", "timeout_min", "fall", "rise", "host", "port", "url", "status", "body",
		"header", "want_header", "max_latency", "ca_file", "server_name", "command", "unit", "pid_file", "process"},
}

// tableOrder is the order in which a misplaced key looks for its home.
var tableOrder = []string{"node", "tls", "log", "cluster", "group", "group.resource", "group.resource.probe", "fence", "watchdog", "timing_override"}

var tableTitle = map[string]string{
	"node": "the top of the file, before any [table]", "tls": "[tls]", "log": "[log]",
	"cluster": "the top of the file, before any [table]", "timing_override": "[timing_override]",
	"fence": "[[fence]]", "watchdog": "[watchdog]",
	"group": "[[group]]", "group.resource": "[[group.resource]]", "group.resource.probe": "[[group.resource.probe]]",
}

// resourceFields are the keys that only some types of resource have.
var resourceFields = map[string][]string{
	"address": {"address"}, "interface": {"address"}, "tickle": {"address"},
	"unit":    {"systemd"},
	"command": {"process"}, "env": {"process", "script"}, "user": {"process"}, "stop_signal": {"process"}, "dir": {"process", "script"},
	"start": {"script"}, "stop": {"script"}, "status": {"script"},
	"exclusive": {"systemd", "process", "script"}, // an address is never on two nodes anyway: guarantee S1
}

// probeFields are the keys that only some types of probe have.
var probeFields = map[string][]string{
	"host": {"tcp", "ajp", "ping"}, "port": {"tcp", "ajp"},
	"url": {"http"}, "status": {"http"}, "body": {"http"}, "header": {"http"}, "want_header": {"http"},
	"timeout_min": {"tcp", "http", "ajp"}, "ca_file": {"http"}, "server_name": {"http"}, "max_latency": {"http", "ajp"},
	"command": {"script"}, "unit": {"systemd"}, "pid_file": {"process"}, "process": {"process"},
}

var (
	roles          = []placement.Role{placement.RoleMember, placement.RoleWitness}
	logLevels      = []string{"debug", "info", "warn", "error"}
	logFormats     = []string{"text", "json"}
	standbys       = []placement.Standby{placement.StandbyCold, placement.StandbyHot}
	failbacks      = []string{"prevent", "allow"}
	runOns         = []placement.RunOn{placement.RunOnOwner, placement.RunOnEveryNode}
	restartActions = []placement.RestartAction{placement.RestartNone, placement.RestartOnly, placement.RestartThenFailover, placement.RestartFailoverFirst}
	resourceKinds  = []resources.Kind{resources.KindAddress, resources.KindSystemd, resources.KindProcess, resources.KindScript}
	probeKinds     = []health.Kind{health.KindTCP, health.KindHTTP, health.KindAJP, health.KindProcess, health.KindScript, health.KindSystemd, health.KindPing}
	probeLevels    = []health.Level{health.LooksAlive, health.IsAlive}
	priorities     = []int{0, 1000, 2000, 3000}
	stopSignals    = []string{"SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGKILL"}
	timingProfiles = lease.Profiles
)

// namePattern is what a cluster, node, group, resource or probe may be called: a DNS label, because names become host
// names in certificates, address labels and cgroup names.
var namePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

const nameHint = "use 1 to 63 lower-case letters, digits and hyphens, with a letter or digit at both ends"

// name reads a required name.
func (t *table) name(what string) string {
	s, ok := t.required("name", "give the "+what+" a name")
	if ok && !namePattern.MatchString(s) {
		t.fault("name", nameHint, "%s is not a name", show(s))
	}
	return s
}

// isAbs asks for an absolute path of either operating system: a file is checked on one and may be used on the other.
func isAbs(path string) bool {
	drive := len(path) > 2 && path[1] == ':' && (path[2] == '\\' || path[2] == '/')
	return drive || strings.HasPrefix(path, "/") || strings.HasPrefix(path, `\\`)
}
