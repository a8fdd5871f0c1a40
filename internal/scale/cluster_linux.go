package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hacluster/api"
	"hacluster/internal/lab"
)

// cluster is a running cluster of members only.
type cluster struct {
	lab     *lab.Lab
	bin     string
	profile string
	names   []string
	agents  map[string]*lab.Proc
}

// form founds a cluster and lets the other nodes in, one after the other.
func form(ctx context.Context, bin, profile string, nodes int) (_ *cluster, err error) {
	c := &cluster{bin: bin, profile: profile, agents: map[string]*lab.Proc{}}
	for i := range nodes {
		c.names = append(c.names, fmt.Sprintf("n%02d", i+1))
	}
	if c.lab, err = lab.New(ctx, lab.Options{Name: "scale", Nodes: c.names}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.lab.Close())
		}
	}()
	for i, name := range c.names {
		n := c.lab.Node(name)
		args := []string{"--name", name, "--dir", n.Path("etc", "had"), "--data-dir", n.Path("var", "lib", "had"), "--address", n.Addr(0).String()}
		if i == 0 {
			args = append([]string{"init", "--cluster", "scale"}, args...)
		} else {
			token, err := c.token(ctx)
			if err != nil {
				return nil, err
			}
			args = append([]string{"join", c.lab.Node(c.names[0]).Addr(0).String(), "--token", token}, args...)
		}
		if _, err := c.hactl(ctx, name, args...); err != nil {
			return nil, err
		}
		if c.agents[name], err = n.Start(lab.ProcOptions{Name: "had", Args: []string{filepath.Join(bin, "had"), "run", "--config", n.Path("etc", "had", "had.toml")}}); err != nil {
			return nil, err
		}
	}
	voters := nodes // an odd number, seven at most
	if nodes > 2 {
		voters = min((nodes-1)|1, 7)
	}
	return c, c.poll(ctx, "all nodes are up", func(st api.Status) string {
		if st.Stale || len(st.Nodes) != nodes || st.Quorum.Alive != voters {
			return fmt.Sprintf("stale %v, %d nodes, %d of %d voters", st.Stale, len(st.Nodes), st.Quorum.Alive, voters)
		}
		for _, n := range st.Nodes {
			if n.State != "up" {
				return n.Name + " is " + n.State
			}
		}
		return ""
	})
}

func (c *cluster) token(ctx context.Context) (token string, err error) {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		var out string
		if out, err = c.hactl(ctx, c.names[0], "-o", "json", "token", "--role", "member"); err != nil {
			continue
		}
		for _, f := range strings.FieldsFunc(out, func(r rune) bool { return r == '"' || r == ' ' || r == '\n' }) {
			if strings.HasPrefix(f, "had1.") {
				return f, nil
			}
		}
	}
	return "", fmt.Errorf("no token: %w", err)
}

func (c *cluster) socket(node string) string { return c.lab.Node(node).Path("run", "had.sock") }

func (c *cluster) hactl(ctx context.Context, node string, args ...string) (string, error) {
	cmd := c.lab.Node(node).Command(ctx, filepath.Join(c.bin, "hactl"), append([]string{"--socket", c.socket(node)}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("hactl %s on %s: %w: %s", strings.Join(args, " "), node, err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// fill gives the cluster so many groups, step at a time, and waits for each step: that a thousand start within a second is not what is
// measured at rest.
func (c *cluster) fill(ctx context.Context, on string, groups, step int) error {
	for n := min(step, groups); ; n = min(n+step, groups) {
		if err := c.apply(ctx, on, n, "", 0); err != nil {
			return err
		}
		if err := c.online(ctx, n, "", 0); err != nil || n == groups {
			return err
		}
	}
}

// gather moves them all to one node, step at a time.
func (c *cluster) gather(ctx context.Context, on string, groups, step int, only string) error {
	for n := min(step, groups); ; n = min(n+step, groups) {
		if err := c.apply(ctx, on, groups, only, n); err != nil {
			return err
		}
		if err := c.online(ctx, groups, only, n); err != nil || n == groups {
			return err
		}
	}
}

// apply gives the cluster so many groups of one address each; the first few prefer one node.
func (c *cluster) apply(ctx context.Context, on string, groups int, only string, few int) error {
	var text strings.Builder
	fmt.Fprintf(&text, "name = \"scale\"\ntiming = %q\n", c.profile)
	for i := range groups {
		fmt.Fprintf(&text, "\n[[group]]\nname = \"g%04d\"\n", i)
		if i < few {
			fmt.Fprintf(&text, "preferred_owners = [%q]\nauto_failback = \"allow\"\n", only)
		}
		fmt.Fprintf(&text, "\n[[group.resource]]\nname = \"vip\"\ntype = \"address\"\naddress = \"198.19.%d.%d/32\"\ninterface = \"eth0\"\n", i/200, 1+i%200)
	}
	file := filepath.Join(c.lab.Dir(), "cluster.toml")
	if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
		return err
	}
	_, err := c.hactl(ctx, on, "apply", file)
	return err
}

// status asks one node.
func (c *cluster) status(ctx context.Context, node string) (api.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	client := api.NewSocketClient(c.socket(node))
	defer client.Close()
	return client.Status(ctx)
}

// An answer is followed by a rest of pollRest times as long as it took, of pollMost at most.
const (
	pollRest = 4
	pollMost = 100 * time.Millisecond
)

// poll asks the last node, which nobody ends, until the status is as wanted; wrong says what is not.
func (c *cluster) poll(ctx context.Context, what string, wrong func(api.Status) string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	last := "no answer"
	for {
		asked := time.Now()
		st, err := c.status(ctx, c.names[len(c.names)-1])
		if err == nil {
			if last = wrong(st); last == "" {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %s: %w", what, last, errors.Join(ctx.Err(), err))
		case <-time.After(min(max(20*time.Millisecond, pollRest*time.Since(asked)), pollMost)): // the answer for a thousand groups is work for both sides
		}
	}
}

// online waits until every group is online, the first few on one node; where those are all, until that node does not lead.
func (c *cluster) online(ctx context.Context, groups int, only string, few int) error {
	return c.poll(ctx, "every group is online", func(st api.Status) string {
		if st.Stale || len(st.Groups) != groups {
			return fmt.Sprintf("stale %v, %d groups", st.Stale, len(st.Groups))
		}
		for _, n := range st.Nodes {
			if n.Config != st.Config {
				return fmt.Sprintf("%s follows configuration %d", n.Name, n.Config)
			}
		}
		for i, g := range st.Groups { // by name
			if g.State != "online" || i < few && (g.Owner != only || few == groups && st.Leader == only) {
				return fmt.Sprintf("group %s is %s on %s, %s leads", g.Name, g.State, g.Owner, st.Leader)
			}
		}
		return ""
	})
}
