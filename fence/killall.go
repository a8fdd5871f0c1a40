package fence

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"hacluster/resources"
)

// KillAll kills resources side by side, each within its stop budget, and returns which of them cannot be proven gone, and why.
func KillAll(specs []resources.Spec, log *slog.Logger) (left []Told) {
	var all sync.WaitGroup
	var mu sync.Mutex
	for _, s := range specs {
		all.Go(func() {
			drv, err := resources.New(s, log)
			if err == nil {
				ctx, cancel := context.WithTimeout(context.Background(), max(s.StopBudget, time.Second))
				defer cancel()
				err = drv.Kill(ctx)
			}
			if err != nil {
				log.Error("killing an exclusive resource", "group", s.Group, "resource", s.Name, "err", err)
				mu.Lock()
				left = append(left, Told{Group: s.Group, Resource: s.Name, Why: err.Error(), At: time.Now()})
				mu.Unlock()
			}
		})
	}
	all.Wait()
	slices.SortFunc(left, func(a, b Told) int { return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Resource, b.Resource)) })
	return left
}
