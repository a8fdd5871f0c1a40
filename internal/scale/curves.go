package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

const (
	paneWide, paneHigh = 330, 210
	edge               = 46
)

var (
	colours = []string{"#1b6ca8", "#c2571a", "#3a7d34", "#7a3b8f", "#8a6d00"}
	dashes  = map[string]string{partLeader: "", partVoter: "6,3", partNonvoter: "2,3"}
)

// pane is one measure over the number of nodes.
type pane struct {
	title string
	of    func(Cost) float64
}

// curves draws four measures over the number of nodes; colours tell the numbers of groups, dashes the parts.
func curves(cells []Cell) string {
	panes := []pane{
		{"CPU, % of a core", func(c Cost) float64 { return c.CPU }},
		{"memory, MB (PSS)", func(c Cost) float64 { return c.PSS }},
		{"traffic, kB/s", func(c Cost) float64 { return c.Bytes / 1000 }},
		{"packets/s", func(c Cost) float64 { return c.Packets }},
	}
	var groups []int
	for _, c := range cells {
		if !slices.Contains(groups, c.Groups) {
			groups = append(groups, c.Groups)
		}
	}
	slices.Sort(groups)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11">`+"\n", 2*paneWide, 2*paneHigh+40)
	b.WriteString(`<rect width="100%" height="100%" fill="white"/>` + "\n")
	for i, p := range panes {
		draw(&b, p, cells, groups, i%2*paneWide, i/2*paneHigh)
	}
	x := edge
	for i, g := range groups {
		fmt.Fprintf(&b, `<text x="%d" y="%d" fill="%s">%d groups</text>`+"\n", x, 2*paneHigh+16, colours[i%len(colours)], g)
		x += 90
	}
	for i, part := range parts {
		y := 2*paneHigh + 32
		fmt.Fprintf(&b, `<path d="M%d %dh24" stroke="black" stroke-dasharray="%s"/><text x="%d" y="%d">%s</text>`+"\n", edge+i*110, y-4, dashes[part], edge+i*110+30, y, part)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func draw(b *strings.Builder, p pane, cells []Cell, groups []int, left, top int) {
	most, nodes := 0.0, 0
	for _, c := range cells {
		nodes = max(nodes, c.Nodes)
		for _, r := range c.Rest {
			most = max(most, p.of(r))
		}
	}
	most = ceiling(most)
	wide, high := float64(paneWide-edge-16), float64(paneHigh-edge-8)
	x := func(n int) float64 { return float64(left+edge) + wide*float64(n)/float64(max(nodes, 1)) }
	y := func(v float64) float64 { return float64(top+28) + high*(1-v/most) }
	fmt.Fprintf(b, `<text x="%d" y="%d" font-weight="bold">%s</text>`+"\n", left+edge, top+16, p.title)
	fmt.Fprintf(b, `<path d="M%.0f %.0fV%.0fH%.0f" fill="none" stroke="#888"/>`+"\n", x(0), y(most), y(0), x(nodes))
	fmt.Fprintf(b, `<text x="%.0f" y="%.0f" text-anchor="end">%g</text><text x="%.0f" y="%.0f" text-anchor="end">0</text>`+"\n", x(0)-4, y(most)+4, most, x(0)-4, y(0)+4)
	told := 0
	for _, c := range cells {
		if c.Nodes != told {
			fmt.Fprintf(b, `<text x="%.0f" y="%.0f" text-anchor="middle">%d</text>`+"\n", x(c.Nodes), y(0)+14, c.Nodes)
		}
		told = c.Nodes
	}
	for i, g := range groups {
		for _, part := range parts {
			var at []string
			for _, c := range cells {
				if r, ok := c.Rest[part]; ok && c.Groups == g {
					at = append(at, fmt.Sprintf("%.1f,%.1f", x(c.Nodes), y(p.of(r))))
					fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="2.5" fill="%s"/>`+"\n", x(c.Nodes), y(p.of(r)), colours[i%len(colours)])
				}
			}
			if len(at) > 1 {
				fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-dasharray="%s"/>`+"\n", strings.Join(at, " "), colours[i%len(colours)], dashes[part])
			}
		}
	}
}

// ceiling is the next of 1, 2, 5 times a power of ten.
func ceiling(v float64) float64 {
	if v <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, step := range []float64{1, 2, 5, 10} {
		if v <= step*power {
			return step * power
		}
	}
	return 10 * power
}
