package drill

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"hacluster/internal/lab"
)

// Config is the cluster.toml of the drill. Limits on restarts and failovers are out of the way: a drill repeats faults.
func (c *Cluster) Config() (string, error) {
	command, err := c.service()
	if err != nil {
		return "", err
	}
	standby, runOn := "hot", "every-node"
	if c.o.Cold {
		standby, runOn = "cold", "owner"
	}
	ajp, http := "interval = \"250ms\"\ntimeout = \"200ms\"", `timeout = "400ms"`
	if c.o.Timing == "fast" { // as fast as one may dare
		http = `timeout_min = "100ms"`
		ajp = "interval = \"100ms\"\n" + http
	}
	tight := ""
	if c.o.Tight {
		tight = "timing_override = { pulse = \"15ms\", pulse_bound = \"95ms\" }\n"
	}
	text := fmt.Sprintf(`name = "drill"
timing = %q
%snodes = ["tomcat1", "tomcat2"]
witnesses = ["witness"]

[[group]]
name = %q
standby = %q
failover_threshold = 100000

[[group.resource]]
name = "vip"
type = "address"
address = %q
restart_threshold = 100000

[[group.resource]]
name = "service"
type = "process"
run_on = %q
command = [%q]
restart_threshold = 100000

[[group.resource.probe]]
type = "ajp"
port = 8009
%s
fall = 2

[[group.resource.probe]]
type = "http"
url = "http://127.0.0.1:8080/"
interval = "500ms"
%s
`, c.o.Timing, tight, Group, standby, c.VIP, runOn, command, ajp, http)
	for i := range c.o.Groups {
		text += fmt.Sprintf("\n[[group]]\nname = \"extra%d\"\n\n[[group.resource]]\nname = \"vip%d\"\ntype = \"address\"\naddress = %q\n", i+1, i+1, c.Lab.VIP(i+1))
	}
	return text, nil
}

// bigFile is the size of what can be downloaded as /big.
const bigFile = 20 << 20

// service prepares the service on the member nodes and returns the program that runs the one of the node it is on: the
// configuration is the same for all, what differs is in HAD_NODE.
func (c *Cluster) service() (string, error) {
	lines := []string{"#!/bin/sh", "case $HAD_NODE in"}
	for _, name := range Nodes[:2] {
		args := []string{filepath.Join(c.Bin, "testservice"), "-listen", ":8080", "-ajp", ":8009"}
		dir := "/"
		if c.o.Service == "tomcat" {
			t, err := lab.Tomcat(c.Lab.Node(name), lab.TomcatOptions{})
			if err != nil {
				return "", err
			}
			args, dir = t.Args, t.Dir
			if err := os.WriteFile(filepath.Join(t.Base, "webapps", "ROOT", "big"), make([]byte, bigFile), 0o644); err != nil {
				return "", err
			}
		}
		lines = append(lines, fmt.Sprintf("%s) cd %s && exec %s ;;", name, quote(dir), quoteAll(args)))
	}
	lines = append(lines, `*) echo "no service for node $HAD_NODE" >&2; exit 1 ;;`, "esac", "")
	path := filepath.Join(c.Lab.Dir(), "service")
	return path, os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o755)
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func quoteAll(args []string) string {
	var out []string
	for _, a := range args {
		out = append(out, quote(a))
	}
	return strings.Join(out, " ")
}
