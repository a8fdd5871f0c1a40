package node

import "context"

// addressTurns is how many addresses of a node come or go at the same time.
const addressTurns = 4

// turns bounds how many addresses ask the kernel for changes at once. Changes and the renewal of those that are open share locks, and one
// thread: while two hundred addresses left together, no renewal got its turn for three quarters of the time that they took. nil bounds
// nothing.
type turns chan struct{}

func newTurns() turns { return make(turns, addressTurns) }

// take waits for a turn; with an error there is none.
func (t turns) take(ctx context.Context) error {
	if t == nil {
		return nil
	}
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t turns) give() {
	if t != nil {
		<-t
	}
}
