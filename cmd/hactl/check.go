package main

import (
	"context"
	"fmt"
	"os"

	"github.com/BurntSushi/toml"
	"github.com/urfave/cli/v2"

	"hacluster/config"
)

// checkVerb is `hactl check`.
type checkVerb struct {
	*env
	File string // required
}

func checkCommand(e *env) *cli.Command {
	return &cli.Command{Name: "check", Usage: "check a cluster.toml or had.toml; no agent is asked", ArgsUsage: "FILE",
		Action: func(c *cli.Context) error {
			file, err := oneArg(c, "file")
			if err != nil {
				return err
			}
			return (&checkVerb{e, file}).run(c.Context)
		}}
}

// checked is what `check -o json` prints for a file without faults.
type checked struct {
	File   string   `json:"file"`
	Kind   string   `json:"kind"` // cluster or node
	Name   string   `json:"name"`
	Groups []string `json:"groups,omitempty"`

	KernelLease config.KernelLease `json:"kernel_lease,omitempty"` // auto: decided by the nodes, when it is applied
}

func (v *checkVerb) run(context.Context) error {
	text, err := os.ReadFile(v.File)
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	c := checked{File: v.File, Kind: "cluster"}
	var what string
	if isNodeFile(text) {
		n, err := config.ParseNode(v.File, text)
		if err != nil {
			return faulty(v.File, err)
		}
		c.Kind, c.Name, what = "node", n.Name, fmt.Sprintf("node %s, %s", n.Name, n.Role)
	} else {
		cl, err := config.ParseCluster(v.File, text, config.Known{})
		if err != nil {
			return faulty(v.File, err)
		}
		for _, g := range cl.Groups {
			c.Groups = append(c.Groups, g.Name)
		}
		c.Name, c.KernelLease = cl.Name, cl.KernelLease
		what = fmt.Sprintf("cluster %s, timing %s, %s\nkernel lease %s", cl.Name, cl.Timing.Profile, count(len(cl.Groups), "group"), kernelKey(cl))
	}
	if v.JSON {
		return v.printJSON(c)
	}
	v.printf("%s is fine: %s\n", v.File, what)
	return nil
}

// kernelKey says what the key kernel_lease comes to, as far as a file alone can say.
func kernelKey(c config.Cluster) string {
	if c.KernelLease == config.KernelAuto {
		return "auto: depends on the nodes, when it is applied"
	}
	return string(c.KernelLease)
}

// isNodeFile tells had.toml from cluster.toml by the keys that only the one has. A text that is no TOML goes to the parser
// of cluster.toml, whose message is as good.
func isNodeFile(text []byte) bool {
	var m map[string]any
	if err := toml.Unmarshal(text, &m); err != nil {
		return false
	}
	for _, k := range []string{"addresses", "data_dir", "socket", "tls", "port", "gossip_port"} {
		if _, ok := m[k]; ok {
			return true
		}
	}
	return false
}
