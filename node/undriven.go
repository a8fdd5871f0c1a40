package node

import (
	"context"
	"fmt"

	"hacluster/resources"
)

// undriven stands for a resource that this node cannot drive, such as a systemd unit where there is no systemd. It says
// so whenever it is asked to do something; nothing of it can be running.
type undriven struct{ err error }

func (u undriven) Start(context.Context, uint64) error { return u.err }
func (u undriven) Stop(context.Context, uint64) error  { return nil }
func (u undriven) Kill(context.Context) error          { return nil }
func (u undriven) Status(context.Context) (resources.Status, error) {
	return resources.Status{Detail: fmt.Sprint(u.err)}, nil
}
