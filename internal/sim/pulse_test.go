package sim

import (
	"strings"
	"testing"
	"time"

	"hacluster/lease"
	"hacluster/placement"
)

// calmWorld is a cluster with pulses in which nothing fails, once every owner has promised; nil: it has none that does not lead.
func calmWorld(seed uint64) (w *World, owner *machine) {
	w = newWorld(Options{Seed: seed, Storm: StormPulse, Trace: 100})
	w.quiet, w.longer, w.faults, w.net.slow, w.patience = true, false, regime{}, 0, 50*time.Millisecond
	w.run(20 * time.Second)
	l := w.leader()
	if l == nil || w.fence.when != "" {
		return w, nil
	}
	for _, g := range l.p.state.Policy.Groups {
		m := w.byName[l.p.state.Groups[g.Name].Owner]
		if m == nil || m == l.p.m || !g.OnPulse {
			continue
		}
		for end, since := w.now+10*time.Second, w.now; w.now < end && w.fail == nil; w.run(w.now + time.Millisecond) {
			if m.proc.pulser.mode != bound {
				since = w.now
			}
			if w.now-since >= time.Second { // its first promise may last as long as a lease
				return w, m
			}
		}
	}
	return w, nil
}

// TestAPulseThatStopsIsATakeover: a bound owner that loses power is taken over after what its promise lasts, in a cluster that is well.
func TestAPulseThatStopsIsATakeover(t *testing.T) {
	timing, err := lease.Derive(lease.Fast, lease.Gate, lease.Overrides{})
	if err != nil {
		t.Fatal(err)
	}
	worst, tried := time.Duration(0), 0
	for seed := range uint64(60) {
		w, m := calmWorld(seed)
		if w.fail != nil {
			t.Fatalf("seed %d: %v\n%s", seed, w.fail, w.Trace())
		}
		if m == nil {
			continue
		}
		tried++
		before, cut := len(w.truth), w.now
		m.powerOff()
		w.run(w.now + 2*time.Second)
		took := time.Duration(0)
		for _, e := range w.truth[before:] {
			if c := e.entry.cmd; c != nil && c.Kind == placement.CmdTakeover && took == 0 {
				if took = c.At.Sub(wallBase) - cut - w.byName[c.By].skew; !strings.HasPrefix(c.Reason.Text, "the pulse of "+m.name) {
					t.Errorf("seed %d: after %v, and not by its pulse: %s", seed, took, c.Reason.Text)
				}
			}
		}
		if took == 0 || took > timing.PulseWait()+50*time.Millisecond {
			t.Errorf("seed %d: the takeover was decided after %v, not within %v and 50ms\n%s", seed, took, timing.PulseWait(), w.Trace())
		}
		worst = max(worst, took)
	}
	if tried < 15 {
		t.Errorf("only %d clusters had an owner that had promised", tried)
	}
	t.Logf("%d clusters, at most %v", tried, worst)
}
