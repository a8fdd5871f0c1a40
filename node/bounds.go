package node

import (
	"context"
	"fmt"
	"time"

	"hacluster/resources"
)

// startLimit bounds a start. A script may say that it makes progress, by its output; its driver ends one that says nothing for
// pending_timeout.
func (s *slot) startLimit() time.Duration {
	if s.res.Spec.Kind == resources.KindScript {
		return s.res.PendingTimeout * resources.ProgressFactor
	}
	return s.res.PendingTimeout
}

// deadlock is how long after its bound a driver call is abandoned.
func (s *slot) deadlock() time.Duration {
	if s.res.Deadlock > 0 {
		return s.res.Deadlock
	}
	return deadlockTimeout
}

// await waits for a replaced action, at most as long as a driver call may be stuck.
func (s *slot) await(ctx context.Context, done chan struct{}) {
	if done == nil {
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	case <-time.After(s.deadlock()):
	}
}

// bounded runs a call of the driver.
func (s *slot) bounded(ctx context.Context, limit time.Duration, fn func(context.Context) error) error {
	return abandoned(ctx, limit, s.deadlock(), fn)
}

// bounded runs fn with a time limit and returns even if fn does not, deadlockTimeout after its context has ended.
func bounded(ctx context.Context, limit time.Duration, fn func(context.Context) error) error {
	return abandoned(ctx, limit, deadlockTimeout, fn)
}

func abandoned(ctx context.Context, limit, deadlock time.Duration, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	result := make(chan error, 1)
	go func() { result <- fn(ctx) }()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-result:
		return err
	case <-time.After(deadlock):
		return fmt.Errorf("%w after %s", errStuck, limit+deadlock)
	}
}
