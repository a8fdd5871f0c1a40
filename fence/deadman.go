package fence

import (
	"encoding/json"
	"fmt"
	"time"

	"hacluster/resources"
)

// word is what the agent tells the dead man: one message, which replaces what it said before. A field that is nil leaves
// what was said.
type word struct {
	Ready  bool              `json:"ready,omitempty"`  // the agent serves
	Ending bool              `json:"ending,omitempty"` // the agent ends because it was asked to
	Until  *int64            `json:"until,omitempty"`  // end of the lease, boot time in ns since the clock's base; 0: nothing is held
	Kill   *[]resources.Spec `json:"kill,omitempty"`   // exclusive resources of this node
}

// Told is what the dead man tells the agent of what it did in its stead: one resource, or all addresses, and how that ended.
type Told struct {
	Group    string    `json:"group,omitempty"`
	Resource string    `json:"resource,omitempty"` // empty: addresses
	Why      string    `json:"why"`
	At       time.Time `json:"at"` // wall clock, for people
}

// maxTold bounds what is kept for an agent that does not speak.
const maxTold = 16

// maxWord bounds one message, in bytes.
const maxWord = 128 << 10

func (w word) encode() ([]byte, error) {
	text, err := json.Marshal(w)
	if err == nil && len(text) > maxWord {
		err = fmt.Errorf("message of %d bytes to the dead man exceeds %d", len(text), maxWord)
	}
	return text, err
}

func decodeWord(text []byte) (word, error) {
	var w word
	if err := json.Unmarshal(text, &w); err != nil {
		return word{}, fmt.Errorf("decoding a message of the agent: %w", err)
	}
	if w.Until != nil && *w.Until < 0 {
		return word{}, fmt.Errorf("a deadline of %d is none", *w.Until)
	}
	return w, nil
}

// clock is what the dead man decides by: pure, so that a test can walk through it. Instants are boot time.
//
// The rules:
//  1. At the end of the lease that was told last, everything goes, whatever the agent does.
//  2. An agent that has said nothing for silence is frozen: it is killed and started again. The end of a lease wakes a living
//     one, so then it is enough that nothing is heard for probation.
//  3. What one agent told holds for its successor, and what is on file for the successor of both (handed): a restart does not move
//     the deadline, and a successor that has had no lease cannot call it off, because it may not know what runs.
//  4. What could not be proven gone at the end of the lease is tried again until it can, or the agent says otherwise.
//  5. A watchdog is not fed while something may live on past its lease and the patience for its end.
type clock struct {
	until   time.Time // zero: nothing is held
	heard   time.Time // last word of the agent; zero: none since it was started
	fired   bool      // for this until
	proven  bool      // for this until: everything it covered is gone
	foreign bool      // until is what a former dead man's agent left; what it held is not known here
	handed  bool      // until was told by an agent before the one that runs
	denied  bool      // and the one that runs says that nothing is held
	silence time.Duration
	probe   time.Time // a word is due by then, since the lease ended; zero: none
	again   time.Time // next attempt at what was not proven gone; zero: none
}

// releaseRetry is the time between two attempts to take away what cannot be proven gone.
const releaseRetry = time.Second

// inherit takes over the lease that the newest agent before this dead man left, as far as a watchdog minds.
func (c *clock) inherit(until time.Time) { c.until, c.foreign = until, !until.IsZero() }

// hand takes over a lease of which it is known what it covers.
func (c *clock) hand(until time.Time) { c.until, c.handed = until, true }

// probation is how long a living agent may take to say something when its lease has ended.
const probation = 500 * time.Millisecond

// verdict is what is due now.
type verdict struct {
	release bool      // drop the addresses, kill what is exclusive
	restart bool      // the agent is frozen
	next    time.Time // look again then
}

// started notes that an agent was started at now.
func (c *clock) started(now time.Time) {
	c.heard, c.probe = now, time.Time{}
	c.handed, c.denied = c.handed || c.armed(), false
}

// tell takes a word that came at now.
func (c *clock) tell(w word, now time.Time) {
	c.heard, c.probe = now, time.Time{}
	if w.Until == nil {
		return
	}
	until := time.Time{}
	if *w.Until > 0 {
		until = time.Unix(0, *w.Until).UTC()
	}
	if c.handed && until.IsZero() && !c.fired {
		c.denied = true
		return
	}
	if !until.Equal(c.until) || c.foreign || c.handed {
		c.until, c.fired, c.proven, c.foreign, c.again = until, false, false, false, time.Time{}
		c.handed, c.denied = false, false
	}
}

// released notes at now what became of the release at the end of the lease until.
func (c *clock) released(until time.Time, ok bool, now time.Time) {
	if !until.Equal(c.until) { // the agent has another lease by now
		return
	}
	if c.proven = ok || c.denied; !c.proven {
		c.again = now.Add(releaseRetry)
	}
}

// starving says why a watchdog must not be fed at now; empty: it is. silent is the age of the act loop's last sign of life.
// Where nothing is held, nothing is to be gained by a reset, whatever the agent does.
func (c *clock) starving(now time.Time, patience, silent time.Duration) string {
	switch {
	case c.until.IsZero() || c.proven:
		return ""
	case c.foreign && now.Sub(c.until) >= patience:
		return "the lease of the agent before this one has ended, and no agent says that what it held is gone"
	case c.foreign:
		return ""
	case now.Sub(c.until) >= patience:
		return "the lease has ended, and what it covered cannot be proven gone"
	case silent > WatchdogStale:
		return "the act loop makes no progress while something is held"
	}
	return ""
}

// due says what must happen at now.
func (c *clock) due(now time.Time) verdict {
	v := verdict{}
	if c.armed() && !now.Before(c.until) {
		v.release, c.fired = true, true
		if !c.handed { // else the agent need not know of this end
			c.probe = now.Add(probation)
		}
	}
	if !c.again.IsZero() && !now.Before(c.again) {
		v.release, c.again = true, time.Time{}
	}
	if now.Sub(c.heard) >= c.silence || !c.probe.IsZero() && !now.Before(c.probe) {
		v.restart = true
		c.started(now) // the next one has as long to speak
	}
	v.next = c.next()
	return v
}

// armed says that the end of the lease is still to come or to be acted on.
func (c *clock) armed() bool { return !c.until.IsZero() && !c.fired && !c.foreign }

// next is the instant at which something may be due.
func (c *clock) next() time.Time {
	next := c.heard.Add(c.silence)
	if c.armed() && c.until.Before(next) {
		next = c.until
	}
	if !c.again.IsZero() && c.again.Before(next) {
		next = c.again
	}
	if !c.probe.IsZero() && c.probe.Before(next) {
		next = c.probe
	}
	return next
}
