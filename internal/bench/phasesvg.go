package bench

import (
	"fmt"
	"html"
	"math"
	"strings"
	"time"
)

// Measures of the picture of the phases, in pixels.
const (
	barLeft    = 200 // of the axis
	barRight   = 110 // room for the figures
	barTop     = 86
	barPitch   = 22
	barHeight  = 14
	panelHead  = 24 // the line above the bars of a part
	panelFoot  = 36 // its axis
	barLegend  = 145
	barLegends = 6 // in a line
)

// shortMove divides the picture: on the axis of a move that waits for a lease, one that does not is a dot.
const shortMove = 100 * time.Millisecond

// phaseColours by the one who is busy: the old owner's red, the leader's blue, the new owner's green, the network and the client grey.
var phaseColours = map[string]string{
	"detected": "#e8590c", "decided": "#74c0fc", "committed": "#1c7ed6", "released": "#fa5252", "handed-on": "#1e3a8a",
	"acquired": "#2f9e44", "announced": "#0b5d22", "online": "#8ce99a", "underway": "#adb5bd", firstAnswer: "#ffd43b",
}

// end is how far a bar reaches, its mark included.
func (b bar) end() time.Duration { return max(b.length(), b.Outage) }

func (b bar) length() (sum time.Duration) {
	for _, name := range stack {
		sum += b.Took[name]
	}
	return sum
}

// step is a round distance of the marks of an axis up to d: 1, 2 or 5 of a power of ten of milliseconds, so that there are at most eight.
func step(d time.Duration) time.Duration {
	for s := time.Millisecond; ; s *= 10 {
		for _, n := range []time.Duration{1, 2, 5} {
			if d <= 8*n*s || s > time.Hour {
				return n * s
			}
		}
	}
}

// PhaseSVG is the picture of where the time of the moves went: a bar for each scenario and system, stacked of the medians of the
// phases in their order, on linear axes, one for the short moves and one for the others; a black mark is the client's outage. "" where no move is known.
func (rs Runs) PhaseSVG() string {
	var short, long []bar
	for _, b := range rs.bars() {
		if b.end() <= shortMove {
			short = append(short, b)
		} else {
			long = append(long, b)
		}
	}
	if len(short)+len(long) == 0 {
		return ""
	}
	height := barTop + panelHeight(short) + panelHeight(long)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", picWidth, height, picWidth, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", picWidth, height)
	for i, name := range stack {
		left, y := 20+barLegend*(i%barLegends), 12+18*(i/barLegends)
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="12" height="12" fill="%s"/><text x="%d" y="%d">%s</text>`+"\n", left, y, phaseColours[name], left+18, y+10, name)
	}
	fmt.Fprintf(&b, `<text x="20" y="66" fill="#555">medians; black mark = the client's outage; figures = sum of the phases / outage; %s = what the outage is longer than that sum</text>`+"\n", firstAnswer)
	panel(&b, "moves of 100 ms at most", short, barTop)
	panel(&b, "longer ones", long, barTop+panelHeight(short))
	b.WriteString("</svg>\n")
	return b.String()
}

func panelHeight(bars []bar) int {
	if len(bars) == 0 {
		return 0
	}
	return panelHead + barPitch*len(bars) + panelFoot
}

// panel draws bars below each other from top on, and their axis.
func panel(b *strings.Builder, title string, bars []bar, top int) {
	if len(bars) == 0 {
		return
	}
	var most time.Duration
	for _, x := range bars {
		most = max(most, x.end())
	}
	mark := step(most)
	last := (most + mark - 1) / mark * mark
	place := func(d time.Duration) float64 {
		return barLeft + float64(d)/float64(last)*(picWidth-barLeft-barRight)
	}
	fmt.Fprintf(b, `<text x="12" y="%d" font-weight="bold">%s</text>`+"\n", top+14, title)
	top += panelHead
	bottom := top + barPitch*len(bars)
	for i := range bars {
		if i%2 == 1 {
			fmt.Fprintf(b, `<rect x="0" y="%d" width="%d" height="%d" fill="#000" fill-opacity="0.04"/>`+"\n", top+i*barPitch, picWidth, barPitch)
		}
	}
	for d := time.Duration(0); d <= last; d += mark {
		fmt.Fprintf(b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#ddd"/><text x="%.1f" y="%d" text-anchor="middle">%s ms</text>`+"\n", place(d), top, place(d), bottom, place(d), bottom+16, ms(d))
	}
	for i, x := range bars {
		x.draw(b, top+i*barPitch, place)
	}
}

// draw puts one bar into its row.
func (x bar) draw(b *strings.Builder, top int, place func(time.Duration) float64) {
	var parts []string
	for _, name := range stack {
		if x.Took[name] > 0 {
			parts = append(parts, name+" "+tenth(x.Took[name]))
		}
	}
	fmt.Fprintf(b, `<text x="12" y="%d">%s</text>`, top+barPitch/2+4, html.EscapeString(x.scenario+", "+x.system))
	fmt.Fprintf(b, `<g><title>%s, %s, ms: %s; total %s, outage %s, n=%d</title>`, html.EscapeString(x.scenario), html.EscapeString(x.system),
		html.EscapeString(strings.Join(parts, ", ")), html.EscapeString(tenth(x.Total)), html.EscapeString(tenth(x.Outage)), x.N)
	y := top + (barPitch-barHeight)/2
	var at time.Duration
	for _, name := range stack {
		if took := x.Took[name]; took > 0 {
			fmt.Fprintf(b, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>`, place(at), y, place(at+took)-place(at), barHeight, phaseColours[name])
			at += took
		}
	}
	fmt.Fprintf(b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#000" stroke-width="2"/>`, place(x.Outage), y-2, place(x.Outage), y+barHeight+2)
	fmt.Fprintf(b, `<text x="%.1f" y="%d" fill="#555">%s</text></g>`+"\n", math.Ceil(place(x.end()))+6, top+barPitch/2+4, html.EscapeString(tenth(x.Total)+" / "+tenth(x.Outage)))
}
