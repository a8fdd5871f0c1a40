package health

import "time"

const (
	// patienceFactor is how many times the slowest answer of late a check waits. A collector that stops the world for
	// longer than it ever did is then not taken for a hang at once, a service that is always quick is not waited for long.
	patienceFactor = 3
	// patienceHalfLife is how soon a slow answer is forgotten: half of it in this time.
	patienceHalfLife = 5 * time.Minute
)

// patience is how long one check waits for an answer: a multiple of what the service was seen to need, between a floor and
// a ceiling. With a floor of zero it is the ceiling, always. It is a value and reads no clock.
type patience struct {
	floor, ceiling time.Duration

	peak    time.Duration // the slowest answer of late, as of noted
	noted   time.Time
	silence time.Time // begin of the first of the timeouts in a row; zero: the newest check was answered
}

// limit is how long a check that begins now waits.
func (p patience) limit(now time.Time) time.Duration {
	if p.floor == 0 {
		return p.ceiling
	}
	return min(max((patienceFactor*p.decayed(now)).Round(time.Millisecond), p.floor), p.ceiling)
}

// decayed is what is left of the peak: halved at each full half-life, straight in between.
func (p patience) decayed(now time.Time) time.Duration {
	peak, age := p.peak, now.Sub(p.noted)
	for ; age >= patienceHalfLife && peak > 0; age -= patienceHalfLife {
		peak /= 2
	}
	return peak - time.Duration(float64(peak)/2*float64(max(age, 0))/float64(patienceHalfLife))
}

// after is the patience once a check from begin to end has come out. An answer that ends a silence tells how long the
// service stood still, which no single check has seen: that is learned too, so that the same pause does not come near to a
// verdict twice. A refusal teaches nothing, and whatever was silent before it has gone.
func (p patience) after(o Outcome, begin, end time.Time) patience {
	switch o {
	case Timeout:
		if p.silence.IsZero() {
			p.silence = begin
		}
	case Pass, Warn:
		took := end.Sub(begin)
		if !p.silence.IsZero() {
			took = min(end.Sub(p.silence), p.ceiling)
		}
		p.silence = time.Time{}
		if took >= p.decayed(end) {
			p.peak, p.noted = took, end
		}
	case Fail:
		p.silence = time.Time{}
	}
	return p
}
