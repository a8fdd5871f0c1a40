package fence

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"hacluster/resources"
)

// KillAll kills resources side by side, each within its stop budget.
func KillAll(specs []resources.Spec, log *slog.Logger) {
	var all sync.WaitGroup
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
			}
		})
	}
	all.Wait()
}
