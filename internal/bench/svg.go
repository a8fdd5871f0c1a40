package bench

import (
	"fmt"
	"html"
	"math"
	"strings"
	"time"
)

// Measures of the picture, in pixels.
const (
	picWidth   = 900
	picLeft    = 150 // of the axis
	picRight   = 30
	picTop     = 80
	rowHead    = 8  // free space above the first dot of a row
	dotPitch   = 11 // between two systems of a row
	picBottom  = 40
	dotRadius  = 4
	axisFirst  = time.Millisecond
	axisLast   = 100 * time.Second
	legendWide = 200
)

// colours of the systems: had green, keepalived blue, Pacemaker orange, the hand grey; darker is faster.
var colours = map[string]string{
	HadFast: "#1a7f37", HadTight: "#0b3d1b", HadLan: "#6fbf73", KeepDefault: "#a6c8ff", KeepFast: "#3b82f6", KeepExtreme: "#1e3a8a",
	PacemakerStock: "#ffc078", PacemakerFast: "#e8590c", ByHand: "#868e96",
}

// x is the place of a time on the axis.
func x(d time.Duration) float64 {
	d = min(max(d, axisFirst), axisLast)
	share := math.Log10(float64(d)/float64(axisFirst)) / math.Log10(float64(axisLast)/float64(axisFirst))
	return picLeft + share*(picWidth-picLeft-picRight)
}

func axisName(d time.Duration) string {
	if d < time.Second {
		return ms(d) + " ms"
	}
	return fmt.Sprintf("%.0f s", d.Seconds())
}

// SVG is the picture: a row for each scenario, in it a dot for each system at its median outage with a line from the least to
// the most, on a logarithmic axis. A red ring says that two nodes answered for the address, a cross that nobody served again.
func (rs Runs) SVG() string {
	systems, scenarios := rs.Systems(), rs.Scenarios()
	row := 2*rowHead + dotPitch*max(len(systems)-1, 0)
	height := picTop + row*len(scenarios) + picBottom
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", picWidth, height, picWidth, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", picWidth, height)
	for i, system := range systems {
		cx, cy := 20+legendWide*(i%4), 18+18*(i/4)
		fmt.Fprintf(&b, `<circle cx="%d" cy="%d" r="%d" fill="%s"/><text x="%d" y="%d">%s</text>`+"\n", cx, cy, dotRadius, colours[system], cx+10, cy+4, html.EscapeString(system))
	}
	fmt.Fprintf(&b, `<text x="20" y="62" fill="#555">outage (log): dot = median, line = least to most; <tspan fill="#d00">red ring</tspan> = two nodes answered at once; <tspan fill="#d00">x</tspan> = not served again</text>`+"\n")
	bottom := height - picBottom
	for d := axisFirst; d <= axisLast; d *= 10 {
		fmt.Fprintf(&b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#ddd"/><text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", x(d), picTop, x(d), bottom, x(d), bottom+18, axisName(d))
	}
	for i, sc := range scenarios {
		top := picTop + i*row
		if i%2 == 1 {
			fmt.Fprintf(&b, `<rect x="0" y="%d" width="%d" height="%d" fill="#000" fill-opacity="0.04"/>`+"\n", top, picWidth, row)
		}
		fmt.Fprintf(&b, `<text x="12" y="%d">%s</text>`+"\n", top+row/2+4, html.EscapeString(sc.Name))
		for j, system := range systems {
			if s := rs.Of(system, sc.Name); s.N > 0 {
				dot(&b, system, sc.Name, s, top+rowHead+j*dotPitch)
			}
		}
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func dot(b *strings.Builder, system, scenario string, s Summary, y int) {
	colour, ring := colours[system], "none"
	if s.DoubleRuns > 0 {
		ring = "#d00"
	}
	fmt.Fprintf(b, `<g><title>%s, %s: %s ms (%s to %s, n=%d), two answered: %s</title>`, html.EscapeString(system), html.EscapeString(scenario), ms(s.Median), ms(s.Min), ms(s.Max), s.N, doubleCell(s))
	fmt.Fprintf(b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="%s" stroke-width="2"/>`, x(s.Min), y, x(s.Max), y, colour)
	fmt.Fprintf(b, `<circle cx="%.1f" cy="%d" r="%d" fill="%s" stroke="%s" stroke-width="2"/>`, x(s.Median), y, dotRadius, colour, ring)
	if s.Lost > 0 {
		fmt.Fprintf(b, `<text x="%.1f" y="%d" fill="#d00">x</text>`, x(s.Median)+8, y+4)
	}
	b.WriteString("</g>\n")
}
