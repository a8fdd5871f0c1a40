package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"hacluster/api"
	"hacluster/placement"
)

// reading is what a node has used since its agent began.
type reading struct {
	cpu            time.Duration
	pss            float64 // MB, now
	bytes, packets float64
}

// read asks the kernel about the agent, its dead man and the node's cable.
func (c *cluster) read(node string) (r reading, err error) {
	parent := c.agents[node].PID()
	pids := []string{strconv.Itoa(parent)}
	children, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent)) // whichever thread forked it
	for _, f := range children {
		text, _ := os.ReadFile(f)
		pids = append(pids, strings.Fields(string(text))...)
	}
	if len(pids) < 2 {
		return r, fmt.Errorf("the dead man on %s has no agent", node)
	}
	for _, pid := range pids {
		threads, _ := filepath.Glob("/proc/" + pid + "/task/*/schedstat")
		for _, f := range threads {
			text, _ := os.ReadFile(f)
			var ns int64
			fmt.Sscan(string(text), &ns)
			r.cpu += time.Duration(ns)
		}
		text, err := os.ReadFile("/proc/" + pid + "/smaps_rollup")
		if err != nil {
			return r, err
		}
		_, after, _ := strings.Cut(string(text), "\nPss:")
		var kb float64
		fmt.Sscan(after, &kb)
		r.pss += kb / 1024
	}
	return r, c.lab.Node(node).Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/dev")
		for s := bufio.NewScanner(bytes.NewReader(text)); err == nil && s.Scan(); {
			f := strings.Fields(s.Text())
			if len(f) < 17 || f[0] != "eth0:" {
				continue
			}
			for i, to := range map[int]*float64{1: &r.bytes, 9: &r.bytes, 2: &r.packets, 10: &r.packets} {
				n, _ := strconv.ParseFloat(f[i], 64)
				*to += n
			}
		}
		return err
	})
}

// rest measures every agent for a while in which nothing happens.
func (c *cluster) rest(ctx context.Context, span time.Duration, cell *Cell) error {
	st, err := c.status(ctx, c.names[0])
	if err != nil {
		return err
	}
	part := map[string]string{}
	for _, n := range st.Nodes {
		switch {
		case n.Leader:
			part[n.Name] = partLeader
		case n.Voter:
			part[n.Name] = partVoter
		default:
			part[n.Name] = partNonvoter
		}
	}
	cell.Voters, cell.Span = st.Quorum.Voters, span
	before, begun := map[string]reading{}, map[string]time.Time{}
	for _, name := range c.names {
		begun[name] = time.Now()
		if before[name], err = c.read(name); err != nil {
			return err
		}
	}
	leader := st.Leader
	for end := time.Now().Add(span); time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(time.Second, time.Until(end))):
		}
	}
	costs := map[string][]Cost{}
	for _, name := range c.names {
		r, err := c.read(name)
		if err != nil {
			return err
		}
		took := time.Since(begun[name]).Seconds()
		b := before[name]
		one := Cost{CPU: (r.cpu - b.cpu).Seconds() / took * 100, PSS: r.pss, Bytes: (r.bytes - b.bytes) / took, Packets: (r.packets - b.packets) / took}
		costs[part[name]] = append(costs[part[name]], one)
		cell.Total += one.CPU
	}
	cell.Rest = mean(costs)
	if st, err = c.status(ctx, c.names[0]); err == nil && st.Leader != leader {
		cell.Elections++
	}
	return err
}

// die gives all groups to the first node, cuts its power and waits until all are online elsewhere.
func (c *cluster) die(ctx context.Context, groups, step int, cell *Cell) error {
	victim, witness := c.names[0], c.names[len(c.names)-1]
	if err := c.gather(ctx, witness, groups, step, victim); err != nil {
		return err
	}
	before, err := c.status(ctx, witness)
	if err != nil || before.LastEvent == nil {
		return fmt.Errorf("no history: %w", err)
	}
	cut := time.Now()
	if err := c.lab.Node(victim).PowerCut(); err != nil {
		return err
	}
	var online time.Time
	if err := c.poll(ctx, "the groups of the dead node are online", func(st api.Status) string {
		online = st.At
		for _, g := range st.Groups {
			if g.State != "online" || g.Owner == victim {
				return fmt.Sprintf("group %s is %s on %s", g.Name, g.State, g.Owner)
			}
		}
		return ""
	}); err != nil {
		return err
	}
	client := api.NewSocketClient(c.socket(witness))
	defer client.Close()
	events, err := client.Events(ctx, before.LastEvent.Seq)
	if err != nil {
		return err
	}
	var first, last time.Time
	for _, e := range events {
		if e.Kind == string(placement.CmdTakeover) && e.From == victim {
			if cell.Moved++; first.IsZero() {
				first = e.Time
			}
			if done := e.Time.Add(e.Took.Decided + e.Took.Committed); done.After(last) {
				last = done
			}
		}
	}
	cell.Decided, cell.Committed, cell.Online = first.Sub(cut), last.Sub(first), online.Sub(first)
	return nil
}
