// Package health asks a service whether it is well: probes that speak its protocol, and the pure fold of their results
// into a verdict. A probe always ends by its timeout, whatever the peer does.
package health

import "time"

// Kind is what a probe speaks.
type Kind string

const (
	KindTCP     Kind = "tcp"
	KindHTTP    Kind = "http" // http and https, by the URL
	KindAJP     Kind = "ajp"
	KindProcess Kind = "process"
	KindScript  Kind = "script" // Nagios plugin exit codes
	KindSystemd Kind = "systemd"
	KindPing    Kind = "ping"
)

// Level says how deep a probe looks (WSFC LooksAlive, IsAlive).
type Level string

const (
	LooksAlive Level = "looks-alive" // cheap
	IsAlive    Level = "is-alive"    // deep
)

// Spec is one configured probe. Which fields apply depends on Kind; config validates that.
type Spec struct {
	Name       string
	Kind       Kind
	Level      Level
	Interval   time.Duration
	Timeout    time.Duration
	TimeoutMin time.Duration // tcp, http, ajp: wait between this and Timeout, by how slow the service was of late; 0: always Timeout
	Fall       int           // failures in a row that condemn
	Rise       int           // successes in a row that acquit
	Host       string
	Port       int               // tcp, ajp
	URL        string            // http
	Status     []int             // http: accepted codes; empty: 200-399
	Body       string            // http: regular expression the first 64 KiB must match
	Header     map[string]string // http: request headers
	WantHeader map[string]string // http: response headers, regular expressions
	MaxLatency time.Duration     // http, ajp: slower counts as degraded; 0: no limit
	CAFile     string            // https: trust only this CA; empty: system roots
	ServerName string            // https: name to verify; empty: host of the URL
	Command    []string          // script
	Unit       string            // systemd
	PIDFile    string            // process
	Process    string            // process: name as in /proc/PID/comm
}

// Outcome is the result of one check.
type Outcome string

const (
	Pass    Outcome = "pass"
	Warn    Outcome = "warn"    // serves, but slow or Nagios WARNING
	Fail    Outcome = "fail"    // answered wrongly, refused, gone
	Timeout Outcome = "timeout" // no answer in time: the mark of a hang
	Skip    Outcome = "skip"    // could not be asked (Nagios UNKNOWN, bad probe): never condemns
)

// Result is one check.
type Result struct {
	Probe   string
	Outcome Outcome
	Latency time.Duration
	Detail  string // what was seen, one line
	At      time.Time
}

// Verdict is what the probes say together.
type Verdict string

const (
	Unknown  Verdict = "unknown"
	Starting Verdict = "starting" // never passed since the start, within the start's bound
	Healthy  Verdict = "healthy"
	Degraded Verdict = "degraded" // passes with warnings, or failures below fall
	Hung     Verdict = "hung"     // it is there and does not answer
	Dead     Verdict = "dead"     // it refuses, or is gone
)
