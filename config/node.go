package config

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unicode/utf8"

	"hacluster/fence"
	"hacluster/placement"
)

// DefaultNode is had.toml with nothing in it but what must be there: Name and Addresses have no default.
func DefaultNode() Node {
	return Node{
		Role:       placement.RoleMember,
		Port:       7400,
		GossipPort: 7401,
		DataDir:    "/var/lib/had",
		Socket:     "/run/had/had.sock",
		TLS: TLSFiles{
			CA:        "/etc/had/tls/ca.crt",
			Cert:      "/etc/had/tls/node.crt",
			Key:       "/etc/had/tls/node.key",
			GossipKey: "/etc/had/tls/gossip.key",
		},
		Log:      Log{Level: "info", Format: "text"},
		Watchdog: Watchdog{Mode: fence.WatchdogOff, Device: fence.DefaultWatchdogDevice, Timeout: fence.DefaultWatchdogTimeout},
	}
}

// LoadNode reads had.toml. The error joins every Fault of the file (see Faults), or says why the file cannot be read.
func LoadNode(file string) (Node, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return Node{}, fmt.Errorf("reading the node's configuration: %w", err)
	}
	return ParseNode(file, text)
}

// ParseNode is LoadNode for a text already read; file names it in messages, and relative paths are relative to its folder.
func ParseNode(file string, text []byte) (Node, error) {
	doc, t, err := open(file, text, "node", nodeKeys)
	if err != nil {
		return Node{}, err
	}
	n := DefaultNode()
	n.Name = t.name("node")
	n.Role = enum(t, "role", n.Role, roles)
	n.Addresses = parseNodeAddresses(t)
	n.Port = t.integer("port", n.Port, 1, 65535)
	n.GossipPort = t.integer("gossip_port", n.GossipPort, 1, 65535)
	if n.Port == n.GossipPort {
		key := "gossip_port"
		if !t.has(key) {
			key = "port"
		}
		t.fault(key, "gossip needs its own port, on TCP as well as UDP", "port and gossip_port are both %d", n.Port)
	}
	n.DataDir = t.filePath("data_dir", n.DataDir)
	n.Socket = t.filePath("socket", n.Socket)
	tls := t.sub("tls")
	n.TLS.CA = tls.filePath("ca", n.TLS.CA)
	n.TLS.Cert = tls.filePath("cert", n.TLS.Cert)
	n.TLS.Key = tls.filePath("key", n.TLS.Key)
	n.TLS.GossipKey = tls.filePath("gossip_key", n.TLS.GossipKey)
	log := t.sub("log")
	n.Log.Level = enum(log, "level", n.Log.Level, logLevels)
	n.Log.Format = enum(log, "format", n.Log.Format, logFormats)
	watchdog := t.sub("watchdog")
	n.Watchdog = parseWatchdog(watchdog, n.Watchdog)
	t.done()
	tls.done()
	log.done()
	watchdog.done()
	if err := joinFaults(doc.faults); err != nil {
		return Node{}, err
	}
	return n, nil
}

// filePath reads a path; a relative one is relative to the folder of the file, not to where the agent was started.
func (t *table) filePath(key, def string) string {
	path := t.str(key, def)
	if t.has(key) && path == "" {
		t.fault(key, "remove the key to use the default "+def, "the path is empty")
		return def
	}
	if path == def || isAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(t.doc.file), path)
}

// hostPattern is an RFC 1123 host name, also with a dot at the end.
var hostPattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*\.?$`)

func parseNodeAddresses(t *table) []string {
	const example = `addresses = ["10.0.0.11"]`
	if !t.has("addresses") {
		t.read["addresses"] = true
		t.fault("addresses", "write where the other nodes reach this one: "+example, "is missing")
		return nil
	}
	elems := t.list("addresses", example, false)
	if array, ok := t.m["addresses"].([]any); ok && len(array) == 0 {
		t.fault("addresses", "write where the other nodes reach this one: "+example, "is empty")
	}
	for _, e := range elems {
		if reason, hint := addressFault(e.value); reason != "" {
			t.faultAt(e.line, "addresses", hint, "%q %s", e.value, reason)
		}
	}
	return values(elems)
}

// addressFault says what is wrong with an IP or host name under which a node is reached.
func addressFault(s string) (reason, hint string) {
	ip, err := netip.ParseAddr(s)
	switch {
	case err == nil && (ip.IsUnspecified() || ip.IsMulticast()):
		return "is no address of one node", "write an address that is set on an interface of this node"
	case err == nil:
		return "", ""
	}
	if _, err := netip.ParseAddrPort(s); err == nil {
		return "carries a port", "write the address alone; the port is the key port"
	}
	if _, err := netip.ParsePrefix(s); err == nil {
		return "is a network", "write the address without the prefix length"
	}
	digits := strings.Trim(s, "0123456789.") == ""
	if digits || !hostPattern.MatchString(s) || len(s) > 253 {
		return "is neither an IP address nor a host name", "write it like \"10.0.0.11\" or \"tomcat1.example.org\""
	}
	return "", ""
}

// Encode writes a commented had.toml that ParseNode reads back to the same value. Paths are written as they are; a
// relative one is read back relative to the folder of the new file.
func (n Node) Encode() []byte {
	var b bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	addresses := make([]string, len(n.Addresses))
	for i, a := range n.Addresses {
		addresses[i] = quote(a)
	}
	p("# had.toml: what this machine is. The groups are in cluster.toml, which `hactl apply` gives to all nodes.\n\n")
	p("# The name of this node in the cluster; it never changes.\nname = %s\n\n", quote(n.Name))
	p("# member: may own groups. witness: votes only, for the third place of a two-node cluster.\nrole = %s\n\n", quote(string(n.Role)))
	p("# Where the other nodes reach this one, best network first: IPs or host names, never a floating address.\n")
	p("addresses = [%s]\n\n", strings.Join(addresses, ", "))
	p("# TCP, mutual TLS: Raft, leases and API.\nport = %d\n\n", n.Port)
	p("# TCP and UDP, encrypted: discovery.\ngossip_port = %d\n\n", n.GossipPort)
	p("# The replicated state. One agent, one folder; never copy it to another node.\ndata_dir = %s\n\n", quote(n.DataDir))
	p("# Local control by hactl; the permissions of the folder decide who may use it.\nsocket = %s\n\n", quote(n.Socket))
	p("# Written by `hactl init` and `hactl join`.\n[tls]\nca = %s\ncert = %s\nkey = %s\ngossip_key = %s\n\n",
		quote(n.TLS.CA), quote(n.TLS.Cert), quote(n.TLS.Key), quote(n.TLS.GossipKey))
	p("[log]\n# debug, info, warn or error.\nlevel = %s\n# text or json.\nformat = %s\n", quote(n.Log.Level), quote(n.Log.Format))
	p("\n# Resets this node when the agent makes no progress. off, auto (where there is one) or required.\n[watchdog]\nmode = %s\ndevice = %s\n",
		quote(string(n.Watchdog.Mode)), quote(n.Watchdog.Device))
	p("# Whole seconds without a sign of life.\ntimeout = %s\n", quote(human(n.Watchdog.Timeout)))
	return b.Bytes()
}

// quote renders a TOML string. A path without control characters that would need escapes becomes a literal string, so
// that a Windows path stays readable.
func quote(s string) string {
	plain := utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f })
	if plain && strings.Contains(s, `\`) && !strings.Contains(s, "'") {
		return "'" + s + "'"
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
