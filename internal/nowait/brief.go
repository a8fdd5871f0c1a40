package nowait

import "time"

// Brief are system calls that the kernel works off at once as a rule, and that may take their time all the same: a change of nf_tables
// while another program loads ten thousand rules, a write to a file that should be in memory and is on a disk. They are made without a word
// to the scheduler of Go until one has taken long; for some time after that they are announced, so that the rest of the process goes on
// beside them. The zero value is ready. Not for concurrent use.
type Brief struct {
	wary time.Time // announced until then
}

const (
	briefMost = 500 * time.Microsecond // the rest of the process may stand still for so long now and then
	waryFor   = time.Minute
)

// announced says whether the next call is to be announced.
func (b *Brief) announced(now time.Time) bool { return now.Before(b.wary) }

// took notes how long a call has taken.
func (b *Brief) took(begun, ended time.Time) {
	if ended.Sub(begun) > briefMost {
		b.wary = ended.Add(waryFor)
	}
}
