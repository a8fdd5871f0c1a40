package placement

import (
	"maps"
	"slices"
)

// Same says that two reports tell the same, whatever index their nodes have applied. It is asked with each renewal, about each resource
// of the cluster; comparing by reflection was the largest part of what a node with a hundred groups computed at rest.
func (r Report) Same(o Report) bool {
	return r.Node == o.Node && r.ID == o.ID && r.Version == o.Version && r.Config == o.Config && r.Retime == o.Retime && r.Leaving == o.Leaving &&
		r.Gate == o.Gate && r.NoGate == o.NoGate && r.Pulse == o.Pulse && r.Unsure == o.Unsure && r.Layers == o.Layers && r.Reset == o.Reset &&
		slices.Equal(r.Ladder, o.Ladder) && slices.Equal(r.Warnings, o.Warnings) && maps.EqualFunc(r.Groups, o.Groups, GroupReport.same)
}

func (r GroupReport) same(o GroupReport) bool {
	return r.Holding == o.Holding && r.Released == o.Released && r.Ready == o.Ready && r.Trouble == o.Trouble && r.Resource == o.Resource &&
		r.Cause == o.Cause && r.Blocked == o.Blocked && r.Unfit == o.Unfit && slices.Equal(r.Evidence, o.Evidence) &&
		maps.Equal(r.Resources, o.Resources) && maps.Equal(r.Links, o.Links) && sameDrain(r.Drain, o.Drain) && r.Lap == o.Lap
}

func sameDrain(a, b *DrainReport) bool {
	return a == b || a != nil && b != nil && *a == *b
}
