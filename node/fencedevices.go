package node

import (
	"context"
	"reflect"
	"sync"
	"time"

	"hacluster/fence"
)

const (
	loadTimeout = time.Minute // for the metadata of all agents
	loadAgain   = time.Minute // while something about them is wrong: a missing package may be installed any time
)

// devices are the fence devices of the configuration in force, as this node can use them. Every node has them, because any
// may come to lead.
type devices struct {
	n *Node

	mu      sync.Mutex
	wanted  []fence.Device
	current *loaded // nil: no configuration yet
}

// loaded is one reading of the agents' metadata.
type loaded struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when fencer is set
	fencer *fence.Fencer
	faults []string // guarded by devices.mu
}

// configure takes up the devices of a configuration. Reading the metadata runs every agent once, so it does not wait for it.
func (d *devices) configure(ctx context.Context, wanted []fence.Device) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current != nil && reflect.DeepEqual(d.wanted, wanted) {
		return
	}
	if d.current != nil {
		d.current.cancel()
	}
	d.wanted = wanted
	d.load(ctx)
}

// load begins to read the metadata. The caller holds mu.
func (d *devices) load(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	l, wanted := &loaded{cancel: cancel, done: make(chan struct{})}, d.wanted
	d.current = l
	d.n.loops.Go(func() {
		defer cancel()
		bounded, stop := context.WithTimeout(ctx, loadTimeout)
		defer stop()
		f, err := fence.Load(bounded, wanted, fence.Options{Self: d.n.name, Log: d.n.log})
		d.mu.Lock()
		l.fencer = f
		if err != nil {
			l.faults = faultLines(err)
		}
		d.mu.Unlock()
		close(l.done)
		d.n.wakeAct()
		if err == nil {
			return
		}
		d.n.log.Warn("this node cannot use every fence device", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(loadAgain):
			d.again(ctx, l)
		}
	})
}

// again reads the metadata anew, unless a new configuration came.
func (d *devices) again(ctx context.Context, former *loaded) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current == former && d.n.ctx.Err() == nil {
		d.load(d.n.ctx)
	}
}

// get waits until the metadata is read.
func (d *devices) get(ctx context.Context) (*fence.Fencer, error) {
	d.mu.Lock()
	l := d.current
	d.mu.Unlock()
	if l == nil {
		return nil, fence.ErrNoDevice
	}
	select {
	case <-l.done:
		return l.fencer, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// warnings says what keeps this node from fencing.
func (d *devices) warnings() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []string
	if d.current != nil {
		for _, fault := range d.current.faults {
			all = append(all, "this node could not fence: "+fault)
		}
	}
	return all
}
