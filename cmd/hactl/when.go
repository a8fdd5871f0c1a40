package main

import (
	"fmt"
	"time"
)

// ago is a duration since t in two units at most; empty for the zero instant.
func (e *env) ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := e.Now().Sub(t)
	if d < 0 { // clocks of two machines
		d = 0
	}
	return short(d) + " ago"
}

// clock is t as local time: the hour today, else with the date.
func (e *env) clock(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	t, now := t.In(e.Zone), e.Now().In(e.Zone)
	if t.YearDay() == now.YearDay() && t.Year() == now.Year() {
		return t.Format("15:04:05")
	}
	return t.Format("2006-01-02 15:04:05")
}

// exact is a duration for sums: rounded to 10 ms from a second on.
func exact(d time.Duration) string {
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}

// short is a duration for people: 90ms, 1.3s, 12s, 3m05s, 2h10m, 5d3h.
func short(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + short(-d)
	case d < time.Millisecond:
		return "0ms"
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%d.%ds", int(d.Seconds()), int(d.Milliseconds()/100)%10)
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
}
