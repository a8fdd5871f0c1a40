package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Parts that a node can have. Owners are not told apart: groups are dealt out to all.
const (
	partLeader   = "leader"
	partVoter    = "voter"
	partNonvoter = "non-voter"
)

var parts = []string{partLeader, partVoter, partNonvoter}

// Cost is what one agent, its dead man included, costs at rest.
type Cost struct {
	CPU     float64 `json:"cpu_percent"` // of one core
	PSS     float64 `json:"pss_mb"`      // memory, shared pages divided among those that share them
	Bytes   float64 `json:"bytes_per_s"` // in and out
	Packets float64 `json:"packets_per_s"`
}

func (c Cost) add(o Cost) Cost {
	return Cost{c.CPU + o.CPU, c.PSS + o.PSS, c.Bytes + o.Bytes, c.Packets + o.Packets}
}

func (c Cost) by(n float64) Cost { return Cost{c.CPU / n, c.PSS / n, c.Bytes / n, c.Packets / n} }

// Cell is one size of a cluster.
type Cell struct {
	Nodes     int             `json:"nodes"`
	Groups    int             `json:"groups"`
	Voters    int             `json:"voters"`
	Rest      map[string]Cost `json:"rest"` // part -> mean of the nodes that have it
	Total     float64         `json:"total_cpu_percent"`
	Span      time.Duration   `json:"span_ns"`                // of the measurement at rest
	Elections int             `json:"elections"`              // changes of leader meanwhile: a machine too small for the cluster
	Moved     int             `json:"moved,omitempty"`        // groups that the dead node owned
	Decided   time.Duration   `json:"decided_ns,omitempty"`   // from the power cut to the first takeover
	Committed time.Duration   `json:"committed_ns,omitempty"` // from there to the newest takeover
	Online    time.Duration   `json:"online_ns,omitempty"`    // and to all groups online, as status shows it
	Failed    string          `json:"failed,omitempty"`       // why it was not measured
}

// mean divides what was measured by part.
func mean(costs map[string][]Cost) map[string]Cost {
	out := map[string]Cost{}
	for part, list := range costs {
		var sum Cost
		for _, c := range list {
			sum = sum.add(c)
		}
		out[part] = sum.by(float64(len(list)))
	}
	return out
}

// table is the report in Markdown.
func table(cells []Cell, profile, machine string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Cost by size\n\nMeasured by `scripts/scale` on %s, profile `%s`. All nodes share that machine, so its cores bound the size:\n"+
		"a cell with changes of leader was too large for it. What is not in the table was not measured.\n\n"+
		"At most 7 nodes vote, the rest hold leases and own groups without a vote. Each group is one address.\n"+
		"CPU in percent of one core, memory as PSS, traffic in and out, per node at rest.\n\n", machine, profile)
	b.WriteString("| nodes | groups | part | CPU % | memory MB | kB/s | packets/s | changes of leader |\n|---|---|---|---|---|---|---|---|\n")
	for _, c := range cells {
		if c.Failed != "" {
			fmt.Fprintf(&b, "| %d | %d | not measured to the end: %s | | | | | |\n", c.Nodes, c.Groups, c.Failed)
		}
		for _, part := range parts {
			if r, ok := c.Rest[part]; ok {
				fmt.Fprintf(&b, "| %d | %d | %s | %.2f | %.1f | %.1f | %.0f | %d |\n", c.Nodes, c.Groups, part, r.CPU, r.PSS, r.Bytes/1000, r.Packets, c.Elections)
			}
		}
	}
	if slices.ContainsFunc(cells, func(c Cell) bool { return c.Moved > 0 }) {
		b.WriteString("\n## All groups of a dead node\n\nThe power of the node that owned them all is cut. Milliseconds; detection is the takeover wait.\n\n" +
			"| nodes | groups moved | detected | first to last decision committed | first decision to all online |\n|---|---|---|---|---|\n")
		for _, c := range cells {
			if c.Moved > 0 {
				fmt.Fprintf(&b, "| %d | %d | %d | %d | %d |\n", c.Nodes, c.Moved, c.Decided.Milliseconds(), c.Committed.Milliseconds(), c.Online.Milliseconds())
			}
		}
	}
	return b.String()
}
