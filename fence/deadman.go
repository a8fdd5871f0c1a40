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
//  3. What is told to one agent holds for its successor: a restart does not move the deadline.
type clock struct {
	until   time.Time // zero: nothing is held
	heard   time.Time // last word of the agent; zero: none since it was started
	fired   bool      // for this until
	silence time.Duration
	probe   time.Time // a word is due by then, since the lease ended; zero: none
}

// probation is how long a living agent may take to say something when its lease has ended.
const probation = 500 * time.Millisecond

// verdict is what is due now.
type verdict struct {
	release bool      // drop the addresses, kill what is exclusive
	restart bool      // the agent is frozen
	next    time.Time // look again then
}

// started notes that an agent was started at now.
func (c *clock) started(now time.Time) { c.heard, c.probe = now, time.Time{} }

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
	if !until.Equal(c.until) {
		c.until, c.fired = until, false
	}
}

// due says what must happen at now.
func (c *clock) due(now time.Time) verdict {
	v := verdict{}
	if !c.until.IsZero() && !c.fired && !now.Before(c.until) {
		v.release, c.fired = true, true
		c.probe = now.Add(probation)
	}
	if now.Sub(c.heard) >= c.silence || !c.probe.IsZero() && !now.Before(c.probe) {
		v.restart = true
		c.started(now) // the next one has as long to speak
	}
	v.next = c.next()
	return v
}

// next is the instant at which something may be due.
func (c *clock) next() time.Time {
	next := c.heard.Add(c.silence)
	if !c.until.IsZero() && !c.fired && c.until.Before(next) {
		next = c.until
	}
	if !c.probe.IsZero() && c.probe.Before(next) {
		next = c.probe
	}
	return next
}
