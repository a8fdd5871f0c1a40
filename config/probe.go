package config

import (
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"hacluster/health"
	"hacluster/resources"
)

// probeIntervals are what a resource gives to probes that name no interval.
type probeIntervals struct{ looksAlive, isAlive time.Duration }

func parseProbes(t *table, s resources.Spec, intervals probeIntervals) []health.Spec {
	var all []health.Spec
	seen := map[string]bool{}
	for _, p := range t.tables("probe") {
		spec := parseProbe(p, s, intervals)
		if spec.Name != "" && seen[spec.Name] {
			p.fault("name", "give each probe of the resource its own name (without one it is called by its type)",
				"resource %s has two probes called %q", s.Name, spec.Name)
		}
		seen[spec.Name] = true
		all = append(all, spec)
	}
	return all
}

func parseProbe(t *table, r resources.Spec, intervals probeIntervals) health.Spec {
	s := health.Spec{Kind: requiredEnum(t, "type", "say what the probe speaks: ", probeKinds)}
	s.Name = string(s.Kind)
	if t.has("name") {
		s.Name = t.name("probe")
	}
	s.Level = enum(t, "level", defaultLevel(s.Kind), probeLevels)
	interval := intervals.looksAlive
	if s.Level == health.IsAlive {
		interval = intervals.isAlive
	}
	s.Interval = t.duration("interval", interval, minInterval)
	s.Timeout = t.duration("timeout", min(defaultProbeTimeout, s.Interval), positive)
	parsePatience(t, &s)
	fall, rise := defaultFallRise(s.Kind)
	s.Fall = t.integer("fall", fall, 1, 1000)
	s.Rise = t.integer("rise", rise, 1, 1000)
	if s.Kind != "" {
		t.only(probeFields, string(s.Kind), "probe")
		parseProbeKind(t, &s, r)
	}
	t.done()
	return s
}

// parsePatience reads how long a check waits. Where the wait adapts to the service, only its floor has to fit into the
// interval: a check that is waited for longer leaves the next ones out.
func parsePatience(t *table, s *health.Spec) {
	if !t.has("timeout_min") {
		s.Timeout = t.duration("timeout", min(defaultProbeTimeout, s.Interval), positive)
		if s.Timeout > s.Interval {
			t.fault("timeout", "shorten the timeout or lengthen the interval",
				"timeout %s is longer than the interval %s", human(s.Timeout), human(s.Interval))
		}
		return
	}
	s.TimeoutMin = t.duration("timeout_min", 0, minTimeout)
	s.Timeout = t.duration("timeout", max(defaultProbeTimeout, s.TimeoutMin), positive)
	if s.TimeoutMin > s.Interval {
		t.fault("timeout_min", "shorten timeout_min or lengthen the interval",
			"timeout_min %s is longer than the interval %s", human(s.TimeoutMin), human(s.Interval))
	}
	if s.TimeoutMin > s.Timeout {
		t.fault("timeout_min", "it is the least a check waits, timeout the most",
			"timeout_min %s is longer than the timeout %s", human(s.TimeoutMin), human(s.Timeout))
	}
}

// defaultLevel: what costs the service nothing looks alive, what makes it work proves that it is alive.
func defaultLevel(k health.Kind) health.Level {
	switch k {
	case health.KindHTTP, health.KindAJP, health.KindScript:
		return health.IsAlive
	default:
		return health.LooksAlive
	}
}

// defaultFallRise: an operating system does not say by accident that a process is gone; a network loses packets.
func defaultFallRise(k health.Kind) (fall, rise int) {
	switch k {
	case health.KindProcess, health.KindSystemd:
		return 1, 1
	default:
		return 3, 2
	}
}

func parseProbeKind(t *table, s *health.Spec, r resources.Spec) {
	switch s.Kind {
	case health.KindTCP:
		s.Host = parseHost(t, "127.0.0.1")
		if !t.has("port") {
			t.fault("port", "write the port the service listens on", "is missing")
		}
		s.Port = t.integer("port", 0, 1, 65535)
	case health.KindAJP:
		s.Host = parseHost(t, "127.0.0.1")
		s.Port = t.integer("port", defaultAJPPort, 1, 65535)
		s.MaxLatency = parseMaxLatency(t, s.Timeout)
	case health.KindPing:
		if !t.has("host") {
			t.fault("host", "name what to ping, such as the gateway", "is missing")
		}
		s.Host = parseHost(t, "")
	case health.KindHTTP:
		parseHTTPProbe(t, s)
	case health.KindScript:
		s.Command = requiredCommand(t, "command")
	case health.KindSystemd:
		s.Unit = parseUnit(t, "unit", r.Unit)
	case health.KindProcess:
		s.PIDFile = absolute(t, "pid_file")
		s.Process = t.str("process", "")
		if !t.has("pid_file") && s.Process == "" {
			t.fault("process", "write one of the two, or both: the name then guards against a recycled process id",
				"a process probe needs pid_file or process")
		}
	}
}

func parseHost(t *table, def string) string {
	host := t.str("host", def)
	if !t.has("host") {
		return host
	}
	if reason, hint := addressFault(host); reason != "" {
		if _, err := netip.ParseAddrPort(host); err == nil {
			hint = "write the host alone; the port is the key port"
		}
		t.fault("host", hint, "%q %s", host, reason)
	}
	return host
}

func parseMaxLatency(t *table, timeout time.Duration) time.Duration {
	d := t.duration("max_latency", 0, positive)
	if d > timeout {
		t.fault("max_latency", "a slow answer must still arrive in time: shorten max_latency or lengthen timeout",
			"max_latency %s is longer than the timeout %s", human(d), human(timeout))
	}
	return d
}

func parseHTTPProbe(t *table, s *health.Spec) {
	secure := false
	if raw, ok := t.required("url", `write it like "http://127.0.0.1:8080/health"`); ok {
		s.URL = raw
		secure = checkURL(t, raw)
	}
	s.Status = parseStatus(t)
	s.Body = t.str("body", "")
	if reason := patternFault(s.Body); reason != "" {
		t.fault("body", patternHint, "%s", reason)
	}
	s.Header = t.texts("header", func(name, value string) (string, string) {
		return headerFault(name, value)
	})
	s.WantHeader = t.texts("want_header", func(name, value string) (string, string) {
		if reason, hint := headerFault(name, ""); reason != "" {
			return reason, hint
		}
		return patternFault(value), patternHint
	})
	s.MaxLatency = parseMaxLatency(t, s.Timeout)
	s.CAFile = absolute(t, "ca_file")
	s.ServerName = t.str("server_name", "")
	for _, key := range []string{"ca_file", "server_name"} {
		if t.has(key) && s.URL != "" && !secure {
			t.fault(key, "use an https URL, or remove the key", "applies to https only, and the URL is %s", show(s.URL))
		}
	}
}

// checkURL reports what a probe cannot ask for, and says whether the URL is https.
func checkURL(t *table, raw string) (secure bool) {
	const hint = `write it like "http://127.0.0.1:8080/health"`
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		t.fault("url", hint, "%s is not a URL", show(raw))
		return false
	case u.Scheme != "http" && u.Scheme != "https":
		t.fault("url", hint, "%s is neither http nor https", show(raw))
	case u.Hostname() == "":
		t.fault("url", hint, "%s names no host", show(raw))
	case u.Port() != "":
		if port, err := strconv.Atoi(u.Port()); err != nil || port < 1 || port > 65535 {
			t.fault("url", "use a port of 1 to 65535", "port %s is out of range", u.Port())
		}
	}
	return u.Scheme == "https"
}

func parseStatus(t *table) []int {
	const hint = "write it like [200, 302]"
	v, ok := t.lookup("status")
	if !ok {
		return nil
	}
	array, ok := v.([]any)
	if !ok {
		t.fault("status", hint, "%s is not an array of numbers", show(v))
		return nil
	}
	if len(array) == 0 {
		t.fault("status", "remove the key to accept 200 to 399", "the array is empty")
	}
	var all []int
	for i, v := range array {
		line := t.doc.lines.line(element(child(t.path, "status"), i))
		n, ok := v.(int64)
		switch {
		case !ok:
			t.faultAt(line, "status", hint, "%s is not a whole number", show(v))
		case n < 100 || n > 599:
			t.faultAt(line, "status", "use 100 to 599", "%d is no HTTP status", n)
		default:
			all = append(all, int(n))
		}
	}
	return all
}

const patternHint = "the syntax is described at https://pkg.go.dev/regexp/syntax"

func patternFault(pattern string) string {
	if _, err := regexp.Compile(pattern); err != nil {
		return err.Error()
	}
	return ""
}

// headerPattern is a field name of RFC 9110 section 5.1.
var headerPattern = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")

func headerFault(name, value string) (reason, hint string) {
	if !headerPattern.MatchString(name) {
		return "not a header name", "use letters, digits and hyphens"
	}
	for _, r := range value {
		if r < 0x20 && r != '\t' || r == 0x7f {
			return "the value contains a control character", "remove it"
		}
	}
	return "", ""
}
