package health

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Fold is what is known of one resource's health: a value, changed only by building a new one, without a clock. The
// rules are in DESIGN.md. Its invariants:
//
//  1. A Skip changes no count.
//  2. A probe is condemned only by Fall failures (Fail, Timeout) without a success (Pass, Warn) between them.
//  3. A condemned probe stays so until Rise successes without a failure between them, or until Started.
//  4. The results of one probe do not change what is known of another; their order among each other does not matter.
//  5. Healthy() is true exactly when Verdict is Healthy, whatever the time.
type Fold struct {
	probes  []standing // sorted by name; never changed in place
	grace   time.Duration
	started time.Time // zero: not since this fold began
}

// standing is what is known of one probe.
type standing struct {
	name  string
	kind  Kind
	level Level
	fall  int
	rise  int

	last      Result // the last that was no Skip; Outcome "" before
	skip      string // detail of the last result if that was a Skip
	skipped   bool   // the last result was a Skip
	passed    bool   // at least once since the start
	fails     int    // failures of the last streak of failures
	timeouts  int    // how many of them were timeouts
	oks       int    // successes since that streak
	condemned bool
	twice     bool // 2*fall failures in one streak since it was condemned
}

// NewFold begins with nothing known. A start may take startGrace before failures count; 0 means that it gets none. A
// Fall or Rise below 1 counts as 1. Names of probes must differ.
func NewFold(specs []Spec, startGrace time.Duration) Fold {
	f := Fold{grace: startGrace}
	for _, s := range specs {
		f.probes = append(f.probes, standing{name: s.Name, kind: s.Kind, level: s.Level, fall: max(s.Fall, 1), rise: max(s.Rise, 1)})
	}
	slices.SortStableFunc(f.probes, func(a, b standing) int { return cmp.Compare(a.name, b.name) })
	return f
}

// Started forgets the past: the resource was started at now, and its grace begins. Results of checks that began earlier
// are ignored from here on; they speak of the old process.
func (f Fold) Started(now time.Time) Fold {
	probes := make([]standing, len(f.probes))
	for i, p := range f.probes {
		probes[i] = standing{name: p.name, kind: p.kind, level: p.level, fall: p.fall, rise: p.rise}
	}
	return Fold{probes: probes, grace: f.grace, started: now}
}

// GraceEnds is when the verdict may change by time alone, from starting to another; zero when it cannot.
func (f Fold) GraceEnds() time.Time {
	waits := slices.ContainsFunc(f.probes, func(p standing) bool { return !p.passed })
	if f.started.IsZero() || f.grace <= 0 || !waits {
		return time.Time{}
	}
	return f.started.Add(f.grace)
}

// Since is when the resource was started, as Started was told; zero: not told.
func (f Fold) Since() time.Time { return f.started }

// Refuses says that a probe has not passed since the start and has failed so often that only the grace spares the resource.
func (f Fold) Refuses() bool {
	return slices.ContainsFunc(f.probes, func(p standing) bool { return !p.passed && p.condemned })
}

func (f Fold) inGrace(at time.Time) bool {
	return !f.started.IsZero() && at.Before(f.started.Add(f.grace))
}

// Add takes one result. Results of unknown probes, and of checks that began before the start, change nothing.
func (f Fold) Add(r Result) Fold {
	i := slices.IndexFunc(f.probes, func(p standing) bool { return p.name == r.Probe })
	if i < 0 || !f.started.IsZero() && r.At.Add(-r.Latency).Before(f.started) {
		return f
	}
	f.probes = slices.Clone(f.probes)
	f.probes[i] = f.probes[i].add(r, f.inGrace(r.At))
	return f
}

func (p standing) add(r Result, inGrace bool) standing {
	r.Detail = oneLine(r.Detail)
	switch r.Outcome {
	case Pass, Warn:
		p.oks++
		// The first success of a start ends it: the failures before it were those of a service not yet up.
		if p.oks >= p.rise || !p.passed && inGrace {
			p.condemned, p.twice = false, false
		}
		p.passed = true
	case Fail, Timeout:
		if p.oks > 0 || p.last.Outcome == "" {
			p.fails, p.timeouts, p.oks = 0, 0, 0
		}
		p.fails++
		if r.Outcome == Timeout {
			p.timeouts++
		}
		p.condemned = p.condemned || p.fails >= p.fall
		p.twice = p.twice || p.fails >= 2*p.fall
	default: // Skip, and anything unknown: no evidence
		p.skipped, p.skip = true, r.Detail
		return p
	}
	p.last, p.skipped, p.skip = r, false, ""
	return p
}

func (p standing) failing() bool { return p.last.Outcome == Fail || p.last.Outcome == Timeout }
func (p standing) serves() bool  { return p.last.Outcome == Pass || p.last.Outcome == Warn }

// hangs says whether the last streak of failures is that of something that is there and does not answer.
func (p standing) hangs(othersServe bool) bool {
	return p.timeouts == p.fails || p.timeouts > 0 && p.last.Outcome != Fail && othersServe
}

// Verdict says what all probes say together at now, and why in one line.
func (f Fold) Verdict(now time.Time) (Verdict, string) {
	if len(f.probes) == 0 {
		return Unknown, "no probe is configured"
	}
	starting := f.inGrace(now)
	if v, why := f.condemned(starting); v != "" {
		return v, why
	}
	if starting {
		if why := f.awaited(); why != "" {
			left := f.started.Add(f.grace).Sub(now).Round(time.Second)
			return Starting, fmt.Sprintf("%s; %v left to start", why, left)
		}
	}
	if why := f.degraded(); why != "" {
		return Degraded, why
	}
	return f.quiet()
}

// Healthy says that every probe that could be asked passed, and at least one could.
func (f Fold) Healthy() bool {
	if v, _ := f.condemned(false); v != "" || f.degraded() != "" {
		return false
	}
	v, _ := f.quiet()
	return v == Healthy
}

// condemned gives Dead or Hung and why, or nothing. That something is gone is the strongest evidence when it comes from
// the operating system; else a hang is named first, because it is the one that needs a kill and not a stop.
func (f Fold) condemned(starting bool) (Verdict, string) {
	var gone, hung, dead []string
	for i, p := range f.probes {
		if !p.condemned || starting && !p.passed || f.busyAJP(p) {
			continue
		}
		why := p.why()
		switch {
		case p.kind == KindProcess || p.kind == KindSystemd:
			gone = append(gone, why)
		case p.hangs(f.otherServes(i)):
			hung = append(hung, why)
		default:
			dead = append(dead, why)
		}
	}
	switch {
	case len(gone) > 0:
		return Dead, join(gone, dead, hung)
	case len(hung) > 0:
		return Hung, join(hung, dead)
	case len(dead) > 0:
		return Dead, join(dead)
	}
	return "", ""
}

func (f Fold) otherServes(not int) bool {
	for i, p := range f.probes {
		if i != not && p.serves() {
			return true
		}
	}
	return false
}

// busyAJP is the special rule for Tomcat: when all AJP threads are busy, CPING times out although the server is well,
// and HTTP on its own pool answers. While it does, AJP silence condemns only at twice its Fall.
func (f Fold) busyAJP(p standing) bool {
	return p.kind == KindAJP && !p.twice && p.timeouts == p.fails && slices.ContainsFunc(f.probes, func(o standing) bool {
		return o.kind == KindHTTP && o.serves() && !o.condemned
	})
}

// awaited names the probes that have not passed since the start. Probes that cannot be asked are not waited for, unless
// none can.
func (f Fold) awaited() string {
	var whys, skips []string
	passed := false
	for _, p := range f.probes {
		passed = passed || p.passed
		switch {
		case p.passed:
		case p.last.Outcome == "" && p.skipped:
			skips = append(skips, p.why())
		default:
			whys = append(whys, p.why())
		}
	}
	if len(whys) == 0 && passed {
		return ""
	}
	return join(whys, skips)
}

func (f Fold) degraded() string {
	var whys []string
	for _, p := range f.probes {
		if p.failing() || p.last.Outcome == Warn || f.busyAJP(p) && p.condemned {
			whys = append(whys, p.why())
		}
	}
	return join(whys)
}

// quiet is the verdict when nothing speaks against the resource.
func (f Fold) quiet() (Verdict, string) {
	var unasked, skips []string
	passed := 0
	for _, p := range f.probes {
		if p.skipped {
			skips = append(skips, p.why())
		}
		switch {
		case p.serves():
			passed++
		case !p.skipped:
			unasked = append(unasked, p.why())
		}
	}
	switch {
	case len(unasked) > 0:
		return Unknown, join(unasked, skips)
	case passed == 0:
		return Unknown, join(skips)
	case passed == 1:
		return Healthy, join([]string{"1 probe passes"}, skips)
	}
	return Healthy, join([]string{fmt.Sprintf("%d probes pass", passed)}, skips)
}

// why says what one probe saw last.
func (p standing) why() string {
	detail := func(d string) string {
		if d == "" {
			return ""
		}
		return ": " + d
	}
	switch {
	case p.skipped:
		return p.name + " could not be asked" + detail(p.skip)
	case p.last.Outcome == "":
		return p.name + " has not answered yet"
	case p.condemned && p.serves():
		return fmt.Sprintf("%s passed %d of the %d times that acquit after %d failures", p.name, p.oks, p.rise, p.fails)
	case p.last.Outcome == Timeout:
		return fmt.Sprintf("%s did not answer, %d in a row (%d condemn)%s", p.name, p.fails, p.fall, detail(p.last.Detail))
	case p.last.Outcome == Fail:
		return fmt.Sprintf("%s failed, %d in a row (%d condemn)%s", p.name, p.fails, p.fall, detail(p.last.Detail))
	case p.last.Outcome == Warn:
		return p.name + " warns" + detail(p.last.Detail)
	}
	return p.name + " passes" + detail(p.last.Detail)
}

func join(groups ...[]string) string { return strings.Join(slices.Concat(groups...), "; ") }

// NeedsDeep asks for an immediate is-alive check: a looks-alive probe failed and an is-alive probe has not been asked
// since. Runner does this by itself; it is here for a caller that runs its own checks.
func (f Fold) NeedsDeep() bool {
	var failed time.Time
	for _, p := range f.probes {
		if p.level == LooksAlive && p.failing() && p.last.At.After(failed) {
			failed = p.last.At
		}
	}
	if failed.IsZero() {
		return false
	}
	return slices.ContainsFunc(f.probes, func(p standing) bool {
		return p.level == IsAlive && p.last.At.Add(-p.last.Latency).Before(failed)
	})
}
