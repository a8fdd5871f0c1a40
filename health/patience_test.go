package health

import (
	"testing"
	"time"
)

func TestPatience(t *testing.T) {
	const ms = time.Millisecond
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	fresh := patience{floor: 100 * ms, ceiling: time.Second}
	at := func(d time.Duration) time.Time { return start.Add(d) }
	for name, tc := range map[string]struct {
		p    patience
		now  time.Duration
		want time.Duration
	}{
		"nothing known: the floor":           {fresh, 0, 100 * ms},
		"without a floor always the ceiling": {patience{ceiling: time.Second}.after(Pass, at(0), at(ms)), 0, time.Second},
		"a quick service: the floor":         {fresh.after(Pass, at(0), at(2*ms)), 0, 100 * ms},
		"three times the slowest answer":     {fresh.after(Pass, at(0), at(80*ms)).after(Pass, at(100*ms), at(101*ms)), 101 * ms, 240 * ms},
		"never above the ceiling":            {fresh.after(Warn, at(0), at(900*ms)), 900 * ms, time.Second},
		"half forgotten after the half-life": {fresh.after(Pass, at(0), at(80*ms)), 80*ms + patienceHalfLife, 120 * ms},
		"a pause that ended is learned as a whole": {
			fresh.after(Timeout, at(0), at(100*ms)).after(Timeout, at(100*ms), at(200*ms)).after(Pass, at(200*ms), at(220*ms)), 220 * ms, 660 * ms},
		"a silence that ended in a refusal was no pause": {
			fresh.after(Timeout, at(0), at(100*ms)).after(Fail, at(100*ms), at(101*ms)).after(Pass, at(900*ms), at(901*ms)), 901 * ms, 100 * ms},
		"silence alone teaches nothing": {fresh.after(Timeout, at(0), at(100*ms)).after(Timeout, at(100*ms), at(200*ms)), 200 * ms, 100 * ms},
		"what could not be asked teaches nothing": {
			fresh.after(Timeout, at(0), at(100*ms)).after(Skip, at(100*ms), at(400*ms)).after(Pass, at(400*ms), at(410*ms)), 410 * ms, time.Second},
		"a pause is never worth more than the ceiling": {
			fresh.after(Timeout, at(0), at(100*ms)).after(Pass, at(time.Hour), at(time.Hour+ms)), time.Hour + 2*patienceHalfLife, 750 * ms},
		"forgotten at last": {fresh.after(Pass, at(0), at(900*ms)), 100 * time.Hour, 100 * ms},
	} {
		if got := tc.p.limit(at(tc.now)); got < tc.want-ms || got > tc.want+ms {
			t.Errorf("%s: waits %v, want %v", name, got, tc.want)
		}
	}
}
