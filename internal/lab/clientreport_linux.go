package lab

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// ClientReport is what clients saw in an interval.
type ClientReport struct {
	From, To   time.Time
	OK, Failed int
	InFlight   int            // not counted yet; wait for Client.Settled
	Errors     map[string]int // failed requests by class
	Nodes      map[string]int // answers by node

	// Gap is the longest time between two answers one after the other, the one that was going on at From included. It is the
	// outage when the interval holds one fault. Ongoing says that no answer ended it yet.
	Gap              time.Duration
	GapStart, GapEnd time.Time
	Ongoing          bool

	FirstFailure, LastFailure time.Time     // ends of the first and last failed request; zero without one
	NodeChange                time.Time     // first answer of another node than the one that answered first; zero without
	P50, P90, P99, Max        time.Duration // of answered requests
}

// Outage is the time from since to the first answer after the longest gap: how long the fault hurt, without the wait of the
// last good answer for the fault.
func (r ClientReport) Outage() time.Duration {
	if r.GapStart.Before(r.From) {
		return r.GapEnd.Sub(r.From)
	}
	return r.Gap
}

// String is one line for logs.
func (r ClientReport) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "gap %s, failed %d of %d", r.Gap.Round(100*time.Microsecond), r.Failed, r.OK+r.Failed)
	if r.Ongoing {
		b.WriteString(", no answer yet")
	}
	for _, k := range slices.Sorted(maps.Keys(r.Errors)) {
		fmt.Fprintf(&b, ", %s %d", k, r.Errors[k])
	}
	for _, k := range slices.Sorted(maps.Keys(r.Nodes)) {
		fmt.Fprintf(&b, ", %s answered %d", k, r.Nodes[k])
	}
	fmt.Fprintf(&b, ", p50 %s, p99 %s", r.P50.Round(10*time.Microsecond), r.P99.Round(10*time.Microsecond))
	return b.String()
}

// reportRequests sums up requests in order of End; last is the end of the last answer before since, zero without one.
func reportRequests(rs []Request, last, since, now time.Time) ClientReport {
	r := ClientReport{From: since, To: now, Errors: map[string]int{}, Nodes: map[string]int{}}
	if last.IsZero() {
		last = since
	}
	gap := func(to time.Time, ongoing bool) {
		if d := to.Sub(last); d > r.Gap {
			r.Gap, r.GapStart, r.GapEnd, r.Ongoing = d, last, to, ongoing
		}
	}
	var lat []time.Duration
	first := ""
	for _, q := range rs {
		if q.Err != "" {
			r.Failed++
			r.Errors[q.Err]++
			if r.FirstFailure.IsZero() {
				r.FirstFailure = q.End
			}
			r.LastFailure = q.End
			continue
		}
		gap(q.End, false)
		last = q.End
		r.OK++
		r.Nodes[q.Node]++
		lat = append(lat, q.End.Sub(q.Start))
		if first == "" {
			first = q.Node
		}
		if q.Node != first && r.NodeChange.IsZero() {
			r.NodeChange = q.End
		}
	}
	gap(now, true)
	if len(lat) > 0 {
		slices.Sort(lat)
		at := func(p int) time.Duration { return lat[min(len(lat)-1, len(lat)*p/100)] }
		r.P50, r.P90, r.P99, r.Max = at(50), at(90), at(99), lat[len(lat)-1]
	}
	return r
}
